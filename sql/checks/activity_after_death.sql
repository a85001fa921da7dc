-- severity: warning
-- message: care is recorded after the day of death, or the records of a death contradict each other
select
    study,
    patient_id
from cohort.death
where has_conflict
