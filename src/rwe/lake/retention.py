"""Raw bytes are kept as long as the workspace says (`retain_raw_days`), and until they are in the lake."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from rwe.config import Workspace
from rwe.landing import Run, list_runs, remove_raw


def expire_raw(
    workspace: Workspace, in_lake: Collection[tuple[str, str]], *, now: datetime | None = None
) -> tuple[tuple[str, str], ...]:
    """Remove the raw bytes of runs that are older than the workspace keeps them and are in the lake.

    `in_lake` are the (site, run) that are in. Of a site with a server the latest complete pull and what
    landed since stay, however old: the nights to come compare with them what the server still has. Returns
    the (site, run) whose raw bytes were removed now. Raises LandingError where files cannot be removed.
    """
    days = workspace.settings.retain_raw_days
    if days is None:
        return ()
    before = (now or datetime.now(UTC)) - timedelta(days=days)
    runs = list_runs(workspace.landing)
    expired = []
    for site in sorted({run.site for run in runs}):
        of_site = sorted((r for r in runs if r.site == site), key=lambda r: r.manifest.started_at)
        declared = workspace.settings.sites.get(site)
        needed = _still_compared(of_site) if declared and declared.base_url else set()
        for run in of_site:
            is_due = run.manifest.finished_at < before and (site, run.run) in in_lake
            if is_due and run.run not in needed and not run.raw_is_removed:
                remove_raw(run)
                expired.append((site, run.run))
    return tuple(expired)


def _still_compared(runs: list[Run]) -> set[str]:
    """The latest run that asked for everything and got it, and all after it; all, where there is none."""
    needed: set[str] = set()
    for run in reversed(runs):
        needed.add(run.run)
        scopes = run.manifest.scopes.values()
        if scopes and all(s.since is None and s.is_complete for s in scopes):
            break
    return needed
