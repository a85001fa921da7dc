-- By what kind of record is an exposure known (given, dispensed, stated, ordered), and does it count?
select
    study,
    tier,
    kind,
    is_counted,
    count(distinct patient_id) as patients,
    count(*) as episodes,
    sum(n_records) as records,
    median(end_day - start_day + 1) as median_length_days
from cohort.exposure_episode
group by study, tier, kind, is_counted
order by study, tier, kind
