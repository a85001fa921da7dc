"""Drawn tables: input rows → one model → expected rows.

A table is drawn with bars; its first line names columns of the real table, an empty cell is null, '' an
empty text:

    patient_id | event_date
    ann        | 2020-01-01

Columns that are not drawn get the defaults below, else null. Codes are written `atc L04AX04, rxnorm 342369`.
Components of an observation are written `loinc 8480-6 = 120 mm[Hg]; …`, reference ranges `1.5 8 10*9/L; …`.
Only the columns drawn in the expected table are compared, rows in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import duckdb

from rwe.codes import ATC, ICD_10_CM, LOINC, NDC, RXNORM, SNOMED
from rwe.lake.schema import LAKE_TABLES, QUARANTINE_COLUMNS, TOMBSTONE_COLUMNS, table_name
from rwe.resources import bundled
from rwe.study import Study
from rwe.warehouse.models import Model, create_schemas, load_models, run_model
from rwe.warehouse.references import fill_units
from rwe.warehouse.study_tables import insert_studies

SYSTEMS = {
    "atc": ATC,
    "rxnorm": RXNORM,
    "loinc": LOINC,
    "snomed": SNOMED,
    "icd10": ICD_10_CM,
    "ndc": NDC,
    "local": "http://example.org/rwe/codes",
}

#: What a column holds that a drawn table leaves out. `{n}` is the number of the row in its table.
DEFAULTS = {
    "site": "north",
    "study": "s",
    "landed_day": "2030-01-01",
    "event_id": "e{n}",
    "is_valid": "true",
    "is_counted": "true",
    "is_in_window": "true",
    "is_resolved": "true",
    "component_number": "0",
}
TABLE_DEFAULTS = {
    "study.protocol": {
        "index_codelist": "car_t",
        "same_event_days": "14",
        "has_washout": "false",
        "exposure_codelist": "lenalidomide",
        "gap_days": "60",
        "start_without_day": "exclude",
        "treated_name": "maintenance",
        "control_name": "no_maintenance",
        "grace_days": "180",
        "unless_progressed": "true",
        "status_codelist": "disease_status",
        "responding_codelist": "response",
        "progressed_codelist": "progression",
        "death_without_date": "last_contact",
        "incomplete_death_date": "midpoint",
        "censoring_rule": "last_activity",
    },
    "study.codelist": {"is_prefix": "false"},
}

Tables = dict[str, str]


def draw(text: str) -> tuple[list[str], list[list[str | None]]]:
    """Columns and rows of a drawn table; rules such as `-----` are skipped."""
    lines = [line for line in text.strip().splitlines() if line.strip().strip("-+| ")]
    cells = [[c.strip() for c in line.split("|")] for line in lines]
    header, *body = cells
    for row in body:
        assert len(row) == len(header), f"the row {row} does not fit the columns {header}"
    return header, [[c or None for c in row] for row in body]


def run(model: str, given: Tables, expected: str) -> None:
    """Run one model on drawn tables and compare what it makes with a drawn table."""
    columns, rows = draw(expected)
    with database() as connection:
        for table, text in given.items():
            insert(connection, table, text)
        _know_units(connection)
        shown = ", ".join(f'cast(made."{c}" as varchar)' for c in columns)
        found = connection.execute(f"select {shown} from ({models()[model].query}) as made").fetchall()
    assert sorted(found, key=str) == sorted((tuple(r) for r in rows), key=str)


def _know_units(connection: duckdb.DuckDBPyConnection) -> None:
    """As the build does before the models run; also the units of drawn tables of staging."""
    query = (
        "select value_unit from staging.observation union select recorded_unit from cohort.measured_value"
        " except select unit from ref.unit"
    )
    fill_units(connection, [u for (u,) in connection.execute(query).fetchall() if u])


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with every table of the build, all empty; what is done to it is undone."""
    connection = _empty_database()
    connection.begin()
    try:
        yield connection
    finally:
        connection.rollback()


def insert(connection: duckdb.DuckDBPyConnection, table: str, text: str) -> None:
    """Insert a drawn table into a table of the build."""
    header, rows = draw(text)
    kinds = {c[0]: c[1] for c in connection.execute(f"describe {table}").fetchall()}
    unknown = set(header) - kinds.keys()
    assert not unknown, f"{table} has no column {unknown}"
    defaults = {**DEFAULTS, **TABLE_DEFAULTS.get(table, {})}
    left_out = [c for c in kinds if c in defaults and c not in header]
    columns = [*header, *left_out]
    for number, row in enumerate(rows, start=1):
        values = [*row, *(defaults[c].format(n=number) for c in left_out)]
        marks = ", ".join(_literal(v, kinds[c]) for c, v in zip(columns, values, strict=True))
        connection.execute(f"insert into {table} ({', '.join(columns)}) values ({marks})")


def _literal(value: str | None, kind: str) -> str:
    if kind.endswith("[]"):
        if kind == "VARCHAR[]":
            element, between = _quoted, ","
        elif "value_number" in kind:
            element, between = _component, ";"
        elif "low" in kind:
            element, between = _reference_range, ";"
        else:
            element, between = _coding, ","
        parts = [p.strip() for p in (value or "").split(between) if p.strip()]
        return f"[{', '.join(map(element, parts))}]::{kind}"
    if value is None:
        return "null"
    if value == "''":
        return "''"
    return f"{_quoted(SYSTEMS.get(value, value))}::{kind}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _coding(text: str) -> str:
    """`atc L04AX04`, `local x (what it is called)`, `none x` without a system."""
    code, _, display = text.partition("(")
    system, code = code.split()
    uri = "null" if system == "none" else f"'{SYSTEMS[system]}'"
    shown = _quoted(display.rstrip(") ")) if display else "null"
    return f"{{'system': {uri}, 'version': null, 'code': '{code}', 'display': {shown}}}"


def _component(text: str) -> str:
    """`loinc 8480-6 = 120 mm[Hg]`, or `= snomed 260415000` for a coded answer."""
    codes, answer = (side.strip() for side in text.split("="))
    given, of_what = answer.split()
    if given in SYSTEMS:
        said = f"'value_kind': 'CodeableConcept', 'value_codings': [{_coding(answer)}]"
    else:
        said = f"'value_kind': 'Quantity', 'value_number': {given}, 'value_unit': '{of_what}'"
    return f"{{'codings': [{_coding(codes)}], {said}}}"


def _reference_range(text: str) -> str:
    """`1.5 8 10*9/L`, then the code of what it is a range of, if it is not that of the healthy."""
    low, high, unit, *meaning = text.split()
    types = f", 'type_codings': [{_coding('local ' + meaning[0])}]" if meaning else ""
    return f"{{'low': {low}, 'high': {high}, 'unit': {_quoted(unit) if unit != '-' else 'null'}{types}}}"


@cache
def models() -> dict[str, Model]:
    """The project's models by name, each after those it reads."""
    return {m.name: m for m in load_models(bundled("sql"))}


@cache
def _empty_database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 2})
    make_tables(connection)
    for model in models().values():
        run_model(connection, model)
    return connection


def make_tables(connection: duckdb.DuckDBPyConnection, studies: Sequence[Study] = ()) -> None:
    """Everything that the models read and no model makes: the lake, empty, and the studies."""
    connection.execute("create schema lake")
    for resource_type, columns in LAKE_TABLES.items():
        inside = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(f"create table lake.{table_name(resource_type)} ({inside})")
    connection.execute(
        "create schema meta; create table meta.reconciliation as select null::varchar as site,"
        " null::varchar as run, null::varchar as resource_type, 0 as landed, 0 as in_lake, 0 as superseded,"
        " 0 as deleted, 0 as not_admitted, 0 as duplicate, 0 as quarantined, 0 as not_mapped,"
        " 0 as tombstones where false"
    )
    connection.execute("create table meta.run (site varchar, run varchar, finished_at timestamp)")
    for name, columns in (("quarantine", QUARANTINE_COLUMNS), ("tombstone", TOMBSTONE_COLUMNS)):
        inside = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        connection.execute(f"create table lake.{name} ({inside})")
    insert_studies(connection, studies)
    create_schemas(connection)
