"""What a build is: a hash of its content, the same on any number of threads and in any order of rows.

Two builds of the same content differ in their files' bytes, not in this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import duckdb

_ROWS_AT_ONCE = 100_000


def content_hash(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> str:
    """SHA-256 over the tables (`schema.name`), each its columns and its rows in sorted order, as hex.

    A row is hashed by DuckDB: each value with its length before it, so that no two rows read the same. A
    floating number is written with as many digits as tell it from its neighbours (the shortest decimal that
    is read back as the same bits). Memory: 32 bytes a row of one table, sorted on disk where they are many.
    """
    digest = hashlib.sha256()
    for table in sorted(tables):
        columns = connection.execute(f"describe {table}").fetchall()
        digest.update(repr((table, [(c[0], c[1]) for c in columns])).encode())
        row = " || ".join(_written(c[0]) for c in columns)
        hashes = connection.execute(f"select unhex(sha256({row})) as h from {table} order by h")  # noqa: S608
        while batch := hashes.fetchmany(_ROWS_AT_ONCE):
            digest.update(b"".join(h for (h,) in batch))
    return digest.hexdigest()


def _written(column: str) -> str:
    text = f'cast("{column}" as varchar)'
    return f"coalesce(length({text}) || ':' || {text}, '-')"
