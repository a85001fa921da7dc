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
        a.end_precision,
        a.end_first_day,
        a.end_last_day,
        cast(null as double) as supply_days,
        cast(null as date) as asserted_day,
        a.dose_value,
        coalesce(a.dose_unit_code, a.dose_unit) as dose_unit,
        a.has_modifier_extension,
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
        cast(null as varchar) as end_precision,
        cast(null as date) as end_first_day,
        cast(null as date) as end_last_day,
        d.supply_days,
        cast(null as date) as asserted_day,
        d.dose_value,
        coalesce(d.dose_unit_code, d.dose_unit) as dose_unit,
        d.has_modifier_extension,
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
        s.end_day,
        s.end_precision,
        s.end_first_day,
        s.end_last_day,
        cast(null as double) as supply_days,
        s.asserted_day,
        s.dose_value,
        coalesce(s.dose_unit_code, s.dose_unit) as dose_unit,
        s.has_modifier_extension,
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
        cast(null as varchar) as end_precision,
        cast(null as date) as end_first_day,
        cast(null as date) as end_last_day,
        r.supply_days,
        cast(null as date) as asserted_day,
        r.dose_value,
        coalesce(r.dose_unit_code, r.dose_unit) as dose_unit,
        r.has_modifier_extension,
        r.landed_day
    from lake.medication_request as r
),

ended as (
    select
        *,
        -- A supply of a day or less ends on its first day; one of over a year is taken for a mistake. Refills
        -- are not counted: nothing says that they were fetched.
        case
            when supply_days > 0 and supply_days <= 366 then cast(ceil(supply_days) as integer)
        end as whole_supply_days,
        case
            when end_first_day is not null then 'recorded'
            -- An active statement without an end says: taken until it was made.
            when resource_type = 'MedicationStatement' and status = 'active' and asserted_day is not null
                then 'asserted'
            when supply_days > 0 and supply_days <= 366 and start_day is not null then 'supply'
        end as end_basis
    from record
)

select
    e.event_id, -- Pseudonym of the record.
    coalesce(merged.survivor_id, e.patient_id) as patient_id, -- The patient, merges followed.
    e.site, -- The hospital.
    e.resource_type, -- The FHIR type of the record.
    e.tier, -- administration, dispense, statement or request.
    e.status, -- Status by the code of R4 for its type; null if it has another or none.
    (
        coalesce(e.is_evidence, false)
        and (e.first_day is null or e.first_day <= e.landed_day)
    ) as is_valid, -- Evidence that the patient had it: by its status, and not dated after it was fetched.
    e.medication_source, -- concept, contained, reference, unresolvable or none.
    e.medication_resource_id, -- Pseudonym of the Medication referred to.
    (
        e.medication_source in ('concept', 'contained')
        or (e.medication_source = 'reference' and m.resource_id is not null)
    ) as is_resolved, -- Whether it is known which medication this is.
    e.start_day, -- First day; null where it is not known to the day.
    e.precision, -- instant, day, month or year of the start.
    e.first_day, -- Earliest possible first day.
    e.last_day, -- Latest possible first day.
    case e.end_basis
        when 'recorded' then e.end_day
        when 'asserted' then e.asserted_day
        when 'supply' then date_add(e.start_day, e.whole_supply_days - 1)
    end as end_day, -- Last day; null where none is known to the day.
    e.end_basis, -- recorded, asserted (by an active statement) or supply (days dispensed for).
    e.end_precision, -- instant, day, month or year of a recorded end.
    e.end_first_day, -- Earliest possible last day, where an end is recorded.
    e.end_last_day, -- Latest possible last day, where an end is recorded.
    e.supply_days, -- Days for which what was dispensed or ordered lasts, as recorded.
    e.dose_value, -- Dose of one intake, as recorded.
    e.dose_unit, -- Its unit as recorded: the UCUM code, else the unit in one word.
    u.canonical_unit as dose_canonical_unit, -- The unit that all units of its kind are turned into.
    e.dose_value * u.factor + u.offset_value as canonical_dose, -- The dose in the canonical unit.
    e.asserted_day, -- Day on which a statement was made.
    coalesce(e.has_modifier_extension, false) as has_modifier_extension, -- It may mean something else.
    e.landed_day -- The site's day on which this version was fetched.
from ended as e
left join staging.patient_link as merged on e.patient_id = merged.patient_id
left join lake.medication as m on e.medication_resource_id = m.resource_id
left join ref.unit as u on e.dose_unit = u.unit
