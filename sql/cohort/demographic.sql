-- One row a patient with an index date: who the patient was on that day.
with born as (
    select
        i.study,
        i.patient_id,
        i.site,
        i.index_date,
        p.gender,
        p.patient_id is not null as is_patient_known,
        p.birth_precision,
        case
            when p.birth_day is not null then p.birth_day
            when p.birth_precision = 'month'
                then make_date(year(p.birth_first_day), month(p.birth_first_day), 15)
            when p.birth_precision = 'year' then make_date(year(p.birth_first_day), 7, 1)
        end as birth_date
    from cohort.index_event as i
    left join staging.patient as p on i.patient_id = p.patient_id
    where i.index_date is not null
)

select
    born.study, -- The study.
    born.patient_id, -- The patient.
    born.site, -- The hospital.
    born.index_date, -- Day 0.
    born.is_patient_known, -- Whether the hospital gave a Patient resource.
    born.gender, -- Administrative gender as recorded.
    born.birth_date, -- Day of birth; the 15th or 1 July where only the month or year is known.
    coalesce(
        born.birth_precision in ('month', 'year'), false
    ) as is_birth_date_approximate, -- Whether the day of birth is the middle of a month or year.
    date_diff('day', born.birth_date, born.index_date) / 365.25 as age_years -- Age at index, not floored.
from born
