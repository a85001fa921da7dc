-- One row a code of what was observed, as recorded or as the site's code map translates it.
with latest as (
    select
        resource_id,
        site,
        effective_first_day,
        effective_last_day,
        codings,
        components
    from lake.observation
),

-- A component has its number as in staging.observation.
part as (
    select
        o.resource_id,
        cast(
            row_number() over (partition by o.resource_id order by numbered.answer) as integer
        ) as component_number,
        o.site,
        o.effective_first_day,
        o.effective_last_day,
        numbered.answer.codings
    from latest as o
    cross join unnest(o.components) as numbered (answer)
),

own as (
    select
        o.resource_id,
        0 as component_number,
        o.site,
        o.effective_first_day,
        o.effective_last_day,
        said.coding.system,
        said.coding.code
    from latest as o
    cross join unnest(o.codings) as said (coding)
    union all
    select
        p.resource_id,
        p.component_number,
        p.site,
        p.effective_first_day,
        p.effective_last_day,
        said.coding.system,
        said.coding.code
    from part as p
    cross join unnest(p.codings) as said (coding)
),

every_code as (
    select
        resource_id,
        component_number,
        system,
        code,
        0 as is_mapped
    from own
    where system is not null and code is not null
    union all
    select
        o.resource_id,
        o.component_number,
        m.target_system as system,
        m.target_code as code,
        1 as is_mapped
    from own as o
    inner join ref.code_map as m
        on o.site = m.site and coalesce(o.system, '') = m.system and o.code = m.code
    where
        (m.valid_from is null or o.effective_first_day >= m.valid_from)
        and (m.valid_to is null or o.effective_last_day <= m.valid_to)
)

select
    e.resource_id as observation_id, -- The observation.
    e.component_number, -- The value: 0 is the observation's own, from 1 those of its components.
    e.system, -- URI of the code system.
    e.code, -- The code.
    min(e.is_mapped) = 1 as is_mapped -- Whether only the site's code map says so.
from every_code as e
group by e.resource_id, e.component_number, e.system, e.code
