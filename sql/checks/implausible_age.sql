-- severity: warning
-- message: the age at index is below 0 or above 115 years
select
    d.study,
    d.patient_id
from cohort.demographic as d
where d.age_years < 0 or d.age_years > 115
