"""`rwe dictionary`: one page on what the published database holds. It quotes no id, date or free text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rwe.adhoc.permitted import CLOSED, OF_STUDY, WORDS_OF_STUDY
from rwe.adhoc.session import LockedSession
from rwe.wording import counted

_FOLDER = Path(__file__).resolve().parent
#: A value shows only where so many rows hold it, unless it is a study file's own row.
MIN_ROWS = 5
_MOST_EXAMPLES = 6
_SCHEMAS = {
    "study": "The protocols: what the studies ask. Rows of study files.",
    "cohort": "The cohorts: who is in, since when, how it ended. One row says which study it is of first.",
    "staging": "The records of the hospitals, in one shape.",
    "ref": "References that models read: units, maps of codes.",
    "meta": "How this database was made, what was refused, and this dictionary as a table.",
}


@dataclass(frozen=True)
class Column:
    """A column. `sources` are the columns it is made of, as schema.table.column; `examples` may be quoted."""

    name: str
    data_type: str
    comment: str
    sources: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table, how many rows it has, and its columns in their order."""

    schema: str
    name: str
    comment: str
    rows: int
    columns: tuple[Column, ...]

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Schema:
    """A schema and its tables, by name."""

    name: str
    meaning: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Dictionary:
    """What the page shows. `studies` is a text; `has_lineage` says whether meta.lineage was there."""

    schemas: tuple[Schema, ...]
    studies: str
    content_sha256: str
    code_version: str
    has_lineage: bool


_Key = tuple[str, str]


def read_dictionary(session: LockedSession) -> Dictionary:
    """Read it from the catalog, its comments, meta.build and, where it is there, meta.lineage."""
    tables = _rows(
        session,
        "select schema_name, table_name, comment from duckdb_tables()"
        " where database_name = current_database() and not internal order by all",
    )
    lineage = _lineage(session) if ("meta", "lineage") in {(s, t) for s, t, _ in tables} else None
    columns = _columns(session, lineage or {})
    by_schema: dict[str, list[Table]] = {}
    for schema, name, comment in tables:
        count = _rows(session, f"select count(*) from {_quoted(schema)}.{_quoted(name)}")[0][0]  # noqa: S608
        by_schema.setdefault(schema, []).append(
            Table(schema, name, comment or "", count, tuple(columns.get((schema, name), ())))
        )
    order = [*_SCHEMAS, *(s for s in sorted(by_schema) if s not in _SCHEMAS)]
    build = _build(session) if "meta" in by_schema else ("", "", "")
    return Dictionary(
        schemas=tuple(Schema(s, _SCHEMAS.get(s, ""), tuple(by_schema[s])) for s in order if s in by_schema),
        studies=build[0],
        content_sha256=build[1],
        code_version=build[2],
        has_lineage=lineage is not None,
    )


def render_dictionary(dictionary: Dictionary) -> str:
    """The page: self-contained HTML without script, network or time; the same database, the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    return environment.get_template("dictionary.html.j2").render(d=dictionary)


def _rows(session: LockedSession, query: str, values: Sequence[Any] = ()) -> list[Any]:
    return session.connection.execute(query, list(values)).fetchall()


def _build(session: LockedSession) -> tuple[str, str, str]:
    found = _rows(session, "select studies, content_sha256, code_version from meta.build")
    return found[0] if found else ("", "", "")


def _lineage(session: LockedSession) -> dict[tuple[str, str, str], tuple[str, ...]]:
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for *of, source in _rows(
        session,
        "select distinct table_schema, table_name, column_name,"
        " source_schema || '.' || source_table || '.' || source_column as source"
        " from meta.lineage where source_column is not null order by all",
    ):
        key = (of[0], of[1], of[2])
        found[key] = (*found.get(key, ()), source)
    return found


def _columns(
    session: LockedSession, lineage: Mapping[tuple[str, str, str], tuple[str, ...]]
) -> dict[_Key, list[Column]]:
    of_study = _study_values(session)
    columns: dict[_Key, list[Column]] = {}
    for schema, table, name, kind, comment in _rows(
        session,
        "select schema_name, table_name, column_name, data_type, comment from duckdb_columns()"
        " where database_name = current_database() and not internal order by schema_name, table_name,"
        " column_index",
    ):
        examples = _examples(session, (schema, table), name, of_study) if kind == "VARCHAR" else ()
        columns.setdefault((schema, table), []).append(
            Column(name, kind, comment or "", lineage.get((schema, table, name), ()), examples)
        )
    return columns


def _study_values(session: LockedSession) -> dict[str, frozenset[str]]:
    """The names and codes that the study files hold, by the column that may quote them."""
    query = "select table_name, column_name from duckdb_columns() where schema_name = 'study'"
    there = {(table, column) for table, column in _rows(session, query)}
    return {
        column: frozenset(
            value
            for table, source in sources
            if (table, source) in there
            for (value,) in _rows(session, f"select distinct {_quoted(source)} from study.{_quoted(table)}")  # noqa: S608
            if value is not None
        )
        for column, sources in OF_STUDY.items()
    }


def _examples(
    session: LockedSession, table: _Key, column: str, of_study: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """Values of the column that may be quoted, in the order of the alphabet."""
    source, name = f"{_quoted(table[0])}.{_quoted(table[1])}", _quoted(column)
    only, values, least = f"and {name} in (select unnest(?))", [], MIN_ROWS
    if table[0] == "study":
        if column in WORDS_OF_STUDY:
            return ()
        only, least = "", 1
    else:
        permitted = CLOSED.get(column, frozenset())
        if table[0] != "meta":
            permitted |= of_study.get(column, frozenset())
        if not permitted:
            return ()
        values = [sorted(permitted)]
    found = _rows(
        session,
        f"select {name} from {source} where {name} is not null {only}"  # noqa: S608
        f" group by {name} having count(*) >= {least} order by {name} limit {_MOST_EXAMPLES}",
        values,
    )
    return tuple(r[0] for r in found)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
