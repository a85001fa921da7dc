-- One row a code of a procedure.
select distinct
    p.resource_id as procedure_id, -- The procedure.
    code_coding.coding.system, -- URI of the code system.
    code_coding.coding.code -- The code.
from lake.procedure as p
cross join unnest(p.codings) as code_coding (coding)
where code_coding.coding.system is not null and code_coding.coding.code is not null
