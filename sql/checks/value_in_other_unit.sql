-- severity: warning
-- message: a value has another unit than the protocol asks for, or none, and does not count
select
    study,
    purpose,
    name,
    patient_id,
    event_id,
    study || ': ' || name as detail
from cohort.measured_value
where not is_counted
