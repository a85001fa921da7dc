-- One row a patient and criterion or covariate that asks for a measured value: the value of the day nearest
-- to index inside the window, the later of two days equally near; of several values on that day, their mean.
with ranked as (
    select
        *,
        -- Decimals add up exactly: the last digit of a mean depends on no order of rows.
        case when abs(value_number) < 1e15 then cast(value_number as decimal(38, 18)) end as exact_value,
        rank() over (
            partition by study, purpose, name, patient_id
            order by abs(observed_day) asc, observed_day desc
        ) as nearness
    from cohort.measured_value
    where is_counted and is_in_window
),

nearest as (
    select
        study,
        purpose,
        name,
        patient_id,
        observed_day,
        case
            when min(value_number) = max(value_number) then min(value_number)
            when count(exact_value) = count(*) then cast(sum(exact_value) as double) / count(*)
            else avg(value_number)
        end as value_number,
        count(*) as n_values
    from ranked
    where nearness = 1
    group by study, purpose, name, patient_id, observed_day
)

select
    nearest.study, -- The study.
    nearest.purpose, -- criterion or covariate.
    nearest.name, -- Name of the criterion or covariate.
    nearest.patient_id, -- The patient.
    nearest.value_number, -- The value, in the protocol's unit if it names one; the mean of those of the day.
    cast(nearest.n_values as integer) as n_values, -- Values of that day.
    nearest.observed_day -- Days from index.
from nearest
