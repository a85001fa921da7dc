"""Landing files that a hospital handed over (`rwe import`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rwe.config import SITE_NAME, Site, Workspace, add_site
from rwe.errors import ConfigError, PartialError, UsageError
from rwe.handover import DamagedFileError, find_files, read_items
from rwe.landing import UNREADABLE, Run, RunFacts, RunWriter, new_run
from rwe.progress import SILENT, Progress

_NAMED = 5  # places named in one message; the manifest names more
_NAMED_IN_MANIFEST = 1_000


@dataclass(frozen=True)
class ImportResult:
    """What an import landed. `resources` counts by type, without the `unreadable` lines."""

    site: str
    run: Run
    resources: dict[str, int]
    unreadable: int
    files: int
    warnings: tuple[str, ...] = ()


class PartlyImportedError(PartialError):
    """Some lines or files could not be read; the rest is landed, see `result`."""

    def __init__(self, what: str, *, where: str, advice: str, result: ImportResult) -> None:
        super().__init__(what, where=where, advice=advice)
        self.result = result


@dataclass
class _Tally:
    unreadable: list[str] = field(default_factory=list)
    unreadable_count: int = 0
    damaged: list[str] = field(default_factory=list)
    subsetted: int = 0
    empty: int = 0
    resources: Counter[str] = field(default_factory=Counter)


def import_folder(
    workspace: Workspace, folder: Path, site: str, *, progress: Progress = SILENT
) -> ImportResult:
    """Land every FHIR resource in the files of `folder` and its subfolders, byte by byte, as one run.

    Read are *.ndjson and *.json, plain or with .gz or .zst: resources, Bundles, arrays, in any mix. What is
    no resource lands as `_unreadable`. A site that is not declared is added to rwe.yaml.

    Raises UsageError (nothing was landed) if the folder is missing or holds nothing to import, ConfigError
    for an impossible name, and PartlyImportedError, after landing, if a line or file could not be read.
    """
    if not SITE_NAME.fullmatch(site):
        raise ConfigError(
            f"{site!r} cannot be a site's name", advice="use lower-case letters, digits, - and _"
        )
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
    tally = _Tally()
    with new_run(workspace.landing, site) as run:
        with progress.step(f"{site}: files", len(found.files), "files") as step:
            for path in found.files:
                _land_file(run, path, path.relative_to(folder.resolve()).as_posix(), tally)
                step.advance()
        if not tally.resources:
            raise UsageError(
                f"none of the {len(found.files)} files holds a FHIR resource",
                where=str(folder),
                advice="each must hold R4 resources as JSON",
            )
        if site not in workspace.settings.sites:
            workspace = add_site(workspace, site, {})
        warnings = _warnings(found.others, tally)
        landed = run.commit(_facts(workspace.site(site), tally, warnings))
    result = ImportResult(
        site=site,
        run=landed,
        resources=dict(sorted(tally.resources.items())),
        unreadable=tally.unreadable_count,
        files=len(found.files),
        warnings=warnings,
    )
    if tally.unreadable or tally.damaged:
        raise _partly(result, tally, folder)
    return result


def _land_file(run: RunWriter, path: Path, name: str, tally: _Tally) -> None:
    """Land one file. `name` is its path inside the folder, the only thing that messages say of it."""
    before = tally.unreadable_count + tally.resources.total() + tally.subsetted
    try:
        for item in read_items(path):
            if item.resource is None:
                run.write(UNREADABLE, item.raw)
                tally.unreadable_count += 1
                if len(tally.unreadable) < _NAMED_IN_MANIFEST:
                    tally.unreadable.append(name if item.line is None else f"{name}, line {item.line}")
            elif item.resource.is_subsetted:
                tally.subsetted += 1
            else:
                run.write(item.resource.type, item.raw, last_updated=item.resource.last_updated)
                tally.resources[item.resource.type] += 1
    except DamagedFileError as e:
        tally.damaged.append(f"{name}: {e.what}")
    except OSError:
        tally.damaged.append(f"{name}: it cannot be read from disk")
    if before == tally.unreadable_count + tally.resources.total() + tally.subsetted:
        tally.empty += 1


def _warnings(others: dict[str, int], tally: _Tally) -> tuple[str, ...]:
    warnings: list[str] = []
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        warnings.append(f"passed over, being of another kind: {counts}")
    if tally.empty:
        warnings.append(f"files without a resource: {tally.empty}")
    if tally.subsetted:
        warnings.append(f"incomplete (tagged SUBSETTED), and not landed: {tally.subsetted}")
    return tuple(warnings)


def _facts(site: Site, tally: _Tally, warnings: tuple[str, ...]) -> RunFacts:
    errors = [*tally.damaged, *(f"{place}: no FHIR resource" for place in tally.unreadable)]
    return RunFacts(route="import", time_zone=site.time_zone, warnings=warnings, errors=errors)


def _partly(result: ImportResult, tally: _Tally, folder: Path) -> PartlyImportedError:
    parts = list(tally.damaged[:_NAMED])
    if len(tally.damaged) > _NAMED:
        parts.append(f"and {len(tally.damaged) - _NAMED} more damaged files")
    if tally.unreadable_count:
        named = "; ".join(tally.unreadable[:_NAMED])
        more = f" and {tally.unreadable_count - _NAMED} more" if tally.unreadable_count > _NAMED else ""
        noun = "place holds" if tally.unreadable_count == 1 else "places hold"
        parts.append(f"{tally.unreadable_count} {noun} no FHIR resource ({named}{more})")
    return PartlyImportedError(
        "; ".join(parts),
        where=str(folder),
        advice=f"{sum(result.resources.values())} resources are landed; ask the hospital for the rest again",
        result=result,
    )
