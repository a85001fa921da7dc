"""What a hospital's server holds: the newest versions, searchable, and the history that led to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from rwe.sandbox.dialects import CAR_T_CODES, Resource
from rwe.sandbox.hospital import HospitalSpec, hospital_resources
from rwe.sandbox.options import COHORT_GROUP
from rwe.sandbox.search import (
    EXTRA_PARAMETERS,
    KNOWN_PARAMETERS,
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

Key = tuple[str, str]
_Test = Callable[["Stored"], bool]


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource as served. `targets` holds the TYPE/ID behind each field that is a reference."""

    resource_type: str
    id: str
    body: bytes
    version: tuple[str, int]
    resource: Resource
    targets: dict[str, tuple[str, ...]]

    @property
    def key(self) -> Key:
        return self.resource_type, self.id

    @property
    def last_updated(self) -> str:
        return self.version[0]

    @property
    def patient(self) -> str | None:
        """PATIENT's id if the resource lies in a Patient compartment."""
        if self.resource_type == "Patient":
            return self.id
        found = self.targets.get("subject") or self.targets.get("patient") or ()
        return next((t.removeprefix("Patient/") for t in found if t.startswith("Patient/")), None)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history. For DELETE `stored` is what was deleted; `at` is a FHIR instant in UTC."""

    method: Literal["POST", "PUT", "DELETE"]
    at: str
    version: int
    stored: Stored


class Store:
    """The newest version of every resource, searchable, and every change that there was.

    `types` are those served. `revision` counts changes. `has_versions` false leaves `meta.versionId` out of
    what is served.
    """

    def __init__(
        self,
        resources: Iterable[Resource],
        zone: ZoneInfo,
        *,
        extra_types: Iterable[str] = (),
        has_versions: bool = True,
    ) -> None:
        self.zone, self._has_versions = zone, has_versions
        self.types = {name for name in KNOWN_PARAMETERS if name not in EXTRA_PARAMETERS} | set(extra_types)
        self.revision = 0
        self.history: list[Change] = []
        self.joined: dict[str, str] = {}
        """When a patient became a member of the Group; those from the start are not in it."""
        self.ever_members: set[str] = set()
        self._newest: dict[Key, Stored] = {}
        self._deleted: dict[Key, int] = {}
        self._place: dict[Key, int] = {}
        self._shelves: dict[str, list[Stored | None]] = {name: [] for name in self.types}
        self._by_reference: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        self._by_code: dict[tuple[str, str], list[int]] = defaultdict(list)
        for resource in resources:
            stored = self._stored(resource)
            method: Literal["POST", "PUT"] = "PUT" if stored.version[1] > 1 else "POST"
            self.history.append(Change(method, stored.last_updated, stored.version[1], stored))
            if stored.key not in self._newest or self._newest[stored.key].version <= stored.version:
                self._newest[stored.key] = stored
        for stored in self._newest.values():
            self._index(stored)

    # Changes

    def put(self, resource: Resource, at: str) -> Stored:
        """File a resource as new or as the next version; versionId and lastUpdated become the store's."""
        key = (resource["resourceType"], resource["id"])
        if key[0] not in self.types:
            raise KeyError(f"no shelf for {key[0]}")
        before = self._deleted.pop(key, 0) or (self._newest[key].version[1] if key in self._newest else 0)
        meta = {**resource.get("meta", {}), "versionId": str(before + 1), "lastUpdated": at}
        stored = self._stored({**resource, "meta": meta})
        self._unshelve(key)
        self._newest[key] = stored
        self._index(stored)
        self.revision += 1
        self.history.append(Change("PUT" if before else "POST", at, before + 1, stored))
        return stored

    def delete(self, resource_type: str, resource_id: str, at: str) -> None:
        """Delete a resource. Raises KeyError if there is none."""
        key = (resource_type, resource_id)
        stored = self._newest.pop(key)
        self._unshelve(key)
        self._deleted[key] = stored.version[1] + 1
        self.revision += 1
        self.history.append(Change("DELETE", at, stored.version[1] + 1, stored))

    def _unshelve(self, key: Key) -> None:
        place = self._place.pop(key, None)
        if place is not None:
            self._shelves[key[0]][place] = None

    def _index(self, stored: Stored) -> None:
        shelf = self._shelves[stored.resource_type]
        place = len(shelf)
        shelf.append(stored)
        self._place[stored.key] = place
        for field_name, targets in stored.targets.items():
            for target in targets:
                self._by_reference[stored.resource_type, field_name, target].append(place)
        code = KNOWN_PARAMETERS[stored.resource_type].get("code")
        for _, each in tokens(values(stored.resource, code)) if code else ():
            self._by_code[stored.resource_type, each].append(place)

    def _stored(self, resource: Resource) -> Stored:
        meta = resource["meta"]
        targets = {
            name: references(_listed(resource[name])) for name in _REFERENCE_FIELDS if name in resource
        }
        version = (meta["lastUpdated"], int(meta["versionId"]))
        if not self._has_versions:
            resource = {**resource, "meta": {k: v for k, v in meta.items() if k != "versionId"}}
        body = msgspec.json.encode(resource)
        return Stored(resource["resourceType"], resource["id"], body, version, resource, targets)

    # Reading

    def read(self, resource_type: str, resource_id: str) -> Stored | None:
        return self._newest.get((resource_type, resource_id))

    def is_deleted(self, resource_type: str, resource_id: str) -> bool:
        return (resource_type, resource_id) in self._deleted

    def all(self, resource_type: str) -> list[Stored]:
        """Everything of a type, in the order of filing: a new version is filed last."""
        return [stored for stored in self._shelves[resource_type] if stored is not None]

    def search(self, resource_type: str, query: Iterable[tuple[str, str]]) -> list[Stored]:
        """The resources of a type that match every pair of the query, in the order they were filed.

        Raises BadSearchError for a parameter the type does not have, or a value that it cannot have.
        """
        shelf = self._shelves[resource_type]
        places: set[int] | None = None
        tests = []
        for name, text in query:
            narrowed = self._narrowed(resource_type, name, text)
            if narrowed is not None:
                places = narrowed if places is None else places & narrowed
            if name != "_id" and _parameter(resource_type, name).kind != "reference":
                tests.append(self._test(resource_type, name, text))
        chosen = shelf if places is None else [shelf[i] for i in sorted(places)]
        return [s for s in chosen if s is not None and all(test(s) for test in tests)]

    def _narrowed(self, resource_type: str, name: str, text: str) -> set[int] | None:
        """Places that can match at all, where an index knows them; None if all can."""
        if name == "_id":
            keys = [(resource_type, part) for part in split_values(text)]
            return {self._place[key] for key in keys if key in self._place}
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
        return intervals(values(stored.resource, KNOWN_PARAMETERS[stored.resource_type][name]), self.zone)

    # The cohort's Group

    def infusions(self) -> list[Stored]:
        """CAR-T infusions of any product that were given to a present patient."""
        by_code = ",".join(sorted({code for _, code in CAR_T_CODES}))
        products = {f"Medication/{m.id}" for m in self.search("Medication", [("code", by_code)])}
        found = self.search("Procedure", [("code", by_code)])
        found += self.search("MedicationAdministration", [("code", by_code)])
        if products:
            medication = ("medication", ",".join(sorted(products)))
            found += self.search("MedicationAdministration", [medication])
        happened = [s for s in found if s.resource["status"] not in ("entered-in-error", "not-done")]
        return [s for s in happened if s.patient and ("Patient", s.patient) in self._newest]

    def infused(self) -> set[str]:
        """Ids of the present patients with a CAR-T infusion."""
        return {s.patient for s in self.infusions() if s.patient}

    def refresh_group(self, at: str) -> None:
        """Let the Group's members follow the records; `at` is when the newcomers joined."""
        if "Group" not in self.types:
            return
        before = self.read("Group", COHORT_GROUP)
        members, known = self.infused(), self.members()
        if before is not None and members == known:
            return
        if before is not None:
            self.joined |= dict.fromkeys(members - known, at)
        self.ever_members |= members
        self.put(_group(members), at)

    def members(self) -> set[str]:
        """The patients whom the Group names."""
        group = self.read("Group", COHORT_GROUP)
        targets = group.targets.get("member", ()) if group else ()
        return {t.removeprefix("Patient/") for t in targets}


_REFERENCE_FIELDS = ("subject", "medicationReference", "patient", "link", "member")


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _parameter(resource_type: str, name: str) -> Parameter:
    try:
        return KNOWN_PARAMETERS[resource_type][name]
    except KeyError:
        raise BadSearchError(f"{resource_type} has no search parameter of this name") from None


def _group(members: set[str]) -> Resource:
    named = [{"entity": {"reference": f"Patient/{m}"}} for m in sorted(members)]
    return {
        "resourceType": "Group",
        "id": COHORT_GROUP,
        "active": True,
        "type": "person",
        "actual": True,
        "name": "Patients with a CAR-T infusion",
        "quantity": len(members),
        **({"member": named} if named else {}),
    }


def open_store(spec: HospitalSpec) -> Store:
    """Make a hospital's records and index them."""
    extra = ["Consent"] if spec.extras.consents else []
    if spec.extras.group or spec.bulk is not None:
        extra.append("Group")
    store = Store(
        hospital_resources(spec),
        spec.manner.zone,
        extra_types=extra,
        has_versions=not spec.quirks.no_version_id,
    )
    store.refresh_group("2025-06-01T02:00:00.000Z")
    return store
