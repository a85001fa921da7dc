-- severity: warning
-- message: a site has over a tenth fewer resources of a type in use than in the build before
with counted as (
    select
        site,
        resource_type,
        sum(in_lake) as in_lake
    from meta.reconciliation
    group by site, resource_type
)

select
    p.site,
    p.resource_type,
    p.site || ' ' || p.resource_type as detail
from meta.previous_count as p
left join counted as c on p.site = c.site and p.resource_type = c.resource_type
where p.in_lake >= 10 and coalesce(c.in_lake, 0) * 10 < p.in_lake * 9
