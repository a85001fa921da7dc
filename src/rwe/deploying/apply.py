"""Make Prefect hold what a plan says. What is there already and right is left alone: applying twice changes
nothing. A schedule that somebody paused stays paused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.utilities.callables import parameter_schema

from rwe.config import Workspace
from rwe.deploying.plan import CronPlan, DeploymentPlan, Plan, PoolPlan, workspace_tag
from rwe.deploying.templates import chosen_by_caller, takes_undeclared, without_undeclared
from rwe.errors import RweError, UsageError
from rwe.resources import load_flow

Action = Literal["create", "change", "remove", "keep"]
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PAGE = 200
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Change:
    """What is done, or with a dry run would be done, to one thing in Prefect."""

    action: Action
    kind: Literal["work pool", "limit", "deployment", "automation", "webhook"]
    name: str
    what: str = ""


@contextmanager
def prefect_client(wait_seconds: float = 0) -> Iterator[SyncPrefectClient]:
    """A client of the server that PREFECT_API_URL (or the profile) names; never one of its own.

    `wait_seconds`: how long to wait for a server that is not up yet. Raises UsageError where none is named,
    RweError where it does not answer or refuses.
    """
    url = get_current_settings().api.url
    if not url:
        raise UsageError(
            "no Prefect server is named",
            where="rwe deploy",
            advice="set PREFECT_API_URL, as http://127.0.0.1:4200/api",
        )
    where = urlsplit(url).hostname or "PREFECT_API_URL"
    try:
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + wait_seconds
            while time.monotonic() < deadline and client.api_healthcheck() is not None:
                time.sleep(_PAUSE_SECONDS)
            yield client
    except PrefectHTTPStatusError as e:
        status = e.response.status_code
        advice = "set PREFECT_API_AUTH_STRING to the server's password" if status in {401, 403} else None
        raise RweError(f"Prefect answers with status {status}", where=where, advice=advice) from None
    except httpx.HTTPError as e:
        raise RweError(
            f"Prefect's server does not answer ({type(e).__name__})",
            where=where,
            advice="check PREFECT_API_URL, and that the server runs",
        ) from None


def warnings_of_server() -> tuple[str, ...]:
    """What is unsafe about the way to the server, one sentence each."""
    settings = get_current_settings()
    parts = urlsplit(settings.api.url or "")
    found = []
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        found.append("The way to Prefect's server is plain http over a network: use TLS, or loopback.")
    if settings.api.auth_string is None:
        found.append("Prefect's server asks for no password: set PREFECT_SERVER_API_AUTH_STRING.")
    return tuple(found)


def apply_plan(client: SyncPrefectClient, workspace: Workspace, plan: Plan, *, dry_run: bool) -> list[Change]:
    """Create, change and remove what the plan says; with `dry_run` only say so. Returns what was done.

    Deployments of this workspace that are not planned any more (a site that left) are removed. Raises
    UsageError where the work pool is of another kind, RweError as `prefect_client`.
    """
    changes = [_pool(client, plan.pool, dry_run)]
    changes += [_limit(client, name, slots, dry_run) for name, slots in plan.limits.items()]
    changes += [_deployment(client, one, plan.pool.name, dry_run) for one in plan.deployments]
    changes += _left_over(client, workspace, plan, dry_run)
    return changes


def _pool(client: SyncPrefectClient, plan: PoolPlan, dry_run: bool) -> Change:
    try:
        found = client.read_work_pool(plan.name)
    except ObjectNotFound:
        wanted = WorkPoolCreate(
            name=plan.name,
            type=plan.kind,
            base_job_template=plan.base_job_template,
            concurrency_limit=plan.concurrency,
        )
        return _done(
            dry_run,
            Change("create", "work pool", plan.name, plan.kind),
            lambda: client.create_work_pool(wanted),
        )
    if found.type != plan.kind:
        raise UsageError(
            f"the work pool is of kind {found.type}, not {plan.kind}",
            where=f"work pool {plan.name}",
            advice="name another under schedule.work_pool in rwe.yaml",
        )
    update, what = _mended(found, plan)
    if not what:
        return Change("keep", "work pool", plan.name)
    return _done(
        dry_run,
        Change("change", "work pool", plan.name, what),
        lambda: client.update_work_pool(plan.name, update),
    )


def _mended(found: WorkPool, plan: PoolPlan) -> tuple[WorkPoolUpdate, str]:
    """What is to change of a pool that is there, and in words; no words where it is as it should be.

    Its template may have been adapted on purpose and stays, unless it lets the one who begins a run choose
    what runs: Prefect's own does, with which a worker that starts before `rwe deploy` makes the pool. One
    that only lets a caller add to its fixed environment is kept, and closed.
    """
    update, words = WorkPoolUpdate(), []
    if found.concurrency_limit != plan.concurrency:
        update.concurrency_limit = plan.concurrency
        words.append(f"{plan.concurrency} runs at once")
    if chosen := chosen_by_caller(found.base_job_template):
        update.base_job_template = plan.base_job_template
        words.append(f"rwe's template; before, whoever began a run chose {' and '.join(chosen)}")
    elif takes_undeclared(found.base_job_template):
        update.base_job_template = without_undeclared(found.base_job_template)
        words.append("only declared variables; before, whoever began a run could add to the environment")
    return update, "; ".join(words)


def _limit(client: SyncPrefectClient, name: str, slots: int, dry_run: bool) -> Change:
    try:
        found = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        action: Action = "create"
    else:
        if found.limit == slots:
            return Change("keep", "limit", name)
        action = "change"
    return _done(
        dry_run,
        Change(action, "limit", name, f"{slots} at once"),
        lambda: client.upsert_global_concurrency_limit_by_name(name, slots),
    )


def _deployment(client: SyncPrefectClient, plan: DeploymentPlan, pool: str, dry_run: bool) -> Change:
    schema = parameter_schema(_flow(plan)).model_dump_for_openapi()
    try:
        found: DeploymentResponse | None = client.read_deployment_by_name(plan.full_name)
    except ObjectNotFound:
        found = None
    if found and _is_right(found, plan, pool, schema):
        return Change("keep", "deployment", plan.full_name)
    is_active = all(s.active for s in found.schedules) if found else True

    def apply() -> None:
        client.create_deployment(
            flow_id=client.create_flow_from_name(plan.flow),
            name=plan.name,
            version=plan.version,
            description=plan.description,
            parameters=plan.parameters,
            tags=list(plan.tags),
            work_pool_name=pool,
            entrypoint=plan.entrypoint,
            path=str(plan.home),
            pull_steps=_pull_steps(plan),
            parameter_openapi_schema=schema,
            enforce_parameter_schema=True,
            schedules=[_schedule(plan.schedule, is_active)] if plan.schedule else [],
            concurrency_limit=plan.concurrency,
            concurrency_options=_options(plan),
        )

    at = f"{plan.schedule.cron} {plan.schedule.time_zone}" if plan.schedule else "by hand"
    return _done(dry_run, Change("change" if found else "create", "deployment", plan.full_name, at), apply)


def _flow(plan: DeploymentPlan) -> Callable[..., object]:
    file, _, name = plan.entrypoint.rpartition(":")
    flow: Callable[..., object] = getattr(load_flow(file.removeprefix("flows/").removesuffix(".py")), name)
    return flow


def _is_right(found: DeploymentResponse, plan: DeploymentPlan, pool: str, schema: dict[str, object]) -> bool:
    limit = found.global_concurrency_limit
    return (
        found.version == plan.version
        and found.description == plan.description
        and found.parameters == plan.parameters
        and set(found.tags) == set(plan.tags)
        and found.work_pool_name == pool
        and found.entrypoint == plan.entrypoint
        and found.pull_steps == _pull_steps(plan)
        and found.parameter_openapi_schema == schema
        and [_as_plan(s.schedule, s.slug) for s in found.schedules]
        == ([plan.schedule] if plan.schedule else [])
        and (limit.limit if limit else None) == plan.concurrency
        and found.concurrency_options == _options(plan)
    )


def _as_plan(schedule: object, slug: str | None) -> CronPlan | None:
    if not isinstance(schedule, CronSchedule):
        return None
    return CronPlan(schedule.cron, schedule.timezone or "UTC", slug or "")


def _schedule(plan: CronPlan, is_active: bool) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=plan.cron, timezone=plan.time_zone), active=is_active, slug=plan.slug
    )


def _options(plan: DeploymentPlan) -> ConcurrencyOptions:
    return ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(plan.collision))


def _pull_steps(plan: DeploymentPlan) -> list[dict[str, object]]:
    return [{"prefect.deployments.steps.set_working_directory": {"directory": str(plan.home)}}]


def _left_over(
    client: SyncPrefectClient, workspace: Workspace, plan: Plan, dry_run: bool
) -> Iterator[Change]:
    """Deployments of this workspace that are not planned: of sites that left, or were named otherwise."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[workspace_tag(workspace.root)]))
    planned = {(d.flow, d.name) for d in plan.deployments}
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=ours, limit=_PAGE, offset=len(found)):
        found += page
    for one in found:
        flow = client.read_flow(one.flow_id).name
        if (flow, one.name) not in planned:
            yield _done(
                dry_run,
                Change("remove", "deployment", f"{flow}/{one.name}"),
                partial(client.delete_deployment, one.id),
            )


def _done(dry_run: bool, change: Change, apply: Callable[[], object]) -> Change:
    if not dry_run:
        apply()
    return change
