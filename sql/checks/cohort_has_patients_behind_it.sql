-- severity: error
-- message: a patient of the cohort has no Patient resource
select
    s.study,
    s.patient_id
from cohort.survival as s
left join staging.patient as p on s.patient_id = p.patient_id
where p.patient_id is null
