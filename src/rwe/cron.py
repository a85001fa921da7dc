"""Cron expressions of five fields: whether one is well-formed, and when it fired last.

Prefect runs them; here they are checked before anything is deployed, and read to know when a site's night
began. As in cron, a day counts if it fits the day of the month or the day of the week, where both are given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"^(?:(\*)|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([0-9]+))?$")
#: 29 February on a Monday comes once in 28 years, or 40 around 2100.
_MOST_DAYS = 366 * 41


@dataclass(frozen=True)
class _Field:
    """One field: its name in messages, its lowest and highest value, and words for values."""

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()

    def read(self, text: str) -> frozenset[int]:
        """The values it stands for. Raises ValueError."""
        values: set[int] = set()
        for part in text.lower().split(","):
            found = _PART.match(part)
            if not found:
                raise ValueError(f"its {self.name} cannot be read")
            star, first, last, step = found.groups()
            low = self.low if star else self._value(first)
            high = self.high if star or (step and not last) else self._value(last or first)
            if step == "0" or low > high:
                raise ValueError(f"its {self.name} can never be")
            values.update(range(low, high + 1, int(step or 1)))
        return frozenset(values)

    def _value(self, text: str) -> int:
        if text in self.words:
            return self.words.index(text) + self.low
        if not text.isdigit() or not self.low <= int(text) <= self.high:
            raise ValueError(f"its {self.name} is not between {self.low} and {self.high}")
        return int(text)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A cron expression, read. `parse_cron` makes one."""

    text: str
    minutes: frozenset[int] = field(repr=False)
    hours: frozenset[int] = field(repr=False)
    days: frozenset[int] = field(repr=False)
    months: frozenset[int] = field(repr=False)
    weekdays: frozenset[int] = field(repr=False)
    is_either_day: bool = field(repr=False)

    def last_before(self, moment: datetime, zone: ZoneInfo) -> datetime:
        """When it fired last, at `moment` (aware) or before, by the clock of `zone`. UTC.

        A time that the clock skips in spring counts as the same number of minutes after midnight.
        """
        local = moment.astimezone(zone)
        for back in range(_MOST_DAYS):
            day = (local - timedelta(days=back)).date()
            if not self._fits(day.month, day.day, day.isoweekday() % 7):
                continue
            for hour in sorted(self.hours, reverse=True):
                for minute in sorted(self.minutes, reverse=True):
                    at = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)
                    if at <= moment:
                        return at
        raise ValueError("the cron expression never fires")

    def _fits(self, month: int, day: int, weekday: int) -> bool:
        if month not in self.months:
            return False
        fits = day in self.days, weekday in self.weekdays
        return any(fits) if self.is_either_day else all(fits)


def parse_cron(text: str) -> Cron:
    """Read an expression of five fields. Raises ValueError that names the field."""
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise ValueError('no cron expression of five fields, such as "30 1 * * *"')
    try:
        minutes, hours, days, months, weekdays = (f.read(p) for f, p in zip(_FIELDS, parts, strict=True))
    except ValueError as e:
        raise ValueError(f"no cron expression: {e}") from None
    cron = Cron(
        text=" ".join(parts),
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(d % 7 for d in weekdays),
        is_either_day=not parts[2].startswith("*") and not parts[4].startswith("*"),
    )
    cron.last_before(datetime(2024, 3, 1, tzinfo=UTC), ZoneInfo("UTC"))  # 30 February never comes
    return cron


def _checked(text: str) -> str:
    return parse_cron(text).text


#: A field of rwe.yaml: the text of a cron expression that can fire.
CronText = Annotated[str, AfterValidator(_checked)]
