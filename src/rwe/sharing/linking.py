"""Patients treated at two sites, counted once, without anybody learning who or when.

With each link token of the study a site shares its patient's index day, moved by a number that follows from
the token itself (`rwe.linking`), which a hub without the link key does not have. At two sites the token is
the same, so is the number: the hub learns the days between the two index events, and of a patient at one site
nothing at all.

The record of the first index event is kept, the others are left out; on one day the site first by name wins.
Tokens are dropped after use. What stays is which records are of one person, by pseudonyms of this study.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from rwe.linking import study_token

_MODULUS: Final = 1 << 32
_DAY_ZERO: Final = date(1900, 1, 1)


@dataclass(frozen=True)
class Token:
    """A patient's token of a study. `masked_day` is the index day plus what the token hides it by."""

    patient_id: str
    token: str
    masked_day: int


@dataclass(frozen=True)
class Record:
    """A patient's record at a site; `offset` is days of its index event after the person's first one."""

    site: str
    patient_id: str
    offset: int


#: Records of one person at several sites, the one that counts first.
Person = tuple[Record, ...]


def tokens_of(
    tokens: Mapping[str, str],
    index_dates: Mapping[str, date],
    *,
    study: str,
    protocol_sha256: str,
) -> dict[str, Token]:
    """Patient → the token of the study, for those who have a token and an index date.

    tokens: patient → the site's own link token. The keys of both may be any name of the patient.
    """
    found = {}
    for patient, token in sorted(tokens.items()):
        if patient in index_dates:
            day = (index_dates[patient] - _DAY_ZERO).days
            hidden = (day + _mask(token, study, protocol_sha256)) % _MODULUS
            found[patient] = Token(patient, study_token(token, study, protocol_sha256), hidden)
    return found


def _mask(token: str, study: str, protocol_sha256: str) -> int:
    """What the index day is moved by: it follows from the site's token, not from that of the study."""
    message = f"rwe link index day|{study}|{protocol_sha256}".encode()
    return int.from_bytes(hmac.digest(bytes.fromhex(token), message, "sha256")[:4], "big")


def same_persons(tokens: Mapping[str, Sequence[Token]]) -> list[Person]:
    """The persons with records at two sites or more, by their tokens at each site.

    Two records of one site alone are that site's own matter.
    """
    by_token: dict[str, list[tuple[str, Token]]] = {}
    for site, found in sorted(tokens.items()):
        for one in found:
            by_token.setdefault(one.token, []).append((site, one))
    persons = []
    for _, records in sorted(by_token.items()):
        if len({site for site, _ in records}) > 1:
            start = records[0][1].masked_day
            persons.append(
                _ordered(Record(s, t.patient_id, _signed(t.masked_day - start)) for s, t in records)
            )
    return persons


def _signed(difference: int) -> int:
    half = _MODULUS // 2
    return (difference + half) % _MODULUS - half


def _ordered(records: Iterable[Record]) -> Person:
    """First index event first, offsets counted from it."""
    found = sorted(set(records), key=lambda r: (r.offset, r.site, r.patient_id))
    return tuple(Record(r.site, r.patient_id, r.offset - found[0].offset) for r in found)


def joined(known: Iterable[Person], new: Iterable[Person]) -> list[Person]:
    """Persons of before with those found now: groups that share a record are one person."""
    groups: list[Person] = []
    for person in (*known, *new):
        merged = person
        for other in [g for g in groups if _shared(g, merged)]:
            groups.remove(other)
            merged = _merge(other, merged)
        groups.append(merged)
    return sorted(groups, key=lambda g: [(r.site, r.patient_id) for r in g])


def _shared(a: Person, b: Person) -> tuple[Record, Record] | None:
    there = {(r.site, r.patient_id): r for r in b}
    return next(((r, there[r.site, r.patient_id]) for r in a if (r.site, r.patient_id) in there), None)


def _merge(old: Person, new: Person) -> Person:
    """What was found now decides where it says something, for an index event may have been corrected."""
    tie = _shared(old, new)
    shift = tie[1].offset - tie[0].offset if tie else 0
    records = {(r.site, r.patient_id): Record(r.site, r.patient_id, r.offset + shift) for r in old}
    records |= {(r.site, r.patient_id): r for r in new}
    return _ordered(records.values())


def among(persons: Iterable[Person], present: Mapping[str, set[str]]) -> list[Person]:
    """The persons by the records that are there now (site → patients), where two sites are left."""
    found = []
    for person in persons:
        here = [r for r in person if r.patient_id in present.get(r.site, set())]
        if len({r.site for r in here}) > 1:
            found.append(_ordered(here))
    return found


def left_out(persons: Iterable[Person]) -> dict[str, set[str]]:
    """Site → patients whose record is not the person's first."""
    found: dict[str, set[str]] = {}
    for person in persons:
        for record in person[1:]:
            found.setdefault(record.site, set()).add(record.patient_id)
    return found
