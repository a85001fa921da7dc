"""What an extraction would ask of a site and bring from it, before a hospital says yes. Nothing lands.

The cohort is found for real: that takes few requests. The records of a sample of its patients are counted by
the server, without being sent, and scaled up to the cohort.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from rwe.admission import opted_out
from rwe.audit import audited
from rwe.cohort_search import settle_cohort
from rwe.config import Site, Workspace
from rwe.errors import PartialError, RweError, SiteError
from rwe.extraction_plan import (
    CODES_A_REQUEST,
    WHOLE_TYPES,
    ExtractionPlan,
    plan_extraction,
    types_to_read,
)
from rwe.fhir.budget import QuietHoursError
from rwe.fhir.bulk import ExportLevel
from rwe.fhir.capability import read_capability
from rwe.fhir.client import FhirClient
from rwe.fhir.count import count_found
from rwe.fhir.search import any_of, token
from rwe.harvest import CATEGORIES, Cohort, Harvest, Token
from rwe.landing import Route, RunWriter, list_runs
from rwe.progress import SILENT, Progress
from rwe.side_by_side import batches
from rwe.site_check import choose_route
from rwe.study import Study

SAMPLE_PATIENTS = 20
_NOT_TOLD = "the server does not count what a search would find"
_TOO_FEW = "the server counts fewer than it has shown already"
_BY_REFERENCE = "as many as the records refer to"


@dataclass(frozen=True)
class Estimate:
    """What a first extraction of a site would come to.

    `patients` are found, not estimated; None where that needs the extraction itself. `rows` by type are
    counted in a sample of `sampled` patients and scaled up; `uncounted` says by type why there is no figure.
    `requests` (None for an export: its polls and files are the server's choice) are those of a night without
    faults. `asked` is how many requests the estimate took. `exported` is what an export of everybody reads,
    by type, of which only the cohort's lands.
    """

    site: str
    route: Route
    level: ExportLevel | None
    reasons: tuple[str, ...]
    patients: int | None
    sampled: int
    requests: int | None
    rows: dict[str, int]
    uncounted: dict[str, str]
    exported: dict[str, int]
    asked: int
    notes: tuple[str, ...] = ()

    @property
    def total_rows(self) -> int:
        """All rows that could be counted."""
        return sum(self.rows.values())


class PartlyEstimatedError(PartialError):
    """Some sites could not be looked at; `results` are of the others."""

    def __init__(self, results: Sequence[Estimate], failures: Mapping[str, RweError]) -> None:
        self.results, self.failures = tuple(results), dict(failures)
        reasons = " / ".join(f"{name}: {str(e).rstrip('.')}" for name, e in failures.items())
        super().__init__(f"no estimate of {reasons}", advice="the estimates of the other sites are shown")


def estimate_sites(
    workspace: Workspace, names: Sequence[str], studies: Sequence[Study], *, progress: Progress = SILENT
) -> list[Estimate]:
    """An estimate of each site, one named twice once. Raises as `estimate_site` if there is only one site,
    SiteError if all fail, PartlyEstimatedError if some do."""
    names = tuple(dict.fromkeys(names))
    results: list[Estimate] = []
    failures: dict[str, RweError] = {}
    for name in names:
        try:
            results.append(estimate_site(workspace, name, studies, progress=progress))
        except RweError as e:
            if len(names) == 1:
                raise
            failures[name] = e
    if failures and results:
        raise PartlyEstimatedError(results, failures)
    if failures:
        told = " / ".join(f"{name}: {str(e).rstrip('.')}" for name, e in failures.items())
        raise SiteError(f"no site could be looked at: {told}", advice="try `rwe sites check`")
    return results


def estimate_site(
    workspace: Workspace,
    site_name: str,
    studies: Sequence[Study],
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Estimate:
    """Estimate the first extraction of one site for all `studies`. `seed` chooses the sample of patients.

    It asks about patients, so the audit log gets an entry. Raises ConfigError and StudyError as an
    extraction does, SiteError where the server cannot be asked or the cohort not be found by search.
    """
    site = workspace.site(site_name)
    plan = plan_extraction(studies)
    with audited(workspace, "estimate", site=site_name) as deed, FhirClient(site_name, site) as client:
        refused = opted_out(site_name, site)
        capability = read_capability(client)
        client.check_scopes(filter(capability.offers, types_to_read(plan, site)))
        choice = choose_route(site, capability, tuple(plan.index_codes))
        harvest = Harvest(client, site, capability, _NoRun(), progress)
        census = _Census(harvest, site, plan, is_export=choice.level is not None)
        census.take(refused, random.Random(seed))
        if choice.level in ("patient", "system"):
            census.count_everybody()
        if list_runs(workspace.landing, site_name):
            harvest.warn("estimated as if nothing had landed yet: later nights ask for what is new")
        asked = _sent(client)
        deed.counts = {"patients": census.patients or 0, "requests": asked}
        return Estimate(
            site=site_name,
            route=choice.route,
            level=choice.level,
            reasons=choice.reasons,
            patients=census.patients,
            sampled=census.sampled,
            requests=census.requests,
            rows=census.rows,
            uncounted=census.uncounted,
            exported=census.exported,
            asked=asked,
            notes=tuple(harvest.finish_warnings()),
        )


class _NoRun(RunWriter):
    """Stands where an extraction would write its run. It has no folder: nothing can be written."""

    def __init__(self) -> None:
        pass


def _sent(client: FhirClient) -> int:
    return sum(sum(counts.values()) for counts in client.requests.values())


@dataclass
class _Census:
    """The counting at one site. What is public becomes the Estimate."""

    harvest: Harvest
    site: Site
    plan: ExtractionPlan
    is_export: bool
    patients: int | None = None
    sampled: int = 0
    requests: int | None = None
    rows: dict[str, int] = field(default_factory=dict)
    uncounted: dict[str, str] = field(default_factory=dict)
    exported: dict[str, int] = field(default_factory=dict)

    def take(self, refused: frozenset[str], rng: random.Random) -> None:
        """Find the cohort, then count by type in a sample of it."""
        try:
            cohort = settle_cohort(self.harvest, self.site, self.plan.index_codes).without(refused)
            if cohort.patients:
                self.harvest.settle_batches(cohort)
        except QuietHoursError:
            raise
        except SiteError as e:
            if not self.is_export:
                raise
            self.harvest.warn(f"who belongs to the cohort shows only in the export: {e.what}")
            return
        self.patients = len(cohort.patients)
        before = _sent(self.harvest.client)
        sample = rng.sample(cohort.patients, min(SAMPLE_PATIENTS, self.patients))
        self.sampled = len(sample)
        self.rows["Patient"] = self.patients
        asking = self._of_ids(self.patients)
        if self.patients:
            asking += self._count_types(cohort, sample)
        else:
            self.harvest.warn("no patient has an index event of any study")
        if self.site.consent == "required":
            self.harvest.warn("patients without a permitting Consent are counted here and not asked for then")
        self.requests = None if self.is_export else before + asking

    def _count_types(self, cohort: Cohort, sample: Sequence[str]) -> int:
        """Count each type; returns the requests that pulling all of them would take."""
        types = [*WHOLE_TYPES]
        types += ["Observation"] if self.plan.observation_codes else []
        types += ["Consent"] if self.site.consent == "required" else []
        offered = [t for t in types if self.harvest.offers(t)]
        asking = 0
        label = f"{self.harvest.client.name}: counting"
        with self.harvest.progress.step(label, len(offered), "types") as step:
            for resource_type in offered:
                asking += self._count_type(resource_type, cohort, sample)
                step.advance()
        if self.harvest.offers("Medication"):
            self.uncounted["Medication"] = _BY_REFERENCE
            asking += 1
        return asking

    def _count_type(self, resource_type: str, cohort: Cohort, sample: Sequence[str]) -> int:
        """Scale up what the sample has of a type; returns the requests that pulling it would take."""
        is_observed = resource_type == "Observation"
        portions = batches(self.plan.observation_codes, CODES_A_REQUEST) if is_observed else [()]
        parts = ceil(len(cohort.patients) / self.harvest.batch_size)
        counts: list[int] = []
        try:
            for codes in portions:
                found = [self._ask(resource_type, some, codes) for some in self._parts(sample)]
                counts.append(sum(n for n in found if n is not None))
                if None in found:
                    self.uncounted[resource_type] = _NOT_TOLD
                    return parts * len(portions)
        except QuietHoursError:
            raise
        except SiteError as e:
            self.uncounted[resource_type] = e.what
            return parts * len(portions)
        if sum(counts) < sum(cohort.index_type[p] == resource_type for p in sample):
            self.uncounted[resource_type] = _TOO_FEW
            return parts * len(portions)
        a_patient = [n / len(sample) for n in counts]
        self.rows[resource_type] = round(sum(a_patient) * len(cohort.patients))
        a_batch = min(self.harvest.batch_size, len(cohort.patients))
        return sum(parts * max(1, ceil(n * a_batch / self.site.page_size)) for n in a_patient)

    def _parts(self, patients: Sequence[str]) -> list[tuple[str, ...]]:
        return batches(patients, self.harvest.batch_size)

    def _of_ids(self, patients: int) -> int:
        """Requests that reading so many Patients by id takes."""
        size = self.harvest.batch_size
        return ceil(patients / size) * ceil(min(size, max(patients, 1)) / self.site.page_size)

    def _ask(self, resource_type: str, patients: Sequence[str], codes: Sequence[Token]) -> int | None:
        parameters = [("patient", self.harvest.patient_values(patients))]
        if codes:
            parameters.append(("code", any_of(token(*c) for c in codes)))
        found = count_found(self.harvest.client, resource_type, parameters)
        if found is None and resource_type == "Observation":  # some want a category with every search
            parameters.append(("category", CATEGORIES))
            found = count_found(self.harvest.client, resource_type, parameters)
        return found

    def count_everybody(self) -> None:
        """Count what the hospital has in all: that is what an export of everybody reads."""
        types = ["Patient", *WHOLE_TYPES, "Medication"]
        types += ["Observation"] if self.plan.observation_codes else []
        for resource_type in filter(self.harvest.capability.offers, types):
            try:
                found = count_found(self.harvest.client, resource_type, [])
            except QuietHoursError:
                raise
            except SiteError:
                found = None
            if found is not None:
                self.exported[resource_type] = found
