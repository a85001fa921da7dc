"""Pulling a cohort out of one server: who belongs to it, how the server likes to be asked, what may land.

Servers differ in ways their CapabilityStatements do not tell, so what matters is tried out: whether several
patients fit into one request, how a patient is referred to. And whatever a server answers, a resource lands
only if it refers to a patient who was asked for.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from rwe.config import Site
from rwe.fhir.budget import Ceiling
from rwe.fhir.bundle import Found, Resource, by_type, latest_update
from rwe.fhir.capability import Capability
from rwe.fhir.client import FhirClient, RefusedError
from rwe.fhir.deletions import Source, tombstone
from rwe.fhir.failures import PagingError
from rwe.fhir.links import linked_patients
from rwe.fhir.read import read
from rwe.fhir.search import Page, Parameters, SearchSummary, any_of, search, token
from rwe.id_sets import IdSet, IdShelf
from rwe.landing import DELETED, RunWriter
from rwe.progress import Progress
from rwe.side_by_side import batches, side_by_side

Token = tuple[str, str]
_BAD_REQUEST = 400
_SEARCHES = 3  # one whose next link expired is begun again, then asked for in halves
_PROBED = ("Encounter", "Condition", "Procedure", "MedicationAdministration")
_PROBES = 5
#: Epic wants a category on every search of Observations.
CATEGORIES = "laboratory,vital-signs,survey,exam,imaging,procedure,therapy,activity,social-history"


@dataclass(frozen=True)
class Cohort:
    """The patients: by id, the type of an index event, None where the site names them. Never printed."""

    index_type: Mapping[str, str | None] = field(repr=False)

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(sorted(self.index_type))

    def without(self, refused: Collection[str]) -> Cohort:
        """The cohort less some patients."""
        return Cohort({p: t for p, t in self.index_type.items() if p not in refused})


class Harvest:
    """One extraction from one server under way."""

    def __init__(
        self,
        client: FhirClient,
        site: Site,
        capability: Capability,
        writer: RunWriter,
        progress: Progress,
        *,
        shelf: IdShelf | None = None,
    ) -> None:
        self._shelf = shelf
        self.client, self.capability = client, capability
        self.progress, self.site, self._writer = progress, site, writer
        self.batch_size, self._prefix = site.patients_per_request, ""
        self.queries: dict[str, None] = {}
        self.watermarks: dict[str, datetime | None] = {}
        self.warnings: list[str] = []
        self._foreign: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._medications: set[str] = set()
        self._ceiling = Ceiling(client.name, site)
        self._lock = threading.RLock()
        self._clock_ahead: list[float] = []
        self._demands_category = False
        #: By type: ids that landed, the latest `meta.lastUpdated` among them, and searches of several pages.
        #: A first night compares no ids: without a `shelf` none are kept.
        self.landed: dict[str, IdSet] = {}
        self.newest: dict[str, datetime] = {}
        self.paged: set[str] = set()
        #: Types of which something changed within the time that `pull` was told to watch.
        self.disturbed: set[str] = set()
        self._landed_medications: set[str] = set()
        self.merged_patients: set[str] = set()
        self.consents: list[bytes] = []

    def warn(self, sentence: str) -> None:
        """Keep a sentence for the manifest and the user, once. It names types and counts, never an id."""
        with self._lock:
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

    @property
    def clock_ahead(self) -> tuple[float, float] | None:
        """By how many seconds the server's clock was ahead of ours, at least and at most, so far."""
        return (min(self._clock_ahead), max(self._clock_ahead)) if self._clock_ahead else None

    def ask(
        self,
        resource_type: str,
        parameters: Parameters,
        template: str,
        on_page: Callable[[Page], None],
        *,
        ids_only: bool = False,
    ) -> frozenset[str]:
        """Search, keep the watermark and the query's template, and return the parameters it ignored.

        `on_page` runs under the harvest's lock. It sees pages again where a search has to be begun again.
        """
        with self._lock:
            self.queries[f"{resource_type}?{template}"] = None

        def locked(page: Page) -> None:
            with self._lock:
                on_page(page)

        for attempt in range(1, _SEARCHES + 1):
            try:
                done = search(
                    self.client,
                    resource_type,
                    parameters,
                    page_size=self.site.page_size,
                    on_page=locked,
                    ids_only=ids_only,
                )
                break
            except PagingError:
                if attempt == _SEARCHES:
                    raise
        with self._lock:
            self._note(resource_type, done)
        return done.ignored

    def _note(self, resource_type: str, done: SearchSummary) -> None:
        if done.subsetted + done.malformed:
            self._refused[resource_type] += done.subsetted + done.malformed
        if done.pages > 1:
            self.paged.add(resource_type)
        before = self.watermarks.get(resource_type, done.server_clock)
        known = [c for c in (before, done.server_clock) if c is not None]
        self.watermarks[resource_type] = min(known) if known else None
        if done.server_clock:
            self._clock_ahead.append((done.server_clock - datetime.now(UTC)).total_seconds())

    def settle_batches(self, cohort: Cohort) -> None:
        """Find out how this server wants patients named, and whether it takes several at once.

        Seen: `patient=ID` finds nothing and `patient=Patient/ID` does; `patient=a,b` gives an empty Bundle.
        Patients with a known index event make good probes: an empty answer is wrong. Raises SiteError if
        no way of asking finds it. Patients named by the site are probed for what a patient mostly has.
        """
        known = [(p, t) for p in cohort.patients if (t := cohort.index_type[p])]
        if not known:
            self._settle_blindly(cohort)
            return
        first, kind = known[0]
        partner = next((p for p, t in known[1:] if t == kind), None)
        if not any(self._finds(kind, first, partner) for self._prefix in ("", "Patient/")):
            raise self.client.error(
                "a search by patient does not find a patient's own index event",
                kind,
                advice="ask the hospital whether this type can be searched by patient",
            )

    def _finds(self, kind: str, first: str, partner: str | None) -> bool:
        """Whether the patient's resources are found; if so, whether a pair's are is settled, too."""
        with ThreadPoolExecutor(3) as pool:  # three answers are waited for as long as one
            alone = pool.submit(self._probe, kind, [first])
            if partner is not None:
                other = pool.submit(self._probe, kind, [partner])
                pair = pool.submit(self._probe, kind, [first, partner])
            if not alone.result():
                return False
            if partner is not None:
                self._settle_pair(pair.result(), alone.result() | other.result())
        return True

    def _settle_blindly(self, cohort: Cohort) -> None:
        for kind in filter(self.capability.offers, _PROBED):
            for self._prefix in ("", "Patient/"):
                alone = {p: found for p in cohort.patients[:_PROBES] if (found := self._probe(kind, [p]))}
                if len(alone) > 1:
                    (first, found), (partner, more) = list(alone.items())[:2]
                    self._settle_pair(self._probe(kind, [first, partner]), found | more)
                    return
        self._prefix, self.batch_size = "", 1
        self.warn("how the server takes several patients could not be tried out: each was asked for alone")

    def _settle_pair(self, pair: set[str | None], singles: set[str | None]) -> None:
        if pair != singles:
            self.batch_size = 1
            self.warn("the server does not answer for several patients at once, so each was asked for alone")

    def _probe(self, resource_type: str, patients: Sequence[str]) -> set[str | None]:
        ids: set[str | None] = set()

        def collect(page: Page) -> None:
            self._refuse_everyone(resource_type, page, frozenset(patients))
            ids.update(f.resource.id for f in page.found if f.resource.patient in patients)

        self.ask(resource_type, [("patient", self.patient_values(patients))], "patient={patients}", collect)
        return ids

    def patient_values(self, ids: Iterable[str]) -> str:
        """The value of the parameter `patient` that means any of the patients, as this server wants it."""
        return any_of(f"{self._prefix}{i}" for i in ids)

    def _refuse_everyone(self, resource_type: str, page: Page, asked: frozenset[str]) -> None:
        """Stop where a server says and shows that it ignored `patient`: it would send the whole hospital."""
        if "patient" not in page.ignored:
            return
        if any(f.resource.patient not in asked for f in page.found if f.is_match):
            raise self.client.error(
                "the server ignores the search parameter patient",
                resource_type,
                advice="ask the hospital to enable it, or for files to `rwe import`",
            )

    def pull(
        self,
        resource_type: str,
        patients: Sequence[str],
        *,
        codes: Sequence[Token] = (),
        since: datetime | None = None,
        watched: tuple[datetime, datetime] | None = None,
    ) -> None:
        """Land every resource of a type that belongs to the patients, or those with one of the codes.

        With `since` only what changed at that instant or later, by the server's clock. What changed within
        the time `watched` (both ends included) makes the type one of the `disturbed`.
        """
        size = self.batch_size if since else self.fair_size(len(patients))
        parts = batches(patients, size)
        self._each(
            resource_type, parts, lambda batch: self._pull_batch(resource_type, batch, codes, since, watched)
        )

    def fair_size(self, patients: int) -> int:
        """How many patients to ask for at once, so that each worker gets an equal share of a long pull.

        A search can be read by one worker only, page after page. Never more than the server takes; and where
        requests a second are limited, fewer requests are quicker than more workers.
        """
        if self.site.max_requests_per_second or not patients:
            return self.batch_size
        workers = self.site.max_concurrency
        rounds = math.ceil(patients / (self.batch_size * workers))
        return math.ceil(patients / (rounds * workers))

    def _each(
        self, resource_type: str, batches: Sequence[tuple[str, ...]], work: Callable[[tuple[str, ...]], None]
    ) -> None:
        """Work off batches side by side, as many as the site allows. The first error ends it.

        A batch whose pages break off each time is worked off in halves: fewer pages are sooner read.
        """

        def settle(batch: tuple[str, ...]) -> None:
            try:
                work(batch)
            except PagingError:
                if len(batch) == 1:
                    raise
                middle = len(batch) // 2
                settle(batch[:middle])
                settle(batch[middle:])

        works = [partial(settle, batch) for batch in batches]
        with self.progress.step(f"{self.client.name}: {resource_type}", len(works), "batches") as step:
            side_by_side(works, workers=self.site.max_concurrency, step=step)

    def _pull_batch(
        self,
        resource_type: str,
        batch: tuple[str, ...],
        codes: Sequence[Token],
        since: datetime | None,
        watched: tuple[datetime, datetime] | None,
    ) -> None:
        asked, wanted = frozenset(batch), frozenset(codes)

        def land(page: Page) -> None:
            self._refuse_everyone(resource_type, page, asked)
            found = page.found
            if "code" in page.ignored:
                found = tuple(f for f in found if not f.is_match or f.resource.codes & wanted)
            self._land(found, asked)
            if watched and resource_type not in self.disturbed:
                changes = (f.resource.last_updated for f in found)
                if any(at and watched[0] <= at <= watched[1] for at in changes):
                    self.disturbed.add(resource_type)

        ignored = self._ask_for_patients(resource_type, batch, codes, since, land)
        if "code" in ignored:
            with self._lock:
                self.warn(f"{resource_type}: the server ignores the parameter code; filtered here")

    def _ask_for_patients(
        self,
        resource_type: str,
        batch: Sequence[str],
        codes: Sequence[Token],
        since: datetime | None,
        on_page: Callable[[Page], None],
        *,
        ids_only: bool = False,
    ) -> frozenset[str]:
        parameters = [("patient", self.patient_values(sorted(batch)))]
        template = "patient={patients}"
        if codes:
            parameters.append(("code", any_of(token(*c) for c in codes)))
            template += "&code={codes}"
        if since:
            at = since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            parameters.append(("_lastUpdated", f"ge{at}"))
            template += "&_lastUpdated=ge{since}"
        if ids_only:
            parameters.append(("_elements", "id"))
            template += "&_elements=id"
        category = [("category", CATEGORIES)]
        if resource_type != "Observation" or self._demands_category:
            more = category if resource_type == "Observation" else []
            return self.ask(resource_type, parameters + more, template, on_page, ids_only=ids_only)
        try:
            return self.ask(resource_type, parameters, template, on_page, ids_only=ids_only)
        except RefusedError as e:
            if e.status != _BAD_REQUEST:
                raise
        ignored = self.ask(resource_type, parameters + category, template, on_page, ids_only=ids_only)
        self._demands_category = True
        return ignored

    def list_ids(
        self, resource_type: str, patients: Sequence[str], ids: IdSet, *, codes: Sequence[Token] = ()
    ) -> None:
        """Put into `ids` the ids of what belongs to the patients, for comparing: nothing lands."""

        def collect(page: Page) -> None:
            ids.add(f.resource.id for f in page.found if f.resource.id)

        def work(batch: tuple[str, ...]) -> None:
            self._ask_for_patients(resource_type, batch, codes, None, collect, ids_only=True)

        self._each(resource_type, batches(patients, self.batch_size), work)

    def _land(self, found: Sequence[Found], asked: frozenset[str]) -> None:
        ours: list[Resource] = []
        for one in found:
            resource = one.resource
            is_included = resource.type == "Medication" and not one.is_match
            if is_included or (resource.patient in asked and resource.type != "Patient"):
                ours.append(resource)
            else:
                self._foreign[resource.type] += one.is_match
        self.write(*ours)

    def write(self, *resources: Resource) -> None:
        """Land resources, and remember that. Raises CeilingError beyond what the site allows."""
        with self._lock:
            for resource_type, some in by_type(resources).items():
                self._ceiling.add(resource_type, len(some))
                newest = latest_update(some)
                self._writer.write_all(resource_type, [r.raw for r in some], last_updated=newest)
                self._remember(resource_type, some, newest)

    def _remember(self, resource_type: str, landed: Sequence[Resource], newest: datetime | None) -> None:
        self._medications.update(r.medication for r in landed if r.medication)
        if resource_type == "Patient":
            self.merged_patients |= frozenset[str]().union(*(linked_patients(r.raw) for r in landed))
        if resource_type == "Consent":
            self.consents += [r.raw for r in landed]
        ids = [r.id for r in landed if r.id]
        if resource_type == "Medication":
            self._landed_medications.update(ids)
        if self._shelf:
            if resource_type not in self.landed:
                self.landed[resource_type] = self._shelf.new()
            self.landed[resource_type].add(ids)
        before = self.newest.get(resource_type)
        if newest and (before is None or newest > before):
            self.newest[resource_type] = newest

    def bury(self, resource_type: str, resource_id: str, at: datetime | None, source: Source) -> None:
        """Land a tombstone."""
        with self._lock:
            self._writer.write(DELETED, tombstone(resource_type, resource_id, at, source))

    def pull_medications(self, known: Iterable[str]) -> frozenset[str]:
        """Land the Medications that landed resources refer to, and those known already, as they are now.

        Contained ones came with their resource. Returns the ids that the server has no more.
        """
        wanted = sorted({*self._medications, *known} - self._landed_medications)
        return self.pull_ids("Medication", wanted, "_id={medications}")

    def pull_ids(self, resource_type: str, ids: Sequence[str], template: str) -> frozenset[str]:
        """Land resources by id; what a search by `_id` does not give is read one by one. Returns the lost."""
        lost: set[str] = set()

        def work(batch: tuple[str, ...]) -> None:
            got: set[str] = set()
            asked = frozenset(batch)

            def land(page: Page) -> None:
                for found in page.found:
                    if found.resource.type == resource_type and found.resource.id in asked:
                        self.write(found.resource)
                        got.add(found.resource.id)
                    else:
                        self._foreign[found.resource.type] += found.is_match

            self.ask(resource_type, [("_id", any_of(batch))], template, land)
            for one in batch:
                if one not in got:
                    resource = read(self.client, resource_type, one)
                    if resource is None:
                        lost.add(one)
                    else:
                        self.write(resource)

        self._each(resource_type, batches(ids, self.batch_size), work)
        return frozenset(lost)
