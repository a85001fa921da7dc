-- One row a patient, criterion or covariate that asks for a measured value, and number observed in its
-- window; of covariates also the numbers after index, which tell how they go on. Where the protocol names a
-- unit, a number is turned into it; one in a unit of another kind, in one that is not understood or in none
-- does not count.
with asked as (
    select
        study,
        'criterion' as purpose,
        criterion as name,
        codelist,
        from_day,
        to_day,
        unit,
        plausible_low,
        plausible_high
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
        unit,
        plausible_low,
        plausible_high
    from study.covariate
    where kind = 'observation'
),

recorded as (
    select
        a.*,
        m.patient_id,
        m.event_id,
        m.component_number,
        o.value_number as recorded_number,
        o.value_comparator,
        o.value_unit as recorded_unit,
        cast(date_diff('day', i.index_date, m.event_date) as integer) as observed_day,
        (a.from_day is null or date_diff('day', i.index_date, m.event_date) >= a.from_day)
        and (a.to_day is null or date_diff('day', i.index_date, m.event_date) <= a.to_day) as is_in_window,
        -- As recorded where the units are one: no digit is lost to a conversion there and back.
        case
            when
                a.unit is null
                or o.value_unit = a.unit
                or (
                    w.canonical_unit = r.canonical_unit
                    and w.factor = r.factor
                    and w.offset_value = r.offset_value
                )
                then o.value_number
            when w.canonical_unit = r.canonical_unit
                then (o.value_number * r.factor + r.offset_value - w.offset_value) / w.factor
            else o.value_number
        end as value_number,
        a.unit is null
        or coalesce(o.value_unit = a.unit, false)
        or coalesce(w.canonical_unit = r.canonical_unit, false) as is_counted
    from asked as a
    inner join cohort.codelist_match as m on a.study = m.study and a.codelist = m.codelist
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    inner join staging.observation as o
        on m.event_id = o.observation_id and m.component_number = o.component_number
    left join ref.unit as w on a.unit = w.unit
    left join ref.unit as r on o.value_unit = r.unit
    where
        m.kind = 'observation'
        and o.value_number is not null
        and i.index_date is not null
        and m.event_date is not null
)

select
    r.study, -- The study.
    r.purpose, -- criterion or covariate.
    r.name, -- Name of the criterion or covariate.
    r.patient_id, -- The patient.
    r.event_id, -- Pseudonym of the observation.
    r.component_number, -- 0: the observation's own value; from 1: one of its components.
    r.value_number, -- The value in the protocol's unit; as recorded where that names none.
    r.value_comparator, -- Below or above the value: <, <=, >=, >. The value is then only its bound.
    case
        when r.unit is not null and r.is_counted then r.unit else r.recorded_unit
    end as value_unit, -- Its unit.
    r.recorded_number, -- The value as recorded.
    r.recorded_unit, -- Its unit as recorded.
    r.observed_day, -- Days from index.
    r.is_in_window, -- Whether in the window, so that it can be the value at index; else it is after index.
    r.is_counted, -- Whether in a unit of the kind asked for.
    (
        r.is_counted
        and (
            coalesce(r.value_number < r.plausible_low, false)
            or coalesce(r.value_number > r.plausible_high, false)
        )
    ) as is_implausible -- Whether outside what the protocol takes for possible; it counts all the same.
from recorded as r
where r.is_in_window or (r.purpose = 'covariate' and r.observed_day > 0)
