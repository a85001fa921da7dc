-- One row a resource of which the latest version that landed was refused: the record is not in use, or an
-- older version of it is. Once a later version is accepted or the resource is deleted, it is no longer here.
-- Lines without a legal id cannot be followed: those of the newest run that has any of their kind.
with refused as (
    select distinct
        site,
        run,
        resource_type,
        resource_pseudonym,
        rule,
        json_path,
        line,
        updated_at,
        version_number,
        landed_at
    from lake.quarantine
    where action = 'reject'
),

refused_id as (
    select distinct resource_pseudonym as resource_id
    from refused
    where resource_pseudonym is not null
),

accepted as (
    select
        'Patient' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.patient as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'MedicationAdministration' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.medication_administration as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'MedicationRequest' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.medication_request as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'MedicationDispense' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.medication_dispense as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'MedicationStatement' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.medication_statement as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'Medication' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.medication as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'Observation' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.observation as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'Condition' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.condition as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'Procedure' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.procedure as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'Encounter' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.encounter as v
    inner join refused_id as i on v.resource_id = i.resource_id
    union all
    select
        'Consent' as resource_type,
        v.resource_id,
        v.updated_at,
        v.version_number,
        v.landed_at,
        v.run,
        v.line
    from lake.consent as v
    inner join refused_id as i on v.resource_id = i.resource_id
),

later_version as (
    select
        resource_type,
        resource_id,
        updated_at,
        version_number,
        landed_at,
        run,
        line
    from accepted
    union all
    select
        resource_type,
        resource_pseudonym as resource_id,
        updated_at,
        version_number,
        landed_at,
        run,
        line
    from refused
    where resource_pseudonym is not null
    union all
    -- Of a deletion and a version at one instant, the deletion was last.
    select
        t.resource_type,
        t.resource_id,
        coalesce(t.deleted_at, t.landed_at) as updated_at,
        9223372036854775807 as version_number,
        t.landed_at,
        t.run,
        t.line
    from lake.tombstone as t
    inner join refused_id as i on t.resource_id = i.resource_id
),

ordered as (
    select
        resource_type,
        resource_id,
        run,
        line,
        row_number() over (
            partition by resource_type, resource_id
            order by updated_at desc, version_number desc, landed_at desc, run desc, line desc
        ) as recency
    from later_version
),

newest_run as (
    select
        site,
        resource_type,
        max(run) as run
    from refused
    where resource_pseudonym is null
    group by site, resource_type
)

select
    r.site, -- The hospital.
    r.run, -- The run that landed it.
    r.resource_type, -- The FHIR type; _unreadable: the line is no resource, _deleted: a tombstone.
    r.resource_pseudonym, -- Pseudonym of the record; null where it has no legal id.
    r.rule, -- Name of the rule that it breaks.
    r.json_path, -- Where in the resource. `?` stands for a name that FHIR does not know there.
    r.line -- Number of the line in the landed file of its type, from 1.
from refused as r
left join ordered as o
    on
        r.resource_type = o.resource_type
        and r.resource_pseudonym = o.resource_id
        and r.run = o.run
        and r.line = o.line
left join newest_run as n on r.site = n.site and r.resource_type = n.resource_type and r.run = n.run
where o.recency = 1 or (r.resource_pseudonym is null and n.run is not null)
