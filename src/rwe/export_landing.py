"""From an export's files to a run: who belongs to the cohort, and what of theirs lands.

An export at system or Patient level is wider than any cohort. Its files are read twice: first for the index
events, then for what belongs to the patients who have one. Only that lands, so that an export and a search
come to the same rows.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

from rwe.crypt import Cipher, UnsealError
from rwe.errors import LandingError
from rwe.export_job import DoneFile
from rwe.extraction_plan import CODES_A_REQUEST, ExtractionPlan
from rwe.fhir.budget import Ceiling
from rwe.fhir.bulk_files import read_lines
from rwe.fhir.bulk_manifest import DELETED, Tombstone, tombstones
from rwe.fhir.bundle import NotAResourceError, Resource, read_resource
from rwe.fhir.client import FhirClient, RefusedError
from rwe.fhir.failures import PagingError
from rwe.fhir.read import read
from rwe.fhir.search import Page, any_of, search, token
from rwe.harvest import Token
from rwe.landing import RunWriter
from rwe.progress import Step

_IDS_A_REQUEST = 50


@dataclass
class Tally:
    """What came, and what of it landed, by type. Counts only. `alien`: a whole file of it was no FHIR."""

    landed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unasked: Counter[str] = field(default_factory=Counter)
    orphans: Counter[str] = field(default_factory=Counter)
    alien: set[str] = field(default_factory=set)
    tombstones: int = 0
    lost_medications: int = 0
    bad_deletions: int = 0
    warnings: list[str] = field(default_factory=list)

    def all_warnings(self) -> tuple[str, ...]:
        """One sentence each, by type and count."""
        found = list(self.warnings)
        for name, count in sorted(self.refused.items()):
            found.append(f"{name}: incomplete (tagged SUBSETTED) or no resource, and not landed: {count}")
        for name, count in sorted(self.unasked.items()):
            found.append(f"{name}: exported without being asked for, and not landed: {count}")
        for name, count in sorted(self.orphans.items()):
            found.append(f"{name}: index events that refer to no patient by id, passed over: {count}")
        if self.lost_medications:
            found.append(f"Medication: referred to, but not to be read: {self.lost_medications}")
        if self.bad_deletions:
            found.append(f"deleted: lines that are no deletions, passed over: {self.bad_deletions}")
        return tuple(found)


@dataclass(frozen=True)
class ExportReader:
    """The files of a finished export, in a fixed order."""

    site: str
    spill: Path
    files: Sequence[DoneFile]
    cipher: Cipher | None = field(default=None, repr=False)

    def of(self, kind: str, types: Collection[str] | None = None) -> list[DoneFile]:
        """The files of a kind (and types)."""
        return [f for f in self.files if f.kind == kind and (types is None or f.type in types)]

    def lines(self, file: DoneFile) -> Iterator[bytes]:
        """Its lines. Raises LandingError where the disk has damaged it since."""
        try:
            yield from read_lines(self.spill / file.name, self.cipher)
        except (OSError, EOFError, zlib.error, UnsealError):
            raise LandingError(
                "a file of the export is damaged on disk",
                where=f"site {self.site}",
                advice=f"delete {self.spill} and run it again",
            ) from None

    def resources(self, file: DoneFile, refused: Counter[str] | None = None) -> Iterator[Resource]:
        """Its resources; what is none, or incomplete, is counted in `refused`."""
        for line in self.lines(file):
            try:
                resource = read_resource(line)
            except NotAResourceError:
                resource = None
            if resource is None or resource.is_subsetted:
                if refused is not None:
                    refused[file.type] += 1
            else:
                yield resource


def index_medications(
    reader: ExportReader, client: FhirClient, codes: Sequence[Token], *, is_whole: bool, tally: Tally
) -> set[str]:
    """Ids of the Medications that bear an index code: `code` does not see through the reference.

    What the export holds is not all of them if it `is_whole` not, or holds none: then the server is asked.
    """
    wanted = frozenset(codes)
    files = reader.of("output", {"Medication"})
    found = {r.id for f in files for r in reader.resources(f) if r.id and r.codes & wanted}
    if (is_whole and files) or not wanted:
        return found

    def collect(page: Page) -> None:
        for each in page.found:
            if each.resource.type == "Medication" and each.resource.id and each.resource.codes & wanted:
                found.add(each.resource.id)

    try:
        for start in range(0, len(codes), CODES_A_REQUEST):
            value = any_of(token(*c) for c in codes[start : start + CODES_A_REQUEST])
            search(client, "Medication", [("code", value)], page_size=_IDS_A_REQUEST, on_page=collect)
    except RefusedError:
        tally.warnings.append(
            "Medication: not in the export, and the server refuses a search by code: an index event that is "
            "coded there only may be missed"
        )
    return found


def find_cohort(
    reader: ExportReader, plan: ExtractionPlan, medications: Collection[str], tally: Tally
) -> set[str]:
    """The patients with an index event in the export, by the codes alone (dates and statuses aside)."""
    patients: set[str] = set()
    for source, codes in plan.index_codes.items():
        wanted = frozenset(codes)
        for file in reader.of("output", {source}):
            for resource in reader.resources(file):
                by_reference = source == "MedicationAdministration" and resource.medication in medications
                if not (by_reference or resource.codes & wanted):
                    continue
                if resource.patient:
                    patients.add(resource.patient)
                else:
                    tally.orphans[source] += 1
    return patients


@dataclass(frozen=True)
class Wanted:
    """What may land: types, Observation codes, and whose. `admits` says no to what may not enter."""

    types: frozenset[str]
    observation_codes: frozenset[Token]
    is_member: Callable[[str], bool]
    knows_medication: Callable[[str], bool]
    admits: Callable[[Resource], bool]

    def takes(self, resource: Resource) -> bool:
        """Whether a resource other than a Medication lands."""
        patient = resource.id if resource.type == "Patient" else resource.patient
        if patient is None or not self.is_member(patient):
            return False
        if resource.type == "Observation" and not resource.codes & self.observation_codes:
            return False
        return self.admits(resource)


class Lander:
    """Lands what is wanted of an export's files, line by line; memory holds ids of Medications only."""

    def __init__(self, reader: ExportReader, writer: RunWriter, wanted: Wanted, ceiling: Ceiling) -> None:
        self._reader, self._writer, self._wanted, self._ceiling = reader, writer, wanted, ceiling
        self.tally = Tally()
        self.patients: set[str] = set()
        self._medications: set[str] = set()
        self._with_medications: list[DoneFile] = []
        self._gone: set[bytes] = set()

    def land(self, client: FhirClient, transaction_time: datetime, step: Step) -> None:
        """Land the resources, then the Medications they refer to, then the tombstones."""
        deletions = self._reader.of("deleted")
        self._gone = {_digest(t) for f in deletions for t in self._tombstones(f, None, count=True)}
        for file in self._reader.of("output"):
            self._land_file(file)
            step.advance()
        self._land_medications(client)
        for file in deletions:
            for tombstone in self._tombstones(file, transaction_time):
                self._bury(tombstone)

    def _write(self, resource: Resource) -> None:
        self._ceiling.add(resource.type)
        self._writer.write(resource.type, resource.raw, last_updated=resource.last_updated)
        self.tally.landed[resource.type] += 1
        if self._gone and resource.id:
            # Deleted and created again since: the export holds it, so it is there.
            self._gone.discard(_digest(Tombstone(resource.type, resource.id, None)))

    def _land_file(self, file: DoneFile) -> None:
        refused, any_resource = self.tally.refused[file.type], False
        for resource in self._reader.resources(file, self.tally.refused):
            any_resource = True
            if resource.type == "Medication":
                if file not in self._with_medications:
                    self._with_medications.append(file)
            elif resource.type not in self._wanted.types:
                self.tally.unasked[resource.type] += 1
            elif self._wanted.takes(resource):
                if resource.medication:
                    self._medications.add(resource.medication)
                patient = resource.id if resource.type == "Patient" else resource.patient
                if patient:
                    self.patients.add(patient)
                self._write(resource)
        if not any_resource and self.tally.refused[file.type] > refused:
            self.tally.alien.add(file.type)

    def _land_medications(self, client: FhirClient) -> None:
        missing = set(self._medications)
        for file in self._with_medications:
            for resource in self._reader.resources(file):
                if resource.type != "Medication" or not resource.id:
                    continue
                if resource.id in self._medications or self._wanted.knows_medication(resource.id):
                    missing.discard(resource.id)
                    if self._wanted.admits(resource):
                        self._write(resource)
        unknown = sorted(i for i in missing if not self._wanted.knows_medication(i))
        if unknown:
            self.tally.lost_medications = len(unknown) - self._ask_for_medications(client, unknown)

    def _ask_for_medications(self, client: FhirClient, ids: Sequence[str]) -> int:
        """A patient's export need not hold what lies outside the patient's compartment."""
        asked, got = frozenset(ids), set[str]()

        def collect(page: Page) -> None:
            for each in page.found:
                self._take(each.resource, asked, got)

        for start in range(0, len(ids), _IDS_A_REQUEST):
            batch = ids[start : start + _IDS_A_REQUEST]
            with suppress(RefusedError, PagingError):  # then they are read one by one
                search(client, "Medication", [("_id", any_of(batch))], page_size=len(batch), on_page=collect)
        for one in ids:
            if one not in got:
                with suppress(RefusedError):
                    found = read(client, "Medication", one)
                    if found is not None:
                        self._take(found, asked, got)
        return len(got)

    def _take(self, resource: Resource, asked: Collection[str], got: set[str]) -> None:
        if resource.type == "Medication" and resource.id and resource.id in asked and resource.id not in got:
            got.add(resource.id)
            if self._wanted.admits(resource):
                self._write(resource)

    def _tombstones(self, file: DoneFile, at: datetime | None, *, count: bool = False) -> Iterator[Tombstone]:
        for line in self._reader.lines(file):
            try:
                yield from tombstones(line, at)
            except NotAResourceError:
                self.tally.bad_deletions += count

    def _bury(self, tombstone: Tombstone) -> None:
        key = _digest(tombstone)
        if tombstone.resource_type in self._wanted.types and key in self._gone:
            self._gone.discard(key)
            self._writer.write(DELETED, tombstone.line())
            self.tally.tombstones += 1


def _digest(tombstone: Tombstone) -> bytes:
    return blake2b(f"{tombstone.resource_type}/{tombstone.id}".encode(), digest_size=12).digest()
