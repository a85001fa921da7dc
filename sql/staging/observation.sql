-- One row an observation: the latest version of the record.
select
    o.resource_id as observation_id, -- Pseudonym of the record.
    coalesce(merged.survivor_id, o.patient_id) as patient_id, -- The patient, merges followed.
    o.site, -- The hospital.
    o.status, -- Status by its code of R4; null if it has another or none.
    (
        coalesce(o.status, '') in ('registered', 'preliminary', 'final', 'amended', 'corrected', 'unknown')
        and (o.effective_first_day is null or o.effective_first_day <= o.landed_day)
    ) as is_valid, -- Counts: by its status, and not dated after it was fetched.
    o.effective_day as observed_day, -- Day observed; null where it is not known to the day.
    o.effective_precision as precision, -- instant, day, month or year.
    o.effective_first_day as first_day, -- Earliest possible day.
    o.effective_last_day as last_day, -- Latest possible day.
    o.effective_at as observed_at, -- The moment in UTC, where one is recorded with its offset.
    o.value_number, -- The value, where it is a number whose bound is understood.
    o.value_comparator, -- Below or above the value: <, <=, >=, >.
    coalesce(o.value_unit_code, o.value_unit) as value_unit, -- The UCUM code, else the unit in one word.
    o.value_boolean, -- The value, where it is true or false.
    o.landed_day -- The site's day on which this version was fetched.
from lake.observation as o
left join staging.patient_link as merged on o.patient_id = merged.patient_id
