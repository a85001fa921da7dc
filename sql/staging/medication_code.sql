-- One row a code of a medication record, its own or those of the Medication it refers to.
with record as (
    select
        resource_id,
        medication_resource_id,
        codings
    from lake.medication_administration
    union all
    select
        resource_id,
        medication_resource_id,
        codings
    from lake.medication_dispense
    union all
    select
        resource_id,
        medication_resource_id,
        codings
    from lake.medication_statement
    union all
    select
        resource_id,
        medication_resource_id,
        codings
    from lake.medication_request
),

own as (
    select
        record.resource_id as event_id,
        own_coding.coding.system,
        own_coding.coding.code
    from record
    cross join unnest(record.codings) as own_coding (coding)
),

referred as (
    select
        record.resource_id as event_id,
        referred_coding.coding.system,
        referred_coding.coding.code
    from record
    inner join lake.medication as m on record.medication_resource_id = m.resource_id
    cross join unnest(m.codings) as referred_coding (coding)
)

select
    every_code.event_id, -- The medication record.
    every_code.system, -- URI of the code system.
    every_code.code -- The code.
from (
    select * from own
    union
    select * from referred
) as every_code
where every_code.system is not null and every_code.code is not null
