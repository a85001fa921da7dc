-- One row a patient with a recorded index event: the last day with any recorded care.
with ranked as (
    select
        i.study,
        i.patient_id,
        c.contact_day,
        c.resource_type,
        row_number() over (
            partition by i.study, i.patient_id order by c.contact_day desc, c.resource_type asc
        ) as recency
    from cohort.index_event as i
    inner join staging.contact as c on i.patient_id = c.patient_id
)

select
    ranked.study, -- The study.
    ranked.patient_id, -- The patient.
    ranked.contact_day as last_contact_date, -- The day.
    ranked.resource_type as source -- The FHIR type of the record that shows it.
from ranked
where ranked.recency = 1
