"""Patients in the lake and the quarantine: who is whose other record, and how their rows are taken out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import duckdb
import msgspec

from rwe.config import Workspace
from rwe.durable import move_whole, write_whole
from rwe.errors import LakeError
from rwe.lake.connection import open_duckdb
from rwe.lake.sealed import address, parquet_files
from rwe.lake.write import RunCounts, TypeCounts, runs_in_lake
from rwe.landing import DELETED
from rwe.scratch import scratch_folder


def linked(workspace: Workspace, site: str, persons: Collection[str]) -> frozenset[str]:
    """The pseudonyms with those of all records that were merged with them, however often, as the lake says.

    Raises LakeError where the lake cannot be read.
    """
    files = parquet_files(workspace.lake / "Patient" / f"site={site}", "run=*")
    pairs: set[tuple[str, str]] = set()
    if files:
        with _connection(workspace) as connection:
            pairs = {
                (a, b)
                for a, b in connection.execute(
                    f"""
                    select resource_id, unnest(replaced_by) from {_reading(files)}
                    union select resource_id, unnest(replaces) from {_reading(files)}
                    """  # noqa: S608
                ).fetchall()
                if b is not None
            }
    return closure(persons, pairs)


def closure(persons: Collection[str], pairs: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Everybody who is tied to the persons by pairs, in either direction."""
    ties: dict[str, set[str]] = {}
    for a, b in pairs:
        ties.setdefault(a, set()).add(b)
        ties.setdefault(b, set()).add(a)
    found, waiting = set(persons), list(persons)
    while waiting:
        for other in ties.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return frozenset(found)


def patients_in_lake(workspace: Workspace, site: str) -> frozenset[str]:
    """Pseudonyms of all patients of whom the lake holds anything."""
    found: set[str] = set()
    with _connection(workspace) as connection:
        for kind, files in _tables(workspace, site).items():
            column = _patient_column(connection, kind, files)
            if column:
                found |= {
                    p
                    for (p,) in connection.execute(
                        f"select distinct {column} from {_reading(files)}"  # noqa: S608
                    ).fetchall()
                    if p
                }
    return frozenset(found)


def forget_run(workspace: Workspace, site: str, run: str) -> None:
    """Let a run be brought in anew from its landed files: its rows go when that is done."""
    (workspace.lake / "_runs" / f"site={site}" / f"run={run}.json").unlink(missing_ok=True)


def take_out(
    workspace: Workspace,
    site: str,
    persons: frozenset[str],
    records: Collection[str],
    runs: Collection[str],
    *,
    only_count: bool = False,
) -> int:
    """Rewrite the files of runs whose raw bytes are gone without the persons' rows; returns the rows gone.

    `records` are pseudonyms of resources that went with them. It may be repeated after it was killed.
    `only_count`: nothing is rewritten. Raises LakeError where a file cannot be read or rewritten.
    """
    gone = 0
    try:
        with _connection(workspace) as connection:
            _register(connection, "persons", persons)
            _register(connection, "records", {*records, *persons})
            for kind, files in _tables(workspace, site).items():
                column = _patient_column(connection, kind, files)
                if column:
                    connection.execute(
                        f"insert into records select distinct resource_id from {_reading(files)}"  # noqa: S608
                        f" where {column} in (from persons)"
                    )
            refused = parquet_files(workspace.quarantine / f"site={site}", "run=*")
            for kind, files in {**_tables(workspace, site), "_refused": refused}.items():
                own = [f for f in files if _run(f) in runs]
                if only_count:
                    gone += _count_of(connection, kind, own)
                else:
                    gone += _take_out_of(connection, workspace, kind, own)
            for counts in () if only_count else runs_in_lake(workspace):
                if counts.site == site and counts.run in runs:
                    _recount(connection, workspace, counts)
    except duckdb.Error as e:
        raise LakeError(
            f"rows could not be taken out of the lake ({type(e).__name__})",
            where=f"site {site}",
            advice="check the space on disk, and run it again",
        ) from None
    return gone


def _connection(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    workspace.private.mkdir(mode=0o700, parents=True, exist_ok=True)
    return open_duckdb(workspace.private, cipher=workspace.cipher())


def _register(connection: duckdb.DuckDBPyConnection, name: str, values: Collection[str]) -> None:
    connection.execute(f"create table {name} (pseudonym varchar)")
    connection.execute(f"insert into {name} select unnest(?::varchar[])", [sorted(values)])


def _tables(workspace: Workspace, site: str) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in parquet_files(workspace.lake, f"*/site={site}/run=*"):
        found.setdefault(path.parent.parent.name, []).append(path)
    return found


def _run(path: Path) -> str:
    return path.name.removeprefix("run=").partition(".")[0]


def _reading(files: Collection[Path]) -> str:
    names = ", ".join("'" + address(f).replace("'", "''") + "'" for f in files)
    return f"read_parquet([{names}], hive_partitioning = false, union_by_name = true)"


def _patient_column(connection: duckdb.DuckDBPyConnection, kind: str, files: list[Path]) -> str | None:
    if kind == "Patient":
        return "resource_id"
    found = connection.execute(f"describe select * from {_reading(files[:1])}").fetchall()  # noqa: S608
    return "patient_id" if "patient_id" in {c[0] for c in found} else None


def _take_out_of(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, kind: str, files: list[Path]
) -> int:
    gone = 0
    for path in files:
        counted = _count_of(connection, kind, [path])
        if not counted:
            continue
        gone += counted
        rows, belongs = _reading([path]), _belongs(connection, kind, path)
        with scratch_folder(workspace.private, "erase-") as aside:
            part = aside / path.name
            with open_duckdb(aside, cipher=workspace.cipher(), places={part: path}) as writing:
                for name in ("persons", "records"):
                    _register(writing, name, [p for (p,) in connection.execute(f"from {name}").fetchall()])
                target = address(part).replace("'", "''")
                writing.execute(
                    f"copy (select * from {rows} where not coalesce({belongs}, false))"  # noqa: S608
                    f" to '{target}' (format parquet, compression zstd)"
                )
            move_whole(part, path)
    return gone


def _count_of(connection: duckdb.DuckDBPyConnection, kind: str, files: list[Path]) -> int:
    counts = [
        connection.execute(
            f"select count(*) from {_reading([f])}"  # noqa: S608
            f" where coalesce({_belongs(connection, kind, f)}, false)"
        ).fetchone()
        for f in files
    ]
    return sum(int(c[0]) for c in counts if c)


def _belongs(connection: duckdb.DuckDBPyConnection, kind: str, path: Path) -> str:
    """The condition on a row of a file that it is of the persons, or a record that went with them."""
    column = "resource_pseudonym" if kind == "_refused" else "resource_id"
    patient = _patient_column(connection, kind, [path])
    return f"{column} in (from records)" + (f" or {patient} in (from persons)" if patient else "")


def _recount(connection: duckdb.DuckDBPyConnection, workspace: Workspace, counts: RunCounts) -> None:
    """The counts of a run from what its files hold now; duplicates and what is not mapped stay as counted."""
    held = {
        kind: _rows(connection, [f for f in files if _run(f) == counts.run])
        for kind, files in _tables(workspace, counts.site).items()
    }
    refused = dict[str, int]()
    files = [
        f
        for f in parquet_files(workspace.quarantine / f"site={counts.site}", "run=*")
        if _run(f) == counts.run
    ]
    if files:
        refused = dict(
            connection.execute(
                f"select resource_type, count(*) from {_reading(files)}"  # noqa: S608
                " where action = 'reject' group by 1"
            ).fetchall()
        )
    types = {t: _recounted(t, c, held, refused) for t, c in counts.types.items()}
    path = workspace.lake / "_runs" / f"site={counts.site}" / f"run={counts.run}.json"
    write_whole(path, msgspec.json.encode(replace(counts, types=types)))


def _recounted(kind: str, c: TypeCounts, held: dict[str, int], refused: dict[str, int]) -> TypeCounts:
    stored = held.get(kind, 0) if kind != DELETED else 0
    tombstones = held.get(DELETED, 0) if kind == DELETED else 0
    quarantined = refused.get(kind, 0)
    landed = stored + tombstones + quarantined + c.duplicate + c.not_mapped
    return replace(c, landed=landed, stored=stored, quarantined=quarantined, tombstones=tombstones)


def _rows(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> int:
    if not files:
        return 0
    found = connection.execute(f"select count(*) from {_reading(files)}").fetchone()  # noqa: S608
    return int(found[0]) if found else 0
