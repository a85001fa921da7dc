-- severity: error
-- message: a record is more than once in a staging table
with key as (
    select
        'patient' as made,
        patient_id as record_id,
        0 as part
    from staging.patient
    union all
    select
        'patient_link' as made,
        patient_id as record_id,
        0 as part
    from staging.patient_link
    union all
    select
        'medication_event' as made,
        event_id as record_id,
        0 as part
    from staging.medication_event
    union all
    select
        'observation' as made,
        observation_id as record_id,
        component_number as part
    from staging.observation
    union all
    select
        'condition' as made,
        condition_id as record_id,
        0 as part
    from staging.condition
    union all
    select
        'procedure' as made,
        procedure_id as record_id,
        0 as part
    from staging.procedure
    union all
    select
        'encounter' as made,
        encounter_id as record_id,
        0 as part
    from staging.encounter
)

select
    made,
    record_id,
    part,
    made as detail
from key
group by made, record_id, part
having count(*) > 1
