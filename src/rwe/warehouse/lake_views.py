"""The lake as tables: `lake.TYPE` holds the latest version of every resource, and is gone once models ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from rwe.admission import SiteAdmission
from rwe.crypt import Cipher
from rwe.lake.schema import LAKE_TABLES, QUARANTINE_COLUMNS, TOMBSTONE_COLUMNS, VERSION_ORDER, table_name
from rwe.lake.sealed import address, attach, check_keys, parquet_files
from rwe.landing import DELETED

_KEYS = ", ".join(VERSION_ORDER)
_LATEST_FIRST = ", ".join(f"{key} desc" for key in VERSION_ORDER)
_NEVER_LOWER = 2**63 - 1  # of a deletion and a version at one instant, the deletion was last


def create(
    connection: duckdb.DuckDBPyConnection,
    lake: Path,
    quarantine: Path,
    admission: Mapping[str, SiteAdmission] | None = None,
    cipher: Cipher | None = None,
) -> None:
    """Create the schema `lake`: one view a type, with its columns even where no resource of it is there.

    A version is out of use where a later one exists, where a later one was refused because it says not to
    use the resource, or where the resource was deleted since. Patients who are not admitted are in no view,
    nor is what belongs to them. `lake.version` counts all versions by what became of them,
    `lake.quarantine` holds what was refused or flagged, `lake.not_admitted` who is kept out, and why.
    Encrypted files are read through `cipher`. Raises LakeError where it is not theirs.
    """
    attach(connection, cipher)
    for folder, pattern in ((lake, "*/site=*/run=*"), (quarantine, "site=*/run=*")):
        check_keys(parquet_files(folder, pattern), cipher)
    connection.execute("create schema lake")
    refused = _read(parquet_files(quarantine, "site=*/run=*"), QUARANTINE_COLUMNS)
    connection.execute(f"create view lake.quarantine as select * from ({refused})")  # noqa: S608
    gone = _read(parquet_files(lake / DELETED, "site=*/run=*"), TOMBSTONE_COLUMNS)
    connection.execute(f"create view lake.tombstone as select * from ({gone})")  # noqa: S608
    files = {t: parquet_files(lake / t, "site=*/run=*") for t in LAKE_TABLES}
    for resource_type, columns in LAKE_TABLES.items():
        name = table_name(resource_type)
        connection.execute(f"create view lake.{name}_stored as {_read(files[resource_type], columns)}")
        connection.execute(f"create table lake.{name}_dead as {_dead(resource_type)}")
        connection.execute(f"create view lake.{name}_alive as {_alive(resource_type)}")
    _create_not_admitted(connection, admission or {})
    for resource_type, columns in LAKE_TABLES.items():
        connection.execute(
            f"create view lake.{table_name(resource_type)} as {_admitted(resource_type, columns)}"
        )
    counts = " union all ".join(_counts(resource_type) for resource_type in LAKE_TABLES)
    connection.execute(f"create view lake.version as {counts}")


def drop(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop the schema: the published file holds no path of the lake."""
    tables = connection.execute(
        "select table_name from duckdb_tables() where schema_name = 'lake'"
    ).fetchall()
    for (name,) in tables:
        # DuckDB 1.5 cannot commit a cascade over a table filled in the same transaction.
        connection.execute(f"drop table lake.{name} cascade")
    connection.execute("drop schema lake cascade")


def _read(files: list[Path], columns: dict[str, str]) -> str:
    if not files:
        empty = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in columns.items())
        return f"select {empty} where false"
    names = ", ".join("'" + address(path).replace("'", "''") + "'" for path in files)
    return f"select {', '.join(columns)} from read_parquet([{names}], hive_partitioning = false)"  # noqa: S608


def _alive(resource_type: str) -> str:
    """The latest version of each resource that is neither retired nor deleted."""
    name = table_name(resource_type)
    dead = f"select 1 from lake.{name}_dead as dead where dead.run = stored.run and dead.line = stored.line"  # noqa: S608
    return f"select * from lake.{name}_stored as stored where not exists ({dead})"  # noqa: S608


def _dead(resource_type: str) -> str:
    """The versions out of use, by run and line. They are few, and looked up once: whether a version is the
    latest is asked for by every model that reads the type.

    A tombstone with the server's time takes its place among the versions. One without was found missing by
    its run: it outlives every version that landed until then, whatever the clocks said.
    """
    rank = f"row_number() over (partition by resource_id order by {_LATEST_FIRST})"
    return f"""
        with missing as (
            select resource_id, max(landed_at) as missed_at from lake.tombstone
            where resource_type = '{resource_type}' and deleted_at is null
            group by resource_id
        ),
        event as (
            select stored.resource_id, {", ".join(f"stored.{key}" for key in VERSION_ORDER)}, false as is_over
            from lake.{table_name(resource_type)}_stored as stored
            left join missing on missing.resource_id = stored.resource_id
            where missing.missed_at is null or stored.landed_at > missing.missed_at
            union all
            select resource_pseudonym as resource_id, {_KEYS}, true as is_over
            from lake.quarantine where retires and resource_type = '{resource_type}'
            union all
            select resource_id, deleted_at as updated_at, {_NEVER_LOWER} as version_number,
                landed_at, run, line, true as is_over
            from lake.tombstone where resource_type = '{resource_type}' and deleted_at is not null
        ),
        latest as (select * from event qualify {rank} = 1)
        select stored.run, stored.line from lake.{table_name(resource_type)}_stored as stored
        left join latest on stored.resource_id = latest.resource_id
            and stored.run = latest.run and stored.line = latest.line and not latest.is_over
        where latest.resource_id is null
    """  # noqa: S608


def _patient_column(columns: dict[str, str], resource_type: str) -> str | None:
    if resource_type == "Patient":
        return "resource_id"
    return "patient_id" if "patient_id" in columns else None


def _admitted(resource_type: str, columns: dict[str, str]) -> str:
    alive = f"select * from lake.{table_name(resource_type)}_alive"  # noqa: S608
    patient = _patient_column(columns, resource_type)
    kept_out = "select patient_id from lake.not_admitted"
    return f"{alive} where {patient} not in ({kept_out})" if patient else alive


def _create_not_admitted(
    connection: duckdb.DuckDBPyConnection, admission: Mapping[str, SiteAdmission]
) -> None:
    sites = list(admission.items())
    policy = pa.table(
        {
            "site": pa.array([name for name, _ in sites], pa.string()),
            "today": pa.array([a.today for _, a in sites], pa.date32()),
            "needs_consent": pa.array([a.needs_consent for _, a in sites], pa.bool_()),
        }
    )
    pairs = [(name, patient) for name, a in sites for patient in sorted(a.opted_out)]
    opted_out = pa.table(
        {
            "site": pa.array([name for name, _ in pairs], pa.string()),
            "patient_id": pa.array([patient for _, patient in pairs], pa.string()),
        }
    )
    for name, content in (("policy", policy), ("opted_out", opted_out)):
        connection.register("incoming_rows", content)
        connection.execute(f"create table lake.{name} as select * from incoming_rows")  # noqa: S608
        connection.unregister("incoming_rows")
    connection.execute(f"create table lake.not_admitted as {_NOT_ADMITTED}")


#: A day known only to the month or year stands for its first at the start of a period, its last at the end.
_NOT_ADMITTED = """
    with in_force as (
        select c.patient_id, c.provision_type, coalesce(c.given_last_day, date '0001-01-01') as given_day
        from lake.consent_alive as c
        join lake.policy as p on p.site = c.site
        where c.status = 'active' and coalesce(c.scope_code, 'research') = 'research'
            and (c.start_first_day is null or c.start_first_day <= p.today)
            and (c.end_last_day is null or c.end_last_day >= p.today)
    ),
    decision as (
        select patient_id, bool_and(provision_type is not distinct from 'permit') as is_permitted
        from (
            select *, rank() over (partition by patient_id order by given_day desc) as age from in_force
        )
        where age = 1
        group by patient_id
    ),
    patient as (select distinct site, resource_id as patient_id from lake.patient_stored)
    select o.site, o.patient_id, 'opt_out' as reason
    from lake.opted_out as o
    union all
    select
        patient.site, patient.patient_id,
        case when d.is_permitted is null then 'no_consent' else 'consent_denied' end as reason
    from patient
    join lake.policy as p on p.site = patient.site and p.needs_consent
    left join decision as d on d.patient_id = patient.patient_id
    where not coalesce(d.is_permitted, false)
        and patient.patient_id not in (select patient_id from lake.opted_out)
"""


def _counts(resource_type: str) -> str:
    """Versions of a type by site and run: stored, alive, admitted, and last before a deletion."""
    name = table_name(resource_type)
    deleted = f"""
        select site, run from (
            select * from lake.{name}_stored
            where resource_id in (
                select resource_id from lake.tombstone where resource_type = '{resource_type}'
            )
            qualify row_number() over (partition by resource_id order by {_LATEST_FIRST}) = 1
        )
        where resource_id not in (select resource_id from lake.{name}_alive)
    """  # noqa: S608
    sources = {
        "stored": f"select site, run from lake.{name}_stored",  # noqa: S608
        "alive": f"select site, run from lake.{name}_alive",  # noqa: S608
        "in_lake": f"select site, run from lake.{name}",  # noqa: S608
        "deleted": deleted,
    }
    tagged = " union all ".join(
        f"select site, run, '{kind}' as kind from ({query})"  # noqa: S608
        for kind, query in sources.items()
    )
    sums = ", ".join(f"count(*) filter (where kind = '{kind}') as {kind}" for kind in sources)
    return f"select site, run, '{resource_type}' as resource_type, {sums} from ({tagged}) group by site, run"  # noqa: S608
