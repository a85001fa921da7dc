-- One row a change of a covariate over time. The value holds from the end of the day on.
-- Only what is assessed after index changes a status: before, it is 0, for the status at index is what the
-- index treatment was given for. Responding is the last known status; progressed is for good from the first
-- progression on. A measured covariate begins with its value of cohort.baseline (if that is missing, with its
-- first value after index) and follows the patients of the analysed cohort to the end of their follow-up: by
-- the rules of its value at index, so of several on one day their mean.
with assessed as (
    select
        c.study,
        s.patient_id,
        c.covariate,
        s.status_day,
        case when s.status = c.status then 1.0 else 0.0 end as status_value
    from study.covariate as c
    inner join cohort.disease_status as s on c.study = s.study
    where c.kind = 'disease_status' and c.status = 'responding' and s.status_day > 0
),

compared as (
    select
        *,
        lag(status_value, 1, 0.0) over (
            partition by study, patient_id, covariate order by status_day
        ) as value_before
    from assessed
),

measured as (
    select
        m.study,
        m.patient_id,
        m.name as covariate,
        m.observed_day,
        m.value_number,
        -- Decimals add up exactly: the last digit of a mean depends on no order of rows.
        case when abs(m.value_number) < 1e15 then cast(m.value_number as decimal(38, 18)) end as exact_value
    from cohort.measured_value as m
    inner join cohort.survival as s on m.study = s.study and m.patient_id = s.patient_id
    where m.purpose = 'covariate' and m.is_counted and m.observed_day > 0 and m.observed_day < s.time_days
),

of_day as (
    select
        study,
        patient_id,
        covariate,
        observed_day,
        case
            when min(value_number) = max(value_number) then min(value_number)
            when count(exact_value) = count(*) then cast(sum(exact_value) as double) / count(*)
            else avg(value_number)
        end as value_number
    from measured
    group by study, patient_id, covariate, observed_day
),

transformed as (
    select
        d.study,
        d.patient_id,
        d.covariate,
        d.observed_day,
        case
            when c.transform = 'log' and d.value_number > 0 then ln(d.value_number)
            when c.transform = 'log1p' and d.value_number > -1 then ln(1 + d.value_number)
            when c.transform = 'none' then d.value_number
        end as covariate_value
    from of_day as d
    inner join study.covariate as c on d.study = c.study and d.covariate = c.covariate
    where c.kind = 'observation'
),

followed as (
    select
        t.study,
        t.patient_id,
        t.covariate,
        t.observed_day,
        t.covariate_value,
        coalesce(
            lag(t.covariate_value) over (
                partition by t.study, t.patient_id, t.covariate order by t.observed_day
            ),
            b.value
        ) as value_before
    from transformed as t
    left join cohort.baseline as b
        on t.study = b.study and t.patient_id = b.patient_id and t.covariate = b.covariate
    where t.covariate_value is not null
),

change as (
    select
        study,
        patient_id,
        covariate,
        status_day as change_day,
        status_value as new_value
    from compared
    where status_value <> value_before
    union all
    select
        c.study,
        p.patient_id,
        c.covariate,
        p.progression_day as change_day,
        1.0 as new_value
    from study.covariate as c
    inner join cohort.progression as p on c.study = p.study
    where c.kind = 'disease_status' and c.status = 'progressed'
    union all
    select
        study,
        patient_id,
        covariate,
        observed_day as change_day,
        covariate_value as new_value
    from followed
    where value_before is null or covariate_value <> value_before
)

select
    change.study, -- The study.
    change.patient_id, -- The patient.
    change.covariate, -- The covariate.
    change.change_day as day, -- Days from index, above 0.
    cast(change.new_value as double) as value -- The value from the end of this day on.
from change
