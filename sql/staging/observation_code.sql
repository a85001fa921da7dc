-- One row a code of what was observed.
select distinct
    o.resource_id as observation_id, -- The observation.
    code_coding.coding.system, -- URI of the code system.
    code_coding.coding.code -- The code.
from lake.observation as o
cross join unnest(o.codings) as code_coding (coding)
where code_coding.coding.system is not null and code_coding.coding.code is not null
