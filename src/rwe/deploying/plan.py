"""What is to be in Prefect for a workspace: read from deploy/prefect.yaml and the workspace's `schedule:`.

A plan is data: making one asks no server. Nights and reconciles are planned once a site, by its clock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from rwe import __version__
from rwe.config import Workspace
from rwe.deploying import names
from rwe.errors import ConfigError, RweError
from rwe.resources import bundled

#: Beside the runs of `sites_at_once` sites, a refresh that waits and one run by hand.
_MORE_RUNS = 2


@dataclass(frozen=True)
class CronPlan:
    """When a deployment runs: five fields, by the clock of an IANA zone."""

    cron: str
    time_zone: str
    slug: str


@dataclass(frozen=True)
class DeploymentPlan:
    """One deployment. `flow` and `name` are its identity; `entrypoint` is relative to `home`."""

    flow: str
    name: str
    description: str
    entrypoint: str
    home: Path
    parameters: dict[str, Any]
    tags: tuple[str, ...]
    schedule: CronPlan | None
    concurrency: int
    collision: Literal["CANCEL_NEW", "ENQUEUE"]
    version: str = __version__

    @property
    def full_name(self) -> str:
        """As Prefect names it: FLOW/DEPLOYMENT."""
        return f"{self.flow}/{self.name}"


@dataclass(frozen=True)
class PoolPlan:
    """Where runs are carried out. `concurrency` is how many at once."""

    name: str
    kind: Literal["process", "docker", "kubernetes"]
    base_job_template: dict[str, Any]
    concurrency: int


@dataclass(frozen=True)
class Plan:
    """All that `rwe deploy` sets up, notifications aside. `limits` are slots by name."""

    workspace: str
    pool: PoolPlan
    limits: dict[str, int]
    deployments: tuple[DeploymentPlan, ...]


class _Schedule(msgspec.Struct, frozen=True):
    cron: str
    timezone: str
    slug: str


class _Limit(msgspec.Struct, frozen=True):
    limit: int
    collision_strategy: Literal["CANCEL_NEW", "ENQUEUE"]


class _Declared(msgspec.Struct, frozen=True):
    """A deployment as prefect.yaml declares it."""

    name: str
    description: str
    entrypoint: str
    concurrency_limit: _Limit
    parameters: dict[str, Any] = {}
    tags: list[str] = []
    schedules: list[_Schedule] = []


class _PrefectFile(msgspec.Struct, frozen=True):
    deployments: list[_Declared]


def plan_for(workspace: Workspace, home: Path | None = None) -> Plan:
    """The plan of a workspace. `home` holds flows/ and deploy/: by default those that rwe came with.

    Raises ConfigError where no site has a server, RweError where deploy/ cannot be read.
    """
    folder = (home or bundled("flows").parent).resolve()
    sites = [name for name, site in workspace.settings.sites.items() if site.base_url]
    if not sites:
        raise ConfigError(
            "no site has a base_url",
            where=str(workspace.root / "rwe.yaml"),
            advice="declare one under sites: before anything can run by itself",
        )
    _refuse_same_slugs(sites)
    pool = workspace.settings.schedule.work_pool
    return Plan(
        workspace=str(workspace.root),
        pool=PoolPlan(
            name=pool.name,
            kind=pool.kind,
            base_job_template=_template(folder, pool.kind),
            concurrency=workspace.settings.schedule.sites_at_once + _MORE_RUNS,
        ),
        limits={names.BUILD_LIMIT: 1, **{names.site_limit(s): 1 for s in sites}},
        deployments=tuple(_deployments(workspace, folder, sites)),
    )


def _refuse_same_slugs(sites: Sequence[str]) -> None:
    """Prefect's names know no upper case: `A` and `a` would share their artifacts."""
    slugs: dict[str, str] = {}
    for site in sites:
        other = slugs.setdefault(re.sub(r"[^a-z0-9]+", "-", site.lower()), site)
        if other != site:
            raise ConfigError(
                f"sites {other} and {site} are the same name to Prefect", advice="rename one of the two"
            )


def _template(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / "deploy" / "pools" / f"{kind}.json"
    try:
        read: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict)
    except (OSError, msgspec.DecodeError):
        raise RweError("the work pool's template cannot be read", where=str(path)) from None
    return read


def _declared(folder: Path) -> dict[str, _Declared]:
    """What prefect.yaml declares, by the flow's name."""
    path = folder / "deploy" / "prefect.yaml"
    try:
        read = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _PrefectFile)
    except (OSError, yaml.YAMLError, msgspec.ValidationError):
        raise RweError(
            "the deployments cannot be read", where=str(path), advice="install rwe again"
        ) from None
    return {d.entrypoint.rpartition(":")[2].replace("_", "-"): d for d in read.deployments}


def _deployments(workspace: Workspace, folder: Path, sites: Sequence[str]) -> Iterator[DeploymentPlan]:
    schedule, declared = workspace.settings.schedule, _declared(folder)
    for flow, read in declared.items():
        plan = DeploymentPlan(
            flow=flow,
            name=read.name,
            description=read.description,
            entrypoint=read.entrypoint,
            home=folder,
            parameters=read.parameters | {"workspace": str(workspace.root)},
            tags=(*read.tags, workspace_tag(workspace.root)),
            schedule=CronPlan(s.cron, s.timezone, s.slug)
            if (s := next(iter(read.schedules), None))
            else None,
            concurrency=read.concurrency_limit.limit,
            collision=read.concurrency_limit.collision_strategy,
        )
        if flow in {names.NIGHTLY, names.RECONCILE}:
            yield from (_of_site(plan, workspace, site) for site in sites)
        elif flow == names.REFRESH:
            yield replace(plan, schedule=CronPlan(schedule.refresh, schedule.time_zone, "refresh"))
        else:
            yield plan


def _of_site(plan: DeploymentPlan, workspace: Workspace, name: str) -> DeploymentPlan:
    settings, site = workspace.settings.schedule, workspace.site(name)
    is_nightly = plan.flow == names.NIGHTLY
    cron = settings.night_of(site) if is_nightly else settings.reconcile_of(site)
    slug = "nightly" if is_nightly else "reconcile"
    return replace(
        plan,
        name=name,
        parameters=plan.parameters | {"sites": [name]},
        schedule=CronPlan(cron.text, site.time_zone, slug) if cron else None,
    )


def workspace_tag(root: Path) -> str:
    """What tells the deployments of two workspaces apart on one server."""
    return f"rwe-workspace-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
