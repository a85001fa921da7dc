-- One row a patient with a recorded index event who is recorded as dead.
with recorded as (
    select
        i.study,
        i.patient_id,
        p.deceased_day,
        p.deceased_precision,
        p.deceased_first_day,
        p.deceased_last_day,
        p.deceased_boolean,
        l.last_contact_date,
        rule.death_without_date,
        rule.incomplete_death_date,
        -- A death dated after the record was fetched has no known day.
        coalesce(p.deceased_first_day > p.landed_day, false) as is_after_landing
    from cohort.index_event as i
    inner join staging.patient as p on i.patient_id = p.patient_id
    inner join study.protocol as rule on i.study = rule.study
    left join cohort.last_contact as l on i.study = l.study and i.patient_id = l.patient_id
    where p.deceased_first_day is not null or p.deceased_boolean
),

graded as (
    select
        *,
        case
            when deceased_first_day is null or is_after_landing then 'none'
            when deceased_day is not null then 'day'
            else deceased_precision
        end as precision,
        case
            when deceased_precision = 'month'
                then make_date(year(deceased_first_day), month(deceased_first_day), 15)
            when deceased_precision = 'year' then make_date(year(deceased_first_day), 7, 1)
        end as middle_date
    from recorded
)

select
    graded.study, -- The study.
    graded.patient_id, -- The patient.
    case
        when graded.precision = 'day' then graded.deceased_day
        when graded.precision in ('month', 'year') and graded.incomplete_death_date = 'midpoint'
            -- Never before the last contact, unless that lies after the whole month or year.
            then
                least(
                    greatest(graded.middle_date, coalesce(graded.last_contact_date, graded.middle_date)),
                    graded.deceased_last_day
                )
        when graded.precision = 'none' and graded.death_without_date = 'last_contact'
            then graded.last_contact_date
    end as death_date, -- Day of death by the protocol's rules; null where they give none.
    case
        when graded.deceased_first_day is not null then 'deceased_date_time' else 'deceased_boolean'
    end as source, -- The element that says so.
    graded.precision, -- day, month, year or none.
    graded.precision <> 'day' as is_date_imputed, -- Whether the day comes from a rule.
    (
        coalesce(graded.deceased_last_day < graded.last_contact_date, false)
        or (graded.deceased_first_day is not null and coalesce(not graded.deceased_boolean, false))
        or graded.is_after_landing
    ) as has_conflict -- Care recorded after death, recorded as alive too, or dated after the landing.
from graded
