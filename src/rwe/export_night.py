"""One night by $export: the export itself, the history of who is new, and what the next night builds on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from rwe.admission import patient_ids
from rwe.config import Site, Workspace
from rwe.errors import ConfigError, SiteError
from rwe.export import ExportOutcome, Scope, export_site
from rwe.extraction_plan import CODES_A_REQUEST, ExtractionPlan
from rwe.fhir.bulk import ExportLevel
from rwe.fhir.bundle import Resource
from rwe.fhir.client import RefusedError
from rwe.fhir.links import linked_patients
from rwe.fhir.read import read
from rwe.harvest import Cohort, Harvest, Token
from rwe.id_sets import IdSet
from rwe.known import Lost, Rule
from rwe.landing import RunWriter, TypeScope
from rwe.night import Memory
from rwe.progress import Progress
from rwe.reconcile import confirm
from rwe.side_by_side import batches

#: A server that exports need not let a resource be read.
_UNREADABLE = frozenset({400, 401, 403, 405, 422, 501})


@dataclass(frozen=True)
class ExportNight:
    """What came of it, for the manifest: scopes by type, pseudonyms of all patients, errors."""

    outcome: ExportOutcome
    scopes: dict[str, TypeScope]
    patients: frozenset[str]
    errors: tuple[str, ...]


def pull_by_export(  # noqa: PLR0917
    workspace: Workspace,
    site: Site,
    harvest: Harvest,
    plan: ExtractionPlan,
    writer: RunWriter,
    memory: Memory,
    *,
    types: Sequence[str],
    level: ExportLevel,
    refused: Collection[str],
    is_full: bool,
    progress: Progress,
) -> ExportNight:
    """Export what is new since the last night, or all of it, and land what belongs to the cohort.

    All types are asked for since one instant. It is the earliest of their watermarks; with a type that has
    none, or is asked for otherwise than before, everything is exported. What a `_since` keeps back of
    patients who are new to the cohort is pulled by search, and so are records that patients were merged with.
    What an export of everything holds no more is buried, see `_reconcile`. Raises as `export_site` does, and
    ConfigError.
    """
    question = _question(site, harvest.client.base_url, level, plan, memory, types, is_full)
    catch = _Catch(memory, question, frozenset(refused))
    outcome = export_site(
        workspace,
        harvest.client.name,
        site,
        harvest.client,
        plan,
        writer,
        types=types,
        level=level,
        since=question.since,
        scope=Scope(
            patients=_listed(site, harvest.client.name, refused),
            is_known=catch.is_known,
            knows_medication=lambda i: i in memory.known.of("Medication"),
            admits=catch.admits,
        ),
        progress=progress,
    )
    errors, whole = list(outcome.errors), dict(outcome.watermarks)
    newcomers = sorted({*outcome.newcomers, *catch.linked(outcome.patients)} - set(refused))
    if newcomers and (failure := _pull_newcomers(harvest, newcomers, plan, types)):
        errors.append(failure)
        whole = {}
    patients = outcome.patients | frozenset(newcomers)
    reconciled: dict[str, bool] = {}
    if question.since is None and memory.runs:
        reconciled, failures = _reconcile(harvest, catch, plan, patients, whole)
        errors += failures
        whole = {t: at for t, at in whole.items() if t in reconciled}
    scopes = {
        t: _scope(t, question, memory, whole.get(t), is_reconciled=reconciled.get(t, False)) for t in types
    }
    covered = question.covered | {memory.pseudonyms.of("Patient", p) for p in patients}
    return ExportNight(outcome, scopes, covered, tuple(errors))


@dataclass(frozen=True)
class _Question:
    """What is asked: its fingerprint, the instant to ask from (None is everything), and who is known.

    The history of those in `covered` is landed; those in `earlier` were once of the cohort. Pseudonyms.
    """

    sha256: str
    since: datetime | None
    covered: frozenset[str] = field(repr=False)
    earlier: frozenset[str] = field(repr=False)


def _question(  # noqa: PLR0917
    site: Site,
    base_url: str,
    level: ExportLevel,
    plan: ExtractionPlan,
    memory: Memory,
    types: Sequence[str],
    is_full: bool,
) -> _Question:
    group = site.cohort.id if site.cohort.source == "group" else None
    asked = [base_url, "export", level, group, sorted(plan.observation_codes)]
    sha256 = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()
    bases = [memory.baselines.get(t) for t in types]
    usable = [b for b in bases if b is not None and b.plan_sha256 == sha256 and b.watermark]
    overlap = timedelta(minutes=site.overlap_minutes)
    starts = [at for b in usable if (at := b.history_from(overlap, None))]
    earlier = frozenset[str]().union(*(b.patients for b in memory.baselines.values()))
    if is_full or len(starts) < len(types):
        return _Question(sha256, None, frozenset(), earlier)
    return _Question(sha256, min(starts), frozenset.intersection(*(b.patients for b in usable)), earlier)


class _Catch:
    """What lands of an export, and whom its Patients are linked with. Holds ids, no content."""

    def __init__(self, memory: Memory, question: _Question, refused: frozenset[str]) -> None:
        self.memory, self.question, self.refused = memory, question, refused
        # What was recorded of somebody who left the cohort must be corrected too.
        self._known = question.earlier if question.since is None else question.covered
        self._landed: dict[str, IdSet] = {}
        self.first: dict[str, str] = {}  # by type, of the ids that landed the least
        self._links: dict[str, frozenset[str]] = {}

    def is_known(self, patient: str) -> bool:
        return self.memory.pseudonyms.of("Patient", patient) in self._known

    def admits(self, resource: Resource) -> bool:
        """Whether a resource that belongs to the cohort may land; if so, it is remembered."""
        is_patient = resource.type == "Patient"
        if is_patient and resource.id:
            self._links[resource.id] = linked_patients(resource.raw)
        if (resource.id if is_patient else resource.patient) in self.refused:
            return False
        if resource.id and self.memory.runs:  # a first night compares nothing
            self.landed(resource.type).add((resource.id,))
            self.first[resource.type] = min(self.first.get(resource.type, resource.id), resource.id)
        return True

    def landed(self, resource_type: str) -> IdSet:
        """The ids of a type that landed out of the export."""
        if resource_type not in self._landed:
            self._landed[resource_type] = self.memory.shelf.new()
        return self._landed[resource_type]

    def linked(self, patients: Collection[str]) -> set[str]:
        """Those whom patients that came were merged with, and who did not come: they are not of the
        Group, say, so that no export tells what changed of them."""
        ours = {p for p in self._links if p in patients or self.is_known(p)}
        return {p for one in ours for p in self._links[one] if p not in ours}


@dataclass(frozen=True)
class _Ours:
    """Whether a resource answers the question: of one of the patients, with one of the codes."""

    patients: Collection[str] = field(repr=False)
    codes: frozenset[Token]

    def __call__(self, resource: Resource) -> bool:
        if resource.type in {"Patient", "Medication"}:
            return True  # whoever left the cohort is somebody still
        has_code = resource.type != "Observation" or bool(resource.codes & self.codes)
        return resource.patient in self.patients and has_code


def _reconcile(
    harvest: Harvest, catch: _Catch, plan: ExtractionPlan, patients: Collection[str], whole: Collection[str]
) -> tuple[dict[str, bool], list[str]]:
    """Bury what earlier nights landed and an export of everything holds no more.

    Only of types that came whole, and, where the server lets them be read, after each was read: an export
    that is empty by mistake buries nothing. Of patients who left the cohort only what went with a deleted
    Patient is looked at.
    Returns the types that were settled, with whether all of it was looked for, and a sentence for each that
    could not be.
    """
    gone: set[str] = set()
    settled, failures = dict[str, bool](), list[str]()
    for resource_type in sorted(whole, key=lambda t: t != "Patient"):
        is_ours = _Ours({*patients, *gone}, frozenset(plan.observation_codes))
        missing = _lost(harvest, catch, resource_type, is_ours)
        try:
            if not missing.count or _can_read(harvest, catch, resource_type):
                is_done = confirm(harvest, resource_type, missing, is_ours)
            else:
                is_done = _bury_unread(harvest, catch, resource_type, missing)
        except SiteError as e:
            failures.append(f"{resource_type}: what the export holds no more cannot be read: {e.what}")
            continue
        settled[resource_type] = is_done
        if not is_done:
            harvest.warn(f"{resource_type}: not all that the export holds no more was looked for")
        if resource_type == "Patient":
            gone = set(_lost(harvest, catch, "Patient", is_ours).ids())
    return settled, failures


def _can_read(harvest: Harvest, catch: _Catch, resource_type: str) -> bool:
    """Whether a read finds what the export holds: a server that knows no reads says 404 to all of them."""
    name = resource_type if resource_type in catch.first else "Patient"
    one = catch.first.get(name)
    if one is None:
        return False
    try:
        return read(harvest.client, name, one) is not None
    except RefusedError as e:
        if e.status not in _UNREADABLE:
            raise
        return False


def _bury_unread(harvest: Harvest, catch: _Catch, resource_type: str, missing: Lost) -> bool:
    """Where the server exports and lets nothing be read, the export's word counts, if it is credible.

    It is if the same was asked as when the type came whole last, and it holds more than it lacks.
    """
    base = catch.memory.baselines.get(resource_type)
    is_same = base is not None and base.plan_sha256 == catch.question.sha256
    if not is_same or missing.count >= len(catch.landed(resource_type)):
        harvest.warn(f"{resource_type}: not in the export, not to be read, and kept: {missing.count}")
        return False
    for one in missing.ids():
        harvest.bury(resource_type, one, None, "reconcile")
    harvest.warn(f"{resource_type}: not in the export, not to be read, and taken as deleted: {missing.count}")
    return True


def _lost(harvest: Harvest, catch: _Catch, resource_type: str, is_ours: Rule) -> Lost:
    """What earlier nights landed and this one did not, of patients who may be asked for."""

    def may_ask(resource: Resource) -> bool:
        whose = resource.id if resource_type == "Patient" else resource.patient
        return whose not in catch.refused and is_ours(resource)

    known = catch.memory.known
    (expected,) = known.ids(resource_type, catch.memory.shelf, may_ask)
    searched = harvest.landed.get(resource_type) or catch.memory.shelf.new()
    return known.named(
        resource_type, catch.memory.shelf, expected.minus(catch.landed(resource_type), searched)
    )


def _scope(
    resource_type: str, question: _Question, memory: Memory, at: datetime | None, *, is_reconciled: bool
) -> TypeScope:
    if at is None:
        return TypeScope(question.sha256, is_complete=False)
    since = question.since
    base = memory.baselines.get(resource_type) if since else None
    return TypeScope(
        plan_sha256=question.sha256,
        is_complete=True,
        since=since.isoformat() if since else None,
        base=base.run if base else None,
        newest=at.isoformat(),
        is_reconciled=is_reconciled,
        is_paged=False,
    )


def _listed(site: Site, name: str, refused: Collection[str]) -> frozenset[str] | None:
    if site.cohort.source != "patients":
        return None
    where = f"site {name}, cohort.file"
    try:
        lines = site.cohort.file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError("the list of patients cannot be read", where=where) from None
    return frozenset(patient_ids(lines, where)) - set(refused)


def _pull_newcomers(
    harvest: Harvest, patients: Sequence[str], plan: ExtractionPlan, types: Sequence[str]
) -> str | None:
    """Land the whole records of some patients. Returns a sentence where that failed."""
    try:
        _pull_records(harvest, patients, plan, types)
    except SiteError as e:
        return f"the history of patients who are new to the cohort: {e.what}"
    return None


def _pull_records(
    harvest: Harvest, patients: Sequence[str], plan: ExtractionPlan, types: Sequence[str]
) -> None:
    harvest.settle_batches(Cohort(dict.fromkeys(patients)))
    harvest.pull_ids("Patient", patients, "_id={patients}")
    for resource_type in types:
        if resource_type in {"Patient", "Medication"}:
            continue
        wanted = plan.observation_codes if resource_type == "Observation" else ()
        for codes in batches(wanted, CODES_A_REQUEST) or [()]:
            harvest.pull(resource_type, patients, codes=codes)
    harvest.pull_medications(())
