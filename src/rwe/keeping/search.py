"""Looks for words in every file of a workspace, whatever its form: compressed, encrypted, Parquet, DuckDB."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import zstandard

from rwe.config import Workspace
from rwe.crypt import SUFFIX, UnsealError, place
from rwe.errors import RweError
from rwe.lake.connection import open_duckdb
from rwe.lake.sealed import address
from rwe.landing import UNREADABLE
from rwe.warehouse.opening import open_file, private_key, published_key

_CHUNK = 1 << 20
_MOST_BYTES = 160  # of a match: a pseudonym, or an id with what stands around it
#: Folders that only programs write in: there a short id in quotes may be any code or count.
_OURS = frozenset({"landing", "lake", "quarantine", "evidence", "published"})


@dataclass(frozen=True)
class Sought:
    """What to look for. `words` are found anywhere. `short_ids` are Patient ids so short that they occur in
    other words: found as `Patient/ID`, and in files kept by hand and unreadable lines also in quotes or as
    the first word of a line."""

    words: tuple[str, ...]
    short_ids: tuple[str, ...] = ()

    def pattern_for(self, inside: Path) -> re.Pattern[bytes]:
        """The pattern for a file, by its path in the workspace. It means the same to re and to DuckDB."""
        alternatives = [re.escape(w.encode()) for w in self.words]
        for one in self.short_ids:
            word = re.escape(one.encode())
            alternatives.append(rb"Patient\\?/" + word + _BEHIND)
            if _is_unreadable(inside) or _is_by_hand(inside):
                alternatives += [rb"[\"']" + word + rb"[\"']", rb"\"id\"\s*:\s*\"?" + word + _BEHIND]
            if _is_by_hand(inside):
                alternatives.append(rb"(?:^|\n)(?:- )?" + word + rb"(?:[ \t\r\n,;#]|$)")
        return re.compile(b"|".join(alternatives))


_BEHIND = rb"\.?(?:[^A-Za-z0-9.\-]|$)"  # a full stop ends a sentence more often than an id


def _is_unreadable(inside: Path) -> bool:
    return inside.parts[0] == "landing" and inside.name.startswith(UNREADABLE)


def _is_by_hand(inside: Path) -> bool:
    return inside.parts[0] not in _OURS and ".duckdb" not in inside.name and ".parquet" not in inside.name


def files_with(workspace: Workspace, sought: Sought) -> tuple[Path, ...]:
    """The files that hold what is sought, as bytes of their content, sorted.

    A file is read as it lies and as what it is: decompressed, decrypted with the workspace's keys, a database
    or Parquet file value by value. A file that cannot be read so counts as holding it: nobody can say that it
    does not.
    """
    known: dict[tuple[int, int], bool] = {}
    found = []
    for path in sorted(workspace.root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        about = path.stat()
        identity = (about.st_dev, about.st_ino)  # the current database has two names
        if identity not in known:
            pattern = sought.pattern_for(path.relative_to(workspace.root))
            # An empty file names nobody, whatever its name says: such as a ledger that was given up.
            known[identity] = about.st_size > 0 and _holds(workspace, path, pattern)
        if known[identity]:
            found.append(path)
    return tuple(found)


def _holds(workspace: Workspace, path: Path, pattern: re.Pattern[bytes]) -> bool:
    try:
        if _in_chunks(_plain(path), pattern):
            return True
        name = path.name.removesuffix(SUFFIX)
        if name.endswith(".parquet"):
            return _in_parquet(workspace, path, pattern)
        if ".duckdb" in name:
            return name.endswith(".duckdb") and _in_database(workspace, path, pattern)
        if name != path.name or name.endswith((".zst", ".gz")):
            return _in_chunks(_opened(workspace, path, name), pattern)
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


def _in_chunks(chunks: Iterator[bytes], pattern: re.Pattern[bytes]) -> bool:
    """A match at the very end waits for the next chunk: what comes behind an id may be more of it."""
    held, is_first = b"", True
    for chunk in chunks:
        held += chunk
        if any(m.end() < len(held) and (is_first or m.start()) for m in pattern.finditer(held)):
            return True
        if len(held) > _MOST_BYTES:
            held, is_first = held[-_MOST_BYTES:], False
    return any(is_first or m.start() for m in pattern.finditer(held))


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
