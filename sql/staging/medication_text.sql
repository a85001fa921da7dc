-- One row a text that names the medication of a record: as written, or the display of a code.
with record as (
    select
        resource_id,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_administration
    union all
    select
        resource_id,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_dispense
    union all
    select
        resource_id,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_statement
    union all
    select
        resource_id,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_request
),

named as (
    select
        r.resource_id,
        r.medication_text as text
    from record as r
    union
    select
        r.resource_id,
        said.coding.display as text
    from record as r
    cross join unnest(r.codings) as said (coding)
    union
    select
        r.resource_id,
        m.medication_text as text
    from record as r
    inner join lake.medication as m on r.medication_resource_id = m.resource_id
    union
    select
        r.resource_id,
        said.coding.display as text
    from record as r
    inner join lake.medication as m on r.medication_resource_id = m.resource_id
    cross join unnest(m.codings) as said (coding)
)

select
    n.resource_id as event_id, -- The medication record.
    n.text -- The text.
from named as n
where n.text is not null
