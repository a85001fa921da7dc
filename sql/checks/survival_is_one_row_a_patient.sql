-- severity: error
-- message: a patient is more than once in the cohort of a study
select
    study,
    patient_id
from cohort.survival
group by study, patient_id
having count(*) > 1
