"""What the connector must see of a resource or a Bundle; everything else stays verbatim bytes.

msgspec cuts entries out of a page without decoding them: a decimal stays `7.10`, whatever its float would be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import methodcaller

import msgspec

_REFERENCE = re.compile(r"(?:^|/)([A-Z][A-Za-z]{0,63})/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$")
RESOURCE_TYPE = re.compile(r"[A-Za-z]{1,64}")


class _Loose(msgspec.Struct, frozen=True, gc=False):
    """Unknown fields are passed over. Made a million times a night: nothing for the collector to follow."""


class _Coding(_Loose, frozen=True, gc=False):
    system: str | None = None
    code: str | None = None


class _Concept(_Loose, frozen=True, gc=False):
    coding: list[_Coding] | None = None


class _Reference(_Loose, frozen=True, gc=False):
    reference: str | None = None


class _Meta(_Loose, frozen=True, gc=False):
    last_updated: str | None = msgspec.field(default=None, name="lastUpdated")
    tag: list[_Coding] | None = None


class _Head(_Loose, frozen=True, gc=False):
    type: str = msgspec.field(name="resourceType")
    id: str | None = None
    meta: _Meta | None = None
    subject: _Reference | None = None
    patient: _Reference | None = None
    medication_reference: _Reference | None = msgspec.field(default=None, name="medicationReference")


class _Coded(_Loose, frozen=True, gc=False):
    code: _Concept | None = None
    medication_concept: _Concept | None = msgspec.field(default=None, name="medicationCodeableConcept")


class _TypeOnly(_Loose, frozen=True, gc=False):
    type: str = msgspec.field(name="resourceType")


class _Link(_Loose, frozen=True, gc=False):
    relation: str | None = None
    url: str | None = None


class _Search(_Loose, frozen=True, gc=False):
    mode: str | None = None


class _RawEntry(_Loose, frozen=True, gc=False):
    resource: msgspec.Raw = msgspec.Raw(b"")
    search: _Search | None = None


class _RawBundle(_Loose, frozen=True, gc=False):
    type: str = msgspec.field(name="resourceType")
    bundle_type: str | None = msgspec.field(default=None, name="type")
    meta: _Meta | None = None
    link: list[_Link] | None = None
    entry: list[_RawEntry] | None = None


class _HeadEntry(_Loose, frozen=True, gc=False):
    resource: _Head | None = None


class _HeadBundle(_Loose, frozen=True, gc=False):
    entry: list[_HeadEntry] | None = None


_HEAD = msgspec.json.Decoder(_Head)
_CODED = msgspec.json.Decoder(_Coded)
_TYPE_ONLY = msgspec.json.Decoder(_TypeOnly)
_BUNDLE = msgspec.json.Decoder(_RawBundle)
_HEADS = msgspec.json.Decoder(_HeadBundle)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Codes = frozenset[tuple[str | None, str | None]]
_NO_CODES: Codes = frozenset()
_NOTHING = (b"", b"null")
_SHORT = 4


class NotAResourceError(ValueError):
    """The bytes are no JSON object with a resourceType. Carries no content."""


class Resource(msgspec.Struct, frozen=True, gc=False):  # a million a night: cheaper than a dataclass
    """A resource: its bytes as served, and what the connector reads of it.

    `updated` is the text of `meta.lastUpdated`. `patient` is the id in `subject` or `patient` if that refers
    to a Patient; `medication` likewise for `medicationReference`. `known_codes` are for one that is kept
    without its bytes: see `codes`.
    """

    type: str
    raw: bytes
    id: str | None = None
    updated: str | None = None
    patient: str | None = None
    medication: str | None = None
    known_codes: Codes | None = None
    is_subsetted: bool = False

    @property
    def last_updated(self) -> datetime | None:
        """`meta.lastUpdated`, aware; None where it is absent or no instant."""
        return parse_instant(self.updated)

    @property
    def codes(self) -> Codes:
        """The (system, code) pairs of `code` and `medicationCodeableConcept`, read when asked for.

        None where a field that the connector reads has an unexpected shape.
        """
        if self.known_codes is not None or not self.raw:
            return self.known_codes or _NO_CODES
        try:
            coded = _CODED.decode(self.raw)
        except _UNREADABLE:
            return _NO_CODES
        codings = [c.coding for c in (coded.code, coded.medication_concept) if c is not None and c.coding]
        return frozenset([(c.system, c.code) for coding in codings for c in coding])


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a Bundle: verbatim bytes of its resource, and `search.mode` (match, include, outcome)."""

    raw: bytes
    mode: str | None


class Found(msgspec.Struct, frozen=True, gc=False):
    """A resource that a search answered. `is_match` is False where it was only included."""

    resource: Resource
    is_match: bool


@dataclass(frozen=True)
class Bundle:
    """A Bundle cut into its entries. Those without a resource (deletions, requests) are left out."""

    type: str | None
    links: tuple[tuple[str, str], ...]
    last_updated: str | None
    _parts: list[_RawEntry]
    _heads: list[_Head | None]

    @property
    def entries(self) -> list[Entry]:
        """The entries, their resources unread."""
        return [
            Entry(raw, part.search.mode if part.search else None)
            for part in self._parts
            if (raw := bytes(part.resource)) not in _NOTHING
        ]

    def found(self, *, ids_only: bool = False) -> tuple[tuple[Found, ...], int, int]:
        """What a search answered; how many more are tagged SUBSETTED; and how many are no resource.

        Entries with `search.mode=outcome` are neither. With `ids_only` the SUBSETTED are found, too.
        """
        found: list[Found] = []
        subsetted = malformed = 0
        for part, head in zip(self._parts, self._heads, strict=True):
            raw = bytes(part.resource)
            mode = part.search.mode if part.search else None
            if mode == "outcome" or (len(raw) <= _SHORT and raw in _NOTHING):
                continue
            try:
                resource = _resource(head, raw) if head else read_resource(raw)
            except NotAResourceError:
                malformed += 1
                continue
            if resource.is_subsetted and not ids_only:
                subsetted += 1
            else:
                found.append(Found(resource, mode != "include"))
        return tuple(found), subsetted, malformed

    def link(self, relation: str) -> str | None:
        return next((url for name, url in self.links if name == relation), None)


def read_resource(raw: bytes) -> Resource:
    """The head of a resource. A field of an unexpected shape counts as absent; the lake will refuse it.

    Raises NotAResourceError where there is no resourceType of letters.
    """
    try:
        head = _HEAD.decode(raw)
    except _UNREADABLE:
        return Resource(_checked(read_type(raw)), raw, known_codes=_NO_CODES)
    return _resource(head, raw)


def _resource(head: _Head, raw: bytes) -> Resource:
    meta, subject, patient, medication = head.meta, head.subject, head.patient, head.medication_reference
    updated = whose = which = None
    is_subsetted = False
    if meta:
        updated = meta.last_updated
        if meta.tag:
            is_subsetted = any(t.code == "SUBSETTED" for t in meta.tag)
    if subject and subject.reference:
        whose = reference_id(subject.reference, "Patient")
    if patient and patient.reference and whose is None:
        whose = reference_id(patient.reference, "Patient")
    if medication and medication.reference:
        which = reference_id(medication.reference, "Medication")
    return Resource(_checked(head.type), raw, head.id, updated, whose, which, None, is_subsetted)


def read_type(raw: bytes) -> str:
    """The resourceType of a JSON object. Raises NotAResourceError."""
    try:
        return _TYPE_ONLY.decode(raw).type
    except _UNREADABLE:
        raise NotAResourceError("no JSON object with a resourceType") from None


@lru_cache(maxsize=256)
def _checked(resource_type: str) -> str:
    if not RESOURCE_TYPE.fullmatch(resource_type):
        raise NotAResourceError("the resourceType is not made of letters")
    return resource_type


def read_bundle(raw: bytes, *, with_heads: bool = False) -> Bundle:
    """Cut a Bundle into entries. Raises NotAResourceError if it is none, or not shaped as one.

    `with_heads` makes the entries quicker to read: where all of them will be.
    """
    try:
        bundle = _BUNDLE.decode(raw)
    except _UNREADABLE:
        raise NotAResourceError("no Bundle") from None
    if bundle.type != "Bundle":
        raise NotAResourceError("no Bundle")
    parts = bundle.entry or []
    return Bundle(
        type=bundle.bundle_type,
        links=tuple((link.relation, link.url) for link in bundle.link or () if link.relation and link.url),
        last_updated=bundle.meta.last_updated if bundle.meta else None,
        _parts=parts,
        _heads=_heads(raw, len(parts)) if with_heads else [None] * len(parts),
    )


def _heads(raw: bytes, count: int) -> list[_Head | None]:
    """The heads of a Bundle's resources in one go; None for all where one of them has an odd shape."""
    try:
        return [entry.resource for entry in _HEADS.decode(raw).entry or ()]
    except _UNREADABLE:
        return [None] * count


@lru_cache(maxsize=4096)  # patients and Medications come again and again
def reference_id(reference: str, resource_type: str) -> str | None:
    """The id in a literal reference (relative, absolute or versioned) to that type, else None."""
    found = _REFERENCE.search(reference)
    return found[2] if found and found[1] == resource_type else None


def parse_instant(text: str | None) -> datetime | None:
    """A FHIR instant as an aware datetime, or None where it is absent or not one."""
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo else None


def by_type(resources: Iterable[Resource]) -> dict[str, list[Resource]]:
    """The resources by their type, in order."""
    found: dict[str, list[Resource]] = {}
    for resource in resources:
        found.setdefault(resource.type, []).append(resource)
    return found


def latest_update(resources: Iterable[Resource]) -> datetime | None:
    """The latest `meta.lastUpdated` of some resources, aware; None where none of them has one."""
    texts = [r.updated for r in resources if r.updated]
    # Of texts of one length and zone the greatest is the latest: one is parsed, and no zones are compared.
    if texts and len(set(map(len, texts))) == 1:
        zone = "Z" if texts[0].endswith("Z") else texts[0][-6:]
        if all(map(methodcaller("endswith", zone), texts)) and (newest := parse_instant(max(texts))):
            return newest
    return max((at for t in texts if (at := parse_instant(t))), default=None)
