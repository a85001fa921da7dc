-- How many patients does each hospital give to each study, how many had the outcome, and over how many years?
select
    study,
    coalesce(site, 'all sites') as site,
    count(*) as patients,
    count(*) filter (where is_event) as events,
    round(sum(time_days) / 365.25, 1) as person_years,
    round(count(*) filter (where is_event) * 100 * 365.25 / nullif(sum(time_days), 0), 1)
        as events_per_100_years
from cohort.survival
group by grouping sets ((study, site), (study))
order by study, grouping(site), site
