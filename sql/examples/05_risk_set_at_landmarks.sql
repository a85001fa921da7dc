-- How many patients are still at risk at a landmark, and how many of them have started the exposure by then?
select
    landmark.study,
    landmark.day,
    count(*) as at_risk,
    count(*) filter (where patient.start_day <= landmark.day) as started,
    count(*) filter (where patient.start_day is null or patient.start_day > landmark.day) as not_started
from (
    select
        protocol.study,
        candidate.day
    from study.protocol as protocol
    cross join (values (30), (60), (90), (180)) as candidate (day)
) as landmark
inner join cohort.survival as patient
    on landmark.study = patient.study and landmark.day < patient.time_days
group by landmark.study, landmark.day
order by landmark.study, landmark.day
