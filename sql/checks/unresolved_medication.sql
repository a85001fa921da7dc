-- severity: warning
-- message: a medication record refers to a Medication that is not there, so it is not known which it is
select e.event_id
from staging.medication_event as e
where e.is_valid and not e.is_resolved
