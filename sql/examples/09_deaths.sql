-- Where are deaths known from, how exact is their day, and how many contradict other records?
select
    study,
    source,
    precision,
    count(*) as deaths,
    count(*) filter (where death_date is not null) as with_a_day,
    count(*) filter (where is_date_imputed) as day_by_rule,
    count(*) filter (where has_conflict) as contradicted
from cohort.death
group by study, source, precision
order by study, source, precision
