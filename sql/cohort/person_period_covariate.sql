-- One row a period of cohort.person_period and covariate that is followed over time: its value in the period.
with latest as (
    select
        p.study,
        p.patient_id,
        p.period_number,
        v.covariate,
        -- Before the first change: of a status 0, of a measured value that at index.
        coalesce(c.value, b.value, case when v.kind = 'disease_status' then 0.0 end) as value,
        row_number() over (
            partition by p.study, p.patient_id, p.period_number, v.covariate order by c.day desc nulls last
        ) as recency
    from cohort.person_period as p
    inner join study.covariate as v on p.study = v.study and v.over_time
    left join cohort.covariate_change as c
        on
            p.study = c.study
            and p.patient_id = c.patient_id
            and v.covariate = c.covariate
            and p.start_day >= c.day
    left join cohort.baseline as b
        on p.study = b.study and p.patient_id = b.patient_id and v.covariate = b.covariate
)

select
    l.study, -- The study.
    l.patient_id, -- The patient.
    l.period_number, -- The period.
    l.covariate, -- The covariate.
    l.value -- Its value in the period; null where it is missing.
from latest as l
where l.recency = 1
