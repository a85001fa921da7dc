"""Makes landed lines ready for DuckDB: JSON types checked, pseudonyms and the line's number written in.

DuckDB casts silently: a number or an object becomes a text where a text is expected, "7" a number. So every
line is decoded once by its own types first; msgspec does that in a few microseconds, and says no where DuckDB
says nothing. Concepts and reference ranges are few, written again and again: each distinct one is looked at
once, with the eyes of the careful way. The ids are at hand then, and each distinct one is hashed once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import msgspec

from rwe.lake import validate
from rwe.lake.context import SiteContext
from rwe.lake.elements import RESOURCES, ConceptIn, ReferenceIn, ReferenceRangeIn
from rwe.lake.findings import RejectedError
from rwe.lake.observation_rows import reference_ranges
from rwe.lake.reader import PartReader
from rwe.lake.texts import TextValue

#: Longer lines go the careful way: each thread of DuckDB makes room for two; small rooms stay in the cache.
LONGEST_LINE = 1 << 18
#: How many pseudonyms of records that are referred to are remembered: patients and their encounters.
_MOST_REMEMBERED = 500_000
#: How many distinct concepts and reference ranges of a field are remembered.
_MOST_DISTINCT = 50_000

_OPENING = 0x7B  # {

#: Which element refers to what, besides the subject: where the reference is, the type, and the column for it.
_References = tuple[tuple[Callable[[Any], ReferenceIn | None], str, str], ...]
_Known = tuple[Callable[[Any], ReferenceIn | None], str, str, dict[str | None, str]]


def _first(resource: Any) -> ReferenceIn | None:
    found = resource.authorizingPrescription
    return found[0] if found else None


_SUBJECT: _References = ((lambda r: r.subject, "Patient", "rwe_patient"),)
_ENCOUNTER: _References = ((lambda r: r.encounter, "Encounter", "rwe_encounter"),)
_CONTEXT: _References = ((lambda r: r.context, "Encounter", "rwe_encounter"),)
_DRUG: _References = ((lambda r: r.medicationReference, "Medication", "rwe_medication"),)
_REFERENCES: dict[str, _References] = {
    "MedicationAdministration": (
        *_SUBJECT,
        *_DRUG,
        *_CONTEXT,
        (lambda r: r.request, "MedicationRequest", "rwe_request"),
    ),
    "MedicationRequest": (*_SUBJECT, *_DRUG, *_ENCOUNTER),
    "MedicationDispense": (*_SUBJECT, *_DRUG, *_CONTEXT, (_first, "MedicationRequest", "rwe_request")),
    "MedicationStatement": (*_SUBJECT, *_DRUG, *_CONTEXT),
    "Observation": (*_SUBJECT, *_ENCOUNTER),
    "Condition": (*_SUBJECT, *_ENCOUNTER),
    "Procedure": (*_SUBJECT, *_ENCOUNTER),
    "Encounter": (*_SUBJECT, (lambda r: r.partOf, "Encounter", "rwe_encounter")),
}


@cache
def _fed(resource_type: str) -> tuple[type[msgspec.Struct], tuple[tuple[str, Any], ...]]:
    """The resource as it is read here, and its fields that are looked at once each, with their types.

    Those are left as bytes.
    """
    fields, once = [], []
    for f in msgspec.structs.fields(RESOURCES[resource_type]):
        kinds = {ConceptIn, list[ConceptIn], list[ReferenceRangeIn]} & set(get_args(f.type))
        if kinds:
            once.append((f.name, f.type))
            fields.append((f.name, msgspec.Raw, msgspec.field(default=_NONE, name=f.encode_name)))
        elif f.required:
            fields.append((f.name, f.type, msgspec.field(name=f.encode_name)))
        else:
            fields.append((f.name, f.type, msgspec.field(default=f.default, name=f.encode_name)))
    return msgspec.defstruct(f"Fed{resource_type}", fields, gc=False, kw_only=True), tuple(once)


_NONE = msgspec.Raw(b"")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


class _Concepts:
    """Whether the concepts of one field are in order, each distinct one looked at once."""

    def __init__(self, context: SiteContext, name: str, kind: Any) -> None:
        self.name = name
        self._decode = msgspec.json.Decoder(kind).decode
        self._reader = PartReader(context.mapping)
        self.known: dict[bytes, str | None] = {}

    def look(self, content: bytes) -> str | None:
        """What is to be written into the line; None where the line is to go the careful way."""
        if len(self.known) >= _MOST_DISTINCT:
            self.known.clear()
        self._reader.flags = []
        try:
            found: str | None = self._said(self._decode(content))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RejectedError):
            found = None
        self.known[content] = found = None if self._reader.flags else found
        return found

    def _said(self, found: Any) -> str:
        concepts = found if isinstance(found, list) else [found] if found is not None else []
        if concepts and isinstance(concepts[0], ReferenceRangeIn):
            made = msgspec.json.encode(reference_ranges(self._reader, concepts)).decode()
            return f'"rwe_ranges":{made},'
        self._reader.all_codings(concepts, "$")
        return ""


class Feed:
    """Prepares the lines of one type of one site. Not to be shared by threads."""

    def __init__(self, context: SiteContext, resource_type: str, sampled_below: str) -> None:
        self._type, self._sampled_below = resource_type, sampled_below
        struct, once = _fed(resource_type)
        self._decode = msgspec.json.Decoder(struct).decode
        self._concepts = [_Concepts(context, name, kind) for name, kind in once]
        self._pseudonyms, self._texts = context.mapping.pseudonyms, context.mapping.texts
        self._hash = self._pseudonyms.hasher(resource_type)
        self._hashers = {t: self._pseudonyms.hasher(t) for t in RESOURCES}
        self._references: list[_Known] = [(*r, {}) for r in _REFERENCES.get(resource_type, ())]
        self._may_contain = resource_type.startswith("Medication") and resource_type != "Medication"
        self._has_text = resource_type == "Observation"

    def prepare(self, number: int, line: bytes) -> bytes | None:
        """The line for DuckDB, without its newline; None where it is to go the careful way."""
        if not line or line[0] != _OPENING or len(line) > LONGEST_LINE:
            return None
        try:
            resource: Any = self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        has_contained = self._may_contain and resource.contained is not None
        if resource.id is None or resource.resourceType != self._type or has_contained:
            return None
        pseudonym = self._hash(resource.id)
        if pseudonym < self._sampled_below and validate.explain(line, self._type):
            return None
        said, referred = self._in_order(resource), self._referred(resource)
        if said is None or referred is None:
            return None
        return f'{{"rwe_line":{number},"rwe_id":"{pseudonym}",{said}{referred}'.encode() + line[1:]

    def _in_order(self, resource: Any) -> str | None:
        """What its concepts and reference ranges add to the line; None where one is not in order."""
        added = ""
        for concepts in self._concepts:
            raw = getattr(resource, concepts.name)
            if raw is not _NONE:
                content = bytes(raw)
                said = concepts.known.get(content)
                if said is None:
                    said = concepts.look(content)
                    if said is None:
                        return None
                added += said
        return added

    def _referred(self, resource: Any) -> str | None:
        """The pseudonyms of what it refers to, and what its text says; None where that is in doubt."""
        head = ""
        for where, resource_type, column, known in self._references:
            reference = where(resource)
            if reference is not None:
                text = reference.reference
                target = known.get(text) or self._follow(text, resource_type, known)
                if target is None:
                    return None
                head += f'"{column}":"{target}",'
        if self._has_text and resource.valueString is not None:
            value = self._texts.value(resource.valueString)
            if value.is_left_out:
                return None
            head += _said(value)
        return head

    def _follow(self, text: str | None, resource_type: str, known: dict[str | None, str]) -> str | None:
        plain = f"{resource_type}/"
        if text is not None and text.startswith(plain) and _ID.fullmatch(text, len(plain)):
            found: str | None = self._hashers[resource_type](text[len(plain) :])
        else:
            found = self._pseudonyms.of_reference(text, resource_type)
        if found is not None and text is not None:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            known[text] = found
        return found


def _said(value: TextValue) -> str:
    fields = {"number": value.number, "comparator": value.comparator, "unit": value.unit, "text": value.text}
    return f'"rwe_text":{msgspec.json.encode(fields).decode()},'
