-- One row a patient of the analysed cohort: how long he was followed, and why no longer.
with analysed as (
    select
        study,
        patient_id
    from cohort.eligibility
    group by study, patient_id
    having min(case when is_met then 1 else 0 end) = 1
),

ending as (
    select
        study,
        patient_id,
        death_date as end_date,
        'death' as end_reason,
        1 as priority
    from cohort.death
    where death_date is not null
    union all
    select
        study,
        patient_id,
        event_date as end_date,
        'composite:' || event as end_reason,
        2 as priority
    from cohort.intercurrent_event
    where handling = 'composite'
    union all
    select
        study,
        patient_id,
        event_date as end_date,
        'censored:' || event as end_reason,
        3 as priority
    from cohort.intercurrent_event
    where handling = 'censored_with_weights'
    union all
    select
        i.study,
        i.patient_id,
        case
            when p.censoring_rule = 'data_cutoff' then p.data_cutoff
            else coalesce(l.last_contact_date, i.index_date)
        end as end_date,
        p.censoring_rule as end_reason,
        4 as priority
    from cohort.index_event as i
    inner join study.protocol as p on i.study = p.study
    left join cohort.last_contact as l on i.study = l.study and i.patient_id = l.patient_id
),

ranked as (
    select
        a.study,
        a.patient_id,
        i.site,
        i.index_date,
        e.end_date,
        e.end_reason,
        e.priority < 3 as is_event,
        row_number() over (
            partition by a.study, a.patient_id
            -- What happened ends follow-up, however late the last contact; of two the earlier, death first.
            order by case when e.priority < 4 then 0 else 1 end, e.end_date, e.priority, e.end_reason
        ) as precedence
    from analysed as a
    inner join study.protocol as p on a.study = p.study
    inner join cohort.index_event as i on a.study = i.study and a.patient_id = i.patient_id
    inner join ending as e on a.study = e.study and a.patient_id = e.patient_id
    where
        -- What happened after the data cut-off is not known at it.
        p.censoring_rule <> 'data_cutoff' or e.end_date <= p.data_cutoff
)

select
    ranked.study, -- The study.
    ranked.patient_id, -- The patient.
    ranked.site, -- The hospital.
    ranked.index_date, -- Day 0.
    ranked.end_date, -- Last day of follow-up.
    ranked.end_reason, -- death, composite:NAME, censored:NAME, last_activity or data_cutoff.
    ranked.is_event, -- Whether follow-up ended with the outcome.
    cast(
        greatest(date_diff('day', ranked.index_date, ranked.end_date), 0) as integer
    ) as time_days -- Whole days from index to the end.
from ranked
where ranked.precedence = 1
