-- severity: warning
-- message: the latest version of a resource that landed was refused and does not count
select
    r.site,
    r.run,
    r.line,
    r.site || ' ' || r.resource_type || ' ' || r.rule as detail
from meta.refused_resource as r
