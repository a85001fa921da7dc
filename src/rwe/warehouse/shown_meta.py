"""study.*, ref.* and meta.* of the published database, from those of the private build.

Under `anchored` no table names a run: a run's name begins with a day. What is not declared here stays out.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from rwe.warehouse.models import describe_table
from rwe.warehouse.origin import ORIGINS
from rwe.warehouse.shown import Pair, Rules, Withheld

#: Tables of `meta` that are published as they are.
AS_THEY_ARE = frozenset({"site", "quality", "admission", "codelist", "lineage"})
#: Those that are made anew for the published file, or once it is there.
MADE_ANEW = frozenset({"build", "column", "withheld"})
#: Those that stay private: they only serve checks.
PRIVATE = frozenset({"previous_count"})
_OUTCOMES = [
    "landed",
    "in_lake",
    "superseded",
    "deleted",
    "not_admitted",
    "duplicate",
    "quarantined",
    "not_mapped",
    "tombstones",
]
_SUMS = ", ".join(f"cast(sum({name}) as bigint) as {name}" for name in _OUTCOMES)
#: A system that is known or written down is shown as it is; any other may be words about one patient.
_KNOWN_SYSTEM = " or ".join(
    f"system in (select system from {{database}}.{table})"  # noqa: S608
    for table in ("ref.code_system", "ref.code_map", "study.codelist")
)
_RARE = ", ".join(
    f"case when n_patients >= {{min_cell}}{unless} then {name} end as {name}"
    for name, unless in (("system", f" or {_KNOWN_SYSTEM}"), ("code", ""), ("text", ""))
)
#: Table → its select from the private table `{source}` of `{database}`, as (exact, anchored).
CHANGED: dict[str, tuple[str, str]] = {
    "run": (
        "select * from {source}",
        "select * replace (cast(null as varchar) as run, cast(null as varchar) as manifest_sha256,"
        " cast(null as timestamp) as finished_at, cast(null as timestamp) as last_updated_at)"
        " from {source} order by all",
    ),
    "reconciliation": (
        "select * from {source}",
        f"select site, cast(null as varchar) as run, resource_type, {_SUMS}"  # noqa: S608
        " from {source} group by site, resource_type order by site, resource_type",
    ),
    "quarantine": (
        "select * from {source}",
        "select * replace (cast(null as varchar) as run, cast(null as bigint) as line)"
        " from {source} order by all",
    ),
    "refused_resource": (
        "select * from {source}",
        "select * replace (cast(null as varchar) as run) from {source} order by all",
    ),
    "unmapped_code": (
        f"select * replace ({_RARE}) from {{source}} order by all",  # noqa: S608
        f"select * replace ({_RARE}) from {{source}} order by all",  # noqa: S608
    ),
}
_ORIGIN = "origin"


def known_meta_tables() -> frozenset[str]:
    """Every table of `meta` of which it is said what becomes of it."""
    return AS_THEY_ARE | MADE_ANEW | PRIVATE | CHANGED.keys() | {_ORIGIN}


def show_rest(pair: Pair, rules: Rules) -> None:
    """Copy study.*, ref.* and what of meta.* is published. Call it after `show_patients`."""
    connection, source, target = pair.connection, pair.source, pair.target
    connection.execute(f"create schema {target}.meta")
    for schema, table in _tables(connection, source, ("study", "ref")):
        connection.execute(f"create schema if not exists {target}.{schema}")
        connection.execute(f"create table {target}.{schema}.{table} as from {source}.{schema}.{table}")
    for _, table in _tables(connection, source, ("meta",)):
        if table in AS_THEY_ARE:
            connection.execute(f'create table {target}.meta."{table}" as from {source}.meta."{table}"')
        elif table in CHANGED:
            query = CHANGED[table][rules.is_anchored].format(
                source=f"{source}.meta.{table}", database=source, min_cell=rules.min_cell
            )
            connection.execute(f"create table {target}.meta.{table} as {query}")
        elif table == _ORIGIN:
            _show_origin(pair, rules)


def _show_origin(pair: Pair, rules: Rules) -> None:
    """The origins of the rows that are published."""
    run = "cast(null as varchar)" if rules.is_anchored else "o.run"
    parts = [
        f"""
        select o.table_name, o.row_key, o.site, {run} as run, o.resource_type, o.resource_pseudonym
        from {pair.source}.meta.origin as o
        where o.table_name = '{origin.table}'
            and o.row_key in (select {origin.key} from {pair.target}.{origin.table})
        """  # noqa: S608
        for origin in ORIGINS
    ]
    union = " union all ".join(parts)
    pair.connection.execute(f"create table {pair.target}.meta.origin as {union} order by table_name, row_key")


def write_withheld(connection: duckdb.DuckDBPyConnection, found: Sequence[Withheld]) -> None:
    """Make meta.withheld in the database in use."""
    connection.execute(
        "create table meta.withheld (table_schema varchar, table_name varchar, column_name varchar,"
        ' "rule" varchar, n bigint)'
    )
    if found:
        connection.executemany(
            "insert into meta.withheld values (?, ?, ?, ?, ?)",
            [[w.table_schema, w.table_name, w.column_name, w.rule, w.n] for w in found],
        )
    describe_table(
        connection,
        "meta.withheld",
        "One row per column of which values are not shown here; what is withheld is private to the site.",
        {
            "table_schema": "The schema.",
            "table_name": "The table.",
            "column_name": "The column; null: whole rows.",
            "rule": "The setting it follows: anchored (published.dates), min_cell or top_code_age.",
            "n": "Values that are null or changed to null here, those of rows that stay out among them.",
        },
    )


def copy_comments(pair: Pair) -> None:
    """Comments of tables and columns, from the private build to the published one, which must be in use."""
    connection, source = pair.connection, pair.source
    schemas = ("study", "ref", "staging", "cohort", "meta")
    shown = {f"{s}.{t}" for s, t in _tables(connection, pair.target, schemas)}
    tables = connection.execute(
        "select schema_name || '.' || table_name, coalesce(comment, '') from duckdb_tables()"
        " where database_name = ?",
        [source],
    ).fetchall()
    columns = connection.execute(
        "select schema_name || '.' || table_name, column_name, comment from duckdb_columns()"
        " where database_name = ? and comment is not null",
        [source],
    ).fetchall()
    for table, comment in tables:
        if table in shown:
            schema, name = table.split(".")
            words = {c: text for t, c, text in columns if t == table}
            describe_table(connection, f'{schema}."{name}"', comment, words)


def _tables(
    connection: duckdb.DuckDBPyConnection, database: str, schemas: tuple[str, ...]
) -> list[tuple[str, str]]:
    return connection.execute(
        "select schema_name, table_name from duckdb_tables()"
        " where database_name = ? and list_contains(?, schema_name) order by 1, 2",
        [database, list(schemas)],
    ).fetchall()
