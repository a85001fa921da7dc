"""The lake as tables: `lake.TYPE` holds the latest version of every resource, and is gone once models ran."""

from __future__ import annotations

from pathlib import Path

import duckdb

from rwe.lake.schema import LAKE_TABLES, QUARANTINE_COLUMNS, VERSION_ORDER, table_name

_KEYS = ", ".join(VERSION_ORDER)
_LATEST_FIRST = ", ".join(f"{key} desc" for key in VERSION_ORDER)


def create(connection: duckdb.DuckDBPyConnection, lake: Path, quarantine: Path) -> None:
    """Create the schema `lake`: one view a type, with its columns even where no resource of it is there.

    A version is out of use where a later one exists, or where a later one was refused because it says not to
    use the resource. `lake.version` counts all versions, `lake.quarantine` what was refused or flagged.
    """
    connection.execute("create schema lake")
    refused = _read(sorted(quarantine.glob("site=*/run=*.parquet")), QUARANTINE_COLUMNS)
    connection.execute(f"create view lake.quarantine as select * from ({refused})")  # noqa: S608
    counts = []
    for resource_type, columns in LAKE_TABLES.items():
        name = table_name(resource_type)
        files = sorted((lake / resource_type).glob("site=*/run=*.parquet"))
        connection.execute(f"create view lake.{name} as {_latest(resource_type, files, columns)}")
        counts.append(
            f"select site, run, '{resource_type}' as resource_type, count(*) as stored"  # noqa: S608
            f" from ({_read(files, columns)}) group by site, run"
        )
        counts.append(
            f"select site, run, '{resource_type}_latest' as resource_type, count(*) as stored"  # noqa: S608
            f" from lake.{name} group by site, run"
        )
    connection.execute(f"create view lake.version as {' union all '.join(counts)}")


def drop(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop the schema: the published file holds no path of the lake."""
    connection.execute("drop schema lake cascade")


def _read(files: list[Path], columns: dict[str, str]) -> str:
    if not files:
        empty = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in columns.items())
        return f"select {empty} where false"
    names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    return f"select {', '.join(columns)} from read_parquet([{names}], hive_partitioning = false)"  # noqa: S608


def _latest(resource_type: str, files: list[Path], columns: dict[str, str]) -> str:
    rank = f"row_number() over (partition by resource_id order by {_LATEST_FIRST})"
    retired = (
        f"select resource_pseudonym as resource_id, {_KEYS}, true as is_retired"  # noqa: S608
        f" from lake.quarantine where retires and resource_type = '{resource_type}'"
    )
    return f"""
        with version as ({_read(files, columns)}),
        event as (
            select resource_id, {_KEYS}, false as is_retired from version
            union all {retired}
        ),
        latest as (select * from event qualify {rank} = 1)
        select version.* from version
        join latest on version.resource_id = latest.resource_id
            and version.run = latest.run and version.line = latest.line
        where not latest.is_retired
    """  # noqa: S608
