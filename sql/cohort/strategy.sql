-- One row a patient of the analysed cohort: what its record says of the two strategies, on the day on which
-- the grace period lets one say it. Who ended before, unstarted, is in keeping with both.
with judged as (
    select
        s.study,
        s.patient_id,
        s.time_days,
        s.start_day,
        s.salvage_start_day,
        s.progression_day,
        p.grace_days,
        p.treated_name,
        p.control_name,
        coalesce(s.start_day <= p.grace_days, false) as is_within_grace,
        -- The strategy asks for no start once the disease has progressed.
        p.unless_progressed and coalesce(s.progression_day <= p.grace_days, false) as is_excused
    from cohort.survival as s
    inner join study.protocol as p on s.study = p.study
)

select
    j.study, -- The study.
    j.patient_id, -- The patient.
    case
        when j.is_within_grace then 'within_grace'
        when j.start_day is not null then 'after_grace'
        when j.salvage_start_day is not null then 'salvage'
        else 'never'
    end as start_kind, -- within_grace, after_grace, salvage or never: the first start of the exposure.
    j.start_day, -- Day of the first start by the strategy; null if never in follow-up.
    j.salvage_start_day, -- Day of the first start on or after progression; null if none in follow-up.
    j.grace_days, -- A start up to this day follows the strategy, inclusive.
    case
        when j.is_within_grace then j.treated_name
        when j.time_days > j.grace_days then j.control_name
    end as strategy, -- The strategy as known at the end of the grace period; null: ended before, unstarted.
    case
        when j.is_within_grace then j.start_day
        when j.time_days > j.grace_days then j.grace_days
    end as known_day, -- Day from which it is known.
    case
        when not j.is_within_grace and not j.is_excused and j.time_days > j.grace_days then j.grace_days
    end as departs_treated_day, -- Day on which it departs from the strategy to start; null: it does not.
    case
        when j.is_within_grace then j.start_day
    end as departs_control_day -- Day on which it departs from the strategy not to start; null: it does not.
from judged as j
