"""Whose night is over: what a refresh of the evidence waits for. Read from what nights leave behind.

A site's night began when its schedule fired last. It is over once the audit log says so (`night`, however it
ended), or once a run that began since landed everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rwe.audit import entries
from rwe.config import Workspace
from rwe.landing import open_run
from rwe.status import is_whole

#: The command under which the audit log says that a site's night is over, after its last retry.
NIGHT = "night"


@dataclass(frozen=True)
class Arrivals:
    """The sites with a server, by whether their night is over: `arrived` complete, `failed` not so (something
    is missing), `awaited` not over yet."""

    arrived: tuple[str, ...]
    failed: tuple[str, ...]
    awaited: tuple[str, ...]


def arrivals(workspace: Workspace, now: datetime) -> Arrivals:
    """Where the night stands at `now` (aware). Raises LandingError where a manifest is unreadable."""
    ended: dict[str, tuple[datetime, str]] = {}
    for entry in entries(workspace.root):
        if entry.command == NIGHT and entry.site is not None:
            ended[entry.site] = entry.at, entry.outcome
    arrived, failed, awaited = [], [], []
    for name, site in workspace.settings.sites.items():
        if site.base_url is None:
            continue
        began = workspace.settings.schedule.night_of(site).last_before(now, site.zone)
        at, outcome = ended.get(name, (datetime.min.replace(tzinfo=UTC), ""))
        if (at >= began and outcome == "done") or _has_whole_run(workspace, name, began):
            arrived.append(name)
        elif at >= began:
            failed.append(name)
        else:
            awaited.append(name)
    return Arrivals(tuple(arrived), tuple(failed), tuple(awaited))


def _has_whole_run(workspace: Workspace, site: str, began: datetime) -> bool:
    first = f"run={began.astimezone(UTC):%Y%m%dT%H%M%SZ}"  # run ids begin with when they were begun
    found = sorted(workspace.landing.glob(f"site={site}/run=*"), reverse=True)
    return any(is_whole(open_run(path)) for path in found if path.name >= first)


def await_sites(
    workspace: Workspace,
    until: datetime,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
    pause_seconds: float = 20,
    on_wait: Callable[[Arrivals], None] = lambda _: None,
) -> Arrivals:
    """Wait until no site's night is awaited, or `until` (aware); returns where the night stands then.

    The night is the one that had begun when this was called: a schedule that fires meanwhile begins the next.
    `on_wait` hears each time that something is awaited. Raises as `arrivals` does.
    """
    called = now()
    while True:
        found = arrivals(workspace, called)
        left = (until - now()).total_seconds()
        if not found.awaited or left <= 0:
            return found
        on_wait(found)
        sleep(min(pause_seconds, left))
