"""What to ask which site for: the cohort first, then everything that belongs to its patients.

A hospital has a thousand million Observations and a hundred CAR-T patients. So the index events are found by
their codes, and then the whole record of those patients is pulled, in batches of patients. Only Observations
are asked for by code: follow-up must not depend on which codes a study happens to name, and last contact is
read off the types that are pulled whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from rwe.admission import KeptOut, opted_out, permitted
from rwe.audit import Deed, audited
from rwe.blocklist import gate_of
from rwe.cohort_search import settle_cohort
from rwe.config import Site, Workspace
from rwe.errors import PartialError, RweError, SiteError, UsageError
from rwe.export import finish_export
from rwe.export_night import pull_by_export
from rwe.extraction_plan import (
    CODES_A_REQUEST,
    WHOLE_TYPES,
    ExtractionPlan,
    plan_extraction,
    types_to_read,
)
from rwe.fhir.budget import RequestBudget
from rwe.fhir.bulk import ExportLevel
from rwe.fhir.capability import Capability, read_capability
from rwe.fhir.client import FhirClient
from rwe.harvest import Cohort, Harvest
from rwe.id_sets import IdShelf
from rwe.known import Known
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.landing import (
    Route,
    Run,
    RunFacts,
    RunWriter,
    ServerIdentity,
    TypeScope,
    list_runs,
    new_run,
)
from rwe.night import Memory, Night
from rwe.progress import SILENT, Progress
from rwe.run_limits import UNLIMITED, Limits
from rwe.side_by_side import batches
from rwe.site_check import choose_route
from rwe.study import Study
from rwe.watermarks import baselines, in_order
from rwe.wording import counted


@dataclass(frozen=True)
class ExtractionResult:
    """A landed extraction: resources by type, patients of the cohort, requests sent, seconds taken."""

    site: str
    run: Run
    resources: dict[str, int]
    patients: int
    requests: int
    seconds: float
    warnings: tuple[str, ...] = ()


class PartlyLandedError(PartialError):
    """Some types of a site failed; the others are landed, see `result`. The next run asks for them again."""

    def __init__(self, result: ExtractionResult, errors: Sequence[str]) -> None:
        self.result, self.errors = result, tuple(errors)
        super().__init__(
            "; ".join(errors),
            where=f"site {result.site}",
            advice="what came is landed and kept; run it again for the rest",
        )


class PartlyExtractedError(PartialError):
    """Some sites failed; `results` of the others are landed. `failures` are the errors by site.

    A site of which only some types failed is in both.
    """

    def __init__(self, results: Sequence[ExtractionResult], failures: Mapping[str, RweError]) -> None:
        self.results, self.failures = tuple(results), dict(failures)
        done = ", ".join(r.site for r in results)
        sites = {r.site for r in results} | failures.keys()
        super().__init__(
            f"{len(failures)} of {counted(len(sites), 'site')} failed: {_reasons(failures)}",
            advice=f"landed and kept: {done}; run it again for the others with --site",
        )


def extract_site(
    workspace: Workspace,
    site_name: str,
    studies: Sequence[Study],
    *,
    full: bool = False,
    limits: Limits = UNLIMITED,
    progress: Progress = SILENT,
) -> ExtractionResult:
    """Find the cohort of all `studies` at one site and land what is new of its patients since the last run.

    With `full` everything is pulled, whatever the watermarks say. A site without a patient of the cohort
    lands an empty run with a warning. The audit log gets an entry, however it ends; where that cannot be
    written nothing is asked (RweError). Raises UsageError where `limits` names a type that is never landed,
    PartlyLandedError where some types failed (the others are landed), and, with nothing landed, ConfigError,
    StudyError, SiteError (the server), LandingError (the disk, the lock).
    """
    site = workspace.site(site_name)
    plan = plan_extraction(studies)
    if unknown := limits.types - set(types_to_read(plan, site)):
        raise UsageError(
            f"not among the types that are landed: {', '.join(sorted(unknown))}",
            where=f"site {site_name}",
            advice=f"choose of {', '.join(types_to_read(plan, site))}",
        )
    with audited(workspace, "extract", site=site_name) as deed:
        return _extract(workspace, site_name, plan, deed, full=full, limits=limits, progress=progress)


def _extract(
    workspace: Workspace,
    site_name: str,
    plan: ExtractionPlan,
    deed: Deed,
    *,
    full: bool,
    limits: Limits,
    progress: Progress,
) -> ExtractionResult:
    site = workspace.site(site_name)
    gate = gate_of(workspace, site_name)
    refused = KeptOut(opted_out(site_name, site), gate)
    started = time.monotonic()
    landing = new_run(workspace.landing, site_name, cipher=workspace.cipher(), gate=gate)
    budget = RequestBudget(site_name, site, until=limits.until)
    with FhirClient(site_name, site, budget=budget) as client, landing as writer:
        capability = read_capability(client)
        if not capability.offers("Patient"):
            raise client.error(
                "the server does not list this type",
                "Patient",
                advice="check base_url with the hospital: nothing can be read without it",
            )
        client.check_scopes(filter(capability.offers, types_to_read(plan, site)))
        memory = limits.going_back(remember(workspace, site_name))
        harvest = Harvest(
            client, site, capability, writer, progress, shelf=memory.shelf if memory.runs else None
        )
        choice = choose_route(site, capability, tuple(plan.index_codes))
        if choice.level is not None:
            pulled = _by_export(workspace, harvest, plan, writer, memory, choice.level, refused, full, limits)
        else:
            pulled = _by_search(harvest, Night(harvest, site, memory, is_full=full), plan, refused, limits)
            pulled = replace(
                pulled, cohort=frozenset(memory.pseudonyms.of("Patient", p) for p in pulled.cohort)
            )
        writer.write_cohort(pulled.cohort)
        run = writer.commit(_facts(plan, capability, harvest, pulled, limits))
    deed.landed(run)
    if choice.level is not None:
        finish_export(workspace, site_name)
    result = ExtractionResult(
        site=site_name,
        run=run,
        resources=run.resources,
        patients=len(pulled.cohort),
        requests=sum(sum(counts.values()) for counts in client.requests.values()),
        seconds=time.monotonic() - started,
        warnings=tuple(harvest.warnings),
    )
    if pulled.errors:
        raise PartlyLandedError(result, pulled.errors)
    return result


def remember(workspace: Workspace, site_name: str) -> Memory:
    """What earlier runs of the site left to build on. Raises LandingError, ConfigError (the key)."""
    runs = in_order(list_runs(workspace.landing, site_name, cipher=workspace.cipher()))
    archived = {
        p.stem.removeprefix("run=") for p in workspace.lake.glob(f"_runs/site={site_name}/run=*.json")
    }
    return Memory(
        runs=runs,
        baselines=baselines(runs, archived),
        known=Known(runs),
        shelf=IdShelf(workspace.private),
        pseudonyms=Pseudonymiser(workspace.pseudonym_key(), site_name),
    )


@dataclass(frozen=True)
class _Pulled:
    """What a night by either way came to, for the manifest. `cohort` are the patients it was about."""

    route: Route
    cohort: frozenset[str] = field(repr=False)
    scopes: Mapping[str, TypeScope]
    watermarks: Mapping[str, datetime | None]
    queries: tuple[str, ...]
    errors: tuple[str, ...]


def _by_search(
    harvest: Harvest, night: Night, plan: ExtractionPlan, refused: frozenset[str], limits: Limits
) -> _Pulled:
    patients = _pull(harvest, night, harvest.site, plan, refused, limits)
    if night.first_error and not any(s.is_complete for s in night.scopes.values()):
        raise night.first_error
    whole = {t for t, scope in night.scopes.items() if scope.is_complete}
    watermarks = {t: at for t, at in harvest.watermarks.items() if t in whole}
    return _Pulled("search", patients, night.scopes, watermarks, tuple(harvest.queries), night.errors)


def _by_export(  # noqa: PLR0917
    workspace: Workspace,
    harvest: Harvest,
    plan: ExtractionPlan,
    writer: RunWriter,
    memory: Memory,
    level: ExportLevel,
    refused: frozenset[str],
    is_full: bool,
    limits: Limits,
) -> _Pulled:
    night = pull_by_export(
        workspace,
        harvest.site,
        harvest,
        plan,
        writer,
        memory,
        types=[t for t in types_to_read(plan, harvest.site) if limits.admits(t) and harvest.offers(t)],
        level=level,
        refused=refused,
        is_full=is_full,
        progress=harvest.progress,
    )
    for sentence in night.outcome.warnings:
        harvest.warn(sentence)
    watermarks = {t: night.outcome.watermarks[t] for t, s in night.scopes.items() if s.is_complete}
    queries = (*night.outcome.queries, *harvest.queries)
    return _Pulled("export", night.patients, night.scopes, watermarks, queries, night.errors)


def _pull(  # noqa: PLR0917
    harvest: Harvest,
    night: Night,
    site: Site,
    plan: ExtractionPlan,
    refused: frozenset[str],
    limits: Limits,
) -> frozenset[str]:
    """Pull everything of the night; returns the patients it is about."""
    cohort = settle_cohort(harvest, site, plan.index_codes).without(refused)
    leavers = tuple(p for p in night.leavers(cohort.patients) if p not in refused)
    if not cohort.patients:
        harvest.warn("no patient has an index event of any study")
    if not cohort.patients and not leavers:
        return frozenset()
    harvest.settle_batches(cohort if cohort.patients else Cohort(dict.fromkeys(leavers)))
    if site.consent == "required":
        may_enter = _permitted(harvest, night, site, cohort.patients, leavers)
        kept_out = frozenset(cohort.patients) - may_enter
        refused |= {*cohort.patients, *leavers} - may_enter
        leavers = tuple(p for p in leavers if p in may_enter)
        cohort = cohort.without(refused)
        if kept_out:
            harvest.warn(
                f"without a permitting Consent, and not asked for: {counted(len(kept_out), 'patient')}"
            )
    # A merged record may be one that left; everyone in the cohort comes first.
    everyone = night.pull_patients({*cohort.patients, *leavers}, refused)
    patients = tuple(sorted(everyone - set(leavers)))
    for resource_type in filter(limits.admits, WHOLE_TYPES):
        night.pull(resource_type, patients, leavers)
    if plan.observation_codes and limits.admits("Observation"):
        portions = batches(plan.observation_codes, CODES_A_REQUEST)
        night.pull("Observation", patients, leavers, codes=portions)
    if limits.admits("Medication"):
        night.pull_medications()
    night.try_again()
    return frozenset(patients)


def _permitted(
    harvest: Harvest, night: Night, site: Site, patients: Sequence[str], leavers: Sequence[str]
) -> frozenset[str]:
    if not harvest.offers("Consent"):
        raise harvest.client.error(
            "the site requires consent, and the server does not list this type",
            "Consent",
            advice="ask the hospital for it, or set consent: ignored if the study may",
        )
    night.pull("Consent", patients, leavers, always_whole=True)
    if night.first_error is not None:
        raise night.first_error
    return permitted(harvest.consents, site, datetime.now(site.zone).date())


def _facts(
    plan: ExtractionPlan, capability: Capability, harvest: Harvest, pulled: _Pulled, limits: Limits
) -> RunFacts:
    return RunFacts(
        route=pulled.route,
        time_zone=harvest.site.time_zone,
        server=ServerIdentity(capability.software, capability.version, capability.fhir_version),
        requests=harvest.client.requests,
        queries=pulled.queries,
        watermarks={t: at.isoformat() if at else None for t, at in pulled.watermarks.items()},
        studies=plan.studies,
        patients=len(pulled.cohort),
        warnings=tuple(harvest.finish_warnings()),
        errors=pulled.errors,
        scopes=pulled.scopes,
        clock_ahead=harvest.clock_ahead,
        limited_to=sorted(limits.types),
    )


def extract_sites(
    workspace: Workspace,
    names: Sequence[str],
    studies: Sequence[Study],
    *,
    full: bool = False,
    progress: Progress = SILENT,
) -> list[ExtractionResult]:
    """Extract one site after the other; what one fails at does not stop the others. `full`: see extract_site.

    A site named twice is extracted once.

    Raises PartlyExtractedError if some sites failed (the others are landed), SiteError if all did, the
    site's own error if there is only one, and UsageError (wrong settings, studies, a key that cannot be read)
    before anything is asked.
    """
    if not names:
        raise UsageError("no site to extract from", advice="declare one with a base_url in rwe.yaml")
    plan_extraction(studies)
    names = tuple(dict.fromkeys(names))
    workspace.pseudonym_key(), workspace.cipher()  # a key that is not there is said once, not for each site
    for name in names:
        FhirClient(name, workspace.site(name)).close()
    results: list[ExtractionResult] = []
    failures: dict[str, RweError] = {}
    for name in names:
        try:
            results.append(extract_site(workspace, name, studies, full=full, progress=progress))
        except RweError as e:
            if len(names) == 1:
                raise
            failures[name] = e
    raise_for_failures(results, failures)
    return results


def raise_for_failures(results: Sequence[ExtractionResult], failures: Mapping[str, RweError]) -> None:
    """Nothing if no site failed, SiteError if all did, else PartlyExtractedError naming each and why.

    A site of which some types landed counts as both.
    """
    results = [*results, *(e.result for e in failures.values() if isinstance(e, PartlyLandedError))]
    if failures and results:
        raise PartlyExtractedError(results, failures)
    if failures:
        raise SiteError(f"no site could be read: {_reasons(failures)}", advice="nothing was landed")


def _reasons(failures: Mapping[str, RweError]) -> str:
    return " / ".join(f"{name}: {_without_site(name, e)}" for name, e in failures.items())


def _without_site(name: str, error: RweError) -> str:
    sentence = str(error).rstrip(".")
    return sentence.removeprefix(f"site {name}, ").removeprefix(f"site {name}: ")
