"""`meta.origin`: which resource of which run a row was made of. At the site `rwe trace` follows it on."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from rwe.lake.schema import table_name
from rwe.warehouse.models import describe_table


@dataclass(frozen=True)
class Origin:
    """A table each of whose rows is made of one resource: `key` is that resource's pseudonym."""

    table: str
    key: str
    resource_types: tuple[str, ...]


_MEDICATION = (
    "MedicationAdministration",
    "MedicationDispense",
    "MedicationRequest",
    "MedicationStatement",
)
ORIGINS = (
    Origin("staging.condition", "condition_id", ("Condition",)),
    Origin("staging.encounter", "encounter_id", ("Encounter",)),
    Origin("staging.medication_event", "event_id", _MEDICATION),
    Origin("staging.observation", "observation_id", ("Observation",)),
    Origin("staging.patient", "patient_id", ("Patient",)),
    Origin("staging.procedure", "procedure_id", ("Procedure",)),
    Origin("cohort.codelist_match", "event_id", (*_MEDICATION, "Condition", "Observation", "Procedure")),
    Origin("cohort.measured_value", "event_id", ("Observation",)),
)


def insert_origin(connection: duckdb.DuckDBPyConnection) -> None:
    """Create meta.origin from the lake's views and the models' tables. Raises duckdb.Error."""
    resource_types = sorted({t for origin in ORIGINS for t in origin.resource_types})
    resources = " union all ".join(
        f"select '{t}' as resource_type, resource_id, site, run from lake.{table_name(t)}"  # noqa: S608
        for t in resource_types
    )
    connection.execute(f"create or replace temp table of_resource as {resources}")
    parts = [
        f"""
        select
            '{origin.table}' as table_name, r.resource_id as row_key, r.site, r.run, r.resource_type,
            r.resource_id as resource_pseudonym
        from of_resource as r
        where r.resource_id in (select {origin.key} from {origin.table})
        """  # noqa: S608
        for origin in ORIGINS
    ]
    connection.execute(
        f"create table meta.origin as {' union all '.join(parts)} order by table_name, row_key"
    )
    connection.execute("drop table of_resource")
    describe_table(
        connection,
        "meta.origin",
        "One row per row of another table that is made of one resource, and that resource.",
        {
            "table_name": "The table, with its schema.",
            "row_key": "The row's key there: the column that ends in _id and names the record.",
            "site": "The hospital.",
            "run": "The run that landed this version; null where dates are anchored.",
            "resource_type": "The FHIR type.",
            "resource_pseudonym": "Pseudonym of the resource. `rwe trace` follows it at the site.",
        },
    )
