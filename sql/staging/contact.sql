-- One row a dated sign that a patient was in care. One fixed list of types, whatever a study asks for, so
-- that follow-up does not depend on a study's codes: no observations, no conditions. Nor days after landing.
with sign as (
    select
        patient_id,
        'Encounter' as resource_type,
        start_day as contact_day,
        landed_day
    from staging.encounter
    where is_valid
    union
    select
        patient_id,
        'Encounter' as resource_type,
        end_day as contact_day,
        landed_day
    from staging.encounter
    where is_valid
    union
    select
        patient_id,
        'Procedure' as resource_type,
        start_day as contact_day,
        landed_day
    from staging.procedure
    where is_valid
    union
    select
        patient_id,
        'Procedure' as resource_type,
        end_day as contact_day,
        landed_day
    from staging.procedure
    where is_valid
    union
    select
        patient_id,
        resource_type,
        start_day as contact_day,
        landed_day
    from staging.medication_event
    where is_valid
    union
    select
        patient_id,
        resource_type,
        end_day as contact_day,
        landed_day
    from staging.medication_event
    where is_valid and resource_type = 'MedicationAdministration'
    union
    select
        patient_id,
        resource_type,
        asserted_day as contact_day,
        landed_day
    from staging.medication_event
    where is_valid
)

select distinct
    sign.patient_id, -- The patient.
    sign.resource_type, -- The FHIR type of the record.
    sign.contact_day -- The day.
from sign
where sign.contact_day <= sign.landed_day
