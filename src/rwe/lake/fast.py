"""The fast way into the lake: DuckDB parses what `feed.py` prepared, one statement a type.

Lines pass through a pipe, so that nothing of them touches the disk before it is pseudonymised. What DuckDB
did not give back (a check in `columns.py` doubted it) is found by its line number and goes the careful way:
every line is in exactly one of the two. The rows of a file do not depend on the threads, their order does:
DuckDB hands them over as they come, and sorting a million of them under a limit of memory takes longer than
all the rest. DuckDB reads all lines of a file or none; should it refuse one, the file is read in pieces,
halved until the line stands alone.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO

import duckdb
import numpy as np

from rwe.lake import columns, validate
from rwe.lake.careful import CarefulReader
from rwe.lake.connection import open_duckdb
from rwe.lake.feed import LONGEST_LINE, Feed
from rwe.lake.macros import create_macros
from rwe.lake.parsed import parsed_columns
from rwe.lake.schema import CONTENT_HASH, LAKE_TABLES
from rwe.lake.sealed import address
from rwe.lake.store import PARQUET

#: Files with fewer lines go the careful way: it takes as long as planning the statement.
FAST_FROM = 2_000

_PIECE_LINES = 20_000
_ALONE = 64
_BATCH_BYTES = 1 << 20
_LONGEST_FED = LONGEST_LINE + (1 << 16)


class FastReader:
    """Brings the lines of one type of one run into Parquet, and those in doubt to the careful way."""

    def __init__(self, careful: CarefulReader, resource_type: str, out: IO[bytes]) -> None:
        self._careful, self._type, self._out = careful, resource_type, out
        self._context, self._run = careful.context, careful.run
        landed = self._run.resources[resource_type]
        self._sampled_below = validate.sample_threshold(self._context.validation, landed)
        self._counts: Counter[str] = Counter()
        self._is_done = np.zeros(landed + 2, dtype=np.bool_)
        self._folder = careful.aside / resource_type
        self._folder.mkdir(mode=0o700)
        #: What was written.
        self.parts: list[Path] = []

    def read(self) -> Counter[str]:
        """Read all lines; how many were `stored` and `quarantined`. Raises LandingError, duckdb.Error."""
        try:
            self._copy(self._prepared())
        except duckdb.Error:
            self._copy_pieces()
        fast = self._tick_off()
        if fast + self._counts.total() < self._run.resources[self._type]:
            self._take_the_rest()
        self._counts["stored"] += fast
        return self._counts

    def _prepared(self) -> Iterator[bytes]:
        """The lines that DuckDB is to read; the others go the careful way at once."""
        feed = Feed(self._context, self._type, self._sampled_below)
        for number, line in enumerate(self._run.open(self._type), start=1):
            if number < len(self._is_done) and self._is_done[number]:
                continue
            prepared = feed.prepare(number, line)
            if prepared is None:
                self._take(number, line)
            else:
                yield prepared

    def _take(self, number: int, line: bytes) -> None:
        outcome = self._careful.take(self._type, number, line, self._out, self._sampled_below)
        self._counts[outcome] += 1
        self._careful.step.advance(1)
        if number < len(self._is_done):
            self._is_done[number] = True

    def _tick_off(self) -> int:
        """Note which lines are in the parts; how many there are."""
        fast = 0
        for part in self.parts:
            with self._open(part) as connection:
                query = f"select line from read_parquet('{_quoted(part)}')"  # noqa: S608 - a path, quoted
                lines = connection.execute(query).fetchnumpy()["line"]
            self._is_done[np.asarray(lines)] = True
            fast += len(lines)
        return fast

    def _take_the_rest(self) -> None:
        for number, line in enumerate(self._run.open(self._type), start=1):
            if number >= len(self._is_done) or not self._is_done[number]:
                self._take(number, line)

    # DuckDB

    def _open(self, part: Path) -> duckdb.DuckDBPyConnection:
        target = self._context.table(self._type, self._run.run)
        places = {part: target} if part.name == target.name else {}
        return open_duckdb(
            self._careful.aside,
            cipher=self._context.cipher,
            places=places,
            memory_limit=self._context.memory_limit,
        )

    def _copy(self, lines: Iterable[bytes], name: str | None = None) -> None:
        """Write the lines that are in order into one part."""
        name = name or self._context.table(self._type, self._run.run).name
        part = self._folder / name
        connection = self._open(part)
        create_macros(connection, self._context.zone)
        connection.execute("set preserve_insertion_order = false")  # else it waits for rows, and holds them
        try:
            with _Pipe(lines, self._careful.step.advance) as source:
                try:
                    query = f"copy ({self._select(source)}) to '{_quoted(part)}' ({PARQUET})"
                    connection.execute(query)
                finally:
                    connection.close()  # else it holds the pipe open, and its writer waits
            self.parts.append(part)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _copy_pieces(self) -> None:
        self.parts = []
        piece: list[bytes] = []
        for line in self._prepared():
            piece.append(line)
            if len(piece) == _PIECE_LINES:
                self._copy_piece(piece)
                piece = []
        self._copy_piece(piece)

    def _copy_piece(self, piece: list[bytes], *, is_sifted: bool = False) -> None:
        if not piece:
            return
        try:
            self._copy(piece, self._context.name(f"piece-{len(self.parts):06d}.parquet"))
        except duckdb.Error:
            if not is_sifted:
                self._copy_piece([line for line in piece if _is_plain(line)], is_sifted=True)
            elif len(piece) > _ALONE:
                middle = len(piece) // 2
                self._copy_piece(piece[:middle], is_sifted=True)
                self._copy_piece(piece[middle:], is_sifted=True)

    def _select(self, source: str) -> str:
        """The statement that turns lines into rows; the names in it are ours, the literals quoted."""
        context, careful = self._context, self._careful
        made = columns.reading(self._type, context.mapping.birth_date, context.excluded_labels)
        kinds = ", ".join(f"'{k}': '{v}'" for k, v in parsed_columns(self._type).items())
        started = f"cast('{careful.started_at.isoformat(sep=' ')}' as TIMESTAMP)"
        version = "regexp_full_match(meta.versionId, '[0-9]{1,18}')"
        common = {
            "resource_id": "rwe_id",
            "site": f"'{context.site}'",
            "run": f"'{self._run.run}'",
            "line": "rwe_line",
            "updated_at": f"coalesce(rwe_moment(meta.lastUpdated), {started})",
            "version_number": f"case when {version} then cast(meta.versionId as BIGINT) else -1 end",
            "landed_at": started,
            "landed_day": f"cast('{careful.landed_day.isoformat()}' as DATE)",
            "has_modifier_extension": "false",
        }
        known = common | made.columns
        tables = LAKE_TABLES[self._type]
        rows = ", ".join(f"cast({known[k]} as {v}) as {k}" for k, v in tables.items() if k != CONTENT_HASH)
        checks = " and ".join(f"({check})" for check in dict.fromkeys(made.checks))
        content = columns.content_hash(self._type)
        return f"""
            select {", ".join(content if k == CONTENT_HASH else k for k in tables)} from (
                select {rows}
                from read_ndjson(
                    '{source}', columns = {{{kinds}}}, compression = 'uncompressed',
                    maximum_object_size = {_LONGEST_FED}
                )
                where {checks}
            )
        """  # noqa: S608


class _Pipe:
    """Lines on their way to DuckDB, written by a thread, whose error comes out at the end."""

    def __init__(self, lines: Iterable[bytes], advance: Callable[[int], None]) -> None:
        self._lines, self._advance = lines, advance
        self._error: BaseException | None = None
        self._thread = Thread(target=self._write, daemon=True)

    def __enter__(self) -> str:
        self._reading, self._writing = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # more than the system lets this user have: then as it is
                fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, _BATCH_BYTES)
        self._thread.start()
        return f"/dev/fd/{self._reading}"

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._reading)
        self._thread.join()
        if self._error is not None and not isinstance(self._error, BrokenPipeError):
            raise self._error

    def _write(self) -> None:
        try:
            for batch, count in _batches(self._lines):
                rest = memoryview(batch)
                while rest:
                    rest = rest[os.write(self._writing, rest) :]
                self._advance(count)
        except BaseException as e:
            self._error = e
        finally:
            os.close(self._writing)


def _batches(lines: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _BATCH_BYTES:
            held.append(b"")
            yield b"\n".join(held), len(held) - 1
            held, size = [], 0
    if held:
        held.append(b"")
        yield b"\n".join(held), len(held) - 1


def _is_plain(line: bytes) -> bool:
    """Whether a line has none of what DuckDB refuses and msgspec lets pass where it does not read: a key that
    stands twice, a number without bounds, half a character."""
    try:
        json.loads(line, object_pairs_hook=_without_repeats, parse_float=_bounded)
    except (ValueError, RecursionError):
        return False
    return b"\\ud" not in line.lower()


def _without_repeats(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError


def _bounded(text: str) -> None:
    if math.isinf(float(text)):
        raise ValueError


def _quoted(path: Path) -> str:
    return address(path).replace("'", "''")
