"""FHIR R4 search as a hospital's server understands it: parameters, and which resources they match.

One table (`PARAMETERS`) says which parameters each type has; the CapabilityStatement, the index and the
matching all read it. What is not in it is refused, as strict servers do.
Source: FHIR R4 (4.0.1), section 3.1.1 "Search" and the search parameters of each resource.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from rwe.sandbox.dialects import Resource

ParameterKind = Literal["token", "reference", "date"]
Token = tuple[str, str]
Interval = tuple[int, int]  # microseconds since 1970 in UTC, the end excluded

_BEFORE_ALL, _AFTER_ALL = -(1 << 62), 1 << 62


class BadSearchError(Exception):
    """The query cannot be understood: 400. The message names the parameter only."""


@dataclass(frozen=True)
class Parameter:
    """A search parameter: where its values lie in a resource. `fields` are tried in turn."""

    kind: ParameterKind
    fields: tuple[str, ...]


def _token(*fields: str) -> Parameter:
    return Parameter("token", fields)


def _reference(*fields: str) -> Parameter:
    return Parameter("reference", fields)


def _date(*fields: str) -> Parameter:
    return Parameter("date", fields)


_ANY = {"_lastUpdated": _date("meta.lastUpdated")}
_OF_PATIENT = {**_ANY, "patient": _reference("subject"), "subject": _reference("subject")}
_OF_DRUG = {
    **_OF_PATIENT,
    "code": _token("medicationCodeableConcept"),  # blind to medicationReference, as the specification has it
    "medication": _reference("medicationReference"),
    "status": _token("status"),
}
PARAMETERS: dict[str, dict[str, Parameter]] = {
    "Patient": {
        **_ANY,
        "birthdate": _date("birthDate"),
        "death-date": _date("deceasedDateTime"),
        "gender": _token("gender"),
        "identifier": _token("identifier"),
        "link": _reference("link"),
    },
    "Encounter": {
        **_OF_PATIENT,
        "status": _token("status"),
        "class": _token("class"),
        "date": _date("period"),
    },
    "Condition": {
        **_OF_PATIENT,
        "code": _token("code"),
        "category": _token("category"),
        "clinical-status": _token("clinicalStatus"),
        "verification-status": _token("verificationStatus"),
        "onset-date": _date("onsetDateTime"),
        "recorded-date": _date("recordedDate"),
    },
    "Procedure": {
        **_OF_PATIENT,
        "code": _token("code"),
        "status": _token("status"),
        "date": _date("performedDateTime", "performedPeriod"),
    },
    "Observation": {
        **_OF_PATIENT,
        "code": _token("code"),
        "category": _token("category"),
        "status": _token("status"),
        "date": _date("effectiveDateTime"),
    },
    "Medication": {**_ANY, "code": _token("code"), "status": _token("status")},
    "MedicationAdministration": {**_OF_DRUG, "effective-time": _date("effectiveDateTime", "effectivePeriod")},
    "MedicationRequest": {**_OF_DRUG, "intent": _token("intent"), "authoredon": _date("authoredOn")},
    "MedicationDispense": {**_OF_DRUG, "whenhandedover": _date("whenHandedOver")},
    "MedicationStatement": {**_OF_DRUG, "effective": _date("effectivePeriod")},
}
#: Types that only some hospitals serve.
EXTRA_PARAMETERS: dict[str, dict[str, Parameter]] = {
    "Consent": {
        **_ANY,
        "patient": _reference("patient"),
        "status": _token("status"),
        "scope": _token("scope"),
        "category": _token("category"),
        "date": _date("dateTime"),
    },
    "Group": {**_ANY, "member": _reference("member"), "type": _token("type")},
}
KNOWN_PARAMETERS = {**PARAMETERS, **EXTRA_PARAMETERS}
#: Parameters that shape the answer and match nothing.
CONTROLS = ("_count", "_sort", "_include", "_total", "_summary", "_elements", "_format")


def includes(resource_type: str) -> dict[str, str]:
    """What `_include` may ask for: TYPE:NAME to the field of the reference."""
    return {
        f"{resource_type}:{name}": parameter.fields[0]
        for name, parameter in KNOWN_PARAMETERS[resource_type].items()
        if parameter.kind == "reference"
    }


# Values out of a resource


def values(resource: Resource, parameter: Parameter) -> list[object]:
    """The JSON values a parameter looks at, lists flattened; an empty list if there are none."""
    for field in parameter.fields:
        value: object = resource
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return list(value) if isinstance(value, list) else [value]
    return []


def tokens(found: Iterable[object]) -> tuple[Token, ...]:
    """(system, code) pairs of codes, Codings, Identifiers and CodeableConcepts; no system is ''."""
    pairs: list[Token] = []
    for value in found:
        if isinstance(value, str):
            pairs.append(("", value))
        elif isinstance(value, dict):
            for coding in value.get("coding", [value]):
                pairs.append((coding.get("system", ""), coding.get("code") or coding.get("value", "")))
    return tuple(pairs)


def references(found: Iterable[object]) -> tuple[str, ...]:
    """TYPE/ID of each reference, also one level down (Patient.link.other, Group.member.entity).

    References to contained resources lead nowhere.
    """
    held = [v.get("other") or v.get("entity") or v for v in found if isinstance(v, dict)]
    targets = [str(v.get("reference", "")) for v in held]
    return tuple(t for t in targets if t and not t.startswith("#"))


def intervals(found: Iterable[object], zone: ZoneInfo) -> tuple[Interval, ...]:
    """The stretches of time that dates and Periods cover; what no calendar has is left out."""
    spans: list[Interval] = []
    for value in found:
        try:
            if isinstance(value, dict):
                start = interval(value["start"], zone)[0] if "start" in value else _BEFORE_ALL
                end = interval(value["end"], zone)[1] if "end" in value else _AFTER_ALL
                spans.append((start, end))
            else:
                spans.append(interval(str(value), zone))
        except ValueError:
            continue
    return tuple(spans)


_DATE = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T\d\d:\d\d(?P<second>:\d\d(?P<fraction>\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
)


def interval(text: str, zone: ZoneInfo) -> Interval:
    """The stretch that a FHIR date, dateTime or instant covers; without an offset it is local to `zone`.

    Raises ValueError for what is no date.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError("no FHIR date")
    if "T" in text:
        start = datetime.fromisoformat(text)
        start = start if start.tzinfo else start.replace(tzinfo=zone)
        width = timedelta(milliseconds=1) if match["fraction"] else timedelta(seconds=1)
        width = width if match["second"] else timedelta(minutes=1)
        return _micros(start), _micros(start + width)
    year, month, day = int(match["year"]), int(match["month"] or 1), int(match["day"] or 1)
    start = datetime(year, month, day, tzinfo=zone)
    if match["day"]:
        end = start + timedelta(days=1)
    elif match["month"]:
        end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=zone)
    else:
        end = datetime(year + 1, 1, 1, tzinfo=zone)
    return _micros(start), _micros(end)


def _micros(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


# Values out of a query


def split_values(text: str) -> list[str]:
    r"""The alternatives of a parameter: split at commas, `\,` being one that belongs to the value."""
    return [re.sub(r"\\([,|$\\])", r"\1", part) for part in re.split(r"(?<!\\),", text)]


def token_test(name: str, text: str) -> Callable[[tuple[Token, ...]], bool]:
    """Matches system|code, |code (no system), system| (any code of it) and code."""
    wanted = [_wanted_token(name, part) for part in split_values(text)]

    def test(found: tuple[Token, ...]) -> bool:
        return any(
            (system is None or system == s) and (code is None or code == c)
            for system, code in wanted
            for s, c in found
        )

    return test


def _wanted_token(name: str, part: str) -> tuple[str | None, str | None]:
    system, bar, code = part.rpartition("|")
    if not part or part == "|":
        raise BadSearchError(f"{name} has an empty value")
    return (system if bar else None), (code or None)


def wanted_references(name: str, text: str) -> set[str]:
    """The TYPE/ID asked for: a bare id, TYPE/ID or an absolute address that ends so."""
    target = "Medication" if name == "medication" else "Patient"
    wanted = set()
    for part in split_values(text):
        if not part:
            raise BadSearchError(f"{name} has an empty value")
        pieces = part.split("/")
        wanted.add(f"{target}/{part}" if len(pieces) == 1 else "/".join(pieces[-2:]))
    return wanted


def date_test(name: str, text: str, zone: ZoneInfo) -> Callable[[tuple[Interval, ...]], bool]:
    """Matches a prefix (eq, ne, gt, lt, ge, le, sa, eb; none is eq) and a date of any precision."""
    wanted = []
    for part in split_values(text):
        prefix, rest = (part[:2], part[2:]) if part[:2].isalpha() else ("eq", part)
        if prefix not in _COMPARISONS:
            raise BadSearchError(f"{name} has a prefix that is not supported")
        try:
            wanted.append((_COMPARISONS[prefix], interval(rest, zone)))
        except ValueError:
            raise BadSearchError(f"{name} has a value that is no date") from None
    return lambda found: any(compare(span, asked) for compare, asked in wanted for span in found)


def _within(span: Interval, asked: Interval) -> bool:
    return asked[0] <= span[0] and span[1] <= asked[1]


_COMPARISONS: dict[str, Callable[[Interval, Interval], bool]] = {
    "eq": _within,
    "ne": lambda span, asked: not _within(span, asked),
    "gt": lambda span, asked: span[1] > asked[1],
    "lt": lambda span, asked: span[0] < asked[0],
    "ge": lambda span, asked: span[1] > asked[1] or _within(span, asked),
    "le": lambda span, asked: span[0] < asked[0] or _within(span, asked),
    "sa": lambda span, asked: span[0] >= asked[1],
    "eb": lambda span, asked: span[1] <= asked[0],
}
