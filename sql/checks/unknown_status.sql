-- severity: warning
-- message: a medication record has a status that FHIR does not know, or none, and does not count
select e.event_id
from staging.medication_event as e
where
    coalesce(e.status, '') not in (
        'in-progress', 'not-done', 'on-hold', 'completed', 'entered-in-error', 'stopped', 'unknown',
        'active', 'cancelled', 'draft', 'preparation', 'declined', 'intended', 'not-taken'
    )
