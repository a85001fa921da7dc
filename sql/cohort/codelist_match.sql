-- One row a valid record, or component of one, that a code list of a study matches: by code, and by the
-- code's validity on its day. Nothing is dated after it was fetched, so the latest possible day of a month or
-- year is at most that day.
with event as (
    select
        'medication' as kind,
        e.event_id,
        0 as component_number,
        e.patient_id,
        e.site,
        e.resource_type,
        e.tier,
        e.start_day as event_date,
        e.first_day,
        case when e.last_day > e.landed_day then e.landed_day else e.last_day end as last_day,
        e.end_day,
        -- A statement that is still active and has no end but the day it was made on.
        case
            when
                e.tier = 'statement'
                and e.status = 'active'
                and (e.end_day is null or e.end_day = e.asserted_day)
                then e.landed_day
        end as ongoing_until_date,
        c.system,
        c.code
    from staging.medication_event as e
    inner join staging.medication_code as c on e.event_id = c.event_id
    where e.is_valid
    union all
    select
        'procedure' as kind,
        e.procedure_id as event_id,
        0 as component_number,
        e.patient_id,
        e.site,
        'Procedure' as resource_type,
        cast(null as varchar) as tier,
        e.start_day as event_date,
        e.first_day,
        case when e.last_day > e.landed_day then e.landed_day else e.last_day end as last_day,
        e.end_day,
        cast(null as date) as ongoing_until_date,
        c.system,
        c.code
    from staging.procedure as e
    inner join staging.procedure_code as c on e.procedure_id = c.procedure_id
    where e.is_valid
    union all
    select
        'condition' as kind,
        e.condition_id as event_id,
        0 as component_number,
        e.patient_id,
        e.site,
        'Condition' as resource_type,
        cast(null as varchar) as tier,
        e.onset_day as event_date,
        e.first_day,
        case when e.last_day > e.landed_day then e.landed_day else e.last_day end as last_day,
        cast(null as date) as end_day,
        cast(null as date) as ongoing_until_date,
        c.system,
        c.code
    from staging.condition as e
    inner join staging.condition_code as c on e.condition_id = c.condition_id
    where e.is_valid
    union all
    select
        'observation' as kind,
        e.observation_id as event_id,
        e.component_number,
        e.patient_id,
        e.site,
        'Observation' as resource_type,
        cast(null as varchar) as tier,
        e.observed_day as event_date,
        e.first_day,
        case when e.last_day > e.landed_day then e.landed_day else e.last_day end as last_day,
        cast(null as date) as end_day,
        cast(null as date) as ongoing_until_date,
        c.system,
        c.code
    from staging.observation as e
    inner join staging.observation_code as c
        on e.observation_id = c.observation_id and e.component_number = c.component_number
    where e.is_valid
),

by_code as (
    select
        l.study,
        l.codelist,
        l.valid_from,
        l.valid_to,
        event.*
    from event
    inner join study.codelist as l on event.system = l.system and event.code = l.code
    where not l.is_prefix
),

by_prefix as (
    select
        l.study,
        l.codelist,
        l.valid_from,
        l.valid_to,
        event.*
    from event
    inner join study.codelist as l
        on event.system = l.system and substring(event.code, 1, length(l.code)) = l.code
    where l.is_prefix
),

matched as (
    select * from by_code
    union all
    select * from by_prefix
)

select distinct
    matched.study, -- The study.
    matched.codelist, -- The code list.
    matched.patient_id, -- The patient.
    matched.site, -- The hospital.
    matched.kind, -- medication, procedure, condition or observation.
    matched.event_id, -- Pseudonym of the record.
    matched.component_number, -- Of an observation: 0 its own value, from 1 a component; else 0.
    matched.resource_type, -- The FHIR type of the record.
    matched.tier, -- Tier of evidence of a medication record.
    matched.event_date, -- Its day; null where it is not known to the day.
    matched.first_day, -- Earliest possible day.
    matched.last_day, -- Latest possible day.
    matched.end_day, -- Last day of a period, as recorded or as days of supply say.
    matched.ongoing_until_date -- Day an active statement without an end was fetched: it says, still taken.
from matched
where
    (matched.valid_from is null or matched.first_day >= matched.valid_from)
    and (matched.valid_to is null or matched.last_day <= matched.valid_to)
