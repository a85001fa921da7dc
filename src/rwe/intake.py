"""Landing files that a hospital handed over (`rwe import`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from zoneinfo import available_timezones

from rwe.blocklist import gate_of
from rwe.config import SITE_NAME, Site, Workspace, add_site
from rwe.errors import ConfigError, PartialError, UsageError
from rwe.fhir.bulk_manifest import tombstones
from rwe.fhir.bundle import NotAResourceError
from rwe.handed_manifests import HandedManifests, read_manifests
from rwe.handover import NUMBERING, FolderContent, FoundFile, Problem, find_files, read_items, read_lines
from rwe.landing import DELETED, UNREADABLE, Run, RunFacts, RunWriter, new_run
from rwe.progress import SILENT, Progress
from rwe.unpacking import LONGEST_BYTES, DamagedFileError
from rwe.wording import counted

_NAMED = 5  # places named in one message; the manifest names more
_NAMED_IN_MANIFEST = 1_000
_TOO_LONG = f"is longer than {LONGEST_BYTES >> 20} MiB and was not kept"
_PROBLEMS: dict[Problem, str] = {"no_resource": "no FHIR resource", "unknown_type": "of no type that R4 has"}


@dataclass(frozen=True)
class ImportResult:
    """What an import landed: `resources` by type, `unreadable` lines and `tombstones` besides them.

    Together these are all lines of the run. `too_long` counts what was not kept.
    """

    site: str
    run: Run
    resources: dict[str, int]
    unreadable: int
    files: int
    warnings: tuple[str, ...] = ()
    tombstones: int = 0
    too_long: int = 0


class PartlyImportedError(PartialError):
    """Some lines or files could not be read; the rest is landed, see `result`."""

    def __init__(self, what: str, *, where: str, advice: str, result: ImportResult) -> None:
        super().__init__(what, where=where, advice=advice)
        self.result = result


@dataclass
class _Tally:
    """What was found. `unreadable` and `damaged` name places, the first thousand."""

    unreadable: list[str] = field(default_factory=list)
    unreadable_count: int = 0
    damaged: list[str] = field(default_factory=list)
    damaged_count: int = 0
    too_long: int = 0
    subsetted: int = 0
    empty: int = 0
    other_json: int = 0
    manifests: int = 0
    tombstones: int = 0
    outcomes: int = 0
    held_back: int = 0  # of erased patients
    resources: Counter[str] = field(default_factory=Counter)

    def seen(self) -> int:
        things = (self.unreadable_count, self.too_long, self.subsetted, self.other_json, self.held_back)
        return sum(things) + self.resources.total()

    def add_unreadable(self, place: str, problem: str) -> None:
        self.unreadable_count += 1
        if len(self.unreadable) < _NAMED_IN_MANIFEST:
            self.unreadable.append(f"{place}: {problem}")

    def add_damage(self, what: str) -> None:
        self.damaged_count += 1
        if len(self.damaged) < _NAMED_IN_MANIFEST:
            self.damaged.append(what)


def import_folder(
    workspace: Workspace,
    folder: Path,
    site: str,
    *,
    time_zone: str | None = None,
    progress: Progress = SILENT,
) -> ImportResult:
    """Land every FHIR resource in the files of `folder` and its subfolders, byte by byte, as one run.

    Read are *.ndjson and *.json, plain or with .gz or .zst: resources, Bundles, arrays, in any mix. What is
    no R4 resource lands as `_unreadable`, a whole .json file of another kind does not. Beside the manifest of
    a bulk export, files that it lists as deletions land as `_deleted`, its errors not at all. A site that is
    not declared is added to rwe.yaml, with `time_zone` (IANA; None: UTC). Messages and the manifest give
    files by number (`rwe.handover.NUMBERING`), never by name.

    Raises UsageError (nothing was landed) if the folder is missing or holds nothing to import, ConfigError
    for an impossible name or time zone, or one other than the declared site's, and PartlyImportedError, after
    landing, if a line or file could not be read.
    """
    _check_site(workspace, site, time_zone)
    found = _find(folder)
    tally, manifests = _Tally(), read_manifests(found.files)
    gate = gate_of(workspace, site)
    with new_run(workspace.landing, site, cipher=workspace.cipher(), gate=gate) as run:
        with progress.step(f"{site}: files", len(found.files), "files") as step:
            for file in found.files:
                _land(run, file, found.name(file), tally, manifests)
                step.advance()
        if not (tally.resources or tally.tombstones or tally.held_back):
            raise _nothing(tally, found, folder)
        is_new = site not in workspace.settings.sites
        if is_new:
            workspace = add_site(workspace, site, {"time_zone": time_zone} if time_zone else {})
        warnings = _warnings(found.others, tally)
        if is_new and time_zone is None:
            warnings = (*warnings, _undeclared_zone(site, workspace.site(site)))
        landed = run.commit(_facts(workspace.site(site), tally, warnings))
    result = ImportResult(
        site=site,
        run=landed,
        resources=dict(sorted(tally.resources.items())),
        unreadable=tally.unreadable_count,
        files=len(found.files),
        warnings=warnings,
        tombstones=tally.tombstones,
        too_long=tally.too_long,
    )
    if tally.unreadable or tally.damaged:
        raise _partly(result, tally, folder)
    return result


def _check_site(workspace: Workspace, site: str, time_zone: str | None) -> None:
    if not SITE_NAME.fullmatch(site):
        raise ConfigError(
            f"{site!r} cannot be a site's name", advice="use lower-case letters, digits, - and _"
        )
    if time_zone is None:
        return
    if time_zone not in available_timezones():
        raise ConfigError(
            f"{time_zone!r} is no IANA time zone",
            where=f"site {site}",
            advice="name one such as Europe/Berlin",
        )
    declared = workspace.settings.sites.get(site)
    if declared and declared.time_zone != time_zone:
        raise ConfigError(
            f"the site is declared with time_zone {declared.time_zone}",
            where=f"site {site}",
            advice="change it in rwe.yaml, or leave the option out",
        )


def _find(folder: Path) -> FolderContent:
    if not folder.is_dir():
        problem = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UsageError(problem, where=str(folder), advice="name the folder that holds the files")
    found = find_files(folder)
    if not found.files:
        raise UsageError(
            "the folder has no file to import",
            where=str(folder),
            advice="it must hold *.ndjson or *.json, plain or with .gz or .zst",
        )
    return found


def _land(run: RunWriter, file: FoundFile, name: str, tally: _Tally, manifests: HandedManifests) -> None:
    """Land one file. `name` is its number and kind, the only thing that messages say of it."""
    if file in manifests.broken:
        tally.add_damage(
            f"{name}: a bulk export's manifest that cannot be read, nor what it says of deletions"
        )
    elif file.path in manifests.files:
        tally.manifests += 1
    else:
        listed = manifests.listed(file)
        if listed is None or (listed.kind == "output" and not listed.is_ambiguous):
            _land_file(run, file, name, tally)
        elif listed.is_ambiguous:
            tally.add_damage(
                f"{name}: the export's manifest lists its name as deletions, errors or resources"
            )
        elif listed.kind == "deleted":
            _land_deletions(run, file, name, tally, listed.at)
        else:
            tally.outcomes += 1


def _land_deletions(run: RunWriter, file: FoundFile, name: str, tally: _Tally, at: datetime) -> None:
    try:
        for number, line in read_lines(file.path):
            try:
                for tombstone in tombstones(line, at):
                    tally.tombstones += run.write(DELETED, tombstone.line())
            except NotAResourceError:
                tally.add_damage(f"{name}, line {number}: it is no deletion")
    except DamagedFileError as e:
        tally.add_damage(f"{name}: {e.what}")
    except OSError:
        tally.add_damage(f"{name}: it cannot be read from disk")


def _land_file(run: RunWriter, file: FoundFile, name: str, tally: _Tally) -> None:
    before, damaged = tally.seen(), tally.damaged_count
    try:
        for item in read_items(file):
            place = name if item.line is None else f"{name}, line {item.line}"
            if item.problem == "other_json":
                tally.other_json += 1
            elif item.problem == "too_long":
                tally.too_long += 1
                tally.add_damage(f"{place}: it {_TOO_LONG}")
            elif item.resource is None:
                run.write(UNREADABLE, item.raw)
                tally.add_unreadable(place, _PROBLEMS[item.problem or "no_resource"])
            elif item.resource.is_subsetted:
                tally.subsetted += 1
            else:
                kind, updated = item.resource.type, item.resource.last_updated
                if run.write(kind, item.raw, last_updated=updated):
                    tally.resources[kind] += 1
                else:
                    tally.held_back += 1
    except DamagedFileError as e:
        tally.add_damage(f"{name}: {e.what}")
    except OSError:
        tally.add_damage(f"{name}: it cannot be read from disk")
    if before == tally.seen() and damaged == tally.damaged_count:
        tally.empty += 1


def _warnings(others: dict[str, int], tally: _Tally) -> tuple[str, ...]:
    warnings: list[str] = []
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        warnings.append(f"passed over, being of another kind: {counts}")
    counted = (
        ("passed over, being JSON but no FHIR", tally.other_json),
        ("deletions, landed as such", tally.tombstones),
        ("manifests of bulk exports, read and not landed", tally.manifests),
        ("files of the export's own errors, not landed", tally.outcomes),
        ("files without a resource", tally.empty),
        ("incomplete (tagged SUBSETTED), and not landed", tally.subsetted),
        ("of patients who were erased, and not landed", tally.held_back),
    )
    return (*warnings, *(f"{what}: {count}" for what, count in counted if count))


def _undeclared_zone(site: str, declared: Site) -> str:
    return (
        f"site {site} is declared with time_zone {declared.time_zone}; set time_zone in rwe.yaml if its"
        " records hold instants in Z"
    )


def _facts(site: Site, tally: _Tally, warnings: tuple[str, ...]) -> RunFacts:
    errors = [*tally.damaged, *tally.unreadable]
    noted = (*warnings, NUMBERING) if errors else warnings
    return RunFacts(route="import", time_zone=site.time_zone, warnings=noted, errors=errors)


def _problems(tally: _Tally) -> list[str]:
    parts = list(tally.damaged[:_NAMED])
    if tally.damaged_count > _NAMED:
        parts.append(f"and {tally.damaged_count - _NAMED} more damages")
    if tally.unreadable_count:
        named = "; ".join(tally.unreadable[:_NAMED])
        more = f" and {tally.unreadable_count - _NAMED} more" if tally.unreadable_count > _NAMED else ""
        noun = "place holds" if tally.unreadable_count == 1 else "places hold"
        parts.append(f"{tally.unreadable_count} {noun} no R4 resource ({named}{more})")
    return parts


def _nothing(tally: _Tally, found: FolderContent, folder: Path) -> UsageError:
    number = len(found.files)
    files = (
        "the only file holds no FHIR resource"
        if number == 1
        else f"none of the {number:,} files holds a FHIR resource"
    )
    if not tally.damaged:
        return UsageError(files, where=str(folder), advice="each must hold R4 resources as JSON")
    return UsageError(
        "; ".join([f"{files} that can be read", *_problems(tally)]),
        where=str(folder),
        advice=f"{NUMBERING}; ask the hospital for them again",
    )


def _partly(result: ImportResult, tally: _Tally, folder: Path) -> PartlyImportedError:
    landed = counted(sum(result.resources.values()), "resource")
    if result.tombstones:
        landed += f" and {counted(result.tombstones, 'deletion')}"
    return PartlyImportedError(
        "; ".join(_problems(tally)),
        where=str(folder),
        advice=f"{NUMBERING}; landed: {landed}; ask the hospital for the rest again",
        result=result,
    )
