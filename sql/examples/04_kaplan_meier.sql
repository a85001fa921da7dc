-- What part of the cohort is event-free after half a year, one, two and three years (Kaplan-Meier, the whole
-- cohort from the index event)? Not by strategy: who starts later has survived until then (immortal time).
with leaving as (
    select
        study,
        time_days,
        count(*) as n_leaving,
        count(*) filter (where is_event) as n_events
    from cohort.survival
    group by study, time_days
),

at_risk as (
    select
        study,
        time_days,
        n_events,
        sum(n_leaving) over (
            partition by study
            order by time_days
            rows between current row and unbounded following
        ) as n_at_risk
    from leaving
),

curve as (
    select
        study,
        time_days,
        product(1 - n_events / n_at_risk) over (partition by study order by time_days) as survival
    from at_risk
),

asked as (
    select
        patient.study,
        horizon.day,
        max(patient.time_days) as last_day,
        count(*) filter (where patient.time_days >= horizon.day) as still_at_risk
    from cohort.survival as patient
    cross join (values (183), (365), (730), (1095)) as horizon (day)
    group by patient.study, horizon.day
)

select
    asked.study,
    asked.day,
    -- Beyond the last patient the curve is not known.
    case when asked.day <= asked.last_day then coalesce(min(curve.survival), 1) end as survival,
    asked.still_at_risk
from asked
left join curve on asked.study = curve.study and asked.day >= curve.time_days
group by asked.study, asked.day, asked.last_day, asked.still_at_risk
order by asked.study, asked.day
