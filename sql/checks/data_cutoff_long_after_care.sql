-- severity: warning
-- message: data_cutoff lies over 60 days after the newest recorded care of a site
with newest as (
    select
        p.site,
        max(c.contact_day) as contact_day
    from staging.contact as c
    inner join staging.patient as p on c.patient_id = p.patient_id
    group by p.site
)

select distinct
    f.study,
    f.site,
    f.study || ' at ' || f.site as detail
from cohort.follow_up as f
inner join study.protocol as p on f.study = p.study
left join newest as n on f.site = n.site
where
    p.censoring_rule = 'data_cutoff'
    and coalesce(date_diff('day', n.contact_day, p.data_cutoff) > 60, true)
