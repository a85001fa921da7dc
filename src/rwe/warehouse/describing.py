"""Comments in the database itself: what one row of a table is, and what each column holds."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb


def describe_table(
    connection: duckdb.DuckDBPyConnection, table: str, comment: str, columns: Mapping[str, str]
) -> None:
    """Say in the database itself what one row of a table is, and what each of its columns."""
    _comment(connection, "table", table, comment)
    for column, words in columns.items():
        _comment(connection, "column", f'{table}."{column}"', words)


def _comment(connection: duckdb.DuckDBPyConnection, kind: str, target: str, comment: str) -> None:
    connection.execute(f"comment on {kind} {target} is '{comment.replace(chr(39), chr(39) * 2)}'")
