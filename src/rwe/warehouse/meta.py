"""The tables `meta.*`: sites and runs, what became of every landed line, what the checks found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from rwe.config import Workspace
from rwe.lake.write import RunCounts
from rwe.study import Study
from rwe.warehouse.models import Finding

_TEXT, _INT, _AT = pa.string(), pa.int64(), pa.timestamp("us")


def create(connection: duckdb.DuckDBPyConnection, workspace: Workspace, runs: Sequence[RunCounts]) -> None:
    """Create the schema `meta` and what is known before the models run."""
    connection.execute("create schema meta")
    _insert_sites(connection, workspace, runs)
    _insert_runs(connection, runs)
    _insert_reconciliation(connection, runs)
    connection.execute(
        """
        create table meta.admission as
        select site, reason, count(distinct patient_id) as patients
        from lake.not_admitted
        where patient_id in (select resource_id from lake.patient_alive)
        group by site, reason order by site, reason
        """
    )
    _comment(connection, "admission", "One row a site and reason: patients who landed and are kept out.")
    connection.execute(
        """
        create table meta.quarantine as
        select site, run, resource_type, resource_pseudonym, rule, json_path, action, line
        from lake.quarantine order by all
        """
    )
    _comment(
        connection, "quarantine", "One row a resource refused or flagged: by which rule, at which JSON path."
    )


def finish(
    connection: duckdb.DuckDBPyConnection,
    *,
    content_sha256: str,
    code_version: str,
    built_at: datetime,
    studies: Sequence[Study],
    findings: Sequence[Finding],
) -> None:
    """Write what is known after the models and checks ran."""
    names = ", ".join(sorted(f"{s.name} {s.protocol.version}" for s in studies))
    _table(
        connection,
        "build",
        "One row: the identity of this database. content_sha256 is over the sorted rows of cohort.*.",
        {"content_sha256": _TEXT, "code_version": _TEXT, "built_at": _AT, "studies": _TEXT},
        [(content_sha256, code_version, _naive_utc(built_at), names)],
    )
    _table(
        connection,
        "quality",
        "One row a check; rows is how many rows broke it.",
        {"check": _TEXT, "severity": _TEXT, "rows": _INT, "message": _TEXT},
        [dataclasses.astuple(f) for f in findings],
    )
    connection.execute("create table meta.codelist as select * from study.codelist")
    _comment(connection, "codelist", "One row a code of a code list of a study.")
    connection.execute(
        """
        create table meta.column as
        select
            c.schema_name as table_schema, c.table_name, t.comment as table_comment,
            c.column_index as position, c.column_name, c.data_type, c.comment
        from duckdb_columns() as c
        join duckdb_tables() as t using (database_name, schema_name, table_name)
        where c.database_name = current_database() and c.schema_name in ('study', 'staging', 'cohort', 'meta')
        order by c.schema_name, c.table_name, c.column_index
        """
    )
    _comment(connection, '"column"', "One row a column of a table: the data dictionary.")


def _insert_sites(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, runs: Sequence[RunCounts]
) -> None:
    zones = {r.site: r.time_zone for r in runs}
    zones |= {name: site.time_zone for name, site in workspace.settings.sites.items()}
    _table(
        connection,
        "site",
        "One row a hospital. time_zone decides the day of instants written in Z.",
        {"site": _TEXT, "time_zone": _TEXT},
        sorted(zones.items()),
    )


def _insert_runs(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunCounts]) -> None:
    columns = {
        "site": _TEXT,
        "run": _TEXT,
        "route": _TEXT,
        "server_software": _TEXT,
        "manifest_sha256": _TEXT,
        "finished_at": _AT,
        "last_updated_at": _AT,
    }
    rows = [
        (
            r.site,
            r.run,
            r.route,
            r.server_software,
            r.manifest_sha256,
            _naive_utc(r.finished_at),
            _naive_utc(r.last_updated_at) if r.last_updated_at else None,
        )
        for r in runs
    ]
    _table(connection, "run", "One row a run in the lake; all moments are in UTC.", columns, rows)


def _insert_reconciliation(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunCounts]) -> None:
    counts = [
        (r.site, r.run, t, c.landed, c.duplicate, c.quarantined, c.not_mapped, c.tombstones)
        for r in runs
        for t, c in sorted(r.types.items())
    ]
    columns = {"site": _TEXT, "run": _TEXT, "resource_type": _TEXT}
    columns |= dict.fromkeys(("landed", "duplicate", "quarantined", "not_mapped", "tombstones"), _INT)
    _register(connection, columns, counts)
    connection.execute(
        """
        create table meta.reconciliation as
        select
            c.site, c.run, c.resource_type, c.landed,
            coalesce(v.in_lake, 0) as in_lake,
            coalesce(v.stored - v.alive - v.deleted, 0) as superseded,
            coalesce(v.deleted, 0) as deleted,
            coalesce(v.alive - v.in_lake, 0) as not_admitted,
            c.duplicate, c.quarantined, c.not_mapped, c.tombstones
        from incoming_rows as c
        left join lake.version as v
            on v.site = c.site and v.run = c.run and v.resource_type = c.resource_type
        order by c.site, c.run, c.resource_type
        """
    )
    connection.unregister("incoming_rows")
    _comment(
        connection,
        "reconciliation",
        "One row a run and type: landed = in_lake + superseded + deleted + not_admitted + duplicate"
        " + quarantined + not_mapped + tombstones.",
    )


def _table(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    comment: str,
    columns: dict[str, pa.DataType],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    _register(connection, columns, rows)
    connection.execute(f"create table meta.{name} as select * from incoming_rows")  # noqa: S608
    connection.unregister("incoming_rows")
    _comment(connection, name, comment)


def _register(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, pa.DataType], rows: Sequence[tuple[Any, ...]]
) -> None:
    data = [pa.array([r[i] for r in rows], type=t) for i, t in enumerate(columns.values())]
    connection.register("incoming_rows", pa.Table.from_arrays(data, names=list(columns)))


def _comment(connection: duckdb.DuckDBPyConnection, name: str, comment: str, kind: str = "table") -> None:
    connection.execute(f"comment on {kind} meta.{name} is '{comment.replace(chr(39), chr(39) * 2)}'")


def _naive_utc(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
