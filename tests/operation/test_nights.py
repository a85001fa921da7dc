"""Nights that run by themselves: a real Prefect server, a real worker, hospitals over real HTTP.

One server and one worker carry the whole file, and the tests follow one another: the refresh of the night
waits for the slow site, whose night comes first.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import yaml

from rwe import audit
from rwe.config import Workspace, init_workspace, open_workspace
from rwe.landing import list_runs
from rwe.sandbox.options import Quirks
from rwe.sandbox.server import HospitalSpec, running_hospitals
from tests.contract.nights import the_study
from tests.operation.running import Prefect, await_, free_port, running_prefect

pytestmark = pytest.mark.timeout(900)
NIGHT = ("north", "south", "west")
#: More than the audit log holds, less than a type of `north` takes.
FULL = 16_000
SPECS = [
    HospitalSpec("north", "a", 60, seed=1),
    HospitalSpec("south", "b", 20, seed=2),
    HospitalSpec("west", "c", 20, seed=3),
    HospitalSpec("slow", "a", 12, seed=4, quirks=Quirks(latency_seconds=0.4)),
]


@dataclass
class Told:
    """A webhook's end: what was posted to it."""

    port: int
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def of(self, event: str, site: str) -> dict[str, Any] | None:
        found = [b for b in self.bodies if b["event"] == event and b["about"] == f"rwe.site.{site}"]
        return found[0] if found else None


@dataclass(frozen=True)
class Operation:
    """The running whole."""

    prefect: Prefect
    workspace: Workspace
    told: Told

    @property
    def root(self) -> Path:
        return self.workspace.root

    def entries(self, command: str, site: str | None = None) -> list[audit.AuditEntry]:
        return [e for e in audit.entries(self.root) if e.command == command and e.site == site]

    def rwe(self, *words: str) -> dict[str, Any] | list[Any]:
        done = self.prefect.rwe(*words, "--json", workspace=self.root)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] | list[Any] = msgspec.json.decode(done.stdout)
        return found


def ask_for_little(study: Path) -> None:
    """The study with one analysis: here the way matters, not the estimate."""
    content = yaml.safe_load(study.read_text())
    for name in ("sensitivity_grid", "subgroups"):
        content.pop(name, None)
    content["analyses"] = [{"analysis": "time_dependent_cox", "role": "primary"}]
    study.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    told = Told(0)

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            told.bodies.append(msgspec.json.decode(self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ear)
    told.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def operation(tmp_path_factory: pytest.TempPathFactory, told: Told) -> Iterator[Operation]:
    folder = tmp_path_factory.mktemp("operation")
    hook = {"RWE_NOTIFY_URL": f"http://127.0.0.1:{told.port}/rwe"}
    with running_hospitals(SPECS) as hospitals, running_prefect(folder, **hook) as prefect:
        workspace = init_workspace(folder / "ws", key_file=folder / "ws.key")
        the_study(workspace.studies)
        ask_for_little(workspace.studies / "lenalidomide_after_car_t.yaml")
        path = workspace.root / "rwe.yaml"
        content = yaml.safe_load(path.read_text())
        plain = {"allow_plain_http": "loopback only", "max_retries": 0}
        content["sites"] = {
            h.name: plain | {"base_url": h.base_url, "time_zone": h.time_zone} for h in hospitals
        }
        content["sites"]["slow"] |= {"max_concurrency": 1, "page_size": 20, "patients_per_request": 4}
        content["sites"]["slow"]["schedule"] = {"nightly": "0 2 29 2 *"}  # not in anybody's way here
        content["sites"]["dead"] = plain | {"base_url": f"http://127.0.0.1:{free_port()}/fhir"}
        content["schedule"] = {
            "nightly": "0 1 * * *",
            "refresh_deadline_hours": 0.05,
            "retries": 1,
            "retry_minutes": 0.02,
            "notify": {"webhook_env": "RWE_NOTIFY_URL"},
        }
        path.write_text(yaml.safe_dump(content))
        found = Operation(prefect, open_workspace(workspace.root), told)
        dry = found.rwe("deploy", "--dry-run")
        assert isinstance(dry, dict)
        assert {c["action"] for c in dry["changes"]} == {"create"}
        assert prefect.api("POST", "/deployments/filter") == [], "a dry run changes nothing"
        done = found.rwe("deploy")
        assert isinstance(done, dict)
        assert done["changes"] == dry["changes"], "what was said is what is done"
        prefect.start_worker()
        yield found


def scheduled(prefect: Prefect, deployment: str, least: int) -> list[datetime]:
    def found() -> list[datetime] | None:
        runs = [r for r in prefect.runs(deployment) if r["auto_scheduled"]]
        return (
            [datetime.fromisoformat(r["expected_start_time"]) for r in runs] if len(runs) >= least else None
        )

    return await_(found, said=f"{deployment} is scheduled")


def test_a_cron_deployment_produces_scheduled_runs_by_each_sites_clock(operation: Operation) -> None:
    for site in NIGHT:
        zone = ZoneInfo(operation.workspace.site(site).time_zone)
        due = scheduled(operation.prefect, f"nightly-extraction/{site}", 3)
        assert {(d.astimezone(zone).hour, d.astimezone(zone).minute) for d in due} == {(1, 0)}
        days = [d.astimezone(zone).date() for d in sorted(due)]
        assert all(b - a == timedelta(days=1) for a, b in pairwise(days))
        assert all(d > datetime.now(UTC) - timedelta(minutes=5) for d in due)
    weekly = scheduled(operation.prefect, "reconcile/north", 3)
    zone = ZoneInfo(operation.workspace.site("north").time_zone)
    assert {d.astimezone(zone).strftime("%a %H:%M") for d in weekly} == {"Sun 03:00"}
    assert operation.prefect.deployment("backfill/by-hand")["schedules"] == []


def test_deploying_again_changes_nothing(operation: Operation) -> None:
    again = operation.rwe("deploy")
    assert isinstance(again, dict)
    assert {c["action"] for c in again["changes"]} == {"keep"}


def is_landing(operation: Operation, site: str) -> bool:
    return any(operation.workspace.landing.glob(f"site={site}/.run=*.part/*.zst"))


def test_a_killed_worker_and_a_killed_server_lose_nothing(operation: Operation) -> None:
    prefect, name = operation.prefect, "nightly-extraction/slow"

    # Two nights overlap: the second is cancelled, and never becomes a process.
    first = prefect.run(name)
    await_(lambda: is_landing(operation, "slow"), said="the first night lands")
    assert prefect.ended(prefect.run(name)) == "Cancelled"
    assert prefect.state(first) == "Running"

    # The worker and all that it started are killed: the run stands as Running, and its place is taken.
    pid = int(prefect.api("GET", f"/flow_runs/{first['id']}")["infrastructure_pid"])
    worker = prefect.workers.pop()
    worker.kill_group()
    kill(pid)
    assert prefect.state(first) == "Running"
    assert list_runs(operation.workspace.landing, "slow") == []

    # What the unit of the worker does before it starts: the dead run is ended, and begun again.
    found = operation.rwe("deploy", "--recover")
    assert isinstance(found, list)
    assert [r["deployment"] for r in found] == [name]
    assert found[0]["run"] == first["name"]
    assert prefect.state(first) == "Crashed"
    assert operation.rwe("deploy", "--recover") == [], "once"
    prefect.start_worker()
    (again,) = [r for r in prefect.runs(name) if r["name"] == found[0]["again"]]

    # Then the server is killed while the night is under way, and comes back.
    await_(lambda: is_landing(operation, "slow"), seconds=150, said="the night lands again")
    prefect.server.kill_group()
    prefect.restart_server()
    assert prefect.ended(again, seconds=150) == "Completed"
    (run,) = list_runs(operation.workspace.landing, "slow")
    assert run.manifest.flow_run == again["id"]
    assert run.manifest.errors == ()
    assert run.resources["Patient"] >= 12
    assert not list(operation.workspace.landing.glob("site=slow/.run=*.part"))
    assert [e.outcome for e in operation.entries("night", "slow")] == ["done"]
    # No place was left taken: the limits are as they were.
    for limit in ("rwe-site-slow", "rwe-build"):
        assert slots(prefect, limit) == 0


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it may have been in the worker's group
        os.kill(pid, signal.SIGKILL)


def slots(prefect: Prefect, limit: str) -> int:
    return int(prefect.api("GET", f"/v2/concurrency_limits/{limit}")["active_slots"])


def due_in(prefect: Prefect, deployment: str, seconds: float) -> None:
    """One more schedule: cron cannot say seconds, so an interval whose first instant is near."""
    anchor = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    i = prefect.deployment(deployment)["id"]
    schedule = {"interval": 86_400 * 300, "anchor_date": anchor, "timezone": "UTC"}
    prefect.api_list("POST", f"/deployments/{i}/schedules", [{"schedule": schedule, "active": True}])


def test_a_night_over_three_sites_runs_by_schedule_and_a_dead_one_does_not_stop_it(
    operation: Operation,
) -> None:
    prefect = operation.prefect
    names = [f"nightly-extraction/{s}" for s in (*NIGHT, "dead")] + ["evidence-refresh/all-studies"]
    before = datetime.now(UTC)
    for name in names:
        due_in(prefect, name, 15)
    runs = {name: await_(lambda n=name: near(prefect, n, before), said=f"{name} is due") for name in names}
    assert all(r["auto_scheduled"] for r in runs.values()), "nobody started them by hand"
    ends = {name: prefect.ended(run, seconds=300) for name, run in runs.items()}
    assert ends == dict.fromkeys(names, "Completed") | {"nightly-extraction/dead": "Failed"}

    # Every number leads back: flow run, landed run, build, evidence.
    for site in NIGHT:
        (run,) = list_runs(operation.workspace.landing, site)
        assert run.manifest.flow_run == runs[f"nightly-extraction/{site}"]["id"]
        (night,) = operation.entries("night", site)
        assert (night.run, night.outcome, night.flow_run) == (run.run, "done", run.manifest.flow_run)
    refresh = runs["evidence-refresh/all-studies"]
    (built,) = operation.entries("build")
    assert built.flow_run == refresh["id"]
    assert all(built.at > operation.entries("night", s)[0].at for s in NIGHT), "the refresh waited for them"
    (analysed,) = operation.entries("analyse")
    study = operation.workspace.evidence / "lenalidomide_after_car_t"
    assert (study / str(analysed.run) / "evidence.json").is_file()
    evidence = msgspec.json.decode((study / "latest" / "evidence.json").read_bytes())
    landed = {r.run for r in list_runs(operation.workspace.landing) if r.site in NIGHT}
    assert landed <= {r["run"] for r in evidence["runs"]}
    assert (study / "latest" / "report.html").is_file()

    # The dead site was tried again, and somebody was told.
    assert [e.outcome for e in operation.entries("extract", "dead")] == ["failed", "failed"]
    assert [e.outcome for e in operation.entries("night", "dead")] == ["failed"]
    said = await_(lambda: operation.told.of("rwe.site.failed", "dead"), said="the webhook hears of it")
    assert "no answer from the server" in said["details"]["what"]
    assert await_(lambda: operation.told.of("rwe.site.stale", "dead"))["details"]["fresh_hours"] is None
    assert operation.told.of("rwe.site.failed", "north") is None

    # What Prefect shows.
    shown = {a["key"]: a for a in prefect.api("POST", "/artifacts/latest/filter", limit=200)}
    keys = {"rwe-sites", "rwe-estimates-lenalidomide-after-car-t", "rwe-report-lenalidomide-after-car-t"}
    assert keys <= shown.keys()
    table = {row["site"]: row for row in msgspec.json.decode(shown["rwe-sites"]["data"])}
    assert table["north"]["resources"] > 100
    assert table["dead"]["run"] == "none yet"
    assert str(study.resolve()) in shown["rwe-report-lenalidomide-after-car-t"]["data"]


def near(prefect: Prefect, deployment: str, since: datetime) -> dict[str, Any] | None:
    """The run of a deployment that was due within three minutes from `since`."""
    for run in prefect.runs(deployment):
        if since <= datetime.fromisoformat(run["expected_start_time"]) <= since + timedelta(minutes=3):
            return run
    return None


def test_a_full_disk_ends_the_night_with_a_sentence_and_the_next_goes_through(operation: Operation) -> None:
    """No file of the run may grow beyond so many bytes: what a full disk does to a landing."""
    prefect, name = operation.prefect, "reconcile/north"
    earlier = len(list_runs(operation.workspace.landing, "north"))
    pool = prefect.api("GET", "/work_pools/rwe")
    prefect.api("PATCH", "/work_pools/rwe", is_paused=True)  # else the worker takes the run
    try:
        run = prefect.run(name)
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "flow-run", "execute", run["id"]],
            env=prefect.env, capture_output=True, text=True, timeout=120, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, FULL)),
        )  # fmt: skip
    finally:
        prefect.api("PATCH", "/work_pools/rwe", is_paused=pool["is_paused"])
    assert prefect.state(run) == "Failed", done.stderr[-2000:]
    message = prefect.api("GET", f"/flow_runs/{run['id']}")["state"]["message"]
    assert "the run could not be written to disk; check the disk's space" in message
    assert len(list_runs(operation.workspace.landing, "north")) == earlier
    assert not list(operation.workspace.landing.glob("site=north/.run=*.part"))
    assert prefect.ended(prefect.run(name), seconds=150) == "Completed"
    assert len(list_runs(operation.workspace.landing, "north")) == earlier + 1
