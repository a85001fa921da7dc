-- severity: warning
-- message: a record belongs to a patient of whom there is no Patient resource
with record as (
    select
        site,
        patient_id,
        resource_type
    from staging.medication_event
    union all
    select
        site,
        patient_id,
        'Observation' as resource_type
    from staging.observation
    where component_number = 0
    union all
    select
        site,
        patient_id,
        'Condition' as resource_type
    from staging.condition
    union all
    select
        site,
        patient_id,
        'Procedure' as resource_type
    from staging.procedure
    union all
    select
        site,
        patient_id,
        'Encounter' as resource_type
    from staging.encounter
)

select
    r.site,
    r.resource_type,
    r.site || ' ' || r.resource_type as detail
from record as r
left join staging.patient as p on r.patient_id = p.patient_id
where p.patient_id is null
