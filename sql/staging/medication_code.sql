-- One row a code of a medication record, its own or those of the Medication it refers to, as recorded or as
-- the site's code map translates it. National Drug Codes are in the eleven digits 5-4-2 of billing: each of
-- the three parts of a ten-digit one is filled up with a zero at its front (21 CFR 207.33, 45 CFR 162.1002).
-- Ten digits without hyphens may be three codes and stay as they are.
with record as (
    select
        resource_id,
        site,
        medication_resource_id,
        codings,
        start_first_day as first_day,
        start_last_day as last_day
    from lake.medication_administration
    union all
    select
        resource_id,
        site,
        medication_resource_id,
        codings,
        coalesce(handed_over_first_day, prepared_first_day) as first_day,
        coalesce(handed_over_last_day, prepared_last_day) as last_day
    from lake.medication_dispense
    union all
    select
        resource_id,
        site,
        medication_resource_id,
        codings,
        start_first_day as first_day,
        start_last_day as last_day
    from lake.medication_statement
    union all
    select
        resource_id,
        site,
        medication_resource_id,
        codings,
        authored_first_day as first_day,
        authored_last_day as last_day
    from lake.medication_request
),

own as (
    select
        r.resource_id,
        r.site,
        r.first_day,
        r.last_day,
        said.coding.system,
        said.coding.code
    from record as r
    cross join unnest(r.codings) as said (coding)
    union all
    select
        r.resource_id,
        r.site,
        r.first_day,
        r.last_day,
        said.coding.system,
        said.coding.code
    from record as r
    inner join lake.medication as m on r.medication_resource_id = m.resource_id
    cross join unnest(m.codings) as said (coding)
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
),

in_parts as (
    select
        e.*,
        coalesce(s.is_ndc, false) as is_ndc,
        split_part(e.code, '-', 1) as labeler,
        split_part(e.code, '-', 2) as product,
        split_part(e.code, '-', 3) as package,
        split_part(e.code, '-', 4) as too_much
    from every_code as e
    left join ref.code_system as s on e.system = s.system
),

normal as (
    select
        resource_id,
        system,
        is_mapped,
        case
            when
                is_ndc
                and too_much = ''
                and length(labeler) between 4 and 5
                and length(product) between 3 and 4
                and length(package) between 1 and 2
                and length(labeler) + length(product) + length(package) >= 10
                then lpad(labeler, 5, '0') || lpad(product, 4, '0') || lpad(package, 2, '0')
            else code
        end as code
    from in_parts
)

select
    n.resource_id as event_id, -- The medication record.
    n.system, -- URI of the code system.
    n.code, -- The code.
    min(n.is_mapped) = 1 as is_mapped -- Whether only the site's code map says so.
from normal as n
group by n.resource_id, n.system, n.code
