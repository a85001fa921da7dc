"""What an export holds: the resources and deletions that its level, types, filters and `_since` choose."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from rwe.sandbox.answers import Query, pairs
from rwe.sandbox.options import Bulk, ExportLevel
from rwe.sandbox.search import CONTROLS, BadSearchError
from rwe.sandbox.store import Store, Stored

_NOT_OF_PATIENTS = {"Group"}


@dataclass(frozen=True)
class Wish:
    """What an export was asked for. No `types` is all; `since` is a FHIR instant in UTC or empty."""

    level: ExportLevel
    types: tuple[str, ...]
    since: str
    filters: dict[str, tuple[Query, ...]]
    allows: Callable[[str], bool] = field(default=lambda _: True, compare=False)


def filters_of(texts: Iterable[str]) -> dict[str, tuple[Query, ...]]:
    """`_typeFilter`: TYPE?query, several with commas or apart; those of one type are alternatives.

    Raises BadSearchError for what is no such query.
    """
    found: dict[str, list[Query]] = defaultdict(list)
    for text in texts:
        for part in re.split(r",(?=[A-Z][A-Za-z]+\?)", text):
            resource_type, mark, query = part.partition("?")
            if not mark:
                raise BadSearchError("_typeFilter has a value that is no query")
            asked = pairs(query if "=" in query else unquote(query))
            found[resource_type].append([pair for pair in asked if pair[0] not in CONTROLS])
    return {name: tuple(queries) for name, queries in found.items()}


def content(store: Store, wish: Wish, bulk: Bulk) -> dict[str, list[Stored]]:
    """The resources by type; types without any are left out.

    `_since` includes the very instant. At Group level it is ignored for members who joined later, but for a
    server that misses them. Medications are those that a chosen resource refers to, and those that changed.
    """
    people = _people(store, wish)
    joined, unchanged = set(), set()
    if wish.level == "group" and not bulk.since_misses_joined:
        joined = {p for p, at in store.joined.items() if at >= wish.since}
    if bulk.since_misses_unchanged:
        unchanged = {s.id for s in store.all("Patient") if s.last_updated < wish.since} - joined
    chosen: dict[str, list[Stored]] = {}
    for resource_type in _types(store, wish):
        if people is not None and resource_type == "Medication":
            continue
        found = _filtered(store, resource_type, wish)
        if people is not None:
            found = [s for s in found if s.patient in people]
        found = [s for s in found if s.last_updated >= wish.since or s.patient in joined]
        chosen[resource_type] = [s for s in found if s.patient not in unchanged]
    if people is not None and _wants(store, wish, "Medication"):
        chosen["Medication"] = _medications(store, wish, people, chosen)
    return {name: found for name, found in chosen.items() if found}


def _people(store: Store, wish: Wish) -> set[str] | None:
    """The patients whose compartments are exported; None is everything."""
    if wish.level == "system":
        return None
    return store.members() if wish.level == "group" else {s.id for s in store.all("Patient")}


def _wants(store: Store, wish: Wish, resource_type: str) -> bool:
    is_asked = not wish.types or resource_type in wish.types
    is_there = resource_type in store.types and wish.allows(resource_type)
    return is_asked and is_there and (wish.level == "system" or resource_type not in _NOT_OF_PATIENTS)


def _types(store: Store, wish: Wish) -> list[str]:
    return [t for t in sorted(store.types) if _wants(store, wish, t)]


def _filtered(store: Store, resource_type: str, wish: Wish) -> list[Stored]:
    if resource_type not in wish.filters:
        return store.all(resource_type)
    queries = wish.filters[resource_type]
    return list({s.key: s for query in queries for s in store.search(resource_type, query)}.values())


def _medications(store: Store, wish: Wish, people: set[str], chosen: dict[str, list[Stored]]) -> list[Stored]:
    def named(found: Iterable[Stored]) -> set[str]:
        return {target for s in found for target in s.targets.get("medicationReference", ())}

    drug_types = [t for t in store.types if t.startswith("Medication") and t != "Medication"]
    of_people = named(s for t in drug_types for s in store.all(t) if s.patient in people)
    newly = named(s for found in chosen.values() for s in found)
    return [
        s
        for s in _filtered(store, "Medication", wish)
        if (target := f"Medication/{s.id}") in of_people and (s.last_updated >= wish.since or target in newly)
    ]


def deleted(store: Store, wish: Wish) -> list[str]:
    """TYPE/ID of what was deleted since and is not back; at Group level of those who ever were members."""
    ever = store.ever_members
    found: dict[str, None] = {}
    for change in store.history:
        stored = change.stored
        if change.method != "DELETE" or change.at < wish.since or store.read(*stored.key):
            continue
        is_in = wish.level == "system" or stored.patient is not None or stored.resource_type == "Medication"
        if wish.level == "group" and stored.patient is not None:
            is_in = stored.patient in ever
        if is_in and _wants(store, wish, stored.resource_type):
            found[f"{stored.resource_type}/{stored.id}"] = None
    return list(found)
