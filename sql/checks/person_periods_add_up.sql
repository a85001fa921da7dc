-- severity: error
-- message: the periods of a patient do not add up to the follow-up, or to its one event
with added as (
    select
        study,
        patient_id,
        sum(stop_day - start_day) as n_days,
        sum(case when is_event then 1 else 0 end) as n_events
    from cohort.person_period
    group by study, patient_id
)

select
    s.study,
    s.patient_id
from cohort.survival as s
left join added as a on s.study = a.study and s.patient_id = a.patient_id
where
    coalesce(a.n_days, -1) <> s.time_days
    or coalesce(a.n_events, -1) <> case when s.is_event then 1 else 0 end
