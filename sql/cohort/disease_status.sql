-- One row a patient and day with an assessed disease status. On one day progressed wins over responding.
with answer as (
    select
        m.study,
        m.patient_id,
        m.event_date,
        max(case when l.codelist = p.progressed_codelist then 1 else 0 end) as n_progressed,
        max(case when l.codelist = p.responding_codelist then 1 else 0 end) as n_responding
    from cohort.codelist_match as m
    inner join study.protocol as p on m.study = p.study and m.codelist = p.status_codelist
    -- A question without a coded answer is no assessment.
    inner join staging.observation_value as v on m.event_id = v.observation_id
    left join study.codelist as l
        on
            m.study = l.study
            and l.codelist in (p.responding_codelist, p.progressed_codelist)
            and v.system = l.system
            and v.code = l.code
            and (l.valid_from is null or m.event_date >= l.valid_from)
            and (l.valid_to is null or m.event_date <= l.valid_to)
    where m.kind = 'observation' and m.event_date is not null
    group by m.study, m.patient_id, m.event_date
)

select
    answer.study, -- The study.
    answer.patient_id, -- The patient.
    answer.event_date as status_date, -- The day.
    cast(date_diff('day', i.index_date, answer.event_date) as integer) as status_day, -- Days from index.
    case
        when answer.n_progressed = 1 then 'progressed'
        when answer.n_responding = 1 then 'responding'
        else 'other'
    end as status -- responding, progressed or other.
from answer
inner join cohort.index_event as i on answer.study = i.study and answer.patient_id = i.patient_id
where i.index_date is not null
