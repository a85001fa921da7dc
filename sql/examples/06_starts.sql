-- When is the exposure started after the index event: within the grace period, later, only after progression,
-- never?
select
    patient.study,
    case
        when patient.start_day <= protocol.grace_days then '1 within grace period'
        when patient.start_day is not null then '2 later'
        when patient.salvage_start_day is not null then '3 only after progression'
        else '4 never in follow-up'
    end as started,
    count(*) as patients,
    median(coalesce(patient.start_day, patient.salvage_start_day)) as median_start_day,
    count(*) filter (where patient.is_event) as events
from cohort.survival as patient
inner join study.protocol as protocol on patient.study = protocol.study
group by patient.study, started
order by patient.study, started
