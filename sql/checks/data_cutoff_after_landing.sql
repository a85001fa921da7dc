-- severity: error
-- message: data_cutoff lies after the last day on which records of a site were fetched
with fetched as (
    select
        site,
        cast(finished_at as date) as landed_day
    from meta.run
    union all
    -- The site's own day can be ahead of the one in UTC.
    select
        site,
        landed_day
    from staging.patient
),

newest as (
    select
        site,
        max(landed_day) as landed_day
    from fetched
    group by site
)

select distinct
    f.study,
    f.site,
    f.study || ' at ' || f.site as detail
from cohort.follow_up as f
inner join study.protocol as p on f.study = p.study
inner join newest as n on f.site = n.site
where p.censoring_rule = 'data_cutoff' and p.data_cutoff > n.landed_day
