-- severity: warning
-- message: a record has a code of a code list on a day on which the code was not, or not surely, valid
select
    l.study,
    c.event_id as record_id
from staging.medication_code as c
inner join staging.medication_event as e on c.event_id = e.event_id
inner join study.codelist as l on c.system = l.system and c.code = l.code
where
    e.is_valid
    and (
        (l.valid_from is not null and coalesce(e.first_day < l.valid_from, true))
        or (l.valid_to is not null and coalesce(e.last_day > l.valid_to, true))
    )
union all
select
    l.study,
    c.procedure_id as record_id
from staging.procedure_code as c
inner join staging.procedure as e on c.procedure_id = e.procedure_id
inner join study.codelist as l on c.system = l.system and c.code = l.code
where
    e.is_valid
    and (
        (l.valid_from is not null and coalesce(e.first_day < l.valid_from, true))
        or (l.valid_to is not null and coalesce(e.last_day > l.valid_to, true))
    )
