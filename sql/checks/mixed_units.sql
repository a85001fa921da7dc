-- severity: warning
-- message: the values of one covariate or criterion come in more than one unit; name its unit in the protocol
select
    m.study,
    m.purpose,
    m.name,
    m.study || ': ' || m.name as detail
from cohort.measured_value as m
left join ref.unit as u on m.value_unit = u.unit
where m.is_counted
group by m.study, m.purpose, m.name
-- Two spellings of one unit are one.
having
    count(distinct coalesce(u.canonical_unit || ' ' || cast(u.factor as varchar), m.value_unit, '')) > 1
