-- severity: warning
-- message: a code comes without its code system and no code map translates it, so that it matches nothing
select
    u.site,
    u.resource_type,
    u.code,
    u.site || ' ' || u.resource_type as detail
from meta.unmapped_code as u
where u.system is null and u.code is not null
