"""Brings landed runs into the lake: each once, complete or not at all.

    lake/TYPE/site=S/run=R.parquet      one row a resource version, sorted by pseudonym
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

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

import duckdb
import msgspec

from rwe.config import Site, Workspace
from rwe.errors import LakeError
from rwe.fhir.resource_types import R4_RESOURCE_TYPES
from rwe.lake import validate
from rwe.lake.pseudonyms import Pseudonymiser, content_hash, key_fingerprint
from rwe.lake.rows import Flag, Mapping, RejectedError, RowBuilder
from rwe.lake.schema import (
    LAKE_VERSION,
    RESOURCES,
    ResourceIn,
    TombstoneIn,
)
from rwe.lake.sealed import check_keys, create_file, parquet_files, run_of, sealed_name
from rwe.lake.store import private_folder, store_quarantine, store_tombstones, store_versions
from rwe.landing import DELETED, UNREADABLE, Run, list_runs
from rwe.progress import SILENT, Progress, Step

_TICK = 1000
#: The type under which lines count that landed as a type that R4 does not know: its name is the sender's.
UNKNOWN_TYPE = "_unknown"
_SOURCES = frozenset({"export", "history", "reconcile", "read"})


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
    """`added` are the runs this call brought in, `runs` all that are in; both oldest first."""

    added: tuple[RunCounts, ...]
    runs: tuple[RunCounts, ...]


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
    landed = sorted(list_runs(workspace.landing, cipher=cipher), key=lambda r: (r.manifest.started_at, r.run))
    key = workspace.pseudonym_key() if landed else b""
    for folder in (workspace.lake, workspace.quarantine):
        private_folder(folder)
    known = runs_in_lake(workspace)
    added: list[RunCounts] = []
    for site in sorted({r.site for r in landed} | {r.site for r in known}):
        of_site = [r for r in landed if r.site == site]
        context = _SiteContext(workspace, site, of_site, key)
        valid = _forget_stale([r for r in known if r.site == site], of_site, context)
        _remove_unmarked(context, {r.run for r in valid})
        pending = [r for r in of_site if r.run not in {v.run for v in valid}]
        for run in pending:
            added.append(_bring_in(context, run, progress))
    return LakeResult(tuple(added), tuple(runs_in_lake(workspace)))


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


class _SiteContext:
    """The rules under which the resources of one site enter the lake, and the places they go to."""

    def __init__(self, workspace: Workspace, site: str, runs: list[Run], key: bytes) -> None:
        settings = workspace.settings
        declared = settings.sites.get(site)
        zone_name = declared.time_zone if declared else (runs[-1].manifest.time_zone if runs else "UTC")
        self.site = site
        self.cipher = workspace.cipher()
        self.lake: Path = workspace.lake
        self.quarantine: Path = workspace.quarantine
        self.zone = ZoneInfo(zone_name)
        self.validation = settings.validation
        self.content_key = key
        base_url = declared.base_url if declared else None
        self.mapping = Mapping(Pseudonymiser(key, site, base_url), self.zone, settings.birth_date)
        labels = (declared or Site()).security_labels
        self.excluded_labels = labels.excluded
        rules = [LAKE_VERSION, zone_name, settings.birth_date, settings.validation, sorted(labels.excluded)]
        self.fingerprint = "|".join(map(str, [*rules, key_fingerprint(key)]))

    def table(self, resource_type: str, run: str) -> Path:
        return self.lake / resource_type / f"site={self.site}" / self.name(f"run={run}.parquet")

    def name(self, name: str) -> str:
        return sealed_name(name, self.cipher)

    def marker(self, run: str) -> Path:
        return self.lake / "_runs" / f"site={self.site}" / f"run={run}.json"

    def quarantined(self, run: str) -> Path:
        return self.quarantine / f"site={self.site}" / self.name(f"run={run}.parquet")


def _forget_stale(known: list[RunCounts], landed: list[Run], context: _SiteContext) -> list[RunCounts]:
    """The site's runs that stay. If the rules changed none does; all must then be landed still."""
    of_this_version = all(r.fingerprint.startswith(f"{LAKE_VERSION}|") for r in known)
    if of_this_version and (not landed or all(r.fingerprint == context.fingerprint for r in known)):
        return known
    gone = {r.run for r in known} - {r.run for r in landed}
    if gone:
        raise LakeError(
            f"the site's settings, the key or rwe itself changed, and {len(gone)} landed runs are gone",
            where=f"site {context.site}",
            advice="restore the landed runs, or the settings, the key and the version of before",
        )
    for run in known:
        context.marker(run.run).unlink()
    return []


def _remove_unmarked(context: _SiteContext, marked: set[str]) -> None:
    """Files of runs without counts: a call that was killed left them."""
    patterns = (
        (context.lake, f"*/site={context.site}/run=*"),
        (context.quarantine, f"site={context.site}/run=*"),
    )
    for folder, pattern in patterns:
        for path in parquet_files(folder, pattern):
            if run_of(path) not in marked:
                path.unlink()


def _bring_in(context: _SiteContext, run: Run, progress: Progress) -> RunCounts:
    aside = context.lake / f".site={context.site}.run={run.run}.part"
    shutil.rmtree(aside, ignore_errors=True)
    private_folder(aside)
    try:
        total = sum(run.resources.values())
        with progress.step(f"lake: {run.site}", total, "resources") as step:
            reader = _RunReader(context, run, aside, step)
            types = _read_types(reader, run)
        reader.finish()
        types = {t: _store(context, run, aside, t, counts) for t, counts in types.items()}
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


def _read_types(reader: _RunReader, run: Run) -> dict[str, TypeCounts]:
    counts = {name: reader.read(name) for name in run.types}
    unknown = counts.keys() - R4_RESOURCE_TYPES - {DELETED, UNREADABLE}
    if unknown:
        landed = sum(counts.pop(name).landed for name in unknown)
        counts[UNKNOWN_TYPE] = TypeCounts(landed, not_mapped=landed)
    return counts


def _describe(context: _SiteContext, run: Run, types: dict[str, TypeCounts]) -> RunCounts:
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


class _RunReader:
    """Checks the lines of one run and writes rows and quarantine as NDJSON into the folder `aside`."""

    def __init__(self, context: _SiteContext, run: Run, aside: Path, step: Step) -> None:
        self._context, self._run, self._aside, self._step = context, run, aside, step
        self._builder = RowBuilder(context.mapping)
        self._encoder = msgspec.json.Encoder()
        self.started_at = run.manifest.started_at.astimezone(UTC).replace(tzinfo=None)
        self.landed_day = run.manifest.finished_at.astimezone(context.zone).date()
        self.quarantine = aside / context.name("quarantine.ndjson")
        self._quarantine = create_file(self.quarantine, context.cipher)

    def read(self, resource_type: str) -> TypeCounts:
        """Read all lines of a type. `stored` still counts what `_store` may find to be duplicates."""
        lines = self._run.open(resource_type)
        if resource_type in RESOURCES:
            return self._read_mapped(resource_type, lines)
        if resource_type == DELETED:
            return self._read_tombstones(lines)
        landed = 0
        for landed, line in enumerate(lines, start=1):
            if resource_type == UNREADABLE:
                self._put_aside(resource_type, landed, line, RejectedError("not_json"), None)
        self._step.advance(landed)
        if resource_type == UNREADABLE:
            return TypeCounts(landed, quarantined=landed)
        return TypeCounts(landed, not_mapped=landed)

    def _rows(self, resource_type: str) -> IO[bytes]:
        name = self._context.name(f"{resource_type}.ndjson")
        return create_file(self._aside / name, self._context.cipher)

    def _read_mapped(self, resource_type: str, lines: Any) -> TypeCounts:
        counts: Counter[str] = Counter()
        with self._rows(resource_type) as out:
            for number, line in enumerate(lines, start=1):
                counts[self._take(resource_type, number, line, out)] += 1
                if number % _TICK == 0:
                    self._step.advance(_TICK)
        landed = counts.total()
        self._step.advance(landed % _TICK)
        return TypeCounts(landed, stored=counts["stored"], quarantined=counts["quarantined"])

    def _read_tombstones(self, lines: Iterator[bytes]) -> TypeCounts:
        counts: Counter[str] = Counter()
        with self._rows(DELETED) as out:
            for number, line in enumerate(lines, start=1):
                try:
                    found = validate.decode_tombstone(line)
                except RejectedError as refusal:
                    self._put_aside(DELETED, number, line, refusal, None)
                    counts["quarantined"] += 1
                    continue
                if found.resourceType not in RESOURCES:
                    counts["not_mapped"] += 1
                    continue
                out.write(self._encoder.encode(self._tombstone(found, number)) + b"\n")
                counts["tombstones"] += 1
        self._step.advance(counts.total())
        return TypeCounts(landed=counts.total(), **counts)

    def _tombstone(self, found: TombstoneIn, number: int) -> dict[str, Any]:
        return {
            "resource_type": found.resourceType,
            "resource_id": self._context.mapping.pseudonyms.of(found.resourceType, found.id),
            "site": self._context.site,
            "run": self._run.run,
            "line": number,
            "deleted_at": _naive_utc(found.deletedAt),
            "landed_at": self.started_at,
            "source": found.source if found.source in _SOURCES else None,
        }

    def _take(self, resource_type: str, number: int, line: bytes, out: IO[bytes]) -> str:
        resource: ResourceIn | None = None
        try:
            content = validate.minimal(line)
            digest = content_hash(self._context.content_key, self._context.site, content)
            resource = validate.decode(line, resource_type)
            validate.refuse_repeated_keys(content, resource_type)
            validate.refuse_unusable(resource, self._context.excluded_labels)
            row = self._builder.build(resource)
            flags = list(self._builder.flags)
            if validate.is_sampled(self._context.validation, digest):
                found = validate.explain(line, resource_type)
                if found and self._context.validation == "strict":
                    raise RejectedError(found[0].rule, found[0].json_path)
                flags += found
        except RejectedError as refusal:
            self._put_aside(resource_type, number, line, refusal, resource)
            return "quarantined"
        row |= {
            "resource_id": self._context.mapping.pseudonyms.of(resource_type, resource.id or ""),
            "site": self._context.site,
            "run": self._run.run,
            "line": number,
            "updated_at": self._updated_at(resource),
            "version_number": _version_number(resource),
            "landed_at": self.started_at,
            "landed_day": self.landed_day,
            "content_hash": digest,
        }
        for flag in flags:
            self._flag(resource_type, number, row["resource_id"], flag)
        out.write(self._encoder.encode(row) + b"\n")
        return "stored"

    def _updated_at(self, resource: ResourceIn) -> datetime:
        """When this version was written, in UTC: what a server serves undated is as new as the run."""
        return _naive_utc(resource.meta.lastUpdated if resource.meta else None) or self.started_at

    def _put_aside(
        self,
        resource_type: str,
        number: int,
        line: bytes,
        refusal: RejectedError,
        resource: ResourceIn | None,
    ) -> None:
        raw_id = resource.id if resource else validate.id_of(line)
        pseudonym = self._context.mapping.pseudonyms.of(resource_type, raw_id) if raw_id else None
        record: dict[str, Any] = {
            **self._finding(resource_type, number, pseudonym, Flag(refusal.rule, refusal.json_path)),
            "action": "reject",
            "updated_at": self._updated_at(resource) if resource else self.started_at,
            "version_number": _version_number(resource) if resource else -1,
            "landed_at": self.started_at,
            "retires": validate.retires_earlier_versions(refusal.rule),
        }
        self._quarantine.write(self._encoder.encode(record) + b"\n")
        if self._context.validation != "off" and refusal.rule in validate.WORTH_EXPLAINING:
            for flag in validate.explain(line, resource_type):
                self._flag(resource_type, number, pseudonym, flag)

    def _flag(self, resource_type: str, number: int, pseudonym: str | None, flag: Flag) -> None:
        record = self._finding(resource_type, number, pseudonym, flag)
        record |= {"action": "flag", "retires": False}
        self._quarantine.write(self._encoder.encode(record) + b"\n")

    def _finding(self, resource_type: str, number: int, pseudonym: str | None, found: Flag) -> dict[str, Any]:
        return {
            "site": self._context.site,
            "run": self._run.run,
            "resource_type": resource_type,
            "resource_pseudonym": pseudonym,
            "rule": found.rule,
            "json_path": found.json_path,
            "line": number,
        }

    def finish(self) -> None:
        self._quarantine.close()


def _naive_utc(text: str | None) -> datetime | None:
    """A FHIR instant in UTC without its zone; None where it is absent or none."""
    try:
        at = datetime.fromisoformat(text) if text else None
        return at.astimezone(UTC).replace(tzinfo=None) if at and at.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _version_number(resource: ResourceIn) -> int:
    """The versionId where it is a number, else -1: the standard makes it opaque, most servers count."""
    text = resource.meta.versionId if resource.meta else None
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else -1


def _store(
    context: _SiteContext, run: Run, aside: Path, resource_type: str, counts: TypeCounts
) -> TypeCounts:
    ndjson, target = aside / context.name(f"{resource_type}.ndjson"), context.table(resource_type, run.run)
    if counts.tombstones:
        store_tombstones(ndjson, target, context.cipher)
    if not counts.stored:
        return counts
    tombstones = parquet_files(context.table(DELETED, run.run).parent, "run=*")
    stored = store_versions(resource_type, ndjson, target, tombstones, context.cipher)
    return replace(counts, stored=stored, duplicate=counts.stored - stored)


def _write_synced(path: Path, content: bytes) -> None:
    private_folder(path.parent)
    part = path.with_suffix(".part")
    with part.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    part.chmod(0o600)
    part.replace(path)
