"""Erases a patient from a workspace, and sees to it that nobody brings the patient back.

Landing, lake, quarantine, link tokens, death registry, all kept builds and what evidence keeps aside are made
free of the patient; then the workspace is searched. It may be killed and repeated at any moment: the patient
is on the list of the erased before anything is removed, and whatever is found of those on it goes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rwe import deaths, linking
from rwe.blocklist import Blocklist, blocked_at, open_blocklist, patients_of
from rwe.config import Workspace
from rwe.errors import LandingError, PartialError, RweError, UsageError
from rwe.history.ledger import forget_erased
from rwe.keeping import pooled
from rwe.keeping.aside import forget_aside
from rwe.keeping.backup import known_backups
from rwe.keeping.landed import LONG_ENOUGH, Cut, Cutter, finish_interrupted, raw_is_there, site_lock
from rwe.keeping.search import Sought, files_with
from rwe.lake.pseudonyms import Pseudonymiser, reference_target
from rwe.lake.write import runs_in_lake
from rwe.landing import Run, list_runs, open_run
from rwe.progress import SILENT, Progress
from rwe.sharing.erased import remember_erased
from rwe.study import Study
from rwe.warehouse.build import build, only_build
from rwe.warehouse.builds import current_build, kept_builds, remove


@dataclass(frozen=True)
class Erased:
    """What went. `lines` landed by type; `blanked` are references in records of others; `rows` of runs whose
    raw bytes were gone; `builds` kept before; `remaining` are files that still hold the patient, to be seen
    to by hand; `backups` were made before and may hold the patient. `other_sites` have landed a Patient of
    the same id. `knows_ids`: an id was known to be looked for; else the search was for pseudonyms alone."""

    site: str
    patients: int
    lines: dict[str, int] = field(default_factory=dict)
    blanked: int = 0
    rows: int = 0
    runs: int = 0
    builds: int = 0
    backups: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()
    other_sites: tuple[str, ...] = ()
    knows_ids: bool = True

    @property
    def was_found(self) -> bool:
        """Whether anything of the patient was there."""
        return bool(self.lines or self.rows or self.blanked)


def erase(
    workspace: Workspace,
    site: str,
    studies: Sequence[Study],
    *,
    patient_ids: Collection[str] = (),
    pseudonyms: Collection[str] = (),
    progress: Progress = SILENT,
) -> Erased:
    """Erase patients of one site, named by the server's Patient ids or by their pseudonyms, and build anew.

    Records that were merged with theirs are of the same persons and go too. Raises UsageError where nobody is
    named, LandingError where a run is under way, BuildError where a build is, LakeError where the lake cannot
    be rewritten, and PartialError where the patient is out of the data and the build after that failed: no
    database is there then.
    """
    if not patient_ids and not pseudonyms:
        raise UsageError("nobody is named", advice="give --patient-file or --pseudonym")
    with only_build(workspace), site_lock(workspace.landing, site):
        finish_interrupted(workspace.landing, site)
        who = _who(workspace, site, patient_ids, pseudonyms)
        blocklist = open_blocklist(workspace, make=True)
        if blocklist is None:  # pragma: no cover - it is made
            raise RweError("the list of erased patients cannot be opened")
        _remember(blocklist, site, who.ids, who.persons)
        remember_erased(workspace, site, who.persons)
        found = _take_out(workspace, site, who)
    builds = _build_anew(workspace, studies, progress)
    remaining, other_sites = _remaining(workspace, site, _sought(who.ids, who.persons))
    return Erased(
        site=site,
        patients=who.named,
        lines=dict(sorted(found.cut.lines.items())),
        blanked=found.cut.blanked.total(),
        rows=found.rows,
        runs=len(found.cut.runs),
        builds=builds,
        backups=tuple(str(b.path) for b in known_backups(workspace)),
        remaining=remaining,
        other_sites=other_sites,
        knows_ids=bool(who.ids),
    )


def would_erase(
    workspace: Workspace, site: str, *, patient_ids: Collection[str] = (), pseudonyms: Collection[str] = ()
) -> Erased:
    """What `erase` would take out, counted; nothing is changed.

    What a killed erasure left half done is not counted, and no file is searched. Raises as `erase`.
    """
    if not patient_ids and not pseudonyms:
        raise UsageError("nobody is named", advice="give --patient-file or --pseudonym")
    with only_build(workspace), site_lock(workspace.landing, site):
        who = _who(workspace, site, patient_ids, pseudonyms)
        cutter = Cutter(who.is_gone, who.ids, who.persons, workspace.cipher())
        for run in who.runs:
            cutter.collect(run)
        for run in who.runs:
            cutter.count(run)
        records, old = who.went_with(cutter.cut), _of_lake_alone(workspace, site, who.runs)
        rows = pooled.take_out(workspace, site, who.persons, records, old, only_count=True) if old else 0
    return Erased(
        site=site,
        patients=who.named,
        lines=dict(sorted((t, n) for t, n in cutter.cut.lines.items() if n)),
        blanked=cutter.cut.blanked.total(),
        rows=rows,
        runs=len(cutter.cut.runs),
        builds=len(kept_builds(workspace)),
        backups=tuple(str(b.path) for b in known_backups(workspace)),
        knows_ids=bool(who.ids),
    )


def erase_blocked(workspace: Workspace, studies: Sequence[Study], *, progress: Progress = SILENT) -> int:
    """Take out whoever is on the list of the erased and came back, as from a backup; returns the lines and
    rows that went. Builds anew only if there were any. Raises as `erase`."""
    gone = 0
    sites = {r.site for r in list_runs(workspace.landing)} | {r.site for r in runs_in_lake(workspace)}
    with only_build(workspace):
        for site in sorted(sites):
            is_blocked, blocklist = blocked_at(workspace, site), open_blocklist(workspace)
            if is_blocked is None or blocklist is None:
                continue
            with site_lock(workspace.landing, site):
                finish_interrupted(workspace.landing, site)
                of = Pseudonymiser(workspace.pseudonym_key(), site)
                runs = _landed(workspace, site)
                ids = frozenset(i for i in _all_ids(runs) if is_blocked(i))
                in_lake = pooled.patients_in_lake(workspace, site)
                persons = frozenset(
                    {*(of.of("Patient", i) for i in ids), *filter(blocklist.holds_pseudonym, in_lake)}
                )
                if persons:
                    remember_erased(workspace, site, persons)
                    found = _take_out(workspace, site, _Who(runs, of, ids, persons, len(persons)))
                    gone += found.cut.lines.total() + found.rows
    if gone:
        _build_anew(workspace, studies, progress)
    else:
        forget_erased(workspace)
    return gone


def _landed(workspace: Workspace, site: str) -> list[Run]:
    """The site's runs whose raw files are still there."""
    return [r for r in list_runs(workspace.landing, site, cipher=workspace.cipher()) if raw_is_there(r)]


@dataclass(frozen=True)
class _Who:
    """Who is erased of a site: the Patient ids that are known, the pseudonyms of all records of the persons,
    how many were `named`; and the runs whose raw files are there."""

    runs: Sequence[Run]
    of: Pseudonymiser
    ids: frozenset[str]
    persons: frozenset[str]
    named: int

    def is_gone(self, patient_id: str) -> bool:
        return patient_id in self.ids or self.of.of("Patient", patient_id) in self.persons

    def went_with(self, cut: Cut) -> set[str]:
        """Pseudonyms of the resources that went."""
        return {self.of.of(kind, record) for kind, record in cut.records}


def _who(workspace: Workspace, site: str, patient_ids: Collection[str], pseudonyms: Collection[str]) -> _Who:
    runs, of = _landed(workspace, site), Pseudonymiser(workspace.pseudonym_key(), site)
    named = frozenset({*(of.of("Patient", i) for i in patient_ids), *pseudonyms})
    persons = _all_records(workspace, site, runs, named, of)
    return _Who(runs, of, frozenset({*patient_ids, *_ids_of(runs, persons, of)}), persons, len(named))


@dataclass(frozen=True)
class _Found:
    cut: Cut
    rows: int


def _take_out(workspace: Workspace, site: str, who: _Who) -> _Found:
    cutter = Cutter(who.is_gone, who.ids, who.persons, workspace.cipher())
    for run in who.runs:
        cutter.collect(run)
    for run in who.runs:
        # First the mark goes that the run is in the lake: killed after this, it is brought in anew.
        cutter.rewrite(run, partial(pooled.forget_run, workspace, site, run.run))
    records, old = who.went_with(cutter.cut), _of_lake_alone(workspace, site, who.runs)
    rows = pooled.take_out(workspace, site, who.persons, records, old) if old else 0
    linking.forget(workspace, site, who.persons)
    deaths.forget(workspace, site, who.persons)
    return _Found(cutter.cut, rows)


def _of_lake_alone(workspace: Workspace, site: str, landed: Sequence[Run]) -> set[str]:
    """The site's runs in the lake whose raw bytes are gone."""
    return {r.run for r in runs_in_lake(workspace) if r.site == site} - {r.run for r in landed}


def _all_records(
    workspace: Workspace, site: str, runs: Sequence[Run], named: frozenset[str], of: Pseudonymiser
) -> frozenset[str]:
    """The persons with all records that were merged with theirs, as landed and in the lake."""
    pairs = set()
    for run in runs:
        for line in run.open("Patient"):
            _, own, _ = patients_of(line)
            if own:
                for other in linking.merged_with(line):
                    target = reference_target(other)
                    if target:
                        pairs.add((of.of("Patient", own), of.of("Patient", target[1])))
    return pooled.linked(workspace, site, pooled.closure(named, pairs))


def _all_ids(runs: Sequence[Run]) -> frozenset[str]:
    """Every Patient id that a landed resource is or belongs to."""
    return frozenset(
        owner
        for run in runs
        for kind in run.types
        for line in run.open(kind)
        for owner in patients_of(line)[2]
    )


def _ids_of(runs: Sequence[Run], persons: frozenset[str], of: Pseudonymiser) -> frozenset[str]:
    return frozenset(i for i in _all_ids(runs) if of.of("Patient", i) in persons)


def _remember(blocklist: Blocklist, site: str, ids: frozenset[str], persons: frozenset[str]) -> None:
    blocklist.add({*(blocklist.by_id(site, i) for i in ids), *map(blocklist.by_pseudonym, persons)})


def _sought(ids: Collection[str], persons: Collection[str]) -> Sought:
    long = [i for i in ids if len(i) >= LONG_ENOUGH]
    return Sought((*persons, *long), tuple(i for i in ids if len(i) < LONG_ENOUGH))


def _build_anew(workspace: Workspace, studies: Sequence[Study], progress: Progress) -> int:
    """A new build; all kept before go, for the patient is in them. Without one, no database stays.

    Rows that analyses kept aside go last, whether it was built or not: until then an analysis may make them
    of the database of before.
    """
    try:
        return _rebuild(workspace, studies, progress)
    finally:
        forget_aside(workspace)


def _rebuild(workspace: Workspace, studies: Sequence[Study], progress: Progress) -> int:
    before = [k.build for k in kept_builds(workspace)]
    try:
        if workspace.database.exists() or workspace.private_database.exists() or before:
            build(workspace, studies, progress=progress)
    except RweError as e:
        for path in (workspace.private_database, workspace.database):
            path.unlink(missing_ok=True)
        for name in before:
            remove(workspace, name)
        raise PartialError(
            "the patient is erased from landing and lake, and the databases that held him are removed",
            where=str(workspace.root),
            advice=f"the build after that failed, run `rwe build`: {e.what}",
        ) from e
    current = current_build(workspace)
    for name in before:
        if current is None or name != current.build:
            remove(workspace, name)
    for stray in (*workspace.published.glob("*.wal*"), *workspace.private.glob("*.wal*")):
        stray.unlink(missing_ok=True)
    return len(before)


def _remaining(workspace: Workspace, site: str, sought: Sought) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files that still hold the patient, by their path in the workspace: files kept by hand, such as a list
    of who opted out. And the other sites whose landed runs hold the same id: nobody may edit those, their
    hashes are in their manifests. What an analysis keeps aside is removed: it is made again."""
    landed = _landed_elsewhere(workspace, site)
    left, others = [], set()
    for path in files_with(workspace, sought):
        inside = path.relative_to(workspace.root)
        if path in landed:
            others.add(landed[path])
        elif _is_cache(inside):
            path.unlink()
        else:
            left.append(str(inside))
    return tuple(left), tuple(sorted(others))


def _landed_elsewhere(workspace: Workspace, site: str) -> dict[Path, str]:
    """The files that manifests of other sites' runs name, and whose they are. A run that cannot be opened
    names none: the patient is erased by now, and its files are listed."""
    named: dict[Path, str] = {}
    for path in workspace.landing.glob("site=*/run=*"):
        try:
            run = open_run(path)
        except LandingError:
            continue
        if run.site != site:
            named |= {path / entry.name: run.site for entry in run.manifest.files}
    return named


def _is_cache(path: Path) -> bool:
    return any(part in {"cache", ".cache", "caches"} for part in path.parts[:-1])
