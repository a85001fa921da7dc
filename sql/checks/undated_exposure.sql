-- severity: warning
-- message: a record of the exposure has no start known to the day: the protocol's start_without_day decides
select
    m.study,
    m.event_id
from cohort.codelist_match as m
inner join study.protocol as p on m.study = p.study and m.codelist = p.exposure_codelist
inner join study.exposure_tier as t on m.study = t.study and m.tier = t.tier
where m.kind = 'medication' and m.event_date is null
