-- One row a value of an observation: its own (component 0) and one of each component; the latest version.
with latest as (
    select
        resource_id,
        patient_id,
        site,
        status,
        effective_day,
        effective_precision,
        effective_first_day,
        effective_last_day,
        effective_at,
        has_modifier_extension,
        landed_day,
        value_kind,
        value_number,
        value_comparator,
        value_unit_code,
        value_unit,
        value_boolean,
        value_text,
        value_low,
        value_high,
        value_numerator,
        value_denominator,
        absent_reason_codings,
        interpretation_codings,
        reference_ranges,
        components
    from lake.observation
),

interpreted as (
    select
        o.resource_id,
        min(said.coding.code) as code
    from latest as o
    cross join unnest(o.interpretation_codings) as said (coding)
    group by o.resource_id
),

given_range as (
    select
        o.resource_id,
        given.bounds
    from latest as o
    cross join unnest(o.reference_ranges) as given (bounds)
),

-- Limits for the healthy. A laboratory may give others too, such as of a therapy or a phase of a cycle.
healthy_range as (
    select
        g.resource_id,
        g.bounds
    from given_range as g
    where coalesce(array_length(g.bounds.type_codings), 0) <= 0
    union all
    select
        g.resource_id,
        g.bounds
    from given_range as g
    cross join unnest(g.bounds.type_codings) as meaning (coding)
    where meaning.coding.code = 'normal'
),

normal_range as (
    select
        h.resource_id,
        min(h.bounds.low) as low,
        max(h.bounds.high) as high,
        min(coalesce(h.bounds.unit_code, h.bounds.unit)) as unit
    from healthy_range as h
    group by h.resource_id
    having count(*) = 1
),

recorded as (
    select
        o.resource_id,
        0 as component_number,
        o.patient_id,
        o.site,
        o.status,
        o.effective_day,
        o.effective_precision,
        o.effective_first_day,
        o.effective_last_day,
        o.effective_at,
        o.has_modifier_extension,
        o.landed_day,
        o.value_kind,
        o.value_number,
        o.value_comparator,
        coalesce(o.value_unit_code, o.value_unit) as value_unit,
        o.value_boolean,
        o.value_text,
        o.value_low,
        o.value_high,
        o.value_numerator,
        o.value_denominator,
        o.absent_reason_codings
    from latest as o
    union all
    select
        o.resource_id,
        -- By codes and content, so that a component keeps its number where a server lists them otherwise.
        cast(
            row_number() over (partition by o.resource_id order by part.answer) as integer
        ) as component_number,
        o.patient_id,
        o.site,
        o.status,
        o.effective_day,
        o.effective_precision,
        o.effective_first_day,
        o.effective_last_day,
        o.effective_at,
        o.has_modifier_extension,
        o.landed_day,
        part.answer.value_kind,
        part.answer.value_number,
        part.answer.value_comparator,
        coalesce(part.answer.value_unit_code, part.answer.value_unit) as value_unit,
        part.answer.value_boolean,
        part.answer.value_text,
        part.answer.value_low,
        part.answer.value_high,
        part.answer.value_numerator,
        part.answer.value_denominator,
        part.answer.absent_reason_codings
    from latest as o
    cross join unnest(o.components) as part (answer)
),

absent as (
    select
        r.resource_id,
        r.component_number,
        min(said.coding.code) as code
    from recorded as r
    cross join unnest(r.absent_reason_codings) as said (coding)
    group by r.resource_id, r.component_number
)

select
    r.resource_id as observation_id, -- Pseudonym of the record.
    r.component_number, -- 0: the observation's own value; from 1: its components, by their codes.
    coalesce(merged.survivor_id, r.patient_id) as patient_id, -- The patient, merges followed.
    r.site, -- The hospital.
    r.status, -- Status by its code of R4; null if it has another or none.
    (
        coalesce(r.status, '') in ('registered', 'preliminary', 'final', 'amended', 'corrected', 'unknown')
        and (r.effective_first_day is null or r.effective_first_day <= r.landed_day)
    ) as is_valid, -- Counts: by its status, and not dated after it was fetched.
    r.effective_day as observed_day, -- Day observed; null where it is not known to the day.
    r.effective_precision as precision, -- instant, day, month or year.
    r.effective_first_day as first_day, -- Earliest possible day.
    r.effective_last_day as last_day, -- Latest possible day.
    r.effective_at as observed_at, -- The moment in UTC, where one is recorded with its offset.
    r.value_kind, -- The choice of value[x]: Quantity, CodeableConcept, boolean …; null: there is none.
    r.value_number, -- The value as recorded, where it is a number whose bound is understood.
    r.value_comparator, -- Below or above the value: <, <=, >=, >.
    r.value_unit, -- As recorded: the UCUM code, else the unit in one word.
    u.canonical_unit, -- The unit that its kind is turned into; null where it is not understood.
    r.value_number * u.factor + u.offset_value as canonical_number, -- The value in the canonical unit.
    r.value_low, -- Lower bound of a range, as recorded.
    r.value_high, -- Upper bound of a range, as recorded.
    r.value_numerator, -- Of a ratio.
    r.value_denominator, -- Of a ratio.
    r.value_boolean, -- The value, where it is true or false.
    r.value_text, -- The value, where it is a text on the site's list of permitted ones.
    a.code as absent_reason, -- Code that says why there is no value; of several the first in the alphabet.
    i.code as interpretation, -- H, L, N …: code of the laboratory's own judgement of the observation.
    case
        when r.component_number = 0 then n.low * nu.factor + nu.offset_value
    end as reference_low, -- Lower limit of normal by the laboratory, canonical; where it gives one range.
    case
        when r.component_number = 0 then n.high * nu.factor + nu.offset_value
    end as reference_high, -- Upper limit of normal by the laboratory, in the canonical unit.
    coalesce(r.has_modifier_extension, false) as has_modifier_extension, -- It may mean something else.
    r.landed_day -- The site's day on which this version was fetched.
from recorded as r
left join staging.patient_link as merged on r.patient_id = merged.patient_id
left join ref.unit as u on r.value_unit = u.unit
left join interpreted as i on r.resource_id = i.resource_id and r.component_number = 0
left join absent as a on r.resource_id = a.resource_id and r.component_number = a.component_number
left join normal_range as n on r.resource_id = n.resource_id
-- A range without a unit has that of the value.
left join ref.unit as nu on coalesce(n.unit, r.value_unit) = nu.unit and u.canonical_unit = nu.canonical_unit
