-- severity: error
-- message: landed resources are not all in the lake, superseded, duplicate, quarantined or not mapped
select
    site,
    run,
    resource_type
from meta.reconciliation
where landed <> in_lake + superseded + duplicate + quarantined + not_mapped
