-- One row a patient and criterion or covariate that asks for a measured value: the value nearest to index
-- inside the window, the later of two equally near.
with asked as (
    select
        study,
        'criterion' as purpose,
        criterion as name,
        codelist,
        from_day,
        to_day
    from study.criterion
    where kind = 'observation'
    union all
    select
        study,
        'covariate' as purpose,
        covariate as name,
        codelist,
        from_day,
        to_day
    from study.covariate
    where kind = 'observation'
),

measured as (
    select
        a.study,
        a.purpose,
        a.name,
        m.patient_id,
        m.event_id,
        o.value_number,
        o.value_unit,
        o.observed_at,
        date_diff('day', i.index_date, m.event_date) as observed_day
    from asked as a
    inner join cohort.codelist_match as m on a.study = m.study and a.codelist = m.codelist
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    inner join staging.observation as o on m.event_id = o.observation_id
    where
        m.kind = 'observation'
        and o.value_number is not null
        and i.index_date is not null
        and m.event_date is not null
        and (a.from_day is null or date_diff('day', i.index_date, m.event_date) >= a.from_day)
        and (a.to_day is null or date_diff('day', i.index_date, m.event_date) <= a.to_day)
),

ranked as (
    select
        *,
        row_number() over (
            partition by study, purpose, name, patient_id
            order by abs(observed_day) asc, observed_day desc, observed_at desc nulls last, event_id asc
        ) as nearness
    from measured
)

select
    ranked.study, -- The study.
    ranked.purpose, -- criterion or covariate.
    ranked.name, -- Name of the criterion or covariate.
    ranked.patient_id, -- The patient.
    ranked.event_id, -- Pseudonym of the observation.
    ranked.value_number, -- The value as recorded.
    ranked.value_unit, -- Its unit as recorded.
    cast(ranked.observed_day as integer) as observed_day -- Days from index.
from ranked
where ranked.nearness = 1
