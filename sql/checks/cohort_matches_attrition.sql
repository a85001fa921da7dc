-- severity: error
-- message: the cohort has another number of patients than attrition ends with
with final_step as (
    select
        study,
        max(step_number) as step_number
    from cohort.attrition
    group by study
),

analysed as (
    select
        study,
        count(*) as n_patients
    from cohort.survival
    group by study
)

select
    a.study,
    a.n_after
from cohort.attrition as a
inner join final_step as f on a.study = f.study and a.step_number = f.step_number
left join analysed as s on a.study = s.study
where a.n_after <> coalesce(s.n_patients, 0)
