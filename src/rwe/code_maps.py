"""A site's own codes in standard ones: a table kept by hand (CSV), or a FHIR R4 ConceptMap.

    system,code,target_system,target_code,valid_from,valid_to

One line a translation; an empty `system` is for codes that the site sends without one. A translation holds
for records dated within its validity, both days inclusive, empty is open. Of a ConceptMap count the targets
that mean the same as their source (`equal`, `equivalent`), and others only where the site says so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import msgspec

from rwe.codes import Code, InvalidCodeError
from rwe.errors import ConfigError

COLUMNS = ("system", "code", "target_system", "target_code", "valid_from", "valid_to")
#: Of ConceptMapEquivalence (R4): the target means what the source means.
SAME_MEANING = frozenset({"equal", "equivalent"})


@dataclass(frozen=True, order=True)
class Translation:
    """A code of a site and the standard code that it stands for; `system` may be empty."""

    system: str
    code: str
    target_system: str
    target_code: str
    valid_from: date | None = None
    valid_to: date | None = None


def load_code_map(path: Path, equivalences: Collection[str] = SAME_MEANING) -> tuple[Translation, ...]:
    """Read a code map, each translation once, in the order of the file.

    A file whose name ends in `.json` is a ConceptMap, of which the `equivalences` count. Raises ConfigError
    naming the file and the line, or the place in the ConceptMap, of the first mistake.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            "the code map is not readable as UTF-8 text", where=str(path), advice="see code_map in rwe.yaml"
        ) from None
    read = _concept_map if path.suffix.lower() == ".json" else _table
    return tuple(dict.fromkeys(read(text, str(path), frozenset(equivalences))))


def _table(text: str, where: str, _: frozenset[str]) -> Iterator[Translation]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ConfigError(
                "the header is not the one of a code map",
                where=where,
                advice=f"make its first line {','.join(COLUMNS)}",
            )
        for row in rows:
            line = f"{where}, line {rows.line_num}"
            if None in row or None in row.values():
                raise ConfigError(f"not {len(COLUMNS)} columns", where=line, advice="quote commas in codes")
            yield _translation({name: value.strip() for name, value in row.items()}, line)
    except csv.Error:
        raise ConfigError("no CSV", where=f"{where}, line {rows.line_num}") from None


def _translation(row: dict[str, str], where: str) -> Translation:
    try:
        first, last = (date.fromisoformat(row[n]) if row[n] else None for n in ("valid_from", "valid_to"))
    except ValueError:
        raise ConfigError(
            "valid_from or valid_to is no date", where=where, advice="write YYYY-MM-DD"
        ) from None
    if not row["code"]:
        raise ConfigError("the code is empty", where=where, advice="give it, or leave the line out")
    try:
        target = Code(row["target_system"], row["target_code"], valid_from=first, valid_to=last)
    except InvalidCodeError as e:
        raise ConfigError(str(e), where=where, advice="correct the target or its system") from None
    return Translation(row["system"], row["code"], target.system, target.code, first, last)


class _Target(msgspec.Struct):
    code: str | None = None
    equivalence: str | None = None
    dependsOn: list[msgspec.Raw] = []  # noqa: N815 - FHIR's name
    modifierExtension: list[msgspec.Raw] = []  # noqa: N815


class _Element(msgspec.Struct):
    code: str | None = None
    target: list[_Target] = []
    modifierExtension: list[msgspec.Raw] = []  # noqa: N815


class _Group(msgspec.Struct):
    source: str | None = None
    target: str | None = None
    element: list[_Element] = []
    modifierExtension: list[msgspec.Raw] = []  # noqa: N815


class _ConceptMap(msgspec.Struct):
    resourceType: str  # noqa: N815
    status: str | None = None
    group: list[_Group] = []
    modifierExtension: list[msgspec.Raw] = []  # noqa: N815


def _concept_map(text: str, where: str, equivalences: frozenset[str]) -> Iterator[Translation]:
    try:
        content = msgspec.json.decode(text, type=_ConceptMap)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError("no ConceptMap of FHIR R4", where=where, advice="give JSON or CSV") from None
    if content.resourceType != "ConceptMap":
        raise ConfigError("the resource is no ConceptMap", where=where)
    if content.status == "retired" or content.modifierExtension:
        raise ConfigError(
            "the ConceptMap is retired, or means something else than it seems (modifierExtension)",
            where=where,
            advice="give one that is in use",
        )
    for g, group in enumerate(content.group):
        if group.modifierExtension:
            raise ConfigError("a group that bears a modifierExtension", where=f"{where}, group[{g}]")
        for e, element in enumerate(group.element):
            for target in _usable(element, equivalences):
                row = {
                    "system": group.source or "",
                    "code": element.code or "",
                    "target_system": group.target or "",
                    "target_code": target.code or "",
                    "valid_from": "",
                    "valid_to": "",
                }
                yield _translation(row, f"{where}, group[{g}].element[{e}]")


def _usable(element: _Element, equivalences: frozenset[str]) -> list[_Target]:
    """The targets that hold without a condition. One that depends on something else is not understood."""
    if element.modifierExtension:
        return []
    return [
        t
        for t in element.target
        if t.equivalence in equivalences and t.code and not t.dependsOn and not t.modifierExtension
    ]
