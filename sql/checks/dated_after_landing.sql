-- severity: warning
-- message: a record is dated after the day on which it was fetched and does not count
select e.event_id as record_id
from staging.medication_event as e
where e.first_day > e.landed_day or (e.end_basis = 'recorded' and e.end_day > e.landed_day)
union all
select p.procedure_id as record_id
from staging.procedure as p
where p.first_day > p.landed_day or p.end_day > p.landed_day
union all
select n.encounter_id as record_id
from staging.encounter as n
where n.start_day > n.landed_day or n.end_day > n.landed_day
union all
select o.observation_id as record_id
from staging.observation as o
where o.component_number = 0 and o.first_day > o.landed_day
