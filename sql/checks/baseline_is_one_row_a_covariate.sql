-- severity: error
-- message: a patient has a baseline covariate more than once
select
    study,
    patient_id,
    covariate
from cohort.baseline
group by study, patient_id, covariate
having count(*) > 1
