"""Whose night is over: by the audit log and the landed runs, at a clock that the test holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import time_machine
import yaml

from rwe import audit
from rwe.arrivals import NIGHT, Arrivals, arrivals, await_sites
from rwe.config import Workspace, init_workspace, open_workspace
from rwe.flow_run import current_flow_run, part_of_flow_run
from rwe.landing import RunFacts, TypeScope, list_runs, new_run
from rwe.status import workspace_status

#: The nights begin at 01:00 in Berlin (23:00 UTC) and at 01:00 in Chicago (06:00 UTC); it is summer.
MORNING = datetime(2026, 7, 10, 7, 0, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = init_workspace(tmp_path / "ws", key_file=tmp_path / "key")
    path = made.root / "rwe.yaml"
    content = yaml.safe_load(path.read_text())
    url = {"base_url": "https://fhir.example.org/r4"}
    content["sites"] = {
        "berlin": url | {"time_zone": "Europe/Berlin"},
        "chicago": url | {"time_zone": "America/Chicago"},
        "late": url | {"time_zone": "Europe/Berlin", "schedule": {"nightly": "0 22 * * *"}},
        "handed": {},
    }
    content["schedule"] = {"nightly": "0 1 * * *"}
    path.write_text(yaml.safe_dump(content))
    return open_workspace(made.root)


def night_ended(workspace: Workspace, site: str, at: datetime, outcome: str = "done") -> None:
    with time_machine.travel(at, tick=False):
        audit.record(workspace.root, NIGHT, site=site, outcome=outcome)


def landed(workspace: Workspace, site: str, at: datetime, **facts: object) -> None:
    with time_machine.travel(at, tick=False), new_run(workspace.landing, site) as writer:
        writer.commit(RunFacts(route="search", time_zone="UTC", **facts))  # type: ignore[arg-type]


def test_a_night_that_began_and_has_not_ended_is_awaited(workspace: Workspace) -> None:
    night_ended(workspace, "berlin", MORNING - timedelta(hours=20))  # yesterday's
    assert arrivals(workspace, MORNING) == Arrivals((), (), ("berlin", "chicago", "late"))
    night_ended(workspace, "berlin", MORNING - timedelta(hours=7))
    night_ended(workspace, "chicago", MORNING - timedelta(minutes=50), "failed")
    night_ended(workspace, "late", MORNING - timedelta(hours=10), "partly")
    assert arrivals(workspace, MORNING) == Arrivals(("berlin",), ("chicago", "late"), ())


def test_a_complete_run_by_hand_is_an_arrival_too(workspace: Workspace) -> None:
    whole = {"Patient": TypeScope("x", is_complete=True)}
    landed(workspace, "berlin", MORNING - timedelta(hours=9), scopes=whole)  # before the night began
    landed(workspace, "late", MORNING - timedelta(hours=2), scopes=whole, limited_to=["Condition"])
    assert arrivals(workspace, MORNING).arrived == ()
    landed(workspace, "berlin", MORNING - timedelta(hours=2), scopes=whole)
    landed(workspace, "chicago", MORNING - timedelta(minutes=1), errors=["Condition: no answer"])
    assert arrivals(workspace, MORNING) == Arrivals(("berlin",), (), ("chicago", "late"))


def test_a_run_of_some_types_only_makes_no_site_fresh(workspace: Workspace) -> None:
    landed(workspace, "berlin", MORNING - timedelta(hours=30))
    landed(workspace, "berlin", MORNING - timedelta(hours=1), limited_to=["Condition"])
    (found,) = [s for s in workspace_status(workspace, MORNING).sites if s.site == "berlin"]
    assert found.fresh_hours == pytest.approx(30)


class Clock:
    """A clock that moves when somebody sleeps, and calls `then` at each step."""

    def __init__(self, then: Iterator[None]) -> None:
        self.now, self._then = MORNING, then

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        next(self._then, None)


def test_the_refresh_begins_when_the_last_site_arrives(workspace: Workspace) -> None:
    def nights() -> Iterator[None]:
        night_ended(workspace, "berlin", clock.now)
        yield
        night_ended(workspace, "late", clock.now, "failed")
        yield
        night_ended(workspace, "chicago", clock.now)
        yield

    clock = Clock(nights())
    heard: list[tuple[str, ...]] = []
    found = await_sites(
        workspace,
        MORNING + timedelta(hours=2),
        now=lambda: clock.now,
        sleep=clock.sleep,
        pause_seconds=60,
        on_wait=lambda a: heard.append(a.awaited),
    )
    assert found == Arrivals(("berlin", "chicago"), ("late",), ())
    assert clock.now == MORNING + timedelta(minutes=3), "no minute longer"
    assert heard == [("berlin", "chicago", "late"), ("chicago", "late"), ("chicago",)]


def test_at_the_deadline_it_goes_on_with_those_that_arrived(workspace: Workspace) -> None:
    night_ended(workspace, "berlin", MORNING - timedelta(hours=1))
    clock = Clock(iter(()))
    found = await_sites(workspace, MORNING + timedelta(minutes=150), now=lambda: clock.now, sleep=clock.sleep)
    assert found == Arrivals(("berlin",), (), ("chicago", "late"))
    assert clock.now == MORNING + timedelta(minutes=150)


def test_a_schedule_that_fires_while_it_waits_begins_the_next_night(workspace: Workspace) -> None:
    before_chicago = datetime(2026, 7, 10, 5, 59, tzinfo=UTC)
    for site in ("berlin", "chicago"):
        night_ended(workspace, site, before_chicago - timedelta(hours=1))
    clock = Clock(iter(()))
    clock.now = before_chicago
    found = await_sites(
        workspace, before_chicago + timedelta(hours=1), now=lambda: clock.now, sleep=clock.sleep
    )
    assert found == Arrivals(("berlin", "chicago"), (), ("late",))


def test_what_is_done_in_a_flow_run_names_it(workspace: Workspace) -> None:
    assert current_flow_run() is None
    with part_of_flow_run("0f1e"):
        audit.record(workspace.root, "build")
        landed(workspace, "berlin", MORNING)
    audit.record(workspace.root, "build")
    assert [e.flow_run for e in audit.entries(workspace.root)] == ["0f1e", None]
    (run,) = list_runs(workspace.landing)
    assert run.manifest.flow_run == "0f1e"
    assert msgspec.json.decode((run.path / "manifest.json").read_bytes())["flow_run"] == "0f1e"
