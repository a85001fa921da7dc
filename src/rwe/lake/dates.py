"""FHIR dates: what day it was at the site, and how exactly that is known.

A FHIR date is `YYYY`, `YYYY-MM`, `YYYY-MM-DD` or an instant with offset (R4, datatypes, dateTime). The day of
an instant is its local calendar day as written; one written in `Z` is first moved to the site's time zone,
because `Z` says how a server stores, not where the patient was.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

Precision = Literal["year", "month", "day", "instant"]

_SHAPE = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T(?P<hour>\d\d):(?P<minute>\d\d)(:(?P<second>\d\d)(\.\d+)?)?(?P<offset>Z|[+-]\d\d:\d\d)?)?)?)?",
    re.ASCII,
)


class DateShapeError(ValueError):
    """A text that is no FHIR date. Carries no text: it came out of a record."""


@dataclass(frozen=True, slots=True)
class FhirDate:
    """A date with its precision.

    `day` is the local calendar day, None where only the month or year is known. The true day lies between
    `first_day` and `last_day`, both inclusive; for a known day all three are equal. `at` is the moment in UTC
    where an instant with an offset was written. `has_offset` is False for a time of day without one.
    """

    day: date | None
    precision: Precision
    first_day: date
    last_day: date
    at: datetime | None = None
    has_offset: bool = True


@lru_cache(maxsize=65_536)
def read_fhir_date(text: str, zone: ZoneInfo) -> FhirDate:
    """Read a FHIR date, dateTime or instant. Raises DateShapeError where it is none.

    `zone` is the site's time zone; it decides the day of instants written in `Z` only. A second of 60 (a leap
    second) is the second before it.
    """
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise DateShapeError
    year, month, day = (int(found[k]) if found[k] else None for k in ("year", "month", "day"))
    try:
        if day is not None and month is not None:
            written = date(year or 0, month, day)
            if found["hour"] is None:
                return FhirDate(written, "day", written, written)
            return _read_instant(found, written, zone)
        if month is not None:
            last = calendar.monthrange(year or 0, month)[1]
            return FhirDate(None, "month", date(year or 0, month, 1), date(year or 0, month, last))
        return FhirDate(None, "year", date(year or 0, 1, 1), date(year or 0, 12, 31))
    except (ValueError, OverflowError, calendar.IllegalMonthError):
        raise DateShapeError from None


def _read_instant(found: re.Match[str], written: date, zone: ZoneInfo) -> FhirDate:
    second = min(int(found["second"] or 0), 59) if found["second"] != "60" else 59
    if found["second"] and int(found["second"]) > 60:
        raise DateShapeError
    local = datetime(
        written.year, written.month, written.day, int(found["hour"]), int(found["minute"]), second
    )
    offset = found["offset"]
    if offset is None:
        return FhirDate(written, "instant", written, written, has_offset=False)
    if offset == "Z":
        at = local.replace(tzinfo=UTC)
        day = at.astimezone(zone).date()
        return FhirDate(day, "instant", day, day, at)
    hours, minutes = int(offset[1:3]), int(offset[4:6])
    if hours > 14 or minutes > 59:
        raise DateShapeError
    shift = timedelta(hours=hours, minutes=minutes) * (1 if offset[0] == "+" else -1)
    return FhirDate(written, "instant", written, written, (local - shift).replace(tzinfo=UTC))


def coarsen(value: FhirDate, granularity: Literal["day", "month", "year"]) -> FhirDate:
    """Keep of a date no more than its month or year; a date known less exactly stays as it is."""
    if granularity == "day" or value.precision == "year":
        return FhirDate(value.day, value.precision, value.first_day, value.last_day)
    first = value.first_day
    if granularity == "month":
        last = calendar.monthrange(first.year, first.month)[1]
        return FhirDate(None, "month", first.replace(day=1), first.replace(day=last))
    return FhirDate(None, "year", date(first.year, 1, 1), date(first.year, 12, 31))
