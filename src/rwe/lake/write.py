"""Brings landed runs into the lake: each once, complete or not at all.

    lake/TYPE/site=S/run=R.parquet      one row a resource version, in no order
    lake/_deleted/site=S/run=R.parquet  tombstones: what the server no longer has
    lake/_runs/site=S/run=R.json        the counts of a run; written last, it says that the run is in
    quarantine/site=S/run=R.parquet     what was refused or flagged, by rule and JSON path

With a key all but the counts are encrypted (`rwe.lake.sealed`) and end in `.enc`; older files stay readable.

The lake only grows. Which version of a resource is the latest is decided when the database is built: the one
updated last (`meta.lastUpdated`, else the start of the run that brought it), then the highest numeric
`versionId`, then the run started last and its last line. A version identical to the one before it in this
order is a duplicate and not stored again, unless a tombstone came in between.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb
import msgspec

from rwe.config import Workspace
from rwe.durable import write_whole
from rwe.errors import LakeError
from rwe.lake import fast
from rwe.lake.careful import CarefulReader
from rwe.lake.columns import FAST_TYPES
from rwe.lake.context import SiteContext
from rwe.lake.elements import RESOURCES
from rwe.lake.findings import RejectedError
from rwe.lake.retention import expire_raw
from rwe.lake.schema import LAKE_VERSION
from rwe.lake.sealed import check_keys, parquet_files, run_of
from rwe.lake.store import Incoming, private_folder, store_quarantine, store_tombstones, store_versions
from rwe.landing import DELETED, UNREADABLE, Run, list_runs
from rwe.progress import SILENT, Progress
from rwe.resource_types import R4_RESOURCE_TYPES

#: The type under which lines count that landed as a type that R4 does not know: its name is the sender's.
UNKNOWN_TYPE = "_unknown"


@dataclass(frozen=True)
class TypeCounts:
    """What became of the lines of one type in one run: landed = stored + duplicate + quarantined +
    not_mapped + tombstones."""

    landed: int
    stored: int = 0
    duplicate: int = 0
    quarantined: int = 0
    not_mapped: int = 0
    tombstones: int = 0


@dataclass(frozen=True)
class RunCounts:
    """A run that is in the lake, with what its manifest says: the landed run may be archived later.

    `fingerprint` names the settings it was brought in under. Moments are aware; `last_updated_at` is the
    latest `meta.lastUpdated` that landed, None where there is none.
    """

    site: str
    run: str
    fingerprint: str
    time_zone: str
    route: str
    server_software: str | None
    manifest_sha256: str
    finished_at: datetime
    last_updated_at: datetime | None
    types: dict[str, TypeCounts]


@dataclass(frozen=True)
class LakeResult:
    """`added` are the runs this call brought in, `runs` all that are in; both oldest first. `expired` are the
    (site, run) whose raw bytes were removed, being older than `retain_raw_days`."""

    added: tuple[RunCounts, ...]
    runs: tuple[RunCounts, ...]
    expired: tuple[tuple[str, str], ...] = ()


def update_lake(workspace: Workspace, *, progress: Progress = SILENT) -> LakeResult:
    """Bring every landed run that is not in the lake into it.

    A site whose settings changed (time zone, birth date, validation, key) is brought in anew from its landed
    runs, so that one lake never mixes two rules; so it is after an update of rwe that changes them. (Its
    `base_url`, by which absolute references are known as its own, is the one at the time a run is brought
    in: a server that moves changes nothing of what it served before.) Raises LakeError if that is not
    possible because landed runs are gone, and LandingError if a landed file is not what its manifest says;
    the lake is then as before, or lacks the runs not yet brought in.
    """
    cipher = workspace.cipher()
    check_keys(parquet_files(workspace.lake, "*/site=*/run=*"), cipher)
    check_keys(parquet_files(workspace.quarantine, "site=*/run=*"), cipher)
    # Oldest first: whether a version without a date is a duplicate depends on the runs before it.
    runs = list_runs(workspace.landing, cipher=cipher)
    landed = sorted(runs, key=lambda r: (r.manifest.started_at, r.run))
    key = workspace.pseudonym_key() if landed else b""
    for folder in (workspace.lake, workspace.quarantine):
        private_folder(folder)
    known = runs_in_lake(workspace)
    added: list[RunCounts] = []
    for site in sorted({r.site for r in landed} | {r.site for r in known}):
        of_site = [r for r in landed if r.site == site]
        context = SiteContext(workspace, site, of_site, key)
        valid = _forget_stale([r for r in known if r.site == site], of_site, context)
        _remove_unmarked(context, {r.run for r in valid})
        is_in = {r.run for r in valid}
        pending = [r for r in of_site if r.run not in is_in and not r.raw_is_removed]
        for run in pending:
            added.append(_bring_in(context, run, progress))
    in_lake = tuple(runs_in_lake(workspace))
    return LakeResult(tuple(added), in_lake, expire_raw(workspace, {(r.site, r.run) for r in in_lake}))


def runs_in_lake(workspace: Workspace) -> list[RunCounts]:
    """The runs that are in the lake, oldest first. Raises LakeError if a run's counts cannot be read."""
    found = []
    for path in workspace.lake.glob("_runs/site=*/run=*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=RunCounts))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            raise LakeError(
                "the counts of a run in the lake cannot be read",
                where=str(path),
                advice="delete this file, the run is then brought in again",
            ) from None
    return sorted(found, key=lambda r: (r.run, r.site))


def _forget_stale(known: list[RunCounts], landed: list[Run], context: SiteContext) -> list[RunCounts]:
    """The site's runs that stay. If the rules changed none does; all must then be landed still."""
    of_this_version = all(r.fingerprint.startswith(f"{LAKE_VERSION}|") for r in known)
    if of_this_version and (not landed or all(r.fingerprint == context.fingerprint for r in known)):
        return known
    gone = {r.run for r in known} - {r.run for r in landed if not r.raw_is_removed}
    if gone:
        raise LakeError(
            f"the site's settings, the key or rwe itself changed, and {len(gone)} landed runs are gone",
            where=f"site {context.site}",
            advice="restore the landed runs, or the settings, the key and the version of before",
        )
    for run in known:
        context.marker(run.run).unlink()
    return []


def _remove_unmarked(context: SiteContext, marked: set[str]) -> None:
    """Files of runs without counts: a call that was killed left them."""
    patterns = (
        (context.lake, f"*/site={context.site}/run=*"),
        (context.quarantine, f"site={context.site}/run=*"),
    )
    for folder, pattern in patterns:
        for path in parquet_files(folder, pattern):
            if run_of(path) not in marked:
                path.unlink()


def _bring_in(context: SiteContext, run: Run, progress: Progress) -> RunCounts:
    aside = context.lake / f".site={context.site}.run={run.run}.part"
    shutil.rmtree(aside, ignore_errors=True)
    private_folder(aside)
    try:
        total = sum(run.resources.values())
        with progress.step(f"lake: {run.site}", total, "resources") as step:
            reader = CarefulReader(context, run, aside, step)
            types, incoming = _read_types(reader, run)
        reader.finish()
        if DELETED in types and types[DELETED].tombstones:
            store_tombstones(reader.rows_file(DELETED), context.table(DELETED, run.run), context.cipher)
        for one in incoming:
            types[one.resource_type] = _store(context, run, one, types[one.resource_type])
        store_quarantine(reader.quarantine, context.quarantined(run.run), context.cipher)
        counts = _describe(context, run, types)
        _write_synced(context.marker(run.run), msgspec.json.encode(counts))
        return counts
    except duckdb.Error:
        # DuckDB's messages print values: not even their text is passed on.
        raise LakeError(
            "the run could not be written into the lake",
            where=f"site {run.site}, run {run.run}",
            advice="check the space on disk and in memory, and run it again",
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read_types(reader: CarefulReader, run: Run) -> tuple[dict[str, TypeCounts], list[Incoming]]:
    """Read all types into the folder aside. `stored` still counts what turns out to be a duplicate."""
    counts, incoming = {}, []
    for name in run.types:
        counts[name], found = _read_type(reader, run, name)
        incoming += [found] if found else []
    unknown = counts.keys() - R4_RESOURCE_TYPES - {DELETED, UNREADABLE}
    if unknown:
        landed = sum(counts.pop(name).landed for name in unknown)
        counts[UNKNOWN_TYPE] = TypeCounts(landed, not_mapped=landed)
    return counts, incoming


def _read_type(reader: CarefulReader, run: Run, resource_type: str) -> tuple[TypeCounts, Incoming | None]:
    if resource_type in RESOURCES:
        return _read_mapped(reader, run, resource_type)
    lines = run.open(resource_type)
    if resource_type == DELETED:
        found = reader.take_tombstones(lines)
        return TypeCounts(landed=found.total(), **found), None
    landed = 0
    for landed, line in enumerate(lines, start=1):
        if resource_type == UNREADABLE:
            reader.put_aside(resource_type, landed, line, RejectedError("not_json"), None)
    reader.step.advance(landed)
    if resource_type == UNREADABLE:
        return TypeCounts(landed, quarantined=landed), None
    return TypeCounts(landed, not_mapped=landed), None


def _read_mapped(reader: CarefulReader, run: Run, resource_type: str) -> tuple[TypeCounts, Incoming | None]:
    """The fast way for a large file, unless fhir.resources is to look at every line anyway."""
    is_fast = (
        resource_type in FAST_TYPES
        and run.resources[resource_type] >= fast.FAST_FROM
        and reader.context.validation != "strict"
    )
    parts: list[Path] = []
    reader.longest_row = 0
    with reader.open_rows(resource_type) as out:
        if is_fast:
            quick = fast.FastReader(reader, resource_type, out)
            found = quick.read()
            parts = quick.parts
        else:
            found = reader.take_all(resource_type, run.open(resource_type), out)
    counts = TypeCounts(found.total(), stored=found["stored"], quarantined=found["quarantined"])
    if not counts.stored:
        return counts, None
    rows = reader.rows_file(resource_type) if reader.longest_row else None
    return counts, Incoming(resource_type, tuple(parts), rows, reader.longest_row)


def _describe(context: SiteContext, run: Run, types: dict[str, TypeCounts]) -> RunCounts:
    server = run.manifest.server
    software = " ".join(filter(None, (server.software, server.version))) if server else ""
    updates = [datetime.fromisoformat(at) for at in run.manifest.last_updated.values() if at]
    return RunCounts(
        site=run.site,
        run=run.run,
        fingerprint=context.fingerprint,
        time_zone=context.zone.key,
        route=run.manifest.route,
        server_software=software or None,
        manifest_sha256=run.manifest_sha256,
        finished_at=run.manifest.finished_at,
        last_updated_at=max(updates, default=None),
        types=types,
    )


def _store(context: SiteContext, run: Run, incoming: Incoming, counts: TypeCounts) -> TypeCounts:
    target = context.table(incoming.resource_type, run.run)
    tombstones = parquet_files(context.table(DELETED, run.run).parent, "run=*")
    stored = store_versions(incoming, target, tombstones, context.cipher, memory_limit=context.memory_limit)
    return replace(counts, stored=stored, duplicate=counts.stored - stored)


def _write_synced(path: Path, content: bytes) -> None:
    private_folder(path.parent)
    write_whole(path, content)
