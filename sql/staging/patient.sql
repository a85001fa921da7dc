-- One row a patient: the latest version of the record; of merged records, the one that remains.
select
    p.resource_id as patient_id, -- Pseudonym of the patient; the key of every table.
    p.site, -- The hospital.
    p.is_active, -- Whether the record is in use. The dead may be marked false: it excludes nobody.
    p.gender, -- Administrative gender: male, female, other, unknown; null if it is none of them.
    p.birth_day, -- Day of birth; null where only the month or year is kept.
    p.birth_precision, -- day, month or year.
    p.birth_first_day, -- Earliest possible day of birth.
    p.birth_last_day, -- Latest possible day of birth.
    p.deceased_boolean, -- deceasedBoolean as recorded: it says that, never when.
    p.deceased_day, -- Day of death; null where only the month or year is known.
    p.deceased_precision, -- instant, day, month or year of deceasedDateTime.
    p.deceased_first_day, -- Earliest possible day of death.
    p.deceased_last_day, -- Latest possible day of death.
    coalesce(p.has_modifier_extension, false) as has_modifier_extension, -- It may mean something else.
    p.landed_day -- The site's day on which this version was fetched.
from lake.patient as p
left join staging.patient_link as merged on p.resource_id = merged.patient_id
where merged.patient_id is null
