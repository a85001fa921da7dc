-- What is the cohort like at the index event, and for how many patients is each covariate missing?
select
    b.study,
    b.covariate,
    c.label,
    count(*) as patients,
    count(*) filter (where b.is_missing) as missing,
    round(100 * count(*) filter (where b.is_missing) / count(*), 1) as percent_missing,
    avg(b.value) as mean,
    stddev_samp(b.value) as standard_deviation,
    median(b.value) as median
from cohort.baseline as b
inner join study.covariate as c on b.study = c.study and b.covariate = c.covariate
inner join cohort.survival as s on b.study = s.study and b.patient_id = s.patient_id
group by b.study, b.covariate, c.label, c.position
order by b.study, c.position
