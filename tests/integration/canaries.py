"""Resources with a sentence in one place each: every place that the lake reads, and every one it does not.

The places are found by walking what the lake reads (`rwe.lake.schema`), so a field that is read from tomorrow
on gets its canary too.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec

from rwe.lake.schema import RESOURCES

#: No code, no unit, no date: a name in a sentence, as people write it into any field.
CANARY = "ZZCANARY,  of Elm Street"
_CONCEPT = {"coding": [{"system": "http://example.org/codes", "code": "x"}]}
_INNER = {"resourceType": "Medication", "id": "m", "code": _CONCEPT}
_SUBJECT = {"subject": {"reference": "Patient/ZZCANARY"}}
_BASES: dict[str, list[dict[str, Any]]] = {
    "Patient": [{"gender": "female"}],
    "Medication": [{"code": _CONCEPT}],
    "Consent": [{"patient": {"reference": "Patient/ZZCANARY"}}],
}
_MEDICATED = [
    {**_SUBJECT, "status": "completed", "medicationCodeableConcept": _CONCEPT},
    {**_SUBJECT, "status": "completed", "medicationReference": {"reference": "#m"}, "contained": [_INNER]},
]
_Place = tuple[str | int, ...]


def resources() -> Iterator[dict[str, Any]]:
    """For each type and place a resource that is in order but for the canary there."""
    for resource_type in RESOURCES:
        medicated = resource_type.startswith("Medication") and resource_type != "Medication"
        bases = _MEDICATED if medicated else _BASES.get(resource_type, [_SUBJECT | {"status": "completed"}])
        places = [*_places(msgspec.inspect.type_info(RESOURCES[resource_type])), *_unread(resource_type)]
        for number, base in enumerate(bases):
            for position, place in enumerate(places):
                made = copy.deepcopy(base) | {"resourceType": resource_type}
                made["id"] = f"ZZCANARY-{resource_type}-{number}-{position}"
                if place not in {("resourceType",), ("id",)}:
                    _put(made, place)
                yield made


def _places(kind: Any) -> Iterator[_Place]:
    """The places of texts, and of what is kept unread, in a type as msgspec describes it."""
    if isinstance(kind, msgspec.inspect.UnionType):
        for one in kind.types:
            yield from _places(one)
    elif isinstance(kind, msgspec.inspect.ListType):
        yield from ((0, *rest) for rest in _places(kind.item_type))
    elif isinstance(kind, msgspec.inspect.StructType):
        for field in kind.fields:
            yield from ((field.encode_name, *rest) for rest in _places(field.type))
    elif isinstance(kind, (msgspec.inspect.StrType, msgspec.inspect.RawType)):
        yield ()


def _unread(resource_type: str) -> Iterator[_Place]:
    """Fields that FHIR has and the lake does not read, one that FHIR has not, and one below a known one."""
    module = importlib.import_module(f"fhir.resources.R4B.{resource_type.lower()}")
    read = {f.encode_name for f in msgspec.structs.fields(RESOURCES[resource_type])}
    for name, field in getattr(module, resource_type).model_fields.items():
        if (field.alias or name) not in read | {"resource_type"}:
            yield (field.alias or name,)
    yield ("ZZCANARY",)
    yield ("text", "ZZCANARY")


def _put(made: dict[str, Any], place: _Place) -> None:
    into: Any = made
    for part, following in pairwise(place):
        empty: Any = [{}] if isinstance(following, int) else {}
        into = into[part] if isinstance(part, int) else into.setdefault(part, empty)
    if isinstance(into, list):
        into[0] = CANARY
    else:
        into[place[-1]] = CANARY
