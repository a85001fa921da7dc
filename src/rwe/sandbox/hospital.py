"""One synthetic hospital: its records, and the store that its server searches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from rwe.sandbox.dialects import DIALECTS, Dialect, DialectName, Resource
from rwe.sandbox.mess import make_messy
from rwe.sandbox.records import PatientRecord, formulary, patient_records
from rwe.sandbox.search import (
    PARAMETERS,
    BadSearchError,
    Interval,
    Parameter,
    date_test,
    intervals,
    references,
    split_values,
    token_test,
    tokens,
    values,
    wanted_references,
)
from rwe.sandbox.truth import LatentCohort, Truth, simulate_patients


@dataclass(frozen=True)
class HospitalSpec:
    """What makes a hospital: the same spec makes the same bytes. `patients` counts the eligible ones."""

    name: str
    dialect: DialectName
    patients: int
    seed: int
    truth: Truth = field(default_factory=Truth)

    @property
    def manner(self) -> Dialect:
        return DIALECTS[self.dialect]

    def cohort(self) -> LatentCohort:
        """The latent patients behind the records: the known answer."""
        return simulate_patients(self.truth, site=self.name, n=self.patients, seed=self.seed)


def demo_specs(seed: int, patients: int = 300) -> tuple[HospitalSpec, HospitalSpec, HospitalSpec]:
    """The three hospitals of the demonstration, one of each dialect."""
    return (
        HospitalSpec("north", "a", patients, seed),
        HospitalSpec("river", "b", patients, seed),
        HospitalSpec("summit", "c", patients, seed),
    )


def hospital_records(spec: HospitalSpec) -> Iterator[PatientRecord]:
    """Every patient's record, a share of them messy."""
    for record in patient_records(spec.cohort(), spec.dialect):
        yield make_messy(record, spec.dialect, share=spec.truth.share_messy, seed=f"{spec.seed}:{spec.name}")


def hospital_resources(spec: HospitalSpec) -> Iterator[Resource]:
    """All resources of the hospital, older versions of one before newer ones."""
    yield from formulary(spec.manner, f"{spec.seed}:{spec.name}").medications.values()
    for record in hospital_records(spec):
        yield from record.resources


def write_ndjson(spec: HospitalSpec, folder: Path) -> dict[str, int]:
    """Write the hospital's resources to folder/TYPE.ndjson, all versions; returns the lines by type."""
    lines: dict[str, list[bytes]] = defaultdict(list)
    for resource in hospital_resources(spec):
        lines[resource["resourceType"]].append(msgspec.json.encode(resource))
    folder.mkdir(parents=True, exist_ok=True)
    for resource_type, found in lines.items():
        (folder / f"{resource_type}.ndjson").write_bytes(b"\n".join(found) + b"\n")
    return {resource_type: len(found) for resource_type, found in sorted(lines.items())}


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource as served. `targets` holds the TYPE/ID behind each field that is a reference."""

    resource_type: str
    id: str
    body: bytes
    version: tuple[str, int]
    resource: Resource
    targets: dict[str, tuple[str, ...]]


_Test = Callable[[Stored], bool]


class Store:
    """The newest version of every resource, searchable. It does not change once it is filled."""

    def __init__(self, resources: Iterable[Resource], zone: ZoneInfo) -> None:
        self.zone = zone
        newest: dict[tuple[str, str], Stored] = {}
        for resource in resources:
            stored = _stored(resource)
            key = (stored.resource_type, stored.id)
            if key not in newest or newest[key].version <= stored.version:
                newest[key] = stored
        self.by_id = newest
        self.by_type: dict[str, list[Stored]] = {name: [] for name in PARAMETERS}
        self._by_reference: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        self._by_code: dict[tuple[str, str], list[int]] = defaultdict(list)
        for stored in newest.values():
            self._index(stored)

    def _index(self, stored: Stored) -> None:
        shelf = self.by_type[stored.resource_type]
        place = len(shelf)
        shelf.append(stored)
        for field_name, targets in stored.targets.items():
            for target in targets:
                self._by_reference[stored.resource_type, field_name, target].append(place)
        code = PARAMETERS[stored.resource_type].get("code")
        for _, each in tokens(values(stored.resource, code)) if code else ():
            self._by_code[stored.resource_type, each].append(place)

    def read(self, resource_type: str, resource_id: str) -> Stored | None:
        return self.by_id.get((resource_type, resource_id))

    def search(self, resource_type: str, query: Iterable[tuple[str, str]]) -> list[Stored]:
        """The resources of a type that match every pair of the query, in the order they were filed.

        Raises BadSearchError for a parameter the type does not have, or a value that it cannot have.
        """
        shelf = self.by_type[resource_type]
        places: set[int] | None = None
        tests = []
        for name, text in query:
            narrowed = self._narrowed(resource_type, name, text)
            if narrowed is not None:
                places = narrowed if places is None else places & narrowed
            if name not in ("_id", "patient", "subject", "medication"):
                tests.append(self._test(resource_type, name, text))
        chosen = shelf if places is None else [shelf[i] for i in sorted(places)]
        return [stored for stored in chosen if all(test(stored) for test in tests)]

    def _narrowed(self, resource_type: str, name: str, text: str) -> set[int] | None:
        """Places that can match at all, where an index knows them; None if all can."""
        if name == "_id":
            wanted = set(split_values(text))
            shelf = self.by_type[resource_type]
            return {i for i, stored in enumerate(shelf) if stored.id in wanted}
        parameter = _parameter(resource_type, name)
        if parameter.kind == "reference":
            targets = wanted_references(name, text)
            return {
                i
                for t in targets
                for i in self._by_reference.get((resource_type, parameter.fields[0], t), ())
            }
        if name == "code":
            codes = {part.rpartition("|")[2] for part in split_values(text)}
            if "" in codes:
                return None
            return {i for c in codes for i in self._by_code.get((resource_type, c), ())}
        return None

    def _test(self, resource_type: str, name: str, text: str) -> _Test:
        parameter = _parameter(resource_type, name)
        if parameter.kind == "date":
            matches_date = date_test(name, text, self.zone)
            return lambda stored: matches_date(self.dates(stored, name))
        matches_token = token_test(name, text)
        return lambda stored: matches_token(tokens(values(stored.resource, parameter)))

    def dates(self, stored: Stored, name: str) -> tuple[Interval, ...]:
        """The stretches of time that a date parameter sees in a resource."""
        return intervals(values(stored.resource, PARAMETERS[stored.resource_type][name]), self.zone)


_REFERENCE_FIELDS = ("subject", "medicationReference")


def _parameter(resource_type: str, name: str) -> Parameter:
    try:
        return PARAMETERS[resource_type][name]
    except KeyError:
        raise BadSearchError(f"{resource_type} has no search parameter of this name") from None


def _stored(resource: Resource) -> Stored:
    resource_type, meta = resource["resourceType"], resource["meta"]
    targets = {name: references([resource[name]]) for name in _REFERENCE_FIELDS if name in resource}
    version = (meta["lastUpdated"], int(meta["versionId"]))
    return Stored(resource_type, resource["id"], msgspec.json.encode(resource), version, resource, targets)


def open_store(spec: HospitalSpec) -> Store:
    """Make a hospital's records and index them."""
    return Store(hospital_resources(spec), spec.manner.zone)
