"""Makes landed lines ready for DuckDB: JSON types checked, pseudonyms and the line's number written in.

DuckDB casts silently: a number or an object becomes a text where a text is expected, "7" a number. So every
line is decoded once by its own types first; msgspec does that in a few microseconds, and says no where DuckDB
says nothing. Concepts, reference ranges and references are few, written again and again: each distinct one is
looked at once, with the eyes of the careful way, and each id that is referred to is hashed once.
"""

from __future__ import annotations

import json
import re
from functools import cache
from operator import attrgetter
from typing import Any, get_args

import msgspec

from rwe.lake import validate
from rwe.lake.context import SiteContext
from rwe.lake.elements import RESOURCES, ConceptIn, ReferenceIn, ReferenceRangeIn
from rwe.lake.findings import RejectedError
from rwe.lake.observation_rows import reference_ranges
from rwe.lake.parsed import REFERENCES
from rwe.lake.reader import PartReader
from rwe.lake.texts import TextValue

#: Longer lines go the careful way: DuckDB makes room for the longest line in each thread.
LONGEST_LINE = 4 << 20
#: How many pseudonyms of records that are referred to are remembered: patients and their encounters.
_MOST_REMEMBERED = 500_000
#: How many distinct concepts and reference ranges of a field are remembered.
_MOST_DISTINCT = 50_000

_OPENING = 0x7B  # {


@cache
def _fed(resource_type: str) -> tuple[type[msgspec.Struct], tuple[tuple[str, Any], ...]]:
    """The resource as it is read here, and its fields that are looked at once each, with their types.

    Those are left as bytes.
    """
    followed = {name for name, _, _ in REFERENCES.get(resource_type, ())}
    fields, once = [], []
    for f in msgspec.structs.fields(RESOURCES[resource_type]):
        kinds = {ConceptIn, list[ConceptIn], list[ReferenceRangeIn]} & set(get_args(f.type))
        if kinds or f.name in followed:
            once.append((f.name, f.type))
            fields.append((f.name, msgspec.Raw, msgspec.field(default=_NONE, name=f.encode_name)))
        elif f.required:
            fields.append((f.name, f.type, msgspec.field(name=f.encode_name)))
        else:
            fields.append((f.name, f.type, msgspec.field(default=f.default, name=f.encode_name)))
    return msgspec.defstruct(f"Fed{resource_type}", fields, gc=False, kw_only=True), tuple(once)


_NONE = msgspec.Raw(b"")
#: A reference as most servers write it: nothing beside it, nothing to unescape.
_PLAIN = re.compile(rb'\{"reference":"([A-Za-z]+)/([A-Za-z0-9\-.]{1,64})"\}')


class _Concepts:
    """Whether the concepts of one field are in order, each distinct one looked at once."""

    def __init__(self, context: SiteContext, kind: Any) -> None:
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


class _Targets:
    """The pseudonyms of what one field refers to, each distinct reference followed once."""

    def __init__(self, context: SiteContext, resource_type: str, column: str, kind: Any) -> None:
        self._type, self._column = resource_type, column
        self._decode = msgspec.json.Decoder(kind).decode
        self._pseudonyms = context.mapping.pseudonyms
        self._hash = self._pseudonyms.hasher(resource_type)
        self._plain_type = resource_type.encode()
        self.known: dict[bytes, str | None] = {}

    def look(self, content: bytes) -> str | None:
        """What is to be written into the line; None where it is to go the careful way."""
        plain = _PLAIN.fullmatch(content)
        if plain and plain[1] == self._plain_type:
            found: str | None = f'"{self._column}":"{self._hash(plain[2].decode())}",'
        else:
            found = self._follow(content)
        if len(self.known) >= _MOST_REMEMBERED:
            self.known.clear()
        self.known[content] = found
        return found

    def _follow(self, content: bytes) -> str | None:
        try:
            json.loads(content, object_pairs_hook=_without_repeats)  # DuckDB does not look into it
            found: Any = self._decode(content)
        except (ValueError, RecursionError):
            return None
        if found is None:
            return ""
        first: ReferenceIn | None = (found[0] if found else None) if isinstance(found, list) else found
        target = self._pseudonyms.of_reference(first.reference, self._type) if first else None
        return None if target is None else f'"{self._column}":"{target}",'


def _without_repeats(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError


class Feed:
    """Prepares the lines of one type of one site. Not to be shared by threads."""

    def __init__(self, context: SiteContext, resource_type: str, sampled_below: str) -> None:
        self._type, self._sampled_below = resource_type, sampled_below
        struct, once = _fed(resource_type)
        self._decode = msgspec.json.Decoder(struct).decode
        references = {name: (to, column) for name, to, column in REFERENCES.get(resource_type, ())}
        looked = [
            _Targets(context, *references[name], kind) if name in references else _Concepts(context, kind)
            for name, kind in once
        ]
        self._looks = [(one.known.get, one.look) for one in looked]
        self._fields = attrgetter("id", "resourceType", *(name for name, _ in once))
        self._texts = context.mapping.texts
        self._hash = context.mapping.pseudonyms.hasher(resource_type)
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
        resource_id, resource_type, *parts = self._fields(resource)
        has_contained = self._may_contain and resource.contained is not None
        if resource_id is None or resource_type != self._type or has_contained:
            return None
        pseudonym = self._hash(resource_id)
        if pseudonym < self._sampled_below and validate.explain(line, self._type):
            return None
        added = self._added(resource, parts)
        if added is None:
            return None
        return f'{{"rwe_line":{number},"rwe_id":"{pseudonym}",{added}'.encode() + line[1:]

    def _added(self, resource: Any, parts: list[msgspec.Raw]) -> str | None:
        """What its parts and its text add to the line; None where one is not in order."""
        added = ""
        for part, (known, look) in zip(parts, self._looks, strict=True):
            if part is not _NONE:
                content = bytes(part)
                said = known(content)
                if said is None:
                    said = look(content)
                    if said is None:
                        return None
                added += said
        if self._has_text and resource.valueString is not None:
            value = self._texts.value(resource.valueString)
            if value.is_left_out:
                return None
            added += _said(value)
        return added


def _said(value: TextValue) -> str:
    fields = {"number": value.number, "comparator": value.comparator, "unit": value.unit, "text": value.text}
    return f'"rwe_text":{msgspec.json.encode(fields).decode()},'
