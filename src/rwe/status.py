"""Where a workspace stands: what landed from each site, how fresh it is, what failed, what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from rwe.config import Workspace
from rwe.errors import BuildError
from rwe.landing import Run, list_runs
from rwe.resource_types import R4_RESOURCE_TYPES
from rwe.warehouse.opening import open_published
from rwe.watermarks import Watermark, in_order, watermarks


@dataclass(frozen=True)
class SiteStatus:
    """One site. `last_run` and what belongs to it are None (or nothing) where nothing has landed.

    `resources` are the lines of the last run. `failed_types` are those it did not get whole. `fresh_hours`
    is how long ago, in hours, the last run ended that got everything. `watermarks` say up to when each type
    is whole, by the server's clock. `quarantined` counts resources refused; None where nothing is published.
    """

    site: str
    last_run: str | None
    route: str | None
    finished_at: datetime | None
    resources: int
    failed_types: tuple[str, ...]
    fresh_hours: float | None
    watermarks: tuple[Watermark, ...]
    quarantined: int | None


@dataclass(frozen=True)
class WorkspaceStatus:
    """All sites, declared or landed, and when the published database was built (UTC; None: there is none)."""

    sites: tuple[SiteStatus, ...]
    published: Path | None
    built_at: datetime | None


def workspace_status(workspace: Workspace, now: datetime | None = None) -> WorkspaceStatus:
    """Read the manifests and the published database. Raises LandingError where a manifest is unreadable."""
    at = now or datetime.now(UTC)
    runs: dict[str, list[Run]] = {name: [] for name in workspace.settings.sites}
    for run in in_order(list_runs(workspace.landing)):
        runs.setdefault(run.site, []).append(run)
    marks = watermarks(workspace.landing, cipher=workspace.cipher())
    quarantined = _quarantined(workspace)
    is_published = workspace.database.is_file()
    built_at = _built_at(workspace)
    return WorkspaceStatus(
        sites=tuple(
            _site_status(name, landed, marks, quarantined.get(name), at) for name, landed in runs.items()
        ),
        published=workspace.database if is_published else None,
        built_at=built_at,
    )


def _site_status(
    name: str, runs: Sequence[Run], marks: Sequence[Watermark], quarantined: int | None, now: datetime
) -> SiteStatus:
    last = runs[-1] if runs else None
    whole = [run.manifest.finished_at for run in runs if is_whole(run)]
    return SiteStatus(
        site=name,
        last_run=last.run if last else None,
        route=last.manifest.route if last else None,
        finished_at=last.manifest.finished_at if last else None,
        resources=sum(f.lines for f in last.manifest.files) if last else 0,
        failed_types=failed_types(last) if last else (),
        fresh_hours=(now - max(whole)).total_seconds() / 3600 if whole else None,
        watermarks=tuple(m for m in marks if m.site == name),
        quarantined=quarantined,
    )


def failed_types(run: Run) -> tuple[str, ...]:
    """The types that a run over the network did not get whole, those not asked for any more included.

    What could not be read of files handed over is no failed type: it is landed as unreadable, and counted.
    """
    if run.manifest.route == "import":
        return ()
    incomplete = {t for t, scope in run.manifest.scopes.items() if not scope.is_complete}
    named = {error.partition(":")[0] for error in run.manifest.errors}
    return tuple(sorted(incomplete | (named & R4_RESOURCE_TYPES)))


def is_whole(run: Run) -> bool:
    """Whether a run got everything of its site, and was meant to."""
    if run.manifest.limited_to:
        return False
    return run.manifest.route == "import" or not (run.manifest.errors or failed_types(run))


def _quarantined(workspace: Workspace) -> dict[str, int]:
    """Resources refused by site, as the published database says."""
    rows = _read(workspace, "select site, sum(quarantined) from meta.reconciliation group by site")
    return {str(site): int(refused) for site, refused in rows}


def _built_at(workspace: Workspace) -> datetime | None:
    rows = _read(workspace, "select built_at from meta.build")
    return rows[0][0].replace(tzinfo=UTC) if rows else None


def _read(workspace: Workspace, query: str) -> list[tuple[Any, ...]]:
    """What the published database says; nothing where there is none, or it is of another version."""
    try:
        with closing(open_published(workspace)) as db:
            return db.execute(query).fetchall()
    except (duckdb.Error, BuildError):
        return []
