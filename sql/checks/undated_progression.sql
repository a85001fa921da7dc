-- severity: warning
-- message: a start may lie after a progression on no known day, and counts as before it
select distinct
    s.study,
    s.patient_id
from cohort.survival as s
inner join study.protocol as p on s.study = p.study and p.unless_progressed
inner join cohort.disease_status as d on s.study = d.study and s.patient_id = d.patient_id
where
    d.status = 'progressed'
    and d.status_day is null
    -- Possibly after index, and possibly by the day of the start.
    and s.start_day >= greatest(coalesce(d.earliest_day, 1), 1)
    and coalesce(d.latest_day > 0, true)
