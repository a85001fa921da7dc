-- One row a death of which an imported registry knows: what its last import says of the patient.
with ranked as (
    select
        *,
        rank() over (partition by patient_id, source order by imported_at desc) as age
    from lake.death_registry
)

select distinct
    coalesce(merged.survivor_id, r.patient_id) as patient_id, -- The patient, merges followed.
    r.site, -- The hospital that the file was imported for.
    r.source, -- Name of the registry.
    r.death_day, -- Day of death; null where only the month or year is known.
    r.death_precision, -- instant, day, month or year.
    r.death_first_day, -- Earliest possible day of death.
    r.death_last_day, -- Latest possible day of death.
    r.landed_day -- The site's day on which it was imported.
from ranked as r
left join staging.patient_link as merged on r.patient_id = merged.patient_id
where r.age = 1
