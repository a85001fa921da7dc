-- severity: error
-- message: a record is more than once in a staging table
select patient_id as record_id
from staging.patient
group by patient_id
having count(*) > 1
union all
select event_id as record_id
from staging.medication_event
group by event_id
having count(*) > 1
union all
select observation_id as record_id
from staging.observation
group by observation_id
having count(*) > 1
