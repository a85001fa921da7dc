-- severity: warning
-- message: a medication or procedure is dated before the patient's birth
select e.event_id as record_id
from staging.medication_event as e
inner join staging.patient as p on e.patient_id = p.patient_id
where e.is_valid and e.last_day < p.birth_first_day
union all
select e.procedure_id as record_id
from staging.procedure as e
inner join staging.patient as p on e.patient_id = p.patient_id
where e.is_valid and e.last_day < p.birth_first_day
