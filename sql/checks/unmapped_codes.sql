-- severity: warning
-- message: codes or texts are in no known code system and in no code map (meta.unmapped_code lists them)
select
    u.site,
    u.resource_type,
    u.code,
    u.site || ' ' || u.resource_type as detail
from meta.unmapped_code as u
where u.element = 'code'
