-- One row a patient with a recorded index event who is recorded as dead, by the sources that the protocol
-- names. Of several that which knows the day comes first, then that which knows a date at all, then the
-- protocol's order. Whatever they disagree about is a conflict.
with said as (
    select
        i.study,
        i.patient_id,
        'patient' as death_source,
        case
            when p.deceased_first_day is not null then 'deceased_date_time' else 'deceased_boolean'
        end as source,
        p.deceased_day as death_day,
        p.deceased_precision as death_precision,
        p.deceased_first_day as first_day,
        p.deceased_last_day as last_day,
        p.landed_day
    from cohort.index_event as i
    inner join staging.patient as p on i.patient_id = p.patient_id
    where p.deceased_first_day is not null or p.deceased_boolean
    union all
    select
        i.study,
        i.patient_id,
        'registry' as death_source,
        'death_registry' as source,
        r.death_day,
        r.death_precision,
        r.death_first_day as first_day,
        r.death_last_day as last_day,
        r.landed_day
    from cohort.index_event as i
    inner join staging.registered_death as r on i.patient_id = r.patient_id
),

ranked as (
    select
        s.*,
        -- A death dated after the record was fetched has no known day.
        coalesce(s.first_day > s.landed_day, false) as is_after_landing,
        row_number() over (
            partition by s.study, s.patient_id
            order by
                case
                    when s.first_day is null or s.first_day > s.landed_day then 3
                    when s.death_day is null then 2
                    else 1
                end,
                o.position,
                -- Of two registries, or two lines of one, the earlier.
                s.first_day,
                s.last_day
        ) as precedence
    from said as s
    inner join study.death_source as o on s.study = o.study and s.death_source = o.source
),

agreed as (
    select
        study,
        patient_id,
        max(case when is_after_landing then 1 else 0 end) as n_after_landing,
        -- Two intervals have no day in common.
        max(first_day) > min(last_day) as is_contradictory,
        min(
            case when death_source = 'registry' and not is_after_landing then last_day end
        ) as registry_last_day
    from ranked
    group by study, patient_id
),

graded as (
    select
        r.study,
        r.patient_id,
        r.source,
        r.death_day,
        r.death_precision,
        r.last_day,
        a.is_contradictory,
        a.n_after_landing,
        a.registry_last_day,
        l.last_contact_date,
        rule.death_without_date,
        rule.incomplete_death_date,
        p.deceased_boolean,
        p.deceased_first_day,
        p.landed_day,
        case
            when r.first_day is null or r.is_after_landing then 'none'
            when r.death_day is not null then 'day'
            else r.death_precision
        end as precision,
        case
            when r.death_precision = 'month' then make_date(year(r.first_day), month(r.first_day), 15)
            when r.death_precision = 'year' then make_date(year(r.first_day), 7, 1)
        end as middle_date
    from ranked as r
    inner join agreed as a on r.study = a.study and r.patient_id = a.patient_id
    inner join study.protocol as rule on r.study = rule.study
    left join staging.patient as p on r.patient_id = p.patient_id
    left join cohort.last_contact as l on r.study = l.study and r.patient_id = l.patient_id
    where r.precedence = 1
)

select
    graded.study, -- The study.
    graded.patient_id, -- The patient.
    case
        when graded.precision = 'day' then graded.death_day
        when graded.precision in ('month', 'year') and graded.incomplete_death_date = 'midpoint'
            -- Never before the last contact, unless that lies after the whole month or year.
            then
                least(
                    greatest(graded.middle_date, coalesce(graded.last_contact_date, graded.middle_date)),
                    graded.last_day
                )
        when graded.precision = 'none' and graded.death_without_date = 'last_contact'
            then graded.last_contact_date
    end as death_date, -- Day of death by the protocol's rules; null where they give none.
    graded.source, -- What says so: deceased_date_time, deceased_boolean or death_registry.
    graded.precision, -- day, month, year or none.
    graded.precision <> 'day' as is_date_imputed, -- Whether the day comes from a rule.
    (
        coalesce(graded.last_day < graded.last_contact_date, false)
        or (graded.deceased_first_day is not null and coalesce(not graded.deceased_boolean, false))
        -- The hospital's record says alive, and was fetched after the day of the registry's death.
        or (
            coalesce(not graded.deceased_boolean, false)
            and coalesce(graded.registry_last_day < graded.landed_day, false)
        )
        or coalesce(graded.is_contradictory, false)
        or graded.n_after_landing > 0
    ) as has_conflict -- Care after death, sources that differ, recorded as alive too, or dated after landing.
from graded
