"""Results as a table for people, or as CSV, JSON and Parquet for programs; written by us, never by DuckDB.

Rows stream: of a result of any size a few batches are in memory. A file is complete or absent, mode 0600,
and never takes the place of another unless that is asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, Literal, get_args

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from rwe.adhoc.session import Rows
from rwe.durable import sync
from rwe.errors import RweError, UsageError

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
_BY_SUFFIX: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}

_json = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


def format_of(path: Path) -> Format:
    """The format a file's name asks for. Raises UsageError where it asks for none."""
    try:
        return _BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            "the format is not clear from the name",
            where=str(path),
            advice=f"add --format: {', '.join(FORMATS)}",
        ) from None


def write_rows(rows: Rows, form: Format, out: BinaryIO | IO[bytes]) -> int:
    """Write a result as csv, json or parquet; returns how many rows it has.

    CSV: UTF-8, a header, lines end in LF, null is empty and an empty text is "", nested values are JSON.
    JSON: one array of objects. Parquet: zstd. Raises UsageError where two columns of JSON or Parquet have
    one name.
    """
    if form == "csv":
        return _write_csv(rows, out)
    _refuse_repeats(rows.schema)
    return _write_json(rows, out) if form == "json" else _write_parquet(rows, out)


def _refuse_repeats(schema: pa.Schema) -> None:
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        raise UsageError(f"two columns are called {repeated[0]}", advice="name one with AS")


def _write_csv(rows: Rows, out: BinaryIO | IO[bytes]) -> int:
    flat = pa.schema([pa.field(f.name, pa.string() if _is_nested(f.type) else f.type) for f in rows.schema])
    options = pa_csv.WriteOptions(include_header=True, quoting_style="needed")
    count = 0
    with pa_csv.CSVWriter(out, flat, write_options=options) as writer:
        for batch in rows.batches:
            columns = [
                pa.array(
                    [None if v is None else _json.encode(v).decode() for v in c.to_pylist()], pa.string()
                )
                if _is_nested(c.type)
                else c
                for c in batch.columns
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=flat))
            count += batch.num_rows
    return count


def _is_nested(kind: pa.DataType) -> bool:
    """Types that a CSV has no form for."""
    return bool(pa.types.is_nested(kind) or pa.types.is_interval(kind) or pa.types.is_binary(kind))


def _write_json(rows: Rows, out: BinaryIO | IO[bytes]) -> int:
    count = 0
    out.write(b"[")
    for batch in rows.batches:
        for record in batch.to_pylist():
            out.write(b",\n " if count else b"\n ")
            out.write(_json.encode(record))
            count += 1
    out.write(b"\n]\n")
    return count


def _write_parquet(rows: Rows, out: BinaryIO | IO[bytes]) -> int:
    count = 0
    try:
        with pa_parquet.ParquetWriter(out, rows.schema, compression="zstd") as writer:
            for batch in rows.batches:
                writer.write_batch(batch)
                count += batch.num_rows
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise UsageError("a column's type has no form in Parquet", advice="cast it to varchar") from None
    return count


@contextmanager
def new_file(path: Path, *, force: bool, never_in: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write (mode 0600) that appears at `path` when it is whole, and not at all if that fails.

    Raises UsageError where there is one already and not `force`, where something other than a file is there,
    and for a path in the folder `never_in`: the published one, which holds what was built and nothing else.
    """
    path = path.expanduser()
    _check_target(path, force=force, never_in=never_in)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError:
        raise UsageError(
            "the file cannot be written", where=str(path), advice="check its folder, and who may write there"
        ) from None
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            sync(f)
        _put_in_place(aside, path, force=force)
    except BlockingIOError:
        raise
    except OSError as e:
        raise RweError(
            f"the file could not be written ({os.strerror(e.errno or 0)})",
            where=str(path),
            advice="check the disk",
        ) from None
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def _check_target(path: Path, *, force: bool, never_in: Path | None) -> None:
    if never_in is not None and path.resolve().is_relative_to(never_in.resolve()):
        raise UsageError(
            "nothing is written into the folder of the published database",
            where=str(path),
            advice="choose another place",
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError:
        raise UsageError("the path cannot be used", where=str(path), advice="choose another") from None
    if not stat.S_ISREG(mode):
        raise UsageError("it is there, and no file", where=str(path), advice="choose another name")
    if not force:
        raise _exists(path)


def _put_in_place(aside: Path, path: Path, *, force: bool) -> None:
    if force:
        aside.replace(path)
        return
    try:
        os.link(aside, path)  # fails where a file has come meanwhile; a rename would not
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: Path) -> UsageError:
    return UsageError("the file is there already", where=str(path), advice="add --force to replace it")
