"""Looks for words in every file of a workspace, whatever its form: compressed, encrypted, Parquet, DuckDB."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import zstandard

from rwe.config import Workspace
from rwe.crypt import SUFFIX, UnsealError, place
from rwe.errors import RweError
from rwe.lake.connection import open_duckdb
from rwe.lake.sealed import address
from rwe.warehouse.opening import open_file, private_key, published_key

_CHUNK = 1 << 20


def files_with(workspace: Workspace, words: Sequence[str]) -> tuple[Path, ...]:
    """The files that hold one of the words, as bytes of their content, sorted.

    A file is read as it lies and as what it is: decompressed, decrypted with the workspace's keys, a database
    or Parquet file value by value. A file that cannot be read so counts as holding it: nobody can say that it
    does not.
    """
    pattern = re.compile(b"|".join(re.escape(w.encode()) for w in words))
    known: dict[tuple[int, int], bool] = {}
    found = []
    for path in sorted(workspace.root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        about = path.stat()
        identity = (about.st_dev, about.st_ino)  # the current database has two names
        if identity not in known:
            known[identity] = _holds(workspace, path, pattern)
        if known[identity]:
            found.append(path)
    return tuple(found)


def _holds(workspace: Workspace, path: Path, pattern: re.Pattern[bytes]) -> bool:
    longest = max(len(p) for p in pattern.pattern.split(b"|"))
    try:
        if _in_chunks(_plain(path), pattern, longest):
            return True
        name = path.name.removesuffix(SUFFIX)
        if name.endswith(".parquet"):
            return _in_parquet(workspace, path, pattern)
        if ".duckdb" in name:
            return name.endswith(".duckdb") and _in_database(workspace, path, pattern)
        if name != path.name or name.endswith((".zst", ".gz")):
            return _in_chunks(_opened(workspace, path, name), pattern, longest)
    except (OSError, RweError, UnsealError, duckdb.Error, zstandard.ZstdError, zlib.error, EOFError):
        return True
    return False


def _plain(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while chunk := f.read(_CHUNK):
            yield chunk


def _opened(workspace: Workspace, path: Path, name: str) -> Iterator[bytes]:
    with path.open("rb") as raw:
        source: Any = raw
        if path.name.endswith(SUFFIX):
            cipher = workspace.cipher()
            if cipher is None:
                raise UnsealError("no key is set")
            source = cipher.reader(raw, place(path))
        if name.endswith(".zst"):
            source = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        elif name.endswith(".gz"):
            source = gzip.GzipFile(fileobj=source)
        while chunk := source.read(_CHUNK):
            yield chunk


def _in_chunks(chunks: Iterator[bytes], pattern: re.Pattern[bytes], longest: int) -> bool:
    tail = b""
    for chunk in chunks:
        if pattern.search(tail + chunk):
            return True
        tail = chunk[-longest:]
    return False


def _in_parquet(workspace: Workspace, path: Path, pattern: re.Pattern[bytes]) -> bool:
    with open_duckdb(workspace.private, cipher=workspace.cipher()) as connection:
        name = address(path).replace("'", "''")
        return _in_rows(connection, f"read_parquet('{name}', hive_partitioning = false)", pattern)


def _in_database(workspace: Workspace, path: Path, pattern: re.Pattern[bytes]) -> bool:
    is_private = path.is_relative_to(workspace.private)
    key = private_key(workspace) if is_private else published_key(workspace)
    with closing(open_file(path, key)) as connection:
        tables = connection.execute(
            "select schema_name, table_name from duckdb_tables() where database_name = current_database()"
        ).fetchall()
        return any(_in_rows(connection, f'{s}."{t}"', pattern) for s, t in tables)


def _in_rows(connection: duckdb.DuckDBPyConnection, source: str, pattern: re.Pattern[bytes]) -> bool:
    words = pattern.pattern.decode().replace("'", "''")
    found = connection.execute(
        f"select 1 from {source} as t where regexp_matches(cast(t as varchar), '{words}') limit 1"  # noqa: S608
    ).fetchone()
    return found is not None
