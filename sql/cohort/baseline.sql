-- One row a patient with an index date and baseline covariate.
with valued as (
    select
        d.study,
        d.patient_id,
        c.covariate,
        d.age_years as covariate_value,
        cast(null as integer) as observed_day
    from cohort.demographic as d
    inner join study.covariate as c on d.study = c.study
    where c.kind = 'age_at_index'
    union all
    select
        d.study,
        d.patient_id,
        c.covariate,
        l.value as covariate_value,
        cast(null as integer) as observed_day
    from cohort.demographic as d
    inner join study.covariate as c on d.study = c.study
    left join study.covariate_level as l
        on c.study = l.study and c.covariate = l.covariate and d.gender = l.level
    where c.kind = 'sex'
    union all
    select
        d.study,
        d.patient_id,
        c.covariate,
        date_diff('day', c.origin, d.index_date) / 365.25 as covariate_value,
        cast(null as integer) as observed_day
    from cohort.demographic as d
    inner join study.covariate as c on d.study = c.study
    where c.kind = 'years_since'
    union all
    select
        d.study,
        d.patient_id,
        c.covariate,
        case
            when c.transform = 'log' and coalesce(o.value_number, c.before_first) > 0
                then ln(coalesce(o.value_number, c.before_first))
            when c.transform = 'log1p' and coalesce(o.value_number, c.before_first) > -1
                then ln(1 + coalesce(o.value_number, c.before_first))
            when c.transform = 'none' then coalesce(o.value_number, c.before_first)
        end as covariate_value,
        o.observed_day
    from cohort.demographic as d
    inner join study.covariate as c on d.study = c.study
    left join cohort.observed_value as o
        on
            c.study = o.study
            and o.purpose = 'covariate'
            and c.covariate = o.name
            and d.patient_id = o.patient_id
    where c.kind = 'observation'
)

select
    valued.study, -- The study.
    valued.patient_id, -- The patient.
    valued.covariate, -- The covariate.
    valued.covariate_value as value, -- Its value as analyses take it; null where it is missing.
    valued.observed_day as day, -- Days from index on which it was measured; null for what has no day.
    valued.covariate_value is null as is_missing -- Whether there is no value.
from valued
