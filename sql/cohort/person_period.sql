-- One row a patient of the analysed cohort and period in which nothing that is followed over time changes:
-- the counting process (start_day, stop_day], whole days. It is cut at the start of the exposure, at salvage,
-- at progression and at each change of a covariate that is followed over time. What begins on a day holds
-- from its end on. Who has no follow-up has one row from 0 to 0, and a start on the last day has none: half
-- days are the estimators'.
with cut as (
    select
        study,
        patient_id,
        0 as day
    from cohort.survival
    union
    select
        study,
        patient_id,
        start_day as day
    from cohort.survival
    union
    select
        study,
        patient_id,
        salvage_start_day as day
    from cohort.survival
    union
    select
        study,
        patient_id,
        progression_day as day
    from cohort.survival
    union
    select
        c.study,
        c.patient_id,
        c.day
    from cohort.covariate_change as c
    inner join study.covariate as v on c.study = v.study and c.covariate = v.covariate
    where v.over_time
),

followed as (
    select
        s.*,
        c.day as from_day,
        lead(c.day) over (partition by s.study, s.patient_id order by c.day) as next_day,
        row_number() over (partition by s.study, s.patient_id order by c.day) as period_number
    from cut as c
    inner join cohort.survival as s on c.study = s.study and c.patient_id = s.patient_id
    where c.day = 0 or (c.day > 0 and c.day < s.time_days)
)

select
    f.study, -- The study.
    f.patient_id, -- The patient.
    f.site, -- The hospital.
    cast(f.period_number as integer) as period_number, -- From 1, by time.
    cast(f.from_day as integer) as start_day, -- Days from index; the period begins after this day.
    cast(coalesce(f.next_day, f.time_days) as integer) as stop_day, -- Days from index; it ends with this day.
    f.next_day is null and f.is_event as is_event, -- Whether it ends with the outcome.
    coalesce(f.start_day <= f.from_day, false) as is_exposed, -- Whether the exposure has been started.
    coalesce(
        f.salvage_start_day <= f.from_day, false
    ) as is_salvage, -- Whether it has been started on or after progression.
    coalesce(f.progression_day <= f.from_day, false) as is_progressed -- Whether the disease has progressed.
from followed as f
