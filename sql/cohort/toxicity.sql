-- One row a patient, adverse event and day from index on with a laboratory value: the worst grade of the day.
-- The limits are rows of ref.toxicity_grade. Between the limit of grade 2 and normal, the laboratory's own
-- lower limit of normal decides between grade 1 and none.
with measured as (
    select
        t.study,
        t.toxicity,
        t.adverse_event,
        m.patient_id,
        m.event_id,
        m.component_number,
        date_diff('day', i.index_date, m.event_date) as day,
        o.canonical_number,
        o.canonical_unit,
        o.reference_low,
        -- A value recorded as below a bound is below it: <0.5 has the grade of what lies below 0.5.
        coalesce(o.value_comparator = '<', false) as is_below_value
    from study.toxicity as t
    inner join cohort.codelist_match as m on t.study = m.study and t.codelist = m.codelist
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    inner join staging.observation as o
        on m.event_id = o.observation_id and m.component_number = o.component_number
    where
        m.kind = 'observation'
        and o.canonical_number is not null
        and m.event_date >= i.index_date
),

scale as (
    select
        g.adverse_event,
        g.grade,
        u.canonical_unit,
        g.below * u.factor + u.offset_value as below
    from ref.toxicity_grade as g
    inner join ref.unit as u on g.unit = u.unit
),

compared as (
    select
        m.*,
        s.grade,
        coalesce(s.below, m.reference_low) as below
    from measured as m
    inner join scale as s on m.adverse_event = s.adverse_event and m.canonical_unit = s.canonical_unit
),

graded as (
    select
        study,
        toxicity,
        adverse_event,
        patient_id,
        event_id,
        component_number,
        day,
        canonical_number,
        canonical_unit,
        max(
            case
                when canonical_number < below or (is_below_value and canonical_number = below) then grade
                else 0
            end
        ) as grade,
        max(case when below is null then 1 else 0 end) as n_limits_unknown
    from compared
    group by
        study, toxicity, adverse_event, patient_id, event_id, component_number, day, canonical_number,
        canonical_unit
)

select
    g.study, -- The study.
    g.patient_id, -- The patient.
    g.toxicity, -- Its name in the protocol.
    g.adverse_event, -- neutropenia, thrombocytopenia or anaemia.
    cast(g.day as integer) as day, -- Days from index, 0 or later.
    cast(
        max(case when g.grade > 0 or g.n_limits_unknown = 0 then g.grade end) as integer
    ) as grade, -- 0 to 4, the worst of the day; null: 0 or 1, for the lower limit of normal is not recorded.
    min(g.canonical_number) as value_number, -- The lowest value of the day.
    g.canonical_unit as value_unit, -- Its unit.
    cast(count(*) as integer) as n_values -- Values of that day.
from graded as g
group by g.study, g.patient_id, g.toxicity, g.adverse_event, g.day, g.canonical_unit
