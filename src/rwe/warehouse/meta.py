"""The tables `meta.*`: sites and runs, what became of every landed line, what the checks found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from rwe.config import Workspace
from rwe.lake.write import RunCounts
from rwe.study import Study
from rwe.warehouse.models import Finding, describe_table
from rwe.warehouse.shown import Rules
from rwe.warehouse.study_tables import STUDY_TABLES

_TEXT, _INT, _AT = pa.string(), pa.int64(), pa.timestamp("us")
_Columns = dict[str, tuple[pa.DataType, str]]

_SITE_AND_RUN = {"site": "The hospital.", "run": "The run that landed it."}

#: What becomes of landed lines; their sum is `landed`.
_OUTCOMES = {
    "in_lake": "In use: the latest version of its resource, in the tables of staging.",
    "superseded": "Versions out of use: a later one is there, or a later one says not to use the resource.",
    "deleted": "Latest versions of resources that the server has deleted since.",
    "not_admitted": "Of patients who are kept out: opted out, or without the consent that the site asks for.",
    "duplicate": "Identical to the version before; not stored again.",
    "quarantined": "Refused, each with a row in meta.quarantine whose action is reject.",
    "not_mapped": "Of a type that no table is made of.",
    "tombstones": "Lines that say that a resource was deleted.",
}


@dataclass(frozen=True)
class SiteCounts:
    """What became of the lines that landed of one site, over all its runs: landed = the sum of the others.

    `in_lake` are the resources in use, `superseded` their versions of before; `deleted` are resources that
    the server deleted since, `tombstones` the lines that say so.
    """

    site: str
    landed: int
    in_lake: int
    superseded: int
    deleted: int
    not_admitted: int
    duplicate: int
    quarantined: int
    not_mapped: int
    tombstones: int


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
    describe_table(
        connection,
        "meta.admission",
        "One row per site and reason for which patients who landed are kept out.",
        {
            "site": "The hospital.",
            "reason": "opt_out, no_consent (none in force), consent_denied or erased.",
            "patients": "Patients kept out.",
        },
    )
    connection.execute(
        """
        create table meta.quarantine as
        select site, run, resource_type, resource_pseudonym, rule, json_path, action, line
        from lake.quarantine order by all
        """
    )
    describe_table(
        connection,
        "meta.quarantine",
        "One row per resource and rule that it breaks. No value of the record is kept.",
        {
            **_SITE_AND_RUN,
            "resource_type": "The FHIR type; _unreadable: the line is no resource, _deleted: a tombstone.",
            "resource_pseudonym": "Pseudonym of the record; null where it has no legal id.",
            "rule": "Name of the rule.",
            "json_path": "Where in the resource. `?` stands for a name that FHIR does not know there.",
            "action": "reject: the resource does not count; flag: it does, maybe without this field.",
            "line": "Number of the line in the landed file of its type, from 1.",
        },
    )


def count_sites(connection: duckdb.DuckDBPyConnection) -> tuple[SiteCounts, ...]:
    """The sums of meta.reconciliation by site, in the order of their names; none where nothing landed."""
    names = [f.name for f in dataclasses.fields(SiteCounts) if f.name != "site"]
    sums = ", ".join(f"sum({name})::bigint" for name in names)
    found = connection.execute(
        f"select site, {sums} from meta.reconciliation group by site order by site"  # noqa: S608
    ).fetchall()
    return tuple(SiteCounts(*row) for row in found)


def insert_previous_counts(
    connection: duckdb.DuckDBPyConnection, counts: Sequence[tuple[str, str, int]]
) -> None:
    """Make meta.previous_count from (site, resource type, resources in use) of the build before."""
    _table(
        connection,
        "previous_count",
        "One row per site and type of what the build before had in use; none where there was no build.",
        {
            "site": (_TEXT, "The hospital."),
            "resource_type": (_TEXT, "The FHIR type."),
            "in_lake": (_INT, "Resources in use then."),
        },
        counts,
    )


@dataclass(frozen=True)
class Built:
    """What a database says of itself. `built_at` is aware."""

    content_sha256: str
    code_version: str
    built_at: datetime
    studies: Sequence[Study]
    rules: Rules


def write_build(connection: duckdb.DuckDBPyConnection, built: Built) -> None:
    """Make meta.build."""
    names = ", ".join(sorted(f"{s.name} {s.protocol.version}" for s in built.studies))
    _table(
        connection,
        "build",
        "One row per build of this database: there is one.",
        {
            "content_sha256": (_TEXT, "SHA-256 over the sorted rows of cohort.*: its identity."),
            "code_version": (_TEXT, "Version of rwe that built it."),
            "built_at": (_AT, "When, in UTC."),
            "studies": (_TEXT, "The studies in it, each with the version of its protocol."),
            "dates": (
                _TEXT,
                "exact; anchored: moved so that each patient's first index event is 2000-01-01.",
            ),
            "min_cell": (
                _INT,
                "Texts, rare codes and index years show only where so many patients share one.",
            ),
            "top_code_age": (_INT, "Older ages are shown as this one; null: they are shown as they are."),
        },
        [
            (
                built.content_sha256,
                built.code_version,
                _naive_utc(built.built_at),
                names,
                built.rules.dates,
                built.rules.min_cell,
                built.rules.top_code_age,
            )
        ],
    )


def write_quality(connection: duckdb.DuckDBPyConnection, findings: Sequence[Finding]) -> None:
    """Make meta.quality."""
    _table(
        connection,
        "quality",
        "One row per check.",
        {
            "check": (_TEXT, "Its name: the file under sql/checks/."),
            "severity": (_TEXT, "error: the database is not published if a row breaks it; or warning."),
            "rows": (_INT, "How many rows broke it; 0 is well."),
            "message": (_TEXT, "What it means, and where the rows are."),
        },
        [dataclasses.astuple(f) for f in findings],
    )


def write_codelist(connection: duckdb.DuckDBPyConnection) -> None:
    """Make meta.codelist from study.codelist."""
    connection.execute("create table meta.codelist as select * from study.codelist")
    comment, columns = STUDY_TABLES["codelist"]
    describe_table(
        connection, "meta.codelist", comment, {name: words for name, (_, words) in columns.items()}
    )


_DICTIONARY = {
    "table_schema": "The schema.",
    "table_name": "The table.",
    "table_comment": "What one row of the table is.",
    "position": "The column's place in its table, from 1.",
    "column_name": "The column.",
    "data_type": "Its type in DuckDB.",
    "comment": "What the column holds.",
}


def write_dictionary(connection: duckdb.DuckDBPyConnection) -> None:
    """Make meta.column, itself in it: it is created empty, described, and filled last."""
    described = """
        select
            c.schema_name as table_schema, c.table_name, t.comment as table_comment,
            c.column_index as position, c.column_name, c.data_type, c.comment
        from duckdb_columns() as c
        join duckdb_tables() as t using (database_name, schema_name, table_name)
        where c.database_name = current_database()
            and c.schema_name in ('study', 'ref', 'staging', 'cohort', 'meta')
        order by c.schema_name, c.table_name, c.column_index
    """
    connection.execute(f'create table meta."column" as select * from ({described}) where false')  # noqa: S608
    comment = "One row per column of a table: the data dictionary."
    describe_table(connection, 'meta."column"', comment, _DICTIONARY)
    connection.execute(f'insert into meta."column" {described}')


def _insert_sites(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, runs: Sequence[RunCounts]
) -> None:
    zones = {r.site: r.time_zone for r in runs}
    zones |= {name: site.time_zone for name, site in workspace.settings.sites.items()}
    _table(
        connection,
        "site",
        "One row per hospital.",
        {
            "site": (_TEXT, "Its name in the settings."),
            "time_zone": (_TEXT, "IANA name; it decides the day of instants written in Z."),
        },
        sorted(zones.items()),
    )


def _insert_runs(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunCounts]) -> None:
    columns: _Columns = {
        "site": (_TEXT, "The hospital."),
        "run": (_TEXT, "Name of the run: when it began, in UTC, and four random digits."),
        "route": (_TEXT, "How the data came: search, export or import."),
        "server_software": (_TEXT, "What the server says it is; null where it does not, or files came."),
        "manifest_sha256": (
            _TEXT,
            "SHA-256 of the run's manifest, which names the hash of every landed file.",
        ),
        "finished_at": (_AT, "When all of it had landed, in UTC."),
        "last_updated_at": (_AT, "Latest meta.lastUpdated that landed, in UTC; null where there is none."),
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
    _table(connection, "run", "One row per run in the lake.", columns, rows)


def _insert_reconciliation(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunCounts]) -> None:
    counts = [
        (r.site, r.run, t, c.landed, c.duplicate, c.quarantined, c.not_mapped, c.tombstones)
        for r in runs
        for t, c in sorted(r.types.items())
    ]
    known = ("landed", "duplicate", "quarantined", "not_mapped", "tombstones")
    kinds = dict.fromkeys(("site", "run", "resource_type"), _TEXT) | dict.fromkeys(known, _INT)
    _register(connection, kinds, counts)
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
    describe_table(
        connection,
        "meta.reconciliation",
        f"One row per run and type of what landed: landed = {' + '.join(_OUTCOMES)}.",
        {
            **_SITE_AND_RUN,
            "resource_type": "The FHIR type; _unreadable: no resource, _unknown: no type of R4, _deleted.",
            "landed": "Lines that landed.",
            **_OUTCOMES,
        },
    )


def _table(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    comment: str,
    columns: _Columns,
    rows: Sequence[tuple[Any, ...]],
) -> None:
    _register(connection, {column: kind for column, (kind, _) in columns.items()}, rows)
    connection.execute(f"create table meta.{name} as select * from incoming_rows")  # noqa: S608
    connection.unregister("incoming_rows")
    describe_table(connection, f"meta.{name}", comment, {c: words for c, (_, words) in columns.items()})


def _register(
    connection: duckdb.DuckDBPyConnection, kinds: dict[str, pa.DataType], rows: Sequence[tuple[Any, ...]]
) -> None:
    data = [pa.array([r[i] for r in rows], type=kind) for i, kind in enumerate(kinds.values())]
    connection.register("incoming_rows", pa.Table.from_arrays(data, names=list(kinds)))


def _naive_utc(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
