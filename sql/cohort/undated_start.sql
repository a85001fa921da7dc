-- One row a patient whose first start of the exposure may be a record known only to the month or year. That
-- record may lie on or after index, no start known to the day comes before its earliest possible day, and
-- it is not surely salvage. A record on no known date says nothing of its order and is left to a check.
with record as (
    select
        m.study,
        m.patient_id,
        m.event_date,
        p.unless_progressed,
        date_diff('day', i.index_date, m.event_date) as start_day,
        greatest(date_diff('day', i.index_date, m.first_day), 0) as earliest_day,
        date_diff('day', i.index_date, m.last_day) as latest_day
    from cohort.codelist_match as m
    inner join study.protocol as p on m.study = p.study and m.codelist = p.exposure_codelist
    inner join study.exposure_tier as t on m.study = t.study and m.tier = t.tier
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    where m.kind = 'medication' and i.index_date is not null
),

first_known as (
    select
        study,
        patient_id,
        min(start_day) as start_day
    from record
    where start_day >= 0
    group by study, patient_id
)

select
    r.study, -- The study.
    r.patient_id, -- The patient.
    cast(min(r.earliest_day) as integer) as earliest_day, -- Earliest possible day, from index; not below 0.
    cast(min(r.latest_day) as integer) as latest_day -- Latest possible day, from index.
from record as r
left join first_known as k on r.study = k.study and r.patient_id = k.patient_id
left join cohort.progression as g on r.study = g.study and r.patient_id = g.patient_id
where
    r.event_date is null
    and r.latest_day >= 0
    and (k.start_day is null or k.start_day > r.earliest_day)
    and not coalesce(r.unless_progressed and r.earliest_day >= g.progression_day, false)
group by r.study, r.patient_id
