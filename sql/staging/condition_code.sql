-- One row a code of a diagnosis.
select distinct
    c.resource_id as condition_id, -- The diagnosis.
    code_coding.coding.system, -- URI of the code system.
    code_coding.coding.code -- The code.
from lake.condition as c
cross join unnest(c.codings) as code_coding (coding)
where code_coding.coding.system is not null and code_coding.coding.code is not null
