-- What did the hospitals send, what of it is in use, and what was refused?
select
    site,
    resource_type,
    sum(landed) as landed,
    sum(in_lake) as in_use,
    sum(superseded) as superseded,
    sum(duplicate) as duplicates,
    sum(deleted + tombstones) as deleted,
    sum(not_admitted) as not_admitted,
    sum(quarantined) as refused,
    sum(not_mapped) as of_no_table
from meta.reconciliation
group by site, resource_type
order by site, resource_type
