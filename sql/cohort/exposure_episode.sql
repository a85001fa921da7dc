-- One row a period of exposure by one tier of evidence: records at most gap_days apart are one episode.
-- Records before index and from index on never join: only a record on or after index can be a start.
-- A record known only to the month or year begins no episode, or its latest possible day does, as the
-- protocol says (start_without_day): the end of the month or year, or the day it was fetched, or of death.
with dated as (
    select
        m.study,
        m.patient_id,
        m.tier,
        m.event_id,
        m.end_day as end_date,
        p.gap_days,
        p.unless_progressed,
        i.index_date,
        t.tier is not null as is_counted,
        case
            when m.event_date is not null then m.event_date
            when p.start_without_day = 'latest_day' and d.death_date between m.first_day and m.last_day
                then d.death_date
            when p.start_without_day = 'latest_day' then m.last_day
        end as start_date
    from cohort.codelist_match as m
    inner join study.protocol as p on m.study = p.study and m.codelist = p.exposure_codelist
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    left join study.exposure_tier as t on m.study = t.study and m.tier = t.tier
    left join cohort.death as d on m.study = d.study and m.patient_id = d.patient_id
    where m.kind = 'medication' and i.index_date is not null
),

record as (
    select
        *,
        start_date < index_date as is_before_index,
        date_diff('day', index_date, start_date) as start_day,
        date_diff('day', index_date, greatest(start_date, coalesce(end_date, start_date))) as end_day
    from dated
    where start_date is not null
),

reached as (
    select
        *,
        max(end_day) over (
            partition by study, patient_id, tier, is_before_index
            order by start_day, event_id
            rows between unbounded preceding and 1 preceding
        ) as reached_day
    from record
),

numbered as (
    select
        *,
        sum(case when start_day - reached_day <= gap_days then 0 else 1 end) over (
            partition by study, patient_id, tier
            order by start_day, event_id
            rows between unbounded preceding and current row
        ) as episode_number
    from reached
),

episode as (
    select
        study,
        patient_id,
        tier,
        episode_number,
        index_date,
        is_counted,
        is_before_index,
        unless_progressed,
        min(start_day) as start_day,
        max(end_day) as end_day,
        count(*) as n_records
    from numbered
    group by
        study, patient_id, tier, episode_number, index_date, is_counted, is_before_index, unless_progressed
)

select
    e.study, -- The study.
    e.patient_id, -- The patient.
    e.tier, -- administration, dispense, statement or request.
    cast(e.episode_number as integer) as episode_number, -- From 1 within patient and tier, by time.
    cast(e.start_day as integer) as start_day, -- First day, from index.
    cast(e.end_day as integer) as end_day, -- Last day, from index.
    cast(e.n_records as integer) as n_records, -- Records that make it.
    e.is_counted, -- Whether the protocol counts this tier as exposure.
    case
        when e.is_before_index then 'before_index'
        when e.unless_progressed and e.start_day >= p.progression_day then 'salvage'
        else 'maintenance'
    end as kind -- before_index, maintenance, or salvage: begun on the day of progression or later.
from episode as e
left join cohort.progression as p on e.study = p.study and e.patient_id = p.patient_id
