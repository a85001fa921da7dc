-- One row a procedure: the latest version of the record.
select
    p.resource_id as procedure_id, -- Pseudonym of the record.
    coalesce(merged.survivor_id, p.patient_id) as patient_id, -- The patient, merges followed.
    p.site, -- The hospital.
    p.status, -- Status by its code of R4; null if it has another or none.
    (
        coalesce(p.status, '') in ('in-progress', 'on-hold', 'stopped', 'completed', 'unknown')
        and (p.start_first_day is null or p.start_first_day <= p.landed_day)
    ) as is_valid, -- Was begun: by its status, and not dated after it was fetched.
    p.start_day, -- First day; null where it is not known to the day.
    p.start_precision as precision, -- instant, day, month or year of the start.
    p.start_first_day as first_day, -- Earliest possible first day.
    p.start_last_day as last_day, -- Latest possible first day.
    p.end_day, -- Last day, where one is recorded.
    coalesce(p.has_modifier_extension, false) as has_modifier_extension, -- It may mean something else.
    p.landed_day -- The site's day on which this version was fetched.
from lake.procedure as p
left join staging.patient_link as merged on p.patient_id = merged.patient_id
