"""One night by $export: the export itself, the history of who is new, and what the next night builds on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from rwe.admission import patient_ids
from rwe.config import Site, Workspace
from rwe.errors import ConfigError, SiteError
from rwe.export import ExportOutcome, Scope, export_site
from rwe.export_landing import Plan
from rwe.fhir.bulk import ExportLevel
from rwe.fhir.bundle import Resource
from rwe.fhir.links import linked_patients
from rwe.harvest import Cohort, Harvest, batches
from rwe.landing import RunWriter, TypeScope
from rwe.night import Memory
from rwe.progress import Progress

_CODES_A_REQUEST = 50


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
    plan: Plan,
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
    Raises as `export_site` does, and ConfigError.
    """
    sha256, since, covered = _question(site, harvest.client.base_url, plan, memory, types, is_full)

    def is_known(patient: str) -> bool:
        return memory.pseudonyms.of("Patient", patient) in covered

    merged: dict[str, frozenset[str]] = {}

    def admits(resource: Resource) -> bool:
        if resource.type == "Patient" and resource.id:
            merged[resource.id] = linked_patients(resource.raw)
        return (resource.id if resource.type == "Patient" else resource.patient) not in refused

    outcome = export_site(
        workspace,
        harvest.client.name,
        site,
        harvest.client,
        plan,
        writer,
        types=types,
        level=level,
        since=since,
        scope=Scope(
            patients=_listed(site, harvest.client.name, refused),
            is_known=is_known,
            knows_medication=lambda i: i in memory.known.of("Medication"),
            admits=admits,
        ),
        progress=progress,
    )
    errors = list(outcome.errors)
    whole = dict(outcome.watermarks)
    ours = {p for p in merged if p in outcome.patients or is_known(p)}
    linked = {p for one in ours for p in merged[one] if p not in ours and not is_known(p)}
    newcomers = sorted({*outcome.newcomers, *linked} - set(refused))
    if newcomers:
        try:
            _pull_newcomers(harvest, newcomers, plan, types)
        except SiteError as e:
            errors.append(f"the history of patients who are new to the cohort: {e.what}")
            whole = {}
    scopes = {t: _scope(t, sha256, memory, since, whole.get(t)) for t in types}
    patients = covered | {memory.pseudonyms.of("Patient", p) for p in (*outcome.patients, *newcomers)}
    return ExportNight(outcome, scopes, patients, tuple(errors))


def _question(  # noqa: PLR0917
    site: Site, base_url: str, plan: Plan, memory: Memory, types: Sequence[str], is_full: bool
) -> tuple[str, datetime | None, frozenset[str]]:
    """What tells this question from others, the instant to ask from, and whose history is covered then."""
    asked = [base_url, "export", sorted(plan.observation_codes)]
    sha256 = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()
    bases = [memory.baselines.get(t) for t in types]
    usable = [b for b in bases if b is not None and b.plan_sha256 == sha256 and b.watermark]
    overlap = timedelta(minutes=site.overlap_minutes)
    starts = [at for b in usable if (at := b.history_from(overlap, None))]
    if is_full or len(starts) < len(types):
        return sha256, None, frozenset()
    return sha256, min(starts), frozenset.intersection(*(b.patients for b in usable))


def _scope(
    resource_type: str, sha256: str, memory: Memory, since: datetime | None, at: datetime | None
) -> TypeScope:
    if at is None:
        return TypeScope(sha256, is_complete=False)
    base = memory.baselines.get(resource_type) if since else None
    return TypeScope(
        plan_sha256=sha256,
        is_complete=True,
        since=since.isoformat() if since else None,
        base=base.run if base else None,
        newest=at.isoformat(),
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


def _pull_newcomers(harvest: Harvest, patients: Sequence[str], plan: Plan, types: Sequence[str]) -> None:
    harvest.settle_batches(Cohort(dict.fromkeys(patients)))
    harvest.pull_ids("Patient", patients, "_id={patients}")
    for resource_type in types:
        if resource_type in {"Patient", "Medication"}:
            continue
        wanted = plan.observation_codes if resource_type == "Observation" else ()
        for codes in batches(wanted, _CODES_A_REQUEST) or [()]:
            harvest.pull(resource_type, patients, codes=codes)
    harvest.pull_medications(())
