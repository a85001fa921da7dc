"""What to ask which site for: the cohort first, then everything that belongs to its patients.

A hospital has a thousand million Observations and a hundred CAR-T patients. So the index events are found by
their codes, and then the whole record of those patients is pulled, in batches of patients. Only Observations
are asked for by code: follow-up must not depend on which codes a study happens to name, and last contact is
read off the types that are pulled whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rwe.codes import Code
from rwe.config import Site, Workspace
from rwe.errors import PartialError, RweError, SiteError, StudyError, UsageError
from rwe.fhir.capability import Capability, read_capability
from rwe.fhir.client import FhirClient
from rwe.harvest import Cohort, Harvest, Token, find_cohort
from rwe.landing import Run, RunFacts, ServerIdentity, StudyReference, new_run
from rwe.progress import SILENT, Progress
from rwe.study import Study

#: Pulled whole for every patient of the cohort, whatever the studies ask.
WHOLE_TYPES = (
    "Encounter",
    "Condition",
    "Procedure",
    "MedicationAdministration",
    "MedicationRequest",
    "MedicationDispense",
    "MedicationStatement",
)
_CODES_A_REQUEST = 50


@dataclass(frozen=True)
class ExtractionPlan:
    """What several studies need, together: (system, code) pairs in a stable order.

    `index_codes` holds, by the resource type that may carry an index event, the codes to find it by.
    """

    index_codes: Mapping[str, tuple[Token, ...]]
    observation_codes: tuple[Token, ...]
    studies: tuple[StudyReference, ...]


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


class PartlyExtractedError(PartialError):
    """Some sites failed; `results` of the others are landed. `failures` are the errors by site."""

    def __init__(self, results: Sequence[ExtractionResult], failures: Mapping[str, RweError]) -> None:
        self.results, self.failures = tuple(results), dict(failures)
        done = ", ".join(r.site for r in results)
        super().__init__(
            f"{len(failures)} of {len(failures) + len(results)} sites failed: {_reasons(failures)}",
            advice=f"landed and kept: {done}; run it again for the others with --site",
        )


def plan_extraction(studies: Sequence[Study]) -> ExtractionPlan:
    """The union of what the studies need.

    Raises UsageError without a study, and StudyError if a code list to search by has a code with a star:
    a server finds codes, not the beginnings of codes.
    """
    if not studies:
        raise UsageError("no study says what to extract", advice="put a study file into studies/")
    index: dict[str, dict[Token, None]] = {}
    observed: dict[Token, None] = {}
    for study in studies:
        event = study.protocol.index_event
        for source in event.sources:
            index.setdefault(source, {}).update(dict.fromkeys(_tokens(study, event.codelist)))
        for name in study.protocol.observation_codelists():
            observed.update(dict.fromkeys(_tokens(study, name)))
    return ExtractionPlan(
        index_codes={source: tuple(codes) for source, codes in index.items()},
        observation_codes=tuple(observed),
        studies=tuple(StudyReference(s.name, s.protocol_sha256) for s in studies),
    )


def _tokens(study: Study, codelist: str) -> list[Token]:
    codes: tuple[Code, ...] = study.codes(codelist)
    for code in codes:
        if code.is_prefix:
            raise StudyError(
                f"code list {codelist} has {code.code}*, and servers cannot be asked for beginnings of codes",
                where=study.name,
                advice="list the codes one by one",
            )
    return [(c.system, c.code) for c in codes]


def extract_site(
    workspace: Workspace, site_name: str, studies: Sequence[Study], *, progress: Progress = SILENT
) -> ExtractionResult:
    """Find the cohort of all `studies` at one site and land what belongs to its patients.

    Nothing is landed unless all of it was read. A site without a patient of the cohort lands an empty run
    with a warning. Raises ConfigError, StudyError, SiteError (the server), LandingError (the disk, the lock).
    """
    site = workspace.site(site_name)
    plan = plan_extraction(studies)
    started = time.monotonic()
    with FhirClient(site_name, site) as client, new_run(workspace.landing, site_name) as writer:
        capability = read_capability(client)
        harvest = Harvest(client, site, capability, writer, progress)
        cohort = find_cohort(harvest, plan.index_codes)
        if cohort.patients:
            _pull(harvest, cohort, plan)
        else:
            harvest.warn("no patient has an index event of any study")
        run = writer.commit(_facts(site, plan, capability, harvest, cohort))
    requests = sum(sum(counts.values()) for counts in client.requests.values())
    return ExtractionResult(
        site=site_name,
        run=run,
        resources=run.resources,
        patients=len(cohort.patients),
        requests=requests,
        seconds=time.monotonic() - started,
        warnings=tuple(harvest.warnings),
    )


def _pull(harvest: Harvest, cohort: Cohort, plan: ExtractionPlan) -> None:
    harvest.settle_batches(cohort)
    harvest.pull_patients(cohort)
    for resource_type in WHOLE_TYPES:
        harvest.pull(resource_type, cohort)
    for codes in _chunks(plan.observation_codes, _CODES_A_REQUEST):
        harvest.pull("Observation", cohort, codes=codes)
    harvest.pull_medications()


def _chunks(codes: Sequence[Token], size: int) -> list[tuple[Token, ...]]:
    return [tuple(codes[i : i + size]) for i in range(0, len(codes), size)]


def _facts(
    site: Site, plan: ExtractionPlan, capability: Capability, harvest: Harvest, cohort: Cohort
) -> RunFacts:
    return RunFacts(
        route="search",
        time_zone=site.time_zone,
        server=ServerIdentity(capability.software, capability.version, capability.fhir_version),
        requests=harvest.client.requests,
        queries=tuple(harvest.queries),
        watermarks={t: at.isoformat() if at else None for t, at in harvest.watermarks.items()},
        studies=plan.studies,
        patients=len(cohort.patients),
        warnings=tuple(harvest.finish_warnings()),
    )


def extract_sites(
    workspace: Workspace,
    names: Sequence[str],
    studies: Sequence[Study],
    *,
    progress: Progress = SILENT,
) -> list[ExtractionResult]:
    """Extract one site after the other; what one fails at does not stop the others.

    Raises PartlyExtractedError if some sites failed (the others are landed), SiteError if all did, the
    site's own error if there is only one, and UsageError (wrong settings, studies) before anything is asked.
    """
    if not names:
        raise UsageError("no site to extract from", advice="declare one with a base_url in rwe.yaml")
    plan_extraction(studies)
    for name in names:
        FhirClient(name, workspace.site(name)).close()
    results: list[ExtractionResult] = []
    failures: dict[str, RweError] = {}
    for name in names:
        try:
            results.append(extract_site(workspace, name, studies, progress=progress))
        except RweError as e:
            if len(names) == 1:
                raise
            failures[name] = e
    raise_for_failures(results, failures)
    return results


def raise_for_failures(results: Sequence[ExtractionResult], failures: Mapping[str, RweError]) -> None:
    """Nothing if no site failed, SiteError if all did, else PartlyExtractedError naming each and why."""
    if failures and results:
        raise PartlyExtractedError(results, failures)
    if failures:
        raise SiteError(f"no site could be read: {_reasons(failures)}", advice="nothing was landed")


def _reasons(failures: Mapping[str, RweError]) -> str:
    return " / ".join(
        f"{name}: {str(e).rstrip('.').removeprefix(f'site {name}, ')}" for name, e in failures.items()
    )
