-- One row a diagnosis: the latest version of the record.
select
    c.resource_id as condition_id, -- Pseudonym of the record.
    coalesce(merged.survivor_id, c.patient_id) as patient_id, -- The patient, merges followed.
    c.site, -- The hospital.
    c.clinical_status, -- active, recurrence, relapse, inactive, remission, resolved; else null.
    c.verification_status, -- confirmed, provisional, refuted …: a code of R4, else null.
    (
        coalesce(c.verification_status, '') not in ('refuted', 'entered-in-error')
        and (c.onset_first_day is null or c.onset_first_day <= c.landed_day)
    ) as is_valid, -- A diagnosis: neither refuted nor entered in error, and not dated after it was fetched.
    case
        when c.onset_first_day is null then c.recorded_day else c.onset_day
    end as onset_day, -- Day of onset, else the day recorded; null where it is not known to the day.
    coalesce(c.onset_first_day, c.recorded_first_day) as first_day, -- Earliest possible day.
    coalesce(c.onset_last_day, c.recorded_last_day) as last_day, -- Latest possible day.
    c.abatement_day, -- Day on which it ended; null where none is known to the day.
    c.onset_age_years, -- Age at onset in years, where it is recorded so.
    coalesce(c.has_modifier_extension, false) as has_modifier_extension, -- It may mean something else.
    c.landed_day -- The site's day on which this version was fetched.
from lake.condition as c
left join staging.patient_link as merged on c.patient_id = merged.patient_id
