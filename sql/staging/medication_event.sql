-- One row a record that a patient had a medication: administered, dispensed, stated or requested.
-- Evidence is graded by tier; status decides whether the record is evidence at all.
with record as (
    select
        a.resource_id as event_id,
        a.patient_id,
        a.site,
        'MedicationAdministration' as resource_type,
        'administration' as tier,
        a.status,
        -- Stopped or on hold counts only if a dose is recorded: else it ended before any.
        (
            a.status in ('completed', 'in-progress')
            or (a.status in ('stopped', 'on-hold') and a.dose_value > 0)
        ) as is_evidence,
        a.medication_source,
        a.medication_resource_id,
        a.start_day,
        a.start_precision as precision,
        a.start_first_day as first_day,
        a.start_last_day as last_day,
        a.end_day,
        cast(null as date) as asserted_day,
        a.landed_day
    from lake.medication_administration as a
    union all
    select
        d.resource_id as event_id,
        d.patient_id,
        d.site,
        'MedicationDispense' as resource_type,
        'dispense' as tier,
        d.status,
        d.status in ('in-progress', 'on-hold', 'completed', 'stopped', 'unknown') as is_evidence,
        d.medication_source,
        d.medication_resource_id,
        case when d.handed_over_first_day is null then d.prepared_day else d.handed_over_day end as start_day,
        coalesce(d.handed_over_precision, d.prepared_precision) as precision,
        coalesce(d.handed_over_first_day, d.prepared_first_day) as first_day,
        coalesce(d.handed_over_last_day, d.prepared_last_day) as last_day,
        cast(null as date) as end_day,
        cast(null as date) as asserted_day,
        d.landed_day
    from lake.medication_dispense as d
    union all
    select
        s.resource_id as event_id,
        s.patient_id,
        s.site,
        'MedicationStatement' as resource_type,
        'statement' as tier,
        s.status,
        s.status in ('active', 'completed', 'stopped', 'on-hold', 'unknown') as is_evidence,
        s.medication_source,
        s.medication_resource_id,
        s.start_day,
        s.start_precision as precision,
        s.start_first_day as first_day,
        s.start_last_day as last_day,
        -- An active statement without an end says: taken until it was made.
        case
            when s.end_first_day is null and s.status = 'active' then s.asserted_day
            else s.end_day
        end as end_day,
        s.asserted_day,
        s.landed_day
    from lake.medication_statement as s
    union all
    select
        r.resource_id as event_id,
        r.patient_id,
        r.site,
        'MedicationRequest' as resource_type,
        -- A plan that is reported is a statement by another name.
        case when r.intent = 'plan' and r.is_reported then 'statement' else 'request' end as tier,
        r.status,
        (
            r.status in ('active', 'on-hold', 'completed', 'stopped', 'unknown')
            and not r.is_do_not_perform
            and coalesce(r.intent, 'order') <> 'proposal'
        ) as is_evidence,
        r.medication_source,
        r.medication_resource_id,
        r.authored_day as start_day,
        r.authored_precision as precision,
        r.authored_first_day as first_day,
        r.authored_last_day as last_day,
        cast(null as date) as end_day,
        cast(null as date) as asserted_day,
        r.landed_day
    from lake.medication_request as r
)

select
    record.event_id, -- Pseudonym of the record.
    coalesce(merged.survivor_id, record.patient_id) as patient_id, -- The patient, merges followed.
    record.site, -- The hospital.
    record.resource_type, -- The FHIR type of the record.
    record.tier, -- administration, dispense, statement or request.
    record.status, -- Status by the code of R4 for its type; null if it has another or none.
    (
        coalesce(record.is_evidence, false)
        and (record.first_day is null or record.first_day <= record.landed_day)
    ) as is_valid, -- Evidence that the patient had it: by its status, and not dated after it was fetched.
    record.medication_source, -- concept, contained, reference, unresolvable or none.
    record.medication_resource_id, -- Pseudonym of the Medication referred to.
    (
        record.medication_source in ('concept', 'contained')
        or (record.medication_source = 'reference' and m.resource_id is not null)
    ) as is_resolved, -- Whether it is known which medication this is.
    record.start_day, -- First day; null where it is not known to the day.
    record.precision, -- instant, day, month or year of the start.
    record.first_day, -- Earliest possible first day.
    record.last_day, -- Latest possible first day.
    record.end_day, -- Last day of the period, where one is recorded.
    record.asserted_day, -- Day on which a statement was made.
    record.landed_day -- The site's day on which this version was fetched.
from record
left join staging.patient_link as merged on record.patient_id = merged.patient_id
left join lake.medication as m on record.medication_resource_id = m.resource_id
