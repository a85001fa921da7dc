"""The tables `ref.*`: what models look up and no study decides. Also what was imported beside FHIR.

Units in their canonical ones, the sites' code maps, the code systems that are known, the grades of adverse
events by laboratory values. They are rows with their source, so that SQL holds no number of a guideline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import duckdb
import pyarrow as pa

from rwe import codes
from rwe.code_maps import SAME_MEANING, Translation, load_code_map
from rwe.config import Workspace
from rwe.deaths import REGISTRY_COLUMNS, registered_deaths
from rwe.units import canonical_unit
from rwe.warehouse.describing import describe_table

_TEXT, _INT, _FLOAT, _BOOL, _DAY = pa.string(), pa.int32(), pa.float64(), pa.bool_(), pa.date32()
_CTCAE = "CTCAE v5.0, U.S. Department of Health and Human Services, 27 November 2017"


@dataclass(frozen=True)
class _Table:
    comment: str
    columns: Mapping[str, tuple[pa.DataType, str]]


REF_TABLES: Mapping[str, _Table] = MappingProxyType(
    {
        "unit": _Table(
            "One row per unit that occurs in records or protocols and is understood.",
            {
                "unit": (_TEXT, "The unit as it is written."),
                "ucum": (_TEXT, "The same in UCUM."),
                "canonical_unit": (_TEXT, "The unit that all of its kind are turned into, in UCUM."),
                "factor": (_FLOAT, "value * factor + offset_value is the value in the canonical unit."),
                "offset_value": (_FLOAT, "0 but for temperatures."),
            },
        ),
        "code_map": _Table(
            "One row per translation of a site's own code into a standard one.",
            {
                "site": (_TEXT, "The hospital."),
                "system": (_TEXT, "URI of the site's code system; empty: the code comes without one."),
                "code": (_TEXT, "The site's code."),
                "target_system": (_TEXT, "URI of the standard code system."),
                "target_code": (_TEXT, "The code there."),
                "valid_from": (_DAY, "First day on which the code means this; null: open."),
                "valid_to": (_DAY, "Last day on which the code means this; null: open."),
            },
        ),
        "code_system": _Table(
            "One row per code system that is known: codes of others need a code map.",
            {
                "system": (_TEXT, "Its URI."),
                "name": (_TEXT, "What it is called."),
                "is_ndc": (_BOOL, "Whether its codes are National Drug Codes, which come in several forms."),
            },
        ),
        "toxicity_grade": _Table(
            "One row per grade of an adverse event, by a laboratory value.",
            {
                "adverse_event": (_TEXT, "neutropenia, thrombocytopenia or anaemia."),
                "grade": (_INT, "1 to 4."),
                "unit": (_TEXT, "UCUM code of the limit."),
                "below": (
                    _FLOAT,
                    "It is reached below this value; null: below the laboratory's lower limit of normal.",
                ),
                "source": (_TEXT, "Where the limit is from."),
            },
        ),
    }
)

PREVIOUS_COUNT = (
    "One row per site and resource type: how many resources the build before had in use.",
    {
        "site": "The hospital.",
        "resource_type": "The FHIR type.",
        "in_lake": "Resources in use then.",
    },
)

#: The code systems that are known. The list is of those in use for medications, diagnoses, procedures and
#: laboratory values; the URIs are FHIR's (https://terminology.hl7.org, https://hl7.org/fhir/R4/terminologies-systems.html).
_CODE_SYSTEMS = {
    codes.RXNORM: "RxNorm",
    codes.ATC: "ATC",
    codes.LOINC: "LOINC",
    codes.SNOMED: "SNOMED CT",
    codes.NDC: "NDC",
    codes.ICD_10_CM: "ICD-10-CM",
    codes.ICD_10_PCS: "ICD-10-PCS",
    codes.HCPCS: "HCPCS level II",
    codes.CPT: "CPT",
    codes.ATC_BFARM: "ATC (BfArM)",
    codes.ICD_10_GM: "ICD-10-GM",
    "http://fhir.de/CodeSystem/bfarm/ops": "OPS",
    "http://fhir.de/CodeSystem/ifa/pzn": "PZN",
    "http://hl7.org/fhir/sid/icd-10": "ICD-10",
    "http://hl7.org/fhir/sid/icd-9-cm": "ICD-9-CM",
    "http://hl7.org/fhir/sid/cvx": "CVX",
    "http://hl7.org/fhir/ndfrt": "NDF-RT",
    "http://fdasis.nlm.nih.gov": "UNII",
    "http://terminology.hl7.org/CodeSystem/icd-o-3": "ICD-O-3",
    "http://dicom.nema.org/resources/ontology/DCM": "DICOM",
}

#: Neutrophil count decreased, platelet count decreased, anaemia. Grade 4 of anaemia is a clinical judgement.
_GRADES: tuple[tuple[str, int, str, float | None], ...] = (
    ("neutropenia", 1, "10*9/L", None),
    ("neutropenia", 2, "10*9/L", 1.5),
    ("neutropenia", 3, "10*9/L", 1.0),
    ("neutropenia", 4, "10*9/L", 0.5),
    ("thrombocytopenia", 1, "10*9/L", None),
    ("thrombocytopenia", 2, "10*9/L", 75.0),
    ("thrombocytopenia", 3, "10*9/L", 50.0),
    ("thrombocytopenia", 4, "10*9/L", 25.0),
    ("anaemia", 1, "g/L", None),
    ("anaemia", 2, "g/L", 100.0),
    ("anaemia", 3, "g/L", 80.0),
    ("anaemia", 1, "mmol/L", None),
    ("anaemia", 2, "mmol/L", 6.2),
    ("anaemia", 3, "mmol/L", 4.9),
)

#: Where units stand: columns of records, of which the first that is filled counts, and of protocols.
_UNITS_WRITTEN = """
    select coalesce(value_unit_code, value_unit) from lake.observation
    union select coalesce(c.value_unit_code, c.value_unit)
        from (select unnest(components) as c from lake.observation)
    union select coalesce(r.unit_code, r.unit)
        from (select unnest(reference_ranges) as r from lake.observation)
    union select coalesce(dose_unit_code, dose_unit) from lake.medication_administration
    union select coalesce(dose_unit_code, dose_unit) from lake.medication_request
    union select coalesce(dose_unit_code, dose_unit) from lake.medication_dispense
    union select coalesce(dose_unit_code, dose_unit) from lake.medication_statement
    union select unit from study.criterion
    union select unit from study.covariate
    union select unit from study.cart_copies
    union select unit from ref.toxicity_grade
"""


def ensure_references(connection: duckdb.DuckDBPyConnection) -> None:
    """Create what models read and nobody made: `ref.*`, the death registry and the counts of before, empty
    but for what is in the lake and the protocols. What is there stays as it is."""
    connection.execute("create schema if not exists ref")
    _create("code_system", _code_systems(), connection)
    _create("toxicity_grade", [(*grade, _CTCAE) for grade in _GRADES], connection)
    _create("code_map", [], connection)
    if not _exists(connection, "ref", "unit"):
        _create("unit", [], connection)
        fill_units(connection)
    columns = ", ".join(f"{name} {kind}" for name, kind in REGISTRY_COLUMNS.items())
    connection.execute(f"create table if not exists lake.death_registry ({columns})")
    connection.execute("create schema if not exists meta")
    if not _exists(connection, "meta", "previous_count"):
        connection.execute(
            "create table meta.previous_count (site varchar, resource_type varchar, in_lake bigint)"
        )
        describe_table(connection, "meta.previous_count", *PREVIOUS_COUNT)


def insert_references(connection: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    """Create `ref.code_map` from the sites' code maps, and the imported deaths as `lake.death_registry`.

    To be called before the models run, after the lake's views and the studies are there. Raises ConfigError
    where a code map is wrong, LakeError where an imported registry cannot be read.
    """
    connection.execute("create schema if not exists ref")
    rows = []
    for name, site in sorted(workspace.settings.sites.items()):
        if site.code_map:
            accepted = getattr(site, "code_map_equivalences", SAME_MEANING)
            rows += [(name, *_row(t)) for t in load_code_map(site.code_map, accepted)]
    _create("code_map", rows, connection)
    connection.register("incoming_rows", registered_deaths(workspace))
    connection.execute("create table lake.death_registry as select * from incoming_rows")
    connection.unregister("incoming_rows")


def fill_units(connection: duckdb.DuckDBPyConnection, others: Iterable[str] = ()) -> None:
    """Add to `ref.unit` the units of the lake, of the protocols and the `others` that are not there yet."""
    found = connection.execute(
        f"select unit from ({_UNITS_WRITTEN}) as written (unit)"  # noqa: S608
        " where unit is not null and unit not in (select unit from ref.unit) order by unit"
    ).fetchall()
    units = dict.fromkeys([*(unit for (unit,) in found), *others])
    _append("unit", list(_unit_rows(units)), connection)


def _unit_rows(units: Iterable[str]) -> Iterable[tuple[Any, ...]]:
    for unit in units:
        known = canonical_unit(unit)
        if known:
            yield unit, known.ucum, known.canonical, known.factor, known.offset


def _code_systems() -> list[tuple[str, str, bool]]:
    return [(system, name, system == codes.NDC) for system, name in sorted(_CODE_SYSTEMS.items())]


def _row(t: Translation) -> tuple[Any, ...]:
    return t.system, t.code, t.target_system, t.target_code, t.valid_from, t.valid_to


def _exists(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> bool:
    query = "select 1 from information_schema.tables where table_schema = ? and table_name = ?"
    return connection.execute(query, [schema, table]).fetchone() is not None


def _create(name: str, rows: Sequence[tuple[Any, ...]], connection: duckdb.DuckDBPyConnection) -> None:
    if _exists(connection, "ref", name):
        return
    connection.register("incoming_rows", _arrow(name, rows))
    connection.execute(f"create table ref.{name} as select * from incoming_rows")  # noqa: S608
    connection.unregister("incoming_rows")
    table = REF_TABLES[name]
    words = {column: text for column, (_, text) in table.columns.items()}
    describe_table(connection, f"ref.{name}", table.comment, words)


def _append(name: str, rows: Sequence[tuple[Any, ...]], connection: duckdb.DuckDBPyConnection) -> None:
    connection.register("incoming_rows", _arrow(name, rows))
    connection.execute(f"insert into ref.{name} select * from incoming_rows")  # noqa: S608
    connection.unregister("incoming_rows")


def _arrow(name: str, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = REF_TABLES[name].columns
    data = [pa.array([r[i] for r in rows], type=kind) for i, (kind, _) in enumerate(columns.values())]
    return pa.Table.from_arrays(data, names=list(columns))
