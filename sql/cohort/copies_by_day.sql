-- One row a patient and day on or after index with copies of the transgene measured: their mean. What is
-- recorded as below a bound counts as 0.
with recorded as (
    select
        c.study,
        m.patient_id,
        c.unit,
        date_diff('day', i.index_date, m.event_date) as day,
        case
            when o.value_comparator in ('<', '<=') then 0.0
            when w.factor = r.factor and w.offset_value = r.offset_value then o.value_number
            else (o.value_number * r.factor + r.offset_value - w.offset_value) / w.factor
        end as copies
    from study.cart_copies as c
    inner join cohort.codelist_match as m on c.study = m.study and c.codelist = m.codelist
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    inner join staging.observation as o
        on m.event_id = o.observation_id and m.component_number = o.component_number
    inner join ref.unit as w on c.unit = w.unit
    inner join ref.unit as r on o.value_unit = r.unit and w.canonical_unit = r.canonical_unit
    where
        m.kind = 'observation'
        and o.value_number >= 0
        and o.value_number < 1e15
        and m.event_date >= i.index_date
)

select
    r.study, -- The study.
    r.patient_id, -- The patient.
    cast(r.day as integer) as day, -- Days from index, 0 or later.
    -- Decimals add up exactly: the last digit depends on no order of rows.
    cast(sum(cast(r.copies as decimal(38, 12))) as double) / count(*) as copies, -- Mean of the day's values.
    r.unit as copies_unit, -- The protocol's unit of copies.
    cast(count(*) as integer) as n_values -- Values of that day.
from recorded as r
group by r.study, r.patient_id, r.day, r.unit
