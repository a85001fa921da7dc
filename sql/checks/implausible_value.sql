-- severity: warning
-- message: a value is outside what the protocol takes for possible, or below 0, and counts all the same
select
    m.study,
    m.purpose,
    m.name,
    m.patient_id,
    m.event_id,
    m.study || ': ' || m.name as detail
from cohort.measured_value as m
left join ref.unit as u on m.recorded_unit = u.unit
where
    m.is_counted
    and (m.is_implausible or (m.recorded_number < 0 and coalesce(u.offset_value, 0) = 0))
