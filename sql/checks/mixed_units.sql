-- severity: warning
-- message: the values of one covariate or criterion come in more than one unit
select
    study,
    purpose,
    name
from cohort.observed_value
group by study, purpose, name
having count(distinct coalesce(value_unit, '')) > 1
