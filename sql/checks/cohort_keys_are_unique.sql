-- severity: error
-- message: a cohort table has a row of one key more than once
with key as (
    select
        'index_event' as made,
        study,
        patient_id,
        '' as part
    from cohort.index_event
    union all
    select
        'death' as made,
        study,
        patient_id,
        '' as part
    from cohort.death
    union all
    select
        'follow_up' as made,
        study,
        patient_id,
        '' as part
    from cohort.follow_up
    union all
    select
        'strategy' as made,
        study,
        patient_id,
        '' as part
    from cohort.strategy
    union all
    select
        'cart_copies' as made,
        study,
        patient_id,
        '' as part
    from cohort.cart_copies
    union all
    select
        'copies_by_day' as made,
        study,
        patient_id,
        cast(day as varchar) as part
    from cohort.copies_by_day
    union all
    select
        'eligibility' as made,
        study,
        patient_id,
        cast(step_number as varchar) as part
    from cohort.eligibility
    union all
    select
        'exposure_episode' as made,
        study,
        patient_id,
        tier || ' ' || cast(episode_number as varchar) as part
    from cohort.exposure_episode
    union all
    select
        'intercurrent_event' as made,
        study,
        patient_id,
        event as part
    from cohort.intercurrent_event
    union all
    select
        'toxicity' as made,
        study,
        patient_id,
        toxicity || ' ' || cast(day as varchar) || ' ' || value_unit as part
    from cohort.toxicity
    union all
    select
        'response' as made,
        study,
        patient_id,
        cast(response_number as varchar) as part
    from cohort.response
    union all
    select
        'covariate_change' as made,
        study,
        patient_id,
        covariate || ' ' || cast(day as varchar) as part
    from cohort.covariate_change
    union all
    select
        'person_period' as made,
        study,
        patient_id,
        cast(period_number as varchar) as part
    from cohort.person_period
    union all
    select
        'person_period_covariate' as made,
        study,
        patient_id,
        cast(period_number as varchar) || ' ' || covariate as part
    from cohort.person_period_covariate
)

select
    made,
    study,
    patient_id,
    made as detail
from key
group by made, study, patient_id, part
having count(*) > 1
