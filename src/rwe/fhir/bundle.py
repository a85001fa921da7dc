"""What the connector must see of a resource or a Bundle; everything else stays verbatim bytes.

msgspec cuts entries out of a page without decoding them: a decimal stays `7.10`, whatever its float would be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal

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
    last_updated: datetime | None = msgspec.field(default=None, name="lastUpdated")
    tag: list[_Coding] | None = None


class _OddMeta(_Loose, frozen=True, gc=False):
    """Of a server whose instants are not as RFC 3339 has them."""

    last_updated: str | None = msgspec.field(default=None, name="lastUpdated")
    tag: list[_Coding] | None = None


class _Head(_Loose, frozen=True, gc=False):
    type: str = msgspec.field(name="resourceType")
    id: str | None = None
    meta: _Meta | None = None
    subject: _Reference | None = None
    patient: _Reference | None = None
    medication_reference: _Reference | None = msgspec.field(default=None, name="medicationReference")


class _OddHead(_Head, frozen=True, gc=False):
    meta: _OddMeta | None = None  # type: ignore[assignment]


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
    meta: _OddMeta | None = None
    link: list[_Link] | None = None
    entry: list[_RawEntry] | None = None


class _HeadEntry(_Loose, frozen=True, gc=False):
    resource: _Head | None = None


class _HeadBundle(_Loose, frozen=True, gc=False):
    entry: list[_HeadEntry] | None = None


_HEAD = msgspec.json.Decoder(_Head)
_ODD_HEAD = msgspec.json.Decoder(_OddHead)
_CODED = msgspec.json.Decoder(_Coded)
_TYPE_ONLY = msgspec.json.Decoder(_TypeOnly)
_BUNDLE = msgspec.json.Decoder(_RawBundle)
_HEADS = msgspec.json.Decoder(_HeadBundle)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Codes = frozenset[tuple[str | None, str | None]]
_NO_CODES: Codes = frozenset()


class NotAResourceError(ValueError):
    """The bytes are no JSON object with a resourceType. Carries no content."""


class Resource(
    msgspec.Struct, frozen=True, gc=False
):  # made a million times a night: cheaper than a dataclass
    """A resource: its bytes as served, and what the connector reads of it.

    `patient` is the id in `subject` or `patient` if that refers to a Patient; `medication` likewise for
    `medicationReference`; `codes` are the (system, code) pairs of `code` and `medicationCodeableConcept`.
    """

    type: str
    raw: bytes
    id: str | None = None
    last_updated: datetime | None = None
    patient: str | None = None
    medication: str | None = None
    codes: frozenset[tuple[str | None, str | None]] = frozenset()
    is_subsetted: bool = False


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a Bundle: verbatim bytes of its resource, and `search.mode` (match, include, outcome)."""

    raw: bytes
    mode: str | None


@dataclass(frozen=True)
class Bundle:
    """A Bundle cut into its entries. Entries without a resource (deletions, requests) are left out."""

    type: str | None
    entries: tuple[Entry, ...]
    links: tuple[tuple[str, str], ...]
    last_updated: str | None

    def link(self, relation: str) -> str | None:
        return next((url for name, url in self.links if name == relation), None)


def read_resource(raw: bytes) -> Resource:
    """The head of a resource. A field of an unexpected shape counts as absent; the lake will refuse it.

    Raises NotAResourceError where there is no resourceType of letters.
    """
    try:
        head = _HEAD.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Resource(type=_checked(read_type(raw)), raw=raw)
    meta, medication = head.meta, head.medication_reference
    return Resource(
        type=_checked(head.type),
        raw=raw,
        id=head.id,
        last_updated=parse_instant(meta.last_updated) if meta else None,
        patient=_refers(head.subject, "Patient") or _refers(head.patient, "Patient"),
        medication=_refers(medication, "Medication"),
        codes=_codes(head),
        is_subsetted=bool(meta and meta.tag and any(t.code == "SUBSETTED" for t in meta.tag)),
    )


_NO_CODES: frozenset[tuple[str | None, str | None]] = frozenset()


def _refers(reference: _Reference | None, resource_type: str) -> str | None:
    text = reference.reference if reference else None
    return reference_id(text, resource_type) if text else None


def _codes(head: _Head) -> frozenset[tuple[str | None, str | None]]:
    if head.code is None and head.medication_concept is None:
        return _NO_CODES
    concepts = (head.code, head.medication_concept)
    return frozenset((c.system, c.code) for concept in concepts if concept for c in concept.coding or ())


def read_type(raw: bytes) -> str:
    """The resourceType of a JSON object. Raises NotAResourceError."""
    try:
        return _TYPE_ONLY.decode(raw).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotAResourceError("no JSON object with a resourceType") from None


def _checked(resource_type: str) -> str:
    if not RESOURCE_TYPE.fullmatch(resource_type):
        raise NotAResourceError("the resourceType is not made of letters")
    return resource_type


def read_bundle(raw: bytes) -> Bundle:
    """Cut a Bundle into entries. Raises NotAResourceError if it is none, or not shaped as one."""
    try:
        bundle = _BUNDLE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotAResourceError("no Bundle") from None
    if bundle.type != "Bundle":
        raise NotAResourceError("no Bundle")
    return Bundle(
        type=bundle.bundle_type,
        entries=tuple(
            Entry(raw, entry.search.mode if entry.search else None)
            for entry in bundle.entry or ()
            if (raw := bytes(entry.resource)) not in (b"", b"null")
        ),
        links=tuple((link.relation, link.url) for link in bundle.link or () if link.relation and link.url),
        last_updated=bundle.meta.last_updated if bundle.meta else None,
    )


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
