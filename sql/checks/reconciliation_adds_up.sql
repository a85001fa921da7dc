-- severity: error
-- message: landed lines are not all accounted for: in the lake, superseded, deleted, kept out, refused …
select
    site,
    run,
    resource_type
from meta.reconciliation
where
    landed
    <> in_lake + superseded + deleted + not_admitted + duplicate + quarantined + not_mapped + tombstones
