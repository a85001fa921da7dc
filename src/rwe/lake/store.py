"""Writes the rows of one run as Parquet: synced, and moved into place when whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from rwe.crypt import Cipher
from rwe.durable import move_whole
from rwe.lake.columns import content_hash
from rwe.lake.connection import open_duckdb
from rwe.lake.schema import (
    CONTENT_HASH,
    LAKE_TABLES,
    QUARANTINE_COLUMNS,
    TOMBSTONE_COLUMNS,
    VERSION_ORDER,
)
from rwe.lake.sealed import address, parquet_files, run_of

#: How rows are written: a higher level takes longer, and makes files no more than two in a hundred smaller.
#: The encodings of Parquet's second version make them nine in a hundred smaller. A thread holds a row group
#: until it is full: small ones take less memory, leave less to write at the end, and are no larger on disk.
PARQUET = "format parquet, parquet_version v2, compression zstd, compression_level 1, row_group_size 30720"

#: DuckDB makes room for two lines of this length in each thread.
_USUAL_LINE = 16 << 20

#: An incoming version may equal the one stored last, and be no duplicate: the resource was gone between. A
#: run missed it since it was stored last, or the server told of a deletion between the two.
_CAME_BACK = """exists (
    select 1 from gone
    where gone.resource_type = '{type}' and gone.resource_id = incoming.resource_id
        and case
            when gone.deleted_at is null
                then gone.landed_at < incoming.landed_at and not exists (
                    select 1 from earlier
                    where earlier.resource_id = incoming.resource_id and earlier.landed_at > gone.landed_at
                )
            else gone.deleted_at < incoming.updated_at and gone.deleted_at >= neighbours.updated_before
        end
)"""


@dataclass(frozen=True)
class Incoming:
    """The rows of one type of one run on their way: Parquet of the fast way (`parts`) and
    NDJSON of the careful way (`rows`), whose longest line has `longest_row` bytes."""

    resource_type: str
    parts: tuple[Path, ...] = ()
    rows: Path | None = None
    longest_row: int = 0


def store_versions(
    incoming: Incoming,
    target: Path,
    tombstones: Sequence[Path],
    cipher: Cipher | None = None,
    *,
    memory_limit: str | None = None,
) -> int:
    """Write the new versions of one type as Parquet, leaving out what is stored already beside `target`.

    What came the careful way goes into `second_file(target)` where there are both.
    `tombstones` are the tombstone files of the site's runs so far. What does not fit into
    memory is spilled beside the sources. Files are encrypted with `cipher`, where their names end in `.enc`.
    Returns the rows written.
    """
    earlier = [p for p in parquet_files(target.parent, "run=*") if run_of(p) != run_of(target)]
    folder = (incoming.rows or incoming.parts[0]).parent
    of_rows = second_file(target) if incoming.parts else target
    made, made_of_rows = (folder / "made" / incoming.resource_type / t.name for t in (target, of_rows))
    private_folder(made.parent)
    places = {made: target, made_of_rows: of_rows}
    places |= {part: target for part in incoming.parts if part.name == target.name}
    with open_duckdb(folder, cipher=cipher, places=places, memory_limit=memory_limit) as connection:
        _view_sources(connection, incoming)
        _view(connection, "earlier", earlier, "incoming")
        total = _count(connection, "select count(*) from incoming")
        taken = total
        if _has_companions(connection, has_earlier=bool(earlier)):
            taken = _find_new(connection, incoming.resource_type, tombstones)
        chosen = "" if taken == total else " where line in (select line from taken)"
        if len(incoming.parts) == 1 and not chosen:
            made = incoming.parts[0]
        elif incoming.parts:
            _copy(connection, f"incoming_parts{chosen}", made)
        if incoming.rows:
            _copy(connection, f"incoming_rows{chosen}", made_of_rows)
    if incoming.parts:
        _move(made, target)
    if incoming.rows:
        _move(made_of_rows, of_rows)
    return taken


def second_file(target: Path) -> Path:
    """The file of a run's rows that came the careful way, beside those that came the fast way."""
    return target.with_name(target.name.replace(".parquet", ".careful.parquet"))


def _count(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    found = connection.execute(query).fetchone()
    return int(found[0]) if found else 0


def _copy(connection: duckdb.DuckDBPyConnection, source: str, to: Path) -> None:
    connection.execute(f"copy (select * from {source}) to '{_quoted(to)}' ({PARQUET})")  # noqa: S608


def _view_sources(connection: duckdb.DuckDBPyConnection, incoming: Incoming) -> None:
    names = list(LAKE_TABLES[incoming.resource_type])
    sources = []
    if incoming.parts:
        parts = ", ".join(f"'{_quoted(part)}'" for part in incoming.parts)
        source = f"read_parquet([{parts}], hive_partitioning = false)"
        connection.execute(f"create view incoming_parts as select {', '.join(names)} from {source}")  # noqa: S608
        sources.append("select * from incoming_parts")
    if incoming.rows:
        made = [content_hash(incoming.resource_type) if n == CONTENT_HASH else n for n in names]
        kinds = {n: k for n, k in LAKE_TABLES[incoming.resource_type].items() if n != CONTENT_HASH}
        lines = _ndjson(incoming.rows, kinds, max(_USUAL_LINE, incoming.longest_row + 1024))
        connection.execute(f"create view incoming_rows as select {', '.join(made)} from {lines}")  # noqa: S608
        sources.append("select * from incoming_rows")
    connection.execute(f"create view incoming as {' union all '.join(sources)}")


def _view(connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[Path], like: str) -> None:
    """A view of Parquet files, or of none with the columns of another one."""
    if files:
        found = connection.read_parquet([address(p) for p in files], hive_partitioning=False)
        found.create_view(name)
    else:
        connection.execute(f"create view {name} as select * from {like} where false")  # noqa: S608


def _has_companions(connection: duckdb.DuckDBPyConnection, *, has_earlier: bool) -> bool:
    """Whether any incoming version is of a resource of which there is another version."""
    others = " union all select resource_id from earlier" if has_earlier else ""
    found = connection.execute(
        f"select count(*) > count(distinct resource_id) from (select resource_id from incoming{others})"  # noqa: S608
    ).fetchone()
    return bool(found and found[0])


def _find_new(connection: duckdb.DuckDBPyConnection, resource_type: str, tombstones: Sequence[Path]) -> int:
    """Make `taken`, the lines of `incoming` that say something new; how many. Only keys are in memory."""
    order = ", ".join(VERSION_ORDER)
    seen = f"select resource_id, {order}, content_hash, "
    if tombstones:
        gone = connection.read_parquet([address(p) for p in tombstones], hive_partitioning=False)
        gone.create_view("gone")
    came_back = _CAME_BACK.format(type=resource_type) if tombstones else "false"
    connection.execute(
        f"""
        create temp table taken as
        with versions as (
            {seen} true as is_new from incoming union all {seen} false from earlier
        ),
        neighbours as (
            select *,
                lag(content_hash) over (partition by resource_id order by {order}) as hash_before,
                lag(updated_at) over (partition by resource_id order by {order}) as updated_before
            from versions
        )
        select incoming.line from neighbours
        join (select resource_id, line, landed_at, updated_at from incoming) as incoming
            on neighbours.line = incoming.line and neighbours.is_new
        where neighbours.hash_before is distinct from neighbours.content_hash or {came_back}
        """  # noqa: S608
    )
    return _count(connection, "select count(*) from taken")


def store_tombstones(ndjson: Path, target: Path, cipher: Cipher | None = None) -> None:
    """Write tombstones as Parquet."""
    _store_sorted(ndjson, TOMBSTONE_COLUMNS, "resource_type, resource_id, line", target, cipher)


def store_quarantine(ndjson: Path, target: Path, cipher: Cipher | None = None) -> None:
    """Write what was refused or flagged as Parquet."""
    _store_sorted(ndjson, QUARANTINE_COLUMNS, "resource_type, line, action, rule, json_path", target, cipher)


def _store_sorted(
    ndjson: Path, kinds: dict[str, str], order: str, target: Path, cipher: Cipher | None
) -> None:
    part = ndjson.parent / target.name
    with open_duckdb(ndjson.parent, cipher=cipher, places={part: target}) as connection:
        connection.execute(
            f"copy (select * from {_ndjson(ndjson, kinds)} order by {order})"  # noqa: S608
            f" to '{_quoted(part)}' ({PARQUET})"
        )
    _move(part, target)


def _ndjson(path: Path, kinds: dict[str, str], longest_line: int = _USUAL_LINE) -> str:
    """The rows of an NDJSON file with exactly these columns, as a table function of DuckDB."""
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in kinds.items())
    return (
        f"read_json('{_quoted(path)}', columns = {{{columns}}},"
        f" format = 'newline_delimited', maximum_object_size = {longest_line})"
    )


def _quoted(path: Path) -> str:
    return address(path).replace("'", "''")


def _move(part: Path, target: Path) -> None:
    private_folder(target.parent)
    move_whole(part, target)


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can look into."""
    for folder in reversed(
        [path, *path.parents]
    ):  # `parents=True` would make those between with another mode
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
