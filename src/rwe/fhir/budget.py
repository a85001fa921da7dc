"""How gently a server is asked: requests a second and at once, hours of rest, a ceiling of resources."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rwe.config import Site
from rwe.errors import SiteError


class QuietHoursError(SiteError):
    """The site's quiet hours have begun: no request may start."""


class TimeBudgetError(QuietHoursError):
    """The time that tonight's run was given is over: as in quiet hours, no request may start."""


class CeilingError(SiteError):
    """A night would land more of a type than the site allows."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RequestBudget:
    """The requests of one client, whatever the number of threads.

    After `until` (an aware instant) no request starts any more. `clock` (seconds), `sleep` and `now` (an
    aware instant) stand for time; tests pass their own.
    """

    def __init__(
        self,
        name: str,
        site: Site,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = _utc_now,
        until: datetime | None = None,
    ) -> None:
        self._name, self._site, self._until = name, site, until
        self._clock, self._sleep, self._now = clock, sleep, now
        self._gap = 1 / site.max_requests_per_second if site.max_requests_per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self._under_way = threading.BoundedSemaphore(site.max_concurrency)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """One of `max_concurrency` places, held while the request is under way. See `turn` for errors."""
        with self._under_way:
            self.turn()
            yield

    def turn(self) -> None:
        """Wait until one more request may start: at most one each 1 / max_requests_per_second seconds.

        Raises QuietHoursError in the site's quiet hours, TimeBudgetError after `until`.
        """
        self._refuse_late_requests()
        if not self._gap:
            return
        with self._lock:
            at = max(self._clock(), self._next)
            self._next = at + self._gap
        wait = at - self._clock()
        if wait > 0:
            self._sleep(wait)
            self._refuse_late_requests()

    def _refuse_late_requests(self) -> None:
        hours, now = self._site.quiet_hours, self._now()
        if self._until is not None and now >= self._until:
            raise TimeBudgetError(
                "the time budget of this run is used up: no request is sent",
                where=f"site {self._name}",
                advice="the next run goes on where it ended; if it stays so, raise time_budget_hours",
            )
        if hours is not None and now.astimezone(self._site.zone).time() in hours:
            raise QuietHoursError(
                f"quiet hours, {hours} {self._site.time_zone}: no request is sent",
                where=f"site {self._name}",
                advice=f"run it again after {hours.end:%H:%M}",
            )


class Ceiling:
    """Counts the resources of a night by type, and stops it at the site's `max_resources_per_type`."""

    def __init__(self, name: str, site: Site) -> None:
        self._name, self._limit = name, site.max_resources_per_type
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, resource_type: str, count: int = 1) -> None:
        """Count resources that are about to land. Raises CeilingError if they are more than allowed."""
        if self._limit is None:
            return
        with self._lock:
            self._counts[resource_type] += count
            is_over = self._counts[resource_type] > self._limit
        if is_over:
            raise CeilingError(
                f"more than {self._limit:,} resources, the ceiling of this site",
                where=f"site {self._name}, {resource_type}",
                advice="check the cohort and the code lists, or raise max_resources_per_type",
            )
