-- One row a patient record that was merged into another: everything under it counts for the survivor.
-- Merges are followed up to four times over; one that leads in a circle, or to no record, is none.
with merged as (
    select
        p.resource_id as patient_id,
        into_other.other as survivor_id
    from lake.patient as p
    cross join unnest(p.replaced_by) as into_other (other)
    union
    select
        from_other.other as patient_id,
        p.resource_id as survivor_id
    from lake.patient as p
    cross join unnest(p.replaces) as from_other (other)
),

step as (
    select
        merged.patient_id,
        min(merged.survivor_id) as survivor_id
    from merged
    inner join lake.patient as p on merged.survivor_id = p.resource_id
    where merged.patient_id <> merged.survivor_id
    group by merged.patient_id
),

followed as (
    select
        a.patient_id,
        coalesce(d.survivor_id, c.survivor_id, b.survivor_id, a.survivor_id) as survivor_id
    from step as a
    left join step as b on a.survivor_id = b.patient_id
    left join step as c on b.survivor_id = c.patient_id
    left join step as d on c.survivor_id = d.patient_id
)

select
    followed.patient_id, -- The merged record.
    followed.survivor_id -- The record that remains.
from followed
left join step as further on followed.survivor_id = further.patient_id
where further.patient_id is null
