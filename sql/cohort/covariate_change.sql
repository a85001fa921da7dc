-- One row a change of a covariate over time. The value holds from the end of the day on; before, it is 0.
-- Only what is assessed after index changes it: the status before is what the index treatment was given for.
-- Responding is the last known status; progressed is for good from the first progression on.
with assessed as (
    select
        c.study,
        s.patient_id,
        c.covariate,
        s.status_day,
        case when s.status = c.status then 1.0 else 0.0 end as status_value
    from study.covariate as c
    inner join cohort.disease_status as s on c.study = s.study
    where c.kind = 'disease_status' and c.status = 'responding' and s.status_day > 0
),

compared as (
    select
        *,
        lag(status_value, 1, 0.0) over (
            partition by study, patient_id, covariate order by status_day
        ) as value_before
    from assessed
),

change as (
    select
        study,
        patient_id,
        covariate,
        status_day as change_day,
        status_value
    from compared
    where status_value <> value_before
    union all
    select
        c.study,
        p.patient_id,
        c.covariate,
        p.progression_day as change_day,
        1.0 as status_value
    from study.covariate as c
    inner join cohort.progression as p on c.study = p.study
    where c.kind = 'disease_status' and c.status = 'progressed'
)

select
    change.study, -- The study.
    change.patient_id, -- The patient.
    change.covariate, -- The covariate.
    change.change_day as day, -- Days from index, above 0.
    cast(change.status_value as double) as value -- The value from the end of this day on.
from change
