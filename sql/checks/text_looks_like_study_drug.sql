-- severity: warning
-- message: a medication is called like a drug of the study, has no code of its code list and does not count
with suspect as (
    select distinct
        w.study,
        w.codelist,
        t.event_id
    from staging.medication_text as t
    inner join study.drug_word as w on strpos(lower(t.text), w.word) > 0
)

select
    s.study,
    s.codelist,
    s.event_id as record_id,
    s.study || ': ' || s.codelist || ' at ' || e.site as detail
from suspect as s
inner join staging.medication_event as e on s.event_id = e.event_id
left join staging.medication_code as c on s.event_id = c.event_id
left join study.codelist as l
    on
        s.study = l.study
        and s.codelist = l.codelist
        and c.system = l.system
        and (c.code = l.code or (l.is_prefix and substring(c.code, 1, length(l.code)) = l.code))
where e.is_valid
group by s.study, s.codelist, s.event_id, e.site
having max(case when l.code is null then 0 else 1 end) = 0
