-- One row a change of a covariate over time. The value holds from the end of the day on; before, it is 0.
-- Only what is assessed after index changes it: the status before is what the index treatment was given for.
with assessed as (
    select
        c.study,
        s.patient_id,
        c.covariate,
        s.status_day,
        case when s.status = c.status then 1.0 else 0.0 end as status_value
    from study.covariate as c
    inner join cohort.disease_status as s on c.study = s.study
    where c.kind = 'disease_status' and s.status_day > 0
),

compared as (
    select
        *,
        lag(status_value, 1, 0.0) over (
            partition by study, patient_id, covariate order by status_day
        ) as value_before
    from assessed
)

select
    compared.study, -- The study.
    compared.patient_id, -- The patient.
    compared.covariate, -- The covariate.
    compared.status_day as day, -- Days from index, above 0.
    cast(compared.status_value as double) as value -- The value from the end of this day on.
from compared
where compared.status_value <> compared.value_before
