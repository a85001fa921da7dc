-- severity: warning
-- message: a value that a study asks for has a unit that is not understood and cannot be converted
select
    m.study,
    m.purpose,
    m.name,
    m.patient_id,
    m.event_id,
    m.study || ': ' || m.name as detail
from cohort.measured_value as m
left join ref.unit as u on m.recorded_unit = u.unit
where m.recorded_unit is not null and u.unit is null
