-- severity: error
-- message: follow-up ends before it starts, or an exposure starts outside it
select
    s.study,
    s.patient_id
from cohort.survival as s
inner join cohort.follow_up as f on s.study = f.study and s.patient_id = f.patient_id
where
    f.end_date < f.index_date
    or s.start_day < 0
    or s.start_day > s.time_days
    or s.salvage_start_day > s.time_days
