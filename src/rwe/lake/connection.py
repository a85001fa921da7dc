"""Connections of DuckDB for what is not published yet: nothing of it is written where others can look."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import duckdb

from rwe.crypt import Cipher
from rwe.lake.sealed import attach


def open_duckdb(
    temporary: Path,
    database: Path | None = None,
    *,
    cipher: Cipher | None = None,
    places: Mapping[Path, Path] = MappingProxyType({}),
    memory_limit: str | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection to `database`, else one in memory, that spills into the private folder `temporary` only.

    By default DuckDB spills into `.tmp` of the current folder, or beside the database, and fetches an
    extension from the internet when a query could use one. With a cipher, encrypted files can be read and
    written (`rwe.lake.sealed.attach`, with `places`), and a connection in memory spills encrypted: that takes
    the httpfs extension as a wheel, without which it does not spill at all. `memory_limit`, such as `2GB`, is
    how much memory it takes before that; unset, it is DuckDB's own limit.
    """
    connection = duckdb.connect(
        str(database) if database else ":memory:",
        config={
            "temp_directory": str(temporary / "duckdb-spill"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    if memory_limit:
        connection.execute("set memory_limit = ?", [memory_limit])
    attach(connection, cipher, places)
    if cipher and database is None:
        _encrypt_spill(connection)
    return connection


def _encrypt_spill(connection: duckdb.DuckDBPyConnection) -> None:
    extension = _httpfs()
    if extension is None:
        connection.execute("set max_temp_directory_size = '0KB'")
    else:  # DuckDB's own cryptography only reads; httpfs brings one that writes
        connection.execute(f"load '{str(extension).replace(chr(39), chr(39) * 2)}'")
        connection.execute("set temp_file_encryption = true")


def _httpfs() -> Path | None:
    """The extension of the wheel duckdb-extension-httpfs, where it is installed for this DuckDB."""
    found = find_spec("duckdb_extension_httpfs")
    if found is None or found.origin is None:
        return None
    version = f"v{duckdb.__version__}"
    path = Path(found.origin).parent / "extensions" / version / "httpfs.duckdb_extension"
    return path if path.is_file() else None
