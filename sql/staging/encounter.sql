-- One row an encounter: the latest version of the record.
select
    e.resource_id as encounter_id, -- Pseudonym of the record.
    coalesce(merged.survivor_id, e.patient_id) as patient_id, -- The patient, merges followed.
    e.site, -- The hospital.
    e.status, -- Status by its code of R4; null if it has another or none.
    (
        coalesce(e.status, '') in ('arrived', 'triaged', 'in-progress', 'onleave', 'finished', 'unknown')
        and (e.start_first_day is null or e.start_first_day <= e.landed_day)
    ) as is_valid, -- Took place: by its status, and not dated after it was fetched.
    e.class_code, -- AMB, IMP, EMER …: a code of ActEncounterCode, else null.
    e.start_day, -- First day; null where it is not known to the day.
    e.end_day, -- Last day, where one is recorded.
    coalesce(e.has_modifier_extension, false) as has_modifier_extension, -- It may mean something else.
    e.landed_day -- The site's day on which this version was fetched.
from lake.encounter as e
left join staging.patient_link as merged on e.patient_id = merged.patient_id
