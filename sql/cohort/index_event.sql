-- One row a patient with a recorded index event. Records within same_event_days of the first are the same.
with record as (
    select
        m.study,
        m.patient_id,
        m.site,
        m.event_id,
        m.resource_type,
        m.event_date,
        m.last_day,
        p.same_event_days
    from cohort.codelist_match as m
    inner join study.protocol as p on m.study = p.study and m.codelist = p.index_codelist
    inner join study.index_source as s on m.study = s.study and m.resource_type = s.source
),

first_known as (
    select
        study,
        patient_id,
        min(site) as site,
        min(event_date) as first_date
    from record
    group by study, patient_id
),

judged as (
    select
        f.study,
        f.patient_id,
        f.site,
        f.first_date,
        sum(
            case when date_diff('day', f.first_date, r.event_date) <= r.same_event_days then 1 else 0 end
        ) as n_records,
        min(case when r.event_date = f.first_date then r.resource_type end) as resource_type,
        -- A record on no known day that certainly lies before: the first event was another.
        max(
            case
                when r.event_date is null and date_diff('day', r.last_day, f.first_date) > r.same_event_days
                    then 1
                else 0
            end
        ) as n_earlier
    from first_known as f
    inner join record as r on f.study = r.study and f.patient_id = r.patient_id
    group by f.study, f.patient_id, f.site, f.first_date
)

select
    judged.study, -- The study.
    judged.patient_id, -- The patient.
    judged.site, -- The hospital.
    case
        when judged.n_earlier = 0 then judged.first_date
    end as index_date, -- Day 0; null where the day of the first event is not known.
    cast(
        case when judged.n_earlier = 0 then year(judged.first_date) end as integer
    ) as index_year, -- Its calendar year.
    judged.resource_type, -- The FHIR type of the first record.
    cast(judged.n_records as integer) as n_records -- Records of this one event.
from judged
