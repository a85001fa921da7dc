"""What was probably meant by a misspelt name, and which names there are at a place of a settings model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to one that is not known; None where none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def or_nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean NAME?)` for the end of a message; nothing where no name is near."""
    found = nearest(name, known)
    return f" (did you mean {found}?)" if found else ""


def value_at(content: object, location: Sequence[int | str]) -> object:
    """What stands at the place of a pydantic error in the content that was validated.

    The tags of unions and `[key]`, which are no part of the content, are passed over.
    """
    for part in location:
        match content, part:
            case list() as items, int() as index if 0 <= index < len(items):
                content = items[index]
            case dict() as fields, _ if part in fields:
                content = fields[part]
    return content


def fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The fields that there are at the place of a pydantic error, by the model's JSON Schema."""
    schema = model.model_json_schema()
    found = _alternatives([schema], schema)
    for part in location:
        found = _alternatives(_step(found, part), schema)
    return sorted({name for node in found for name in node.get("properties", {})})


def _alternatives(nodes: Iterable[dict[str, Any]], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes with references followed and unions opened; each knows the tag it is chosen by, if any."""
    found = []
    for node in nodes:
        if "$ref" in node:
            target = schema["$defs"][node["$ref"].rpartition("/")[2]]
            found += _alternatives([target | {"tags": node.get("tags", ())}], schema)
        elif union := node.get("oneOf") or node.get("anyOf"):
            tags = node.get("discriminator", {}).get("mapping", {})
            parts = [
                member | {"tags": tuple(t for t, ref in tags.items() if ref == member.get("$ref"))}
                for member in union
            ]
            found += _alternatives(parts, schema)
        else:
            found.append(node)
    return found


def _step(nodes: Sequence[dict[str, Any]], part: int | str) -> list[dict[str, Any]]:
    """One part of a location further; a part that is the tag of a union chooses among its members."""
    if isinstance(part, int):
        return [node["items"] for node in nodes if isinstance(node.get("items"), dict)] or list(nodes)
    inside = [node["properties"][part] for node in nodes if part in node.get("properties", {})]
    tagged = [node for node in nodes if part in node.get("tags", ())]
    by_name = [
        value
        for node in nodes
        for value in (node.get("additionalProperties"), *node.get("patternProperties", {}).values())
        if isinstance(value, dict)
    ]
    return inside or tagged or by_name or list(nodes)
