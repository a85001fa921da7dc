-- One row a period of cohort.person_period and covariate that changes over time: its value in the period.
with latest as (
    select
        p.study,
        p.patient_id,
        p.period_number,
        v.covariate,
        c.value,
        row_number() over (
            partition by p.study, p.patient_id, p.period_number, v.covariate order by c.day desc nulls last
        ) as recency
    from cohort.person_period as p
    inner join study.covariate as v on p.study = v.study and v.kind = 'disease_status'
    left join cohort.covariate_change as c
        on
            p.study = c.study
            and p.patient_id = c.patient_id
            and v.covariate = c.covariate
            and p.start_day >= c.day
)

select
    l.study, -- The study.
    l.patient_id, -- The patient.
    l.period_number, -- The period.
    l.covariate, -- The covariate.
    coalesce(l.value, 0.0) as value -- Its value in the period; 0 before the first change.
from latest as l
where l.recency = 1
