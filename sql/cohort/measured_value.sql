-- One row a patient, criterion or covariate that asks for a measured value, and number observed in its
-- window. Where the protocol names a unit, a number in another unit, or in none, does not count.
with asked as (
    select
        study,
        'criterion' as purpose,
        criterion as name,
        codelist,
        from_day,
        to_day,
        unit
    from study.criterion
    where kind = 'observation'
    union all
    select
        study,
        'covariate' as purpose,
        covariate as name,
        codelist,
        from_day,
        to_day,
        unit
    from study.covariate
    where kind = 'observation'
)

select
    a.study, -- The study.
    a.purpose, -- criterion or covariate.
    a.name, -- Name of the criterion or covariate.
    m.patient_id, -- The patient.
    m.event_id, -- Pseudonym of the observation.
    o.value_number, -- The value as recorded.
    o.value_comparator, -- Below or above the value: <, <=, >=, >. The value is then only its bound.
    o.value_unit, -- Its unit as recorded.
    cast(date_diff('day', i.index_date, m.event_date) as integer) as observed_day, -- Days from index.
    a.unit is null or coalesce(o.value_unit = a.unit, false) as is_counted -- Whether in the unit asked for.
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
