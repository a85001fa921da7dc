-- severity: warning
-- message: the day of a death is not recorded and follows from a rule of the protocol
select
    d.study,
    d.patient_id
from cohort.death as d
inner join cohort.follow_up as f on d.study = f.study and d.patient_id = f.patient_id
where d.is_date_imputed
