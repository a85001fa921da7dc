-- severity: warning
-- message: the values of one covariate or criterion come in more than one unit; name its unit in the protocol
select
    study,
    purpose,
    name,
    study || ': ' || name as detail
from cohort.measured_value
where is_counted
group by study, purpose, name
having count(distinct coalesce(value_unit, '')) > 1
