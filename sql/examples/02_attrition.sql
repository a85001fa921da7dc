-- Who was lost on the way from a recorded index event to the analysed cohort, and at which step?
select
    study,
    step_number,
    step,
    n_before,
    n_excluded,
    n_after,
    round(100 * n_excluded / nullif(n_before, 0), 1) as percent_excluded
from cohort.attrition
order by study, step_number
