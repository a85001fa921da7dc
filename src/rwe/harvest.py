"""Pulling a cohort out of one server: who belongs to it, how the server likes to be asked, what may land.

Servers differ in ways their CapabilityStatements do not tell, so what matters is tried out: whether several
patients fit into one request, how a patient is referred to. And whatever a server answers, a resource lands
only if it refers to a patient who was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from rwe.config import Site
from rwe.errors import SiteError
from rwe.fhir.bundle import NotAResourceError, Resource, read_resource
from rwe.fhir.capability import Capability
from rwe.fhir.client import FhirClient, RefusedError
from rwe.fhir.search import Found, Page, Parameters, any_of, search, token
from rwe.landing import RunWriter
from rwe.progress import Progress

Token = tuple[str, str]
_T = TypeVar("_T")
_GONE = frozenset({404, 410})
_CANNOT_SEARCH = frozenset({400, 403, 404, 405, 422, 501})
_FEW = 5
_INDEX_CODES_A_REQUEST = 50


@dataclass(frozen=True)
class Cohort:
    """Patients with an index event: by id, the resource type of one such event. Never printed."""

    index_type: Mapping[str, str] = field(repr=False)

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(sorted(self.index_type))


class Harvest:
    """One extraction from one server under way."""

    def __init__(
        self, client: FhirClient, site: Site, capability: Capability, writer: RunWriter, progress: Progress
    ) -> None:
        self.client, self.capability = client, capability
        self.progress, self._site, self._writer = progress, site, writer
        self.batch_size, self._prefix = site.patients_per_request, ""
        self.queries: dict[str, None] = {}
        self.watermarks: dict[str, datetime | None] = {}
        self.warnings: list[str] = []
        self._foreign: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._medications: set[str] = set()
        self._included_medications: set[str] = set()

    def warn(self, sentence: str) -> None:
        """Keep a sentence for the manifest and the user, once. It names types and counts, never an id."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def finish_warnings(self) -> list[str]:
        """All warnings, with the counts of what was answered and not landed."""
        for name, count in sorted((+self._foreign).items()):
            self.warn(f"{name}: answered for patients who were not asked for, and not landed: {count}")
        for name, count in sorted(self._refused.items()):
            self.warn(f"{name}: incomplete (tagged SUBSETTED) or no resource, and not landed: {count}")
        return self.warnings

    def offers(self, resource_type: str) -> bool:
        """Whether the server lists the type; if not, that is a warning."""
        if self.capability.offers(resource_type):
            return True
        self.warn(f"{resource_type}: the server does not list this type, so it was not asked for")
        return False

    def ask(
        self, resource_type: str, parameters: Parameters, template: str, on_page: Callable[[Page], None]
    ) -> frozenset[str]:
        """Search, keep the watermark and the query's template, and return the parameters it ignored."""
        self.queries[f"{resource_type}?{template}"] = None
        done = search(self.client, resource_type, parameters, page_size=self._site.page_size, on_page=on_page)
        if done.subsetted + done.malformed:
            self._refused[resource_type] += done.subsetted + done.malformed
        before = self.watermarks.get(resource_type, done.server_clock)
        known = [c for c in (before, done.server_clock) if c is not None]
        self.watermarks[resource_type] = min(known) if known else None
        return done.ignored

    def settle_batches(self, cohort: Cohort) -> None:
        """Find out how this server wants patients named, and whether it takes several at once.

        Seen: `patient=ID` finds nothing and `patient=Patient/ID` does; `patient=a,b` gives an empty Bundle.
        Patients with a known index event make good probes: an empty answer is wrong. Raises SiteError if
        no way of asking finds it.
        """
        first, *others = cohort.patients
        for self._prefix in ("", "Patient/"):
            alone = self._probe(cohort, [first])
            if alone:
                break
        else:
            raise self.client.error(
                "a search by patient does not find a patient's own index event",
                cohort.index_type[first],
                advice="ask the hospital whether this type can be searched by patient",
            )
        partner = next((p for p in others if cohort.index_type[p] == cohort.index_type[first]), None)
        if partner is None:
            return
        singles = alone | self._probe(cohort, [partner])
        if self._probe(cohort, [first, partner]) != singles:
            self.batch_size = 1
            self.warn("the server does not answer for several patients at once, so each was asked for alone")

    def _probe(self, cohort: Cohort, patients: Sequence[str]) -> set[str | None]:
        resource_type = cohort.index_type[patients[0]]
        ids: set[str | None] = set()

        def collect(page: Page) -> None:
            self._refuse_everyone(resource_type, page, frozenset(patients))
            ids.update(f.resource.id for f in page.found if f.resource.patient in patients)

        self.ask(resource_type, [("patient", self._patients(patients))], "patient={patients}", collect)
        return ids

    def _patients(self, ids: Iterable[str]) -> str:
        return any_of(f"{self._prefix}{i}" for i in ids)

    def _refuse_everyone(self, resource_type: str, page: Page, asked: frozenset[str]) -> None:
        """Stop where a server says and shows that it ignored `patient`: it would send the whole hospital."""
        strangers = any(f.resource.patient not in asked for f in page.found if f.is_match)
        if "patient" in page.ignored and strangers:
            raise self.client.error(
                "the server ignores the search parameter patient",
                resource_type,
                advice="ask the hospital to enable it, or for files to `rwe import`",
            )

    def pull(self, resource_type: str, cohort: Cohort, *, codes: Sequence[Token] = ()) -> None:
        """Land every resource of a type that belongs to the cohort, or those with one of the codes."""
        if not self.offers(resource_type):
            return
        batches = _batches(cohort.patients, self.batch_size)
        with self.progress.step(f"{self.client.name}: {resource_type}", len(batches), "batches") as step:
            for batch in batches:
                self._pull_batch(resource_type, frozenset(batch), codes)
                step.advance()

    def _pull_batch(self, resource_type: str, asked: frozenset[str], codes: Sequence[Token]) -> None:
        parameters = [("patient", self._patients(sorted(asked)))]
        if codes:
            parameters.append(("code", any_of(token(*c) for c in codes)))
        wanted = frozenset(codes)

        def land(page: Page) -> None:
            self._refuse_everyone(resource_type, page, asked)
            for found in page.found:
                if "code" in page.ignored and found.is_match and not found.resource.codes & wanted:
                    continue
                self._land(found, asked)

        template = "patient={patients}&code={codes}" if codes else "patient={patients}"
        ignored = self.ask(resource_type, parameters, template, land)
        if "code" in ignored:
            self.warn(f"{resource_type}: the server ignores the parameter code; filtered here")

    def _land(self, found: Found, asked: frozenset[str]) -> None:
        resource = found.resource
        if resource.type == "Medication" and not found.is_match and resource.id:
            self._included_medications.add(resource.id)
        elif resource.type == "Patient" or resource.patient not in asked:
            self._foreign[resource.type] += found.is_match
            return
        if resource.medication:
            self._medications.add(resource.medication)
        self._write(resource)

    def _write(self, resource: Resource) -> None:
        self._writer.write(resource.type, resource.raw, last_updated=resource.last_updated)

    def pull_patients(self, cohort: Cohort) -> None:
        """Land the Patient of each id."""
        lost = self._pull_ids("Patient", cohort.patients, "_id={patients}")
        if lost:
            self.warn(f"Patient: index event, but no readable Patient resource: {lost}")

    def pull_medications(self) -> None:
        """Land the Medications that landed resources refer to. Contained ones came with their resource."""
        wanted = sorted(self._medications - self._included_medications)
        lost = self._pull_ids("Medication", wanted, "_id={medications}") if wanted else 0
        if lost:
            self.warn(f"Medication: referred to, but not to be read: {lost}")

    def _pull_ids(self, resource_type: str, ids: Sequence[str], template: str) -> int:
        """Land resources by id; what a search by `_id` does not give is read one by one. Returns the lost."""
        if resource_type != "Patient" and not self.offers(resource_type):
            return 0
        lost = 0
        batches = _batches(ids, self.batch_size)
        with self.progress.step(f"{self.client.name}: {resource_type}", len(batches), "batches") as step:
            for batch in batches:
                got: dict[str, None] = {}

                def land(
                    page: Page, asked: frozenset[str] = frozenset(batch), got: dict[str, None] = got
                ) -> None:
                    for found in page.found:
                        if found.resource.type == resource_type and found.resource.id in asked:
                            self._write(found.resource)
                            got[found.resource.id] = None
                        else:
                            self._foreign[found.resource.type] += found.is_match

                self.ask(resource_type, [("_id", any_of(batch))], template, land)
                for resource in (self._read(resource_type, i) for i in batch if i not in got):
                    if resource is None:
                        lost += 1
                    else:
                        self._write(resource)
                step.advance()
        return lost

    def _read(self, resource_type: str, resource_id: str) -> Resource | None:
        """Read one resource by its id; None where it is gone, or is not what was asked for."""
        url = f"{self.client.base_url}/{resource_type}/{resource_id}"
        answer = self.client.request(resource_type, url, accept=_GONE)
        if answer.status in _GONE:
            return None
        try:
            resource = read_resource(answer.body)
        except NotAResourceError:
            return None
        return resource if (resource.type, resource.id) == (resource_type, resource_id) else None


def find_cohort(harvest: Harvest, index_codes: Mapping[str, Sequence[Token]]) -> Cohort:
    """The patients with an index event, by resource type and the codes to find it by.

    What the server answers is checked against the codes: one that ignores `code` must not make everyone a
    patient of the cohort. Raises SiteError if the server cannot be asked by code or offers none of the types.
    """
    index_type: dict[str, str] = {}
    offered = [source for source in index_codes if harvest.offers(source)]
    if not offered:
        raise harvest.client.error(
            "the server offers no type that could carry an index event",
            " and ".join(index_codes),
            advice="check base_url, and index_event.sources of the studies",
        )
    with harvest.progress.step(f"{harvest.client.name}: index events", len(offered), "types") as step:
        for source in offered:
            for codes in _batches(index_codes[source], _INDEX_CODES_A_REQUEST):
                patients = _by_code(harvest, source, codes)
                if source == "MedicationAdministration":
                    patients |= _by_medication(harvest, codes)
                for patient in sorted(patients):
                    index_type.setdefault(patient, source)
            step.advance()
    return Cohort(index_type)


def _by_code(harvest: Harvest, resource_type: str, codes: Sequence[Token]) -> set[str]:
    """The patients of resources that bear one of the codes themselves."""
    events = _bearing(harvest, resource_type, codes)
    orphans = sum(r.patient is None for r in events)
    if orphans:
        harvest.warn(f"{resource_type}: index events that refer to no patient by id, passed over: {orphans}")
    return {r.patient for r in events if r.patient}


def _by_medication(harvest: Harvest, codes: Sequence[Token]) -> set[str]:
    """The patients given a Medication with one of the codes: `code=` does not see through the reference."""
    if not harvest.offers("Medication"):
        return set()
    ids = sorted(r.id for r in _bearing(harvest, "Medication", codes) if r.id)
    patients: set[str] = set()

    def ask(some: Sequence[str]) -> set[str | None]:
        asked, events = frozenset(some), set[str | None]()

        def collect(page: Page) -> None:
            for found in page.found:
                if found.resource.medication in asked:
                    events.add(found.resource.id)
                    if found.resource.patient:
                        patients.add(found.resource.patient)

        value = any_of(f"Medication/{i}" for i in some)
        template = "medication={medications}"
        harvest.ask("MedicationAdministration", [("medication", value)], template, collect)
        return events

    size = 1
    if len(ids) > _FEW:
        singles = ask(ids[:1]) | ask(ids[1:2])
        size = harvest.batch_size if singles and ask(ids[:2]) == singles else 1
    for batch in _batches(ids, size):
        ask(batch)
    return patients


def _bearing(harvest: Harvest, resource_type: str, codes: Sequence[Token]) -> list[Resource]:
    wanted, matched, others = frozenset(codes), list[Resource](), Counter[str]()

    def collect(page: Page) -> None:
        for found in page.found:
            if found.resource.type == resource_type and found.resource.codes & wanted:
                matched.append(replace(found.resource, raw=b""))
            elif found.is_match and not found.resource.medication:
                others[resource_type] += 1

    try:
        value = any_of(token(*c) for c in codes)
        harvest.ask(resource_type, [("code", value)], "code={index codes}", collect)
    except RefusedError as e:
        if e.status not in _CANNOT_SEARCH:
            raise
        raise SiteError(
            f"the server refuses a search by code (status {e.status}), so the cohort cannot be found",
            where=e.where,
            advice="ask the hospital to enable it, or for files to `rwe import`",
        ) from None
    if others:
        harvest.warn(
            f"{resource_type}: answers without a code asked for, passed over: {others[resource_type]}"
        )
    return matched


def _batches(values: Sequence[_T], size: int) -> list[tuple[_T, ...]]:
    return [tuple(values[i : i + size]) for i in range(0, len(values), size)]
