"""The clock of a hospital's server: the machine's, and what it is wrong by or has been moved on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime


class Clock:
    """`is_coarse` cuts instants to whole seconds."""

    def __init__(self, *, is_coarse: bool = False) -> None:
        self._offset = timedelta()
        self._skew = timedelta()
        self._is_coarse = is_coarse

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset + self._skew

    def advance(self, nights: float) -> None:
        self._offset += timedelta(days=nights)

    def skew(self, seconds: float) -> None:
        """How wrong the clock is from now on; 0 is right."""
        self._skew = timedelta(seconds=seconds)

    def stamp(self) -> str:
        """A FHIR instant for `lastUpdated`."""
        at = self.now()
        return instant_text(at.replace(microsecond=0) if self._is_coarse else at)

    def http_date(self) -> str:
        return format_datetime(self.now(), usegmt=True)


def instant_text(at: datetime) -> str:
    """A FHIR instant in UTC, to the millisecond below: texts sort as the instants do."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
