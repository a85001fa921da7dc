-- One row a patient whose disease progressed after index: the first day on which that is recorded.
-- A progression on or before the index day is what the index treatment was given for.
select
    s.study, -- The study.
    s.patient_id, -- The patient.
    min(s.status_date) as progression_date, -- The day.
    min(s.status_day) as progression_day -- Days from index, above 0.
from cohort.disease_status as s
where s.status = 'progressed' and s.status_day > 0
group by s.study, s.patient_id
