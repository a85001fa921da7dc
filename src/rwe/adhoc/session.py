"""A locked session on a published database: it reads that one file and nothing else.

DuckDB's own switches leave ways open (docs/adhoc.md names them), so there are three locks: the connection is
read-only; file system, network, extensions and configuration are shut; and of what is typed only SELECT, and
EXPLAIN of one, is let through (`rwe.adhoc.statements`). They guard against accidents and against SQL from
elsewhere. Whoever runs `rwe sql` can run any other program too: the true boundary is the operating system.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from rwe.adhoc.statements import Admitted, admitted
from rwe.config import KEY_BYTES, Workspace
from rwe.errors import ConfigError, RweError, UsageError
from rwe.warehouse.opening import CATALOG, attach_database, load_cryptography

#: Holds the key of an encrypted published database as hex, and wins over the key file.
KEY_VARIABLE = "RWE_PUBLISHED_KEY"

_BATCH_ROWS = 10_000


class QueryError(RweError):
    """A query failed in DuckDB.

    The text of DuckDB may quote a value of the published database. It goes to the person who asked, and who
    may read that database anyway; it is never logged.
    """


@dataclass(frozen=True)
class PublishedDatabase:
    """A published file, the key it is encrypted with (32 bytes; None: it is plain), and how much memory a
    session on it takes before it spills."""

    path: Path
    key: bytes | None = field(default=None, repr=False)
    memory_limit: str = "2GB"


def published_database(workspace: Workspace) -> PublishedDatabase:
    """The published database of a workspace, with its key where `published.encryption` names one.

    Raises ConfigError where the key cannot be read or lies open.
    """
    return PublishedDatabase(workspace.database, workspace.published_key(), workspace.settings.memory_limit)


def database_file(path: Path, key_file: Path | None = None) -> PublishedDatabase:
    """A published database by its path, for those who may not read the workspace it comes from.

    The key of an encrypted one comes from RWE_PUBLISHED_KEY, else from `key_file`. Raises ConfigError where
    it cannot be read or lies open.
    """
    text, where = os.environ.get(KEY_VARIABLE), str(key_file or KEY_VARIABLE)
    if text is None and key_file is None:
        return PublishedDatabase(path)
    if text is None and key_file is not None:
        try:
            text = key_file.expanduser().read_text(encoding="ascii")
            is_open = bool(key_file.expanduser().stat().st_mode & 0o077)
        except (OSError, UnicodeDecodeError):
            raise ConfigError("the key cannot be read", where=where, advice="check its path") from None
        if is_open:
            raise ConfigError("others can read the key", where=where, advice="chmod 600 it")
    try:
        key = bytes.fromhex((text or "").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"the key is not {KEY_BYTES} bytes in hex", where=where)
    return PublishedDatabase(path, key)


class LockedSession:
    """An open, locked connection. `connection` is for our own statements; what a user typed goes through
    `admit` first."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, database: PublishedDatabase) -> None:
        self.connection, self.database = connection, database

    def admit(self, text: str, *, where: str | None = None) -> tuple[Admitted, ...]:
        """The statements of a text, if each may run. Raises RefusedError, QueryError where it is no SQL."""
        try:
            with closing(self.connection.cursor()) as parser:  # a query may be under way in another thread
                return admitted(parser, text, where=where)
        except duckdb.ParserException as e:
            raise query_error(str(e), where) from None

    def run(self, statement: Admitted, values: Sequence[object] = (), *, where: str | None = None) -> Rows:
        """Run it; `values` stand for its `?` or `$1`.

        Raises QueryError where the query fails before its first row, and KeyboardInterrupt.
        """
        with _told(where):
            reader = self.connection.execute(statement.sql, list(values)).to_arrow_reader(_BATCH_ROWS)
        return Rows(reader.schema, _batches(reader, where))


def ask(query: str, database: PublishedDatabase, values: Sequence[object] = ()) -> pa.Table:
    """One SELECT on a published database, in a session of its own: for notebooks and scripts.

    `values` stand for its `?` or `$1`. Each call reads the newest build. Raises RefusedError, QueryError and
    what `locked_session` raises.
    """
    with locked_session(database) as session:
        statements = session.admit(query)
        if len(statements) != 1:
            raise UsageError(f"there are {len(statements)} statements", advice="ask one SELECT at a time")
        rows = session.run(statements[0], values)
        return pa.Table.from_batches(rows.batches, rows.schema)


@dataclass(frozen=True)
class Rows:
    """A result: its columns, and its rows in batches of 10,000, fetched as they are taken and not held.

    Taking a batch raises QueryError where the query fails only then, and KeyboardInterrupt.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def _batches(reader: pa.RecordBatchReader, where: str | None) -> Iterator[pa.RecordBatch]:
    while True:
        with _told(where):
            batch = next(reader, None)
        if batch is None:
            return
        yield batch


@contextmanager
def _told(where: str | None) -> Iterator[None]:
    """Turn what DuckDB raises, by itself or through Arrow, into our own errors."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as e:
        text = str(e)
        if isinstance(e, duckdb.InterruptException) or "interrupt" in text.lower()[:40]:
            raise KeyboardInterrupt from None
        raise query_error(text, where) from None


def query_error(text: str, where: str | None = None) -> QueryError:
    """What DuckDB says about a query, as a sentence for the person who typed it: its first paragraph."""
    paragraph, _, rest = text.strip().partition("\n\n")
    line = re.search(r"^LINE (\d+):", rest, re.MULTILINE)
    places = [p for p in (where, f"line {line.group(1)}" if line else None) if p]
    return QueryError(" ".join(paragraph.split()).rstrip(".!"), where=", ".join(places) or None)


@contextmanager
def locked_session(database: PublishedDatabase) -> Iterator[LockedSession]:
    """Open a published database for reading, and shut everything else. What spills goes into a private folder
    that is removed at the end.

    Raises RweError where there is no such file, and ConfigError where its key is missing or another one.
    """
    path = database.path
    if not path.is_file():
        raise RweError(
            "there is no published database", where=str(path), advice="run `rwe build`, or name a file"
        )
    with tempfile.TemporaryDirectory(prefix="rwe-sql-") as name:
        scratch = Path(name)
        with closing(_connect(_without_log(path, scratch), database, scratch)) as connection:
            connection.execute("set enable_external_access = false")
            connection.execute("set lock_configuration = true")
            yield LockedSession(connection, database)


def _without_log(path: Path, scratch: Path) -> Path:
    """The file to open: the published one, or a copy of it where a write-ahead log lies beside it.

    Somebody opened the published file for writing, and crashed: DuckDB would replay that log even into a
    read-only session. The next build moves it aside.
    """
    if not path.with_name(path.name + ".wal").exists():
        return path
    copy = scratch / f"{CATALOG}.duckdb"
    shutil.copyfile(path, copy)
    return copy


def _connect(path: Path, database: PublishedDatabase, scratch: Path) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(scratch / "spill"),
        "memory_limit": database.memory_limit,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "allow_persistent_secrets": "false",
        "python_enable_replacements": "false",  # else a name in a query could be a variable of this program
    }
    if database.key is None:
        return _connected(path, config, database)
    # An encrypted file can only be attached: to an empty database that is read-only, too.
    empty = scratch / "session.duckdb"
    duckdb.connect(str(empty)).close()
    connection = _connected(empty, config, database)
    try:
        _attach(connection, path, database)
        if not load_cryptography(connection):  # what it would spill would be plain
            connection.execute("set max_temp_directory_size = '0KB'")
        connection.execute(f"use {CATALOG}")
    except BaseException:
        connection.close()
        raise
    return connection


def _connected(
    path: Path, config: dict[str, str | bool | int | float | list[str]], database: PublishedDatabase
) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(path), read_only=True, config=config)
    except duckdb.Error as e:
        text = str(e)
    raise _not_opened(text, database)


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, database: PublishedDatabase) -> None:
    key = database.key.hex() if database.key else None
    try:
        attach_database(connection, path, CATALOG, key, read_only=True)
    except duckdb.Error as e:  # its text may hold the statement, and so the key
        text = str(e)
    else:
        return
    raise _not_opened(text, database)


def _not_opened(text: str, database: PublishedDatabase) -> RweError:
    """Why the file could not be opened, from the words DuckDB has for it."""
    where = str(database.path)
    if "without a key" in text:
        return ConfigError(
            "the published database is encrypted, and no key is known",
            where=where,
            advice=f"set published.encryption in rwe.yaml, or {KEY_VARIABLE}",
        )
    if "encryption key" in text or "encrypted" in text:
        return ConfigError(
            "it is encrypted with another key, or not at all",
            where=where,
            advice=f"check published.encryption and {KEY_VARIABLE}",
        )
    if "lock" in text:
        return RweError(
            "another program holds the published database open for writing",
            where=where,
            advice="close it there, and open it read-only from now on",
        )
    return RweError("the published database cannot be opened", where=where, advice="check that it is whole")
