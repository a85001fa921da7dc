"""Which resources of a site have landed and, so far, not been said to be deleted. Read from the raw lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from rwe.fhir.bundle import Codes, NotAResourceError, Resource, read_resource
from rwe.id_sets import IdSet, IdShelf
from rwe.landing import DELETED, Run


class _Tombstone(msgspec.Struct):
    type: str = msgspec.field(name="resourceType")
    id: str
    deleted_at: str | None = msgspec.field(default=None, name="deletedAt")


_Owner = tuple[str | None, str | None, Codes]
Rule = Callable[[Resource], bool]


class Known:
    """What landed, by type, each as it landed last; what a run looked for and missed is not known any more,
    until it lands again. Each method reads the lines of all runs, and raises LandingError.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._read: dict[str, dict[str, Resource]] = {}

    def of(self, resource_type: str) -> dict[str, Resource]:
        """The resources of a type by id: whose and with which codes, no bytes, no id. Read once.

        They are held in memory, some 170 bytes each: it is meant for Patients and Medications.
        """
        if resource_type not in self._read:
            self._read[resource_type] = self.among(resource_type, lambda _: True)
        return self._read[resource_type]

    def among(self, resource_type: str, is_asked: Callable[[str], bool]) -> dict[str, Resource]:
        """Those of a type with some ids, as `of`."""
        known: dict[str, Resource] = {}
        shared: dict[_Owner, Resource] = {}  # what several resources have in common is held once
        for resource_id, found in self._events(resource_type):
            if not is_asked(resource_id):
                continue
            if found is None:
                known.pop(resource_id, None)
            else:
                owner = found.patient, found.medication, found.codes
                known[resource_id] = shared.get(owner) or shared.setdefault(owner, _light(found))
        return known

    def ids(self, resource_type: str, shelf: IdShelf, *rules: Rule) -> tuple[IdSet, ...]:
        """For each rule the ids of those it holds for. Memory does not grow with them."""
        sets = tuple((rule, shelf.new()) for rule in rules)
        for resource_id, found in self._events(resource_type):
            for rule, ids in sets:
                if found is not None and rule(found):
                    ids.add((resource_id,))
                else:
                    ids.discard(resource_id)
        return tuple(ids for _, ids in sets)

    def named(self, resource_type: str, shelf: IdShelf, ids: IdSet) -> Lost:
        """The known ones of a set, by name."""
        return Lost(self, resource_type, shelf, ids, len(ids))

    def _events(self, resource_type: str) -> Iterator[tuple[str, Resource | None]]:
        """Ids with what landed under them, or None where they were missed, in order."""
        for run in self._runs:
            for line in run.open(resource_type):
                try:
                    found = read_resource(line)
                except NotAResourceError:
                    continue
                if found.id:
                    yield found.id, found
            for missed in _missed(run, resource_type):
                yield missed, None


@dataclass(frozen=True)
class Lost:
    """What is known and did not come: how many, and their ids."""

    _known: Known
    _resource_type: str
    _shelf: IdShelf
    _ids: IdSet = field(repr=False)
    count: int

    def ids(self) -> Iterator[str]:
        """The ids, read from the landing; of a great many a part at a time. Raises LandingError."""
        digest = self._shelf.digest
        for portion in self._ids.portions():
            yield from sorted(self._known.among(self._resource_type, _within(portion, digest)))


def _within(portion: frozenset[bytes], digest: Callable[[str], bytes]) -> Callable[[str], bool]:
    return lambda resource_id: digest(resource_id) in portion


def _light(found: Resource) -> Resource:
    return Resource(
        found.type,
        b"",
        patient=found.patient,
        medication=found.medication,
        known_codes=found.codes,
    )


def _missed(run: Run, resource_type: str) -> Iterator[str]:
    for line in run.open(DELETED):
        try:
            tombstone = msgspec.json.decode(line, type=_Tombstone)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if tombstone.type == resource_type and tombstone.deleted_at is None:
            yield tombstone.id
