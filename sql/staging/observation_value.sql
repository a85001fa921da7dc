-- One row a code of an observation's value.
select distinct
    o.resource_id as observation_id, -- The observation.
    value_coding.coding.system, -- URI of the code system.
    value_coding.coding.code -- The code.
from lake.observation as o
cross join unnest(o.value_codings) as value_coding (coding)
where value_coding.coding.system is not null and value_coding.coding.code is not null
