-- One row a patient and day, or month or year, with an assessed disease status. At one time progressed wins
-- over responding. An assessment on no known date is kept too: it can be on any day.
with answer as (
    select
        m.study,
        m.patient_id,
        m.event_date,
        coalesce(m.event_date, m.first_day) as earliest_date,
        coalesce(m.event_date, m.last_day) as latest_date,
        max(case when l.codelist = p.progressed_codelist then 1 else 0 end) as n_progressed,
        max(case when l.codelist = p.responding_codelist then 1 else 0 end) as n_responding
    from cohort.codelist_match as m
    inner join study.protocol as p on m.study = p.study and m.codelist = p.status_codelist
    -- A question without a coded answer is no assessment.
    inner join staging.observation_value as v
        on m.event_id = v.observation_id and m.component_number = v.component_number
    left join study.codelist as l
        on
            m.study = l.study
            and l.codelist in (p.responding_codelist, p.progressed_codelist)
            and v.system = l.system
            and v.code = l.code
            and (l.valid_from is null or coalesce(m.event_date, m.first_day) >= l.valid_from)
            and (l.valid_to is null or coalesce(m.event_date, m.last_day) <= l.valid_to)
    where m.kind = 'observation'
    group by
        m.study, m.patient_id, m.event_date, coalesce(m.event_date, m.first_day),
        coalesce(m.event_date, m.last_day)
)

select
    answer.study, -- The study.
    answer.patient_id, -- The patient.
    answer.event_date as status_date, -- The day; null where it is not known to the day.
    cast(date_diff('day', i.index_date, answer.event_date) as integer) as status_day, -- Days from index.
    cast(
        date_diff('day', i.index_date, answer.earliest_date) as integer
    ) as earliest_day, -- Earliest possible day, from index; null where no date is known.
    cast(
        date_diff('day', i.index_date, answer.latest_date) as integer
    ) as latest_day, -- Latest possible day, from index; null where no date is known.
    case
        when answer.n_progressed = 1 then 'progressed'
        when answer.n_responding = 1 then 'responding'
        else 'other'
    end as status -- responding, progressed or other.
from answer
inner join cohort.index_event as i on answer.study = i.study and answer.patient_id = i.patient_id
where i.index_date is not null
