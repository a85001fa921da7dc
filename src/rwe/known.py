"""Which resources of a site have landed and, so far, not been said to be deleted. Read from the raw lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from rwe.fhir.bundle import Codes, NotAResourceError, Resource, read_resource
from rwe.landing import DELETED, Run


class _Tombstone(msgspec.Struct):
    type: str = msgspec.field(name="resourceType")
    id: str
    deleted_at: str | None = msgspec.field(default=None, name="deletedAt")


_Owner = tuple[str | None, str | None, Codes]


class Known:
    """The ids that landed, by type. Holds ids in memory, no content; reads a type once, when asked for.

    About 170 bytes of memory a resource: what several resources have in common is held once.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._read: dict[str, dict[str, Resource]] = {}

    def of(self, resource_type: str) -> dict[str, Resource]:
        """The resources of a type by id, as they landed last: whose and with which codes, no bytes, no id.

        One that a run looked for and missed is not known any more, until it lands again.
        """
        if resource_type not in self._read:
            self._read[resource_type] = dict(self._scan(resource_type))
        return self._read[resource_type]

    def _scan(self, resource_type: str) -> dict[str, Resource]:
        known: dict[str, Resource] = {}
        shared: dict[_Owner, Resource] = {}
        for run in self._runs:
            for line in run.open(resource_type):
                try:
                    found = read_resource(line)
                except NotAResourceError:
                    continue
                if found.id:
                    owner = found.patient, found.medication, found.codes
                    known[found.id] = shared.get(owner) or shared.setdefault(owner, _light(found))
            for missed in _missed(run, resource_type):
                known.pop(missed, None)
        return known


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
