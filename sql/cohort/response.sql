-- One row a patient and period of one disease status after index, by assessments on known days: from the
-- first that says so to the next that says another.
with compared as (
    select
        study,
        patient_id,
        status_day,
        status,
        lag(status) over (partition by study, patient_id order by status_day) as status_before
    from cohort.disease_status
    where status_day > 0
),

begun as (
    select
        study,
        patient_id,
        status,
        status_day,
        row_number() over (partition by study, patient_id order by status_day) as response_number,
        lead(status_day) over (partition by study, patient_id order by status_day) as until_day,
        max(case when status = 'responding' then 1 else 0 end) over (
            partition by study, patient_id
            order by status_day
            rows between unbounded preceding and current row
        ) as n_responded
    from compared
    where status_before is null or status <> status_before
)

select
    b.study, -- The study.
    b.patient_id, -- The patient.
    cast(b.response_number as integer) as response_number, -- From 1, by time.
    b.status, -- responding, progressed or other.
    cast(b.status_day as integer) as from_day, -- Days from index to the assessment that says so first.
    cast(b.until_day as integer) as until_day, -- Days from index to the next status; null: the last known.
    b.status = 'progressed' and b.n_responded = 1 as is_relapse -- Progressed after a response since index.
from begun as b
