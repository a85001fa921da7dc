"""Writes the rows of one run as Parquet: sorted, synced, moved into place when whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rwe.crypt import Cipher
from rwe.lake.connection import open_duckdb
from rwe.lake.schema import LAKE_TABLES, QUARANTINE_COLUMNS, TOMBSTONE_COLUMNS, VERSION_ORDER
from rwe.lake.sealed import address, parquet_files

_LONGEST_LINE = 256 * 1024 * 1024

#: An incoming version was missed by a run since it was stored last: then it is no duplicate.
_CAME_BACK = """exists (
    select 1 from gone
    where gone.resource_type = '{type}' and gone.resource_id = incoming.resource_id
        and gone.deleted_at is null and gone.landed_at < incoming.landed_at
        and not exists (
            select 1 from earlier
            where earlier.resource_id = incoming.resource_id and earlier.landed_at > gone.landed_at
        )
)"""


def store_versions(
    resource_type: str, ndjson: Path, target: Path, tombstones: Sequence[Path], cipher: Cipher | None = None
) -> int:
    """Write the new versions of one type as Parquet, leaving out what is stored already beside `target`.

    `tombstones` are the tombstone files of the site's runs so far. What does not fit into memory is spilled
    beside `ndjson`. Files are encrypted with `cipher`, where
    their names end in `.enc`. Returns the rows written.
    """
    earlier = [address(p) for p in parquet_files(target.parent, "run=*")]
    order = ", ".join(VERSION_ORDER)
    seen = f"select resource_id, {order}, content_hash, false as is_new from "  # noqa: S608
    part = ndjson.parent / target.name
    with open_duckdb(ndjson.parent, cipher=cipher, places={part: target}) as connection:
        source = _ndjson(ndjson, LAKE_TABLES[resource_type])
        connection.execute(f"create table incoming as select * from {source}")  # noqa: S608
        if earlier:
            connection.read_parquet(earlier, hive_partitioning=False).create_view("earlier")
        else:
            connection.execute("create view earlier as select * from incoming where false")
        if tombstones:
            connection.read_parquet([address(p) for p in tombstones], hive_partitioning=False).create_view(
                "gone"
            )
        came_back = _CAME_BACK.format(type=resource_type) if tombstones else "false"
        connection.execute(
            f"""
            copy (
                with versions as (
                    {seen.replace("false", "true")} incoming union all {seen} earlier
                ),
                neighbours as (
                    select run, line, is_new, content_hash,
                        lag(content_hash) over (partition by resource_id order by {order}) as hash_before
                    from versions
                )
                select incoming.* from incoming
                join neighbours on neighbours.line = incoming.line and neighbours.is_new
                where neighbours.hash_before is distinct from neighbours.content_hash or {came_back}
                order by incoming.resource_id, incoming.line
            ) to '{_quoted(part)}' (format parquet, compression zstd)
            """  # noqa: S608 - names come from schema.py, the path is quoted
        )
        found = connection.read_parquet(address(part)).aggregate("count(*)").fetchone()
    _move_synced(part, target)
    return int(found[0]) if found else 0


def store_tombstones(ndjson: Path, target: Path, cipher: Cipher | None = None) -> None:
    """Write tombstones as Parquet."""
    _store_sorted(ndjson, TOMBSTONE_COLUMNS, "resource_type, resource_id, line", target, cipher)


def store_quarantine(ndjson: Path, target: Path, cipher: Cipher | None = None) -> None:
    """Write what was refused or flagged as Parquet."""
    _store_sorted(ndjson, QUARANTINE_COLUMNS, "resource_type, line, action, rule, json_path", target, cipher)


def _store_sorted(
    ndjson: Path, columns: dict[str, str], order: str, target: Path, cipher: Cipher | None
) -> None:
    part = ndjson.parent / target.name
    with open_duckdb(ndjson.parent, cipher=cipher, places={part: target}) as connection:
        connection.execute(
            f"copy (select * from {_ndjson(ndjson, columns)} order by {order})"  # noqa: S608
            f" to '{_quoted(part)}' (format parquet, compression zstd)"
        )
    _move_synced(part, target)


def _ndjson(path: Path, columns: dict[str, str]) -> str:
    """The rows of an NDJSON file with exactly these columns, as a table function of DuckDB."""
    kinds = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    return (
        f"read_json('{_quoted(path)}', columns = {{{kinds}}},"
        f" format = 'newline_delimited', maximum_object_size = {_LONGEST_LINE})"
    )


def _quoted(path: Path) -> str:
    return address(path).replace("'", "''")


def _move_synced(part: Path, target: Path) -> None:
    private_folder(target.parent)
    part.chmod(0o600)
    with part.open("rb") as f:
        os.fsync(f.fileno())
    part.replace(target)


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can look into."""
    for folder in reversed(
        [path, *path.parents]
    ):  # `parents=True` would make those between with another mode
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
