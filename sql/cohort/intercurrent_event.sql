-- One row a patient and intercurrent event: its first record after the index day.
-- Where it is looked for by the code list of the index event, records of that same event are none.
select
    e.study, -- The study.
    e.event, -- Name of the intercurrent event.
    m.patient_id, -- The patient.
    min(m.event_date) as event_date, -- The day.
    cast(min(date_diff('day', i.index_date, m.event_date)) as integer) as event_day, -- Days from index.
    e.handling -- treatment_policy, composite or censored_with_weights.
from study.intercurrent_event as e
inner join study.intercurrent_source as s on e.study = s.study and e.event = s.event
inner join study.protocol as p on e.study = p.study
inner join cohort.codelist_match as m on e.study = m.study and e.codelist = m.codelist and s.source = m.kind
inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
where
    m.event_date is not null
    and date_diff('day', i.index_date, m.event_date)
    > case when e.codelist = p.index_codelist then p.same_event_days else 0 end
group by e.study, e.event, m.patient_id, e.handling
