"""After a crash of this host or its worker: end the runs whose process is gone, begin those of tonight again.

A process worker notes the number of each run's process, not its host: a work pool of processes belongs to one
host. Whether a process is gone is asked of the kernel. What such a run had landed is kept; what was under way
left no trace.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from rwe.errors import UsageError

_UNDER_WAY = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_PAGE = 200
#: A run waits so long at most between being taken by a worker and having a process.
_STARTING = timedelta(minutes=10)
#: A pid may be another process's by now: one that began later than the run by so much.
_REUSED_SECONDS = 60.0


@dataclass(frozen=True)
class Recovered:
    """A run that was ended because its process is gone; `again` is the name of the one begun in its place."""

    deployment: str
    run: str
    again: str | None


def recover(
    client: SyncPrefectClient,
    pool: str,
    *,
    begin_again_within: timedelta,
    now: datetime | None = None,
    worker: str | None = None,
) -> list[Recovered]:
    """End the runs in `pool` whose process is gone, as crashed. Those that were due less than
    `begin_again_within` ago begin again, once.

    Raises UsageError where a worker is online that is not called `worker` (by default: as this host), for its
    processes cannot be seen from here, and where the pool is not one of processes.
    """
    moment = now or datetime.now(UTC)
    _refuse_foreign_workers(client, pool, worker or socket.gethostname())
    found = []
    for run in _under_way(client, pool):
        if not _is_gone(run, moment):
            continue
        _crash(client, run)
        again = None
        due = run.expected_start_time
        if run.deployment_id and due and moment - due < begin_again_within:
            key = f"rwe-again-{run.id}"
            tags = sorted({*run.tags, "again"})
            again = client.create_flow_run_from_deployment(
                run.deployment_id, parameters=run.parameters, tags=tags, idempotency_key=key
            ).name
        name = client.read_deployment(run.deployment_id).name if run.deployment_id else "by hand"
        found.append(Recovered(f"{client.read_flow(run.flow_id).name}/{name}", run.name, again))
    return found


def _refuse_foreign_workers(client: SyncPrefectClient, pool: str, own: str) -> None:
    try:
        kind = client.read_work_pool(pool).type
    except ObjectNotFound:
        raise UsageError("there is no such work pool yet", where=pool, advice="run `rwe deploy`") from None
    if kind != "process":
        raise UsageError(
            f"the work pool is of kind {kind}, which looks after its runs itself", where=f"work pool {pool}"
        )
    for one in client.read_workers_for_work_pool(pool):
        if one.status == WorkerStatus.ONLINE and one.name != own:
            raise UsageError(
                f"a worker called {one.name} is online, and this host is {own}",
                where=f"work pool {pool}",
                advice="give each host a work pool of its own, and start workers with --name of the host",
            )


def _under_way(client: SyncPrefectClient, pool: str) -> Iterator[FlowRun]:
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)),
        tags=FlowRunFilterTags(all_=["rwe"]),
    )
    in_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    yield from client.read_flow_runs(flow_run_filter=wanted, work_pool_filter=in_pool, limit=_PAGE)


def _is_gone(run: FlowRun, now: datetime) -> bool:
    pid = (run.infrastructure_pid or "").rpartition(":")[2]
    if not pid.isdigit():
        taken = run.state.timestamp if run.state else now
        return run.state_type == StateType.PENDING and now - taken > _STARTING
    return not _lives(int(pid), run.start_time)


def _lives(pid: int, since: datetime | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # another account's: the number was given anew
    began = _began(pid)
    return began is None or since is None or began <= since.timestamp() + _REUSED_SECONDS


def _began(pid: int) -> float | None:
    """When a process began (seconds since the epoch); None where the system does not say."""
    with suppress(OSError, ValueError, IndexError, StopIteration):
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        if after_name[0] == "Z":  # ended, and only not yet buried by its parent
            return float("inf")
        boot = next(x for x in Path("/proc/stat").read_text(encoding="ascii").splitlines() if "btime" in x)
        return int(boot.split()[1]) + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return None


def _crash(client: SyncPrefectClient, run: FlowRun) -> None:
    """End the run and the subflows it began: their process is the same."""
    state: State[Any] = Crashed(message="its process is gone")
    client.set_flow_run_state(run.id, state, force=True)
    children = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)),
    )
    for child in client.read_flow_runs(flow_run_filter=children, limit=_PAGE):
        client.set_flow_run_state(child.id, state, force=True)
