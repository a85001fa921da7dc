-- One row a site, kind of record, code and text of records that have no code of a known code system, none
-- that the site's code map translates and none of a code list: what the code map still lacks.
with medicated as (
    select
        'MedicationAdministration' as resource_type,
        resource_id,
        patient_id,
        site,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_administration
    union all
    select
        'MedicationDispense' as resource_type,
        resource_id,
        patient_id,
        site,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_dispense
    union all
    select
        'MedicationStatement' as resource_type,
        resource_id,
        patient_id,
        site,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_statement
    union all
    select
        'MedicationRequest' as resource_type,
        resource_id,
        patient_id,
        site,
        medication_resource_id,
        medication_text,
        codings
    from lake.medication_request
),

-- With the Medication that a record refers to.
medication as (
    select
        resource_type,
        resource_id,
        patient_id,
        site,
        medication_text,
        codings
    from medicated
    union all
    select
        r.resource_type,
        r.resource_id,
        r.patient_id,
        r.site,
        m.medication_text,
        m.codings
    from medicated as r
    inner join lake.medication as m on r.medication_resource_id = m.resource_id
),

observed as (
    select
        resource_id,
        patient_id,
        site,
        codings,
        value_codings
    from lake.observation
),

said as (
    select
        resource_type,
        'code' as element,
        resource_id,
        patient_id,
        site,
        given.coding.system,
        given.coding.code,
        given.coding.display
    from medication
    cross join unnest(codings) as given (coding)
    union all
    select
        'Condition' as resource_type,
        'code' as element,
        resource_id,
        patient_id,
        site,
        given.coding.system,
        given.coding.code,
        given.coding.display
    from lake.condition
    cross join unnest(codings) as given (coding)
    union all
    select
        'Procedure' as resource_type,
        'code' as element,
        resource_id,
        patient_id,
        site,
        given.coding.system,
        given.coding.code,
        given.coding.display
    from lake.procedure
    cross join unnest(codings) as given (coding)
    union all
    select
        'Observation' as resource_type,
        'code' as element,
        resource_id,
        patient_id,
        site,
        given.coding.system,
        given.coding.code,
        given.coding.display
    from observed
    cross join unnest(codings) as given (coding)
    union all
    select
        'Observation' as resource_type,
        'value' as element,
        resource_id,
        patient_id,
        site,
        given.coding.system,
        given.coding.code,
        given.coding.display
    from observed
    cross join unnest(value_codings) as given (coding)
),

named as (
    select
        s.resource_type,
        s.element,
        s.resource_id,
        s.patient_id,
        s.site,
        s.system,
        s.code,
        s.display as text
    from said as s
    union all
    -- A text without any code.
    select
        resource_type,
        'code' as element,
        resource_id,
        patient_id,
        site,
        cast(null as varchar) as system,
        cast(null as varchar) as code,
        medication_text as text
    from medication
    where medication_text is not null and coalesce(array_length(codings), 0) <= 0
),

coded as (
    select
        event_id as resource_id,
        'code' as element,
        system,
        code,
        is_mapped
    from staging.medication_code
    union all
    select
        condition_id as resource_id,
        'code' as element,
        system,
        code,
        is_mapped
    from staging.condition_code
    union all
    select
        procedure_id as resource_id,
        'code' as element,
        system,
        code,
        is_mapped
    from staging.procedure_code
    union all
    select
        observation_id as resource_id,
        'code' as element,
        system,
        code,
        is_mapped
    from staging.observation_code
    where component_number = 0
    union all
    select
        observation_id as resource_id,
        'value' as element,
        system,
        code,
        is_mapped
    from staging.observation_value
    where component_number = 0
),

understood as (
    select
        c.resource_id,
        c.element
    from coded as c
    left join ref.code_system as k on c.system = k.system
    left join study.codelist as l on c.system = l.system and c.code = l.code
    where c.is_mapped or k.system is not null or l.code is not null
)

select
    n.site, -- The hospital.
    n.resource_type, -- The FHIR type of the records.
    n.element, -- code: what the record is about; value: what was observed.
    n.system, -- URI of the code system; null: the code comes without one, or there is no code.
    n.code, -- The site's code; null: there is only a text.
    n.text, -- The display of the code, or the text.
    count(distinct n.resource_id) as n_records, -- Records with it.
    count(distinct n.patient_id) as n_patients -- Patients with such a record.
from named as n
left join understood as u on n.resource_id = u.resource_id and n.element = u.element
where u.resource_id is null
group by n.site, n.resource_type, n.element, n.system, n.code, n.text
-- A condition on the codes themselves would slow down their unnesting twentyfold.
having max(case when coalesce(n.code, n.text) is null then 0 else 1 end) = 1
