-- One row a code of a diagnosis, as recorded or as the site's code map translates it.
with own as (
    select
        c.resource_id,
        c.site,
        coalesce(c.onset_first_day, c.recorded_first_day) as first_day,
        coalesce(c.onset_last_day, c.recorded_last_day) as last_day,
        said.coding.system,
        said.coding.code
    from lake.condition as c
    cross join unnest(c.codings) as said (coding)
),

every_code as (
    select
        resource_id,
        system,
        code,
        0 as is_mapped
    from own
    where system is not null and code is not null
    union all
    select
        o.resource_id,
        m.target_system as system,
        m.target_code as code,
        1 as is_mapped
    from own as o
    inner join ref.code_map as m
        on o.site = m.site and coalesce(o.system, '') = m.system and o.code = m.code
    where
        (m.valid_from is null or o.first_day >= m.valid_from)
        and (m.valid_to is null or o.last_day <= m.valid_to)
)

select
    e.resource_id as condition_id, -- The diagnosis.
    e.system, -- URI of the code system.
    e.code, -- The code.
    min(e.is_mapped) = 1 as is_mapped -- Whether only the site's code map says so.
from every_code as e
group by e.resource_id, e.system, e.code
