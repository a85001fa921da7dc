"""Opens a finished database for reading, encrypted or not, and new ones for writing.

DuckDB encrypts a file with AES-256-GCM when it is attached with a key. It reads such a file by itself; to
write one it needs the cryptography of the httpfs extension, which is installed as a wheel.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from rwe.config import Workspace
from rwe.errors import BuildError, ConfigError
from rwe.lake.connection import _httpfs

#: The name under which an attached database is known.
CATALOG = "rwe"


def published_key(workspace: Workspace) -> str | None:
    """DuckDB's key of the published database; None: it is not encrypted. Raises ConfigError as keys do."""
    key = workspace.published_key()
    return key.hex() if key else None


def private_key(workspace: Workspace) -> str | None:
    """DuckDB's key of the private build; None: it is not encrypted. Raises ConfigError as keys do."""
    key = workspace.private_database_key()
    return key.hex() if key else None


def open_published(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """The published database, read-only. Raises BuildError where there is none or the key is not its key."""
    return open_file(workspace.database, published_key(workspace))


def open_private(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """The private build, which analyses read, read-only. Raises BuildError as `open_published`."""
    return open_file(workspace.private_database, private_key(workspace))


def open_file(path: Path, key: str | None = None) -> duckdb.DuckDBPyConnection:
    """A finished database, read-only; with a key it is attached as `rwe` and in use.

    Nothing is installed or loaded by itself, and an encrypted database is never spilled in plain. Raises
    BuildError where there is no such file, it is no database, or it is not encrypted with this key.
    """
    if not path.is_file():
        raise BuildError("there is no database yet", where=str(path), advice="run `rwe build`")
    try:
        return _attached(path, key) if key else duckdb.connect(str(path), read_only=True, config=_CONFIG)
    except duckdb.Error as e:
        raise BuildError(
            f"the database cannot be opened ({type(e).__name__})",
            where=str(path),
            advice="give the key it is encrypted with, or build it anew with `rwe build`",
        ) from None


_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def _attached(path: Path, key: str) -> duckdb.DuckDBPyConnection:
    """The connection itself is to an empty, read-only file: then nothing beside `path` can be written."""
    with tempfile.TemporaryDirectory(prefix="rwe-empty-") as folder:
        empty = Path(folder) / "empty.duckdb"
        duckdb.connect(str(empty), config=_CONFIG).close()
        connection = duckdb.connect(str(empty), read_only=True, config=_CONFIG)
    connection.execute("set max_temp_directory_size = '0KB'")
    attach_database(connection, path, CATALOG, key, read_only=True)
    connection.execute(f"use {CATALOG}")
    return connection


def load_cryptography(connection: duckdb.DuckDBPyConnection) -> bool:
    """Load what writes encrypted files, from its wheel; False where that is not installed."""
    extension = _httpfs()
    if extension is None:
        return False
    connection.execute(f"load '{str(extension).replace(chr(39), chr(39) * 2)}'")
    connection.execute("set temp_file_encryption = true")
    return True


def attach_database(
    connection: duckdb.DuckDBPyConnection, path: Path, name: str, key: str | None, *, read_only: bool = False
) -> None:
    """Attach a database file, new or there, under a name. Raises ConfigError where a new one cannot be
    encrypted, duckdb.Error where the key is not its key."""
    if key and not read_only and not load_cryptography(connection):
        raise ConfigError(
            "an encrypted database cannot be written",
            where="published.encryption, encryption",
            advice="install duckdb-extension-httpfs of DuckDB's own version",
        )
    options = [*(["read_only"] if read_only else []), *([f"encryption_key '{key}'"] if key else [])]
    quoted, inside = str(path).replace("'", "''"), ", ".join(options)
    connection.execute(f"attach '{quoted}' as {name} {f'({inside})' if inside else ''}")
