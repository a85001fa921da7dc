-- severity: warning
-- message: a National Drug Code of ten digits without hyphens may be three codes, and matches only itself
select c.event_id as record_id
from staging.medication_code as c
inner join ref.code_system as s on c.system = s.system
where s.is_ndc and length(c.code) = 10 and strpos(c.code, '-') = 0
