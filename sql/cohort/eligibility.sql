-- One row a patient with a recorded index event and step towards the analysed cohort. Not known is not met.
with candidate as (
    select
        i.study,
        i.patient_id,
        i.index_date,
        d.age_years,
        coalesce(d.is_patient_known, false) as is_patient_known
    from cohort.index_event as i
    left join cohort.demographic as d on i.study = d.study and i.patient_id = d.patient_id
),

recorded as (
    select distinct
        c.study,
        c.criterion,
        m.patient_id
    from study.criterion as c
    inner join cohort.codelist_match as m on c.study = m.study and c.codelist = m.codelist and c.kind = m.kind
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    where
        c.kind in ('condition', 'procedure', 'medication')
        and (c.from_day is null or date_diff('day', i.index_date, m.first_day) >= c.from_day)
        and (c.to_day is null or date_diff('day', i.index_date, m.last_day) <= c.to_day)
),

judged as (
    select
        n.study,
        n.patient_id,
        c.criterion,
        case
            when c.kind = 'age_at_index'
                then
                    n.age_years is not null
                    and (c.min_value is null or n.age_years >= c.min_value)
                    and (c.max_value is null or n.age_years <= c.max_value)
            when c.kind = 'index_period'
                then
                    (c.not_before is null or n.index_date >= c.not_before)
                    and (c.not_after is null or n.index_date <= c.not_after)
            when c.kind = 'observation'
                then
                    o.value_number is not null
                    and (c.min_value is null or o.value_number >= c.min_value)
                    and (c.max_value is null or o.value_number <= c.max_value)
            else (r.patient_id is not null) = c.must_be_present
        end as is_met
    from candidate as n
    inner join study.criterion as c on n.study = c.study
    left join recorded as r
        on c.study = r.study and c.criterion = r.criterion and n.patient_id = r.patient_id
    left join cohort.observed_value as o
        on
            c.study = o.study
            and o.purpose = 'criterion'
            and c.criterion = o.name
            and n.patient_id = o.patient_id
),

-- Whoever surely had the exposure before index, and possibly within the washout. Any tier will do: what does
-- not prove an exposure after index, such as an order, still makes a new user doubtful.
prior_user as (
    select distinct
        m.study,
        m.patient_id
    from cohort.codelist_match as m
    inner join study.protocol as p on m.study = p.study and m.codelist = p.exposure_codelist
    inner join cohort.index_event as i on m.study = i.study and m.patient_id = i.patient_id
    where
        m.kind = 'medication'
        and date_diff('day', i.index_date, m.last_day) < 0
        and (
            p.washout_days is null
            or date_diff('day', m.last_day, i.index_date) <= p.washout_days
            or date_diff('day', m.end_day, i.index_date) <= p.washout_days
            or date_diff('day', m.ongoing_until_date, i.index_date) <= p.washout_days
        )
)

select
    s.study, -- The study.
    n.patient_id, -- The patient.
    s.step_number, -- Position of the step.
    s.step, -- The step.
    s.criterion, -- The eligibility criterion, where the step is one.
    coalesce(
        case s.kind
            when 'index_event' then true
            when 'index_day_known' then n.index_date is not null
            when 'patient_known' then n.is_patient_known
            when 'index_before_cutoff' then n.index_date <= p.data_cutoff
            when 'criterion' then j.is_met
            when 'new_user' then u.patient_id is null
            when 'start_day_known' then v.patient_id is null
            when 'death_not_before_index' then d.death_date is null or d.death_date >= n.index_date
            when 'death_day_known' then d.patient_id is null or d.death_date is not null
            when 'analysed' then true
        end, false
    ) as is_met -- Whether the patient passes.
from study.step as s
inner join study.protocol as p on s.study = p.study
inner join candidate as n on s.study = n.study
left join judged as j
    on s.study = j.study and s.criterion = j.criterion and n.patient_id = j.patient_id
left join prior_user as u on s.study = u.study and n.patient_id = u.patient_id
left join cohort.undated_start as v on s.study = v.study and n.patient_id = v.patient_id
left join cohort.death as d on s.study = d.study and n.patient_id = d.patient_id
