-- severity: warning
-- message: a resource that landed was refused and does not count
select
    q.site,
    q.run,
    q.line,
    q.site || ' ' || q.resource_type || ' ' || q.rule as detail
from meta.quarantine as q
where q.action = 'reject'
