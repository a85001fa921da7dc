"""Where the columns come from: each column of a model, and the columns of other tables that it is made of.

One step: a column of `cohort.survival` leads to `cohort.follow_up`, whose columns lead further. Columns that
only decide which rows there are (joins, conditions) are not in it: the SQL file says that better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

from rwe.warehouse.describing import describe_table
from rwe.warehouse.models import Model

_COLUMNS = {
    "table_schema": "The schema of the table.",
    "table_name": "The table.",
    "column_name": "Its column.",
    "source_schema": "The schema of a table that the column is made of; `lake` is in no database.",
    "source_table": "That table.",
    "source_column": "Its column; of a list or STRUCT the whole.",
}
_Tables = dict[str, dict[str, str]]
_Schema = dict[str, _Tables]


@dataclass(frozen=True, order=True)
class ColumnSource:
    """A column of a model and one of the columns that it is made of."""

    table_schema: str
    table_name: str
    column_name: str
    source_schema: str
    source_table: str
    source_column: str


def insert_lineage(connection: duckdb.DuckDBPyConnection, models: Sequence[Model]) -> int:
    """Create `meta.lineage` from the models' SQL; returns its rows. To be called when all models have run,
    while the schema `lake` is still there: the types of the tables are the connection's."""
    rows = sorted(set(column_sources(models, _tables(connection))))
    data = {name: pa.array([getattr(r, name) for r in rows], pa.string()) for name in _COLUMNS}
    connection.register("incoming_rows", pa.table(data))
    connection.execute("create table meta.lineage as select * from incoming_rows")
    connection.unregister("incoming_rows")
    comment = "One row per column of a model and column of another table that it is made of."
    describe_table(connection, "meta.lineage", comment, _COLUMNS)
    return len(rows)


def column_sources(models: Sequence[Model], schema: Mapping[str, _Tables]) -> Iterator[ColumnSource]:
    """The sources of every column of every model. `schema`: schema → table → column → type."""
    for model in models:
        table_schema, _, table_name = model.name.partition(".")
        read: _Schema = {}
        for name in model.reads:
            source_schema, _, table = name.partition(".")
            if table in schema.get(source_schema, {}):
                read.setdefault(source_schema, {})[table] = schema[source_schema][table]
        scope = _scope(model.query, read)
        # All columns at once, so that what they share is walked once; trimming copies the query each time.
        nodes = lineage(
            None, scope.expression, {}, scope=scope, dialect="duckdb", trim_selects=False, copy=False
        )
        for column, node in nodes.items():
            for source in _leaves(node):
                yield ColumnSource(table_schema, table_name, column, *source)


def _scope(query: str, schema: _Schema) -> Scope:
    """The query with every column named in full: done once a model, not once a column."""
    tree = qualify(
        sqlglot.parse_one(query, dialect="duckdb"),
        dialect="duckdb",
        schema=cast("dict[str, object]", schema),
        validate_qualify_columns=False,
        identify=False,
        quote_identifiers=False,
    )
    scope = build_scope(tree)
    if scope is None:  # a model is a query
        raise ValueError("no query")
    return scope


def _leaves(node: Node) -> Iterator[tuple[str, str, str]]:
    seen: set[int] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        stack.extend(one.downstream)
        if not one.downstream and isinstance(one.expression, exp.Table) and one.expression.db:
            yield one.expression.db, one.expression.name, one.name.rpartition(".")[2].strip('"')


def _tables(connection: duckdb.DuckDBPyConnection) -> _Schema:
    found: _Schema = {}
    query = (
        "select schema_name, table_name, column_name, data_type from duckdb_columns()"
        " where database_name = current_database() and not internal order by all"
    )
    for schema, table, column, kind in connection.execute(query).fetchall():
        found.setdefault(schema, {}).setdefault(table, {})[column] = kind
    return found
