-- severity: warning
-- message: a value is recorded only as below or above a bound (such as <100) and counts as the bound
select
    m.study,
    m.purpose,
    m.name,
    m.patient_id,
    m.event_id,
    m.study || ': ' || m.name as detail
from cohort.measured_value as m
left join cohort.observed_value as o
    on
        m.study = o.study
        and m.purpose = o.purpose
        and m.name = o.name
        and m.patient_id = o.patient_id
        and m.observed_day = o.observed_day
where
    m.is_counted
    and m.value_comparator is not null
    -- Of those in the window one day's count, of those after index all.
    and (o.observed_day is not null or not m.is_in_window)
