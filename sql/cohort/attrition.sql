-- One row a step from the recorded index events to the analysed cohort: patients before, excluded, after.
with first_failed as (
    select
        study,
        patient_id,
        min(case when is_met then null else step_number end) as step_number
    from cohort.eligibility
    group by study, patient_id
),

counted as (
    select
        s.study,
        s.step_number,
        s.step,
        -- A patient is there before a step unless an earlier one excluded him.
        sum(
            case
                when f.patient_id is null then 0
                when f.step_number is null or f.step_number >= s.step_number then 1
                else 0
            end
        ) as n_before,
        sum(case when f.step_number = s.step_number then 1 else 0 end) as n_excluded
    from study.step as s
    left join first_failed as f on s.study = f.study
    group by s.study, s.step_number, s.step
)

select
    counted.study, -- The study.
    counted.step_number, -- Position of the step.
    counted.step, -- The step: a fixed rule or the name of a criterion.
    cast(counted.n_before as bigint) as n_before, -- Patients before it.
    cast(counted.n_excluded as bigint) as n_excluded, -- Patients it excludes.
    cast(counted.n_before - counted.n_excluded as bigint) as n_after -- Patients after it.
from counted
