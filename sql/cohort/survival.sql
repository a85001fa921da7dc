-- One row a patient of the analysed cohort: what the estimators take. Whole days; half-day rules are theirs.
with first_start as (
    select
        study,
        patient_id,
        min(case when kind = 'maintenance' then start_day end) as maintenance_day,
        min(case when kind = 'salvage' then start_day end) as salvage_day
    from cohort.exposure_episode
    where is_counted
    group by study, patient_id
),

timed as (
    select
        f.study,
        f.patient_id,
        f.site,
        f.index_date,
        f.time_days,
        f.is_event,
        f.end_reason,
        case when s.maintenance_day <= f.time_days then s.maintenance_day end as start_day,
        case when s.salvage_day <= f.time_days then s.salvage_day end as salvage_start_day,
        case when p.progression_day <= f.time_days then p.progression_day end as progression_day
    from cohort.follow_up as f
    left join first_start as s on f.study = s.study and f.patient_id = s.patient_id
    left join cohort.progression as p on f.study = p.study and f.patient_id = p.patient_id
)

select
    timed.study, -- The study.
    timed.patient_id, -- The patient.
    timed.site, -- The hospital.
    timed.index_date, -- Day 0.
    timed.time_days, -- Whole days of follow-up.
    timed.is_event, -- Whether it ended with the outcome.
    timed.start_day, -- Day of the first start of the exposure by the strategy; null if never in follow-up.
    timed.salvage_start_day, -- Day of the first start on or after progression; null if none in follow-up.
    timed.progression_day, -- Day of the first progression after index; null if none in follow-up.
    case
        when timed.start_day is not null then p.treated_name else p.control_name
    end as strategy, -- Strategy by whether it was ever started: it looks ahead, so it only describes.
    timed.end_reason -- death, composite:NAME, censored:NAME, last_activity or data_cutoff.
from timed
inner join study.protocol as p on timed.study = p.study
