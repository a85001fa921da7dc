"""Bulk Data export from the sandbox: a server that behaves as the guide says, and has a history."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe import export as export_module
from rwe.errors import SiteError
from rwe.export import Scope, export_site
from rwe.export_job import JobStore
from rwe.extraction_plan import plan_extraction
from rwe.fhir import bulk
from rwe.fhir.client import FhirClient
from rwe.landing import new_run
from rwe.sandbox.options import COHORT_GROUP, Access, Bulk
from rwe.sandbox.server import HospitalSpec, RunningHospital, running_hospitals
from rwe.study import Study, load_study
from tests.contract.exporter import SECRET, TYPES, bearer, export, landed, workspace_for
from tests.contract.quirky import write_study
from tests.support import ROOT


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FIRST_POLL_SECONDS", 0.02)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "studies")


@contextmanager
def hospital(access: Access | None = None, **options: Any) -> Iterator[RunningHospital]:
    options = {"retry_after": "absent", "lines_per_file": 150, **options}
    spec = HospitalSpec("north", "a", patients=12, seed=3, bulk=Bulk(**options), access=access or Access())
    with running_hospitals([spec]) as [running]:
        yield running


@pytest.fixture(scope="module")
def north() -> Iterator[RunningHospital]:
    """One hospital for the tests that change nothing in it."""
    with hospital() as running:
        yield running


@pytest.fixture(scope="module")
def car_t() -> Study:
    return load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")


def kick_offs(running: RunningHospital) -> int:
    return sum(s.path.endswith("$export") and s.status == 202 for s in running.control.requests())


def files_read(running: RunningHospital) -> list[str]:
    return [s.path for s in running.control.requests() if "$export-file" in s.path and s.status == 200]


def test_expired_files_are_asked_for_again(
    tmp_path: Path, car_t: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the manifest again, for fresh links; only if it has none, a new export of a later moment."""
    results = {}
    for fresh in (True, False):
        with hospital(fresh_links=fresh, files_per_page=2) as north:
            expired = []

            def download(
                *given: Any, north: RunningHospital = north, expired: list[int] = expired, **named: Any
            ) -> Any:
                if len(expired) == 2:
                    north.control.expire_exports()
                expired.append(1)
                return bulk.download(*given, **named)

            monkeypatch.setattr(export_module, "download", download)
            folder = tmp_path / str(fresh)
            outcome, run = export(workspace_for(folder, north.base_url), car_t)
            results[fresh] = kick_offs(north), landed(run)
            monkeypatch.undo()
            monkeypatch.setattr(bulk, "FIRST_POLL_SECONDS", 0.02)
            _, undisturbed = export(workspace_for(folder / "again", north.base_url), car_t)
            assert landed(undisturbed) == results[fresh][1]
            assert not outcome.errors
    assert results[True][0] == 1
    assert results[False][0] == 2
    assert results[True][1] == results[False][1]


def test_a_wrong_count_is_noticed(tmp_path: Path, car_t: Study) -> None:
    with hospital(wrong_count=True) as north:
        outcome, _ = export(workspace_for(tmp_path, north.base_url), car_t)
        assert len(outcome.errors) == 1
        (failed,) = set(TYPES) - set(outcome.watermarks)
        assert outcome.errors[0].startswith(f"{failed}: ")


def test_since_brings_changes_and_deletions(tmp_path: Path, car_t: Study) -> None:
    with hospital() as north:
        workspace = workspace_for(tmp_path, north.base_url)
        first, run = export(workspace, car_t)
        north.control.advance(1)
        gone = sorted(i for t, i in landed(run) if t == "Encounter")[:3]
        for one in gone:
            north.control.delete("Encounter", one)
        back = north.control.state()["Encounter"]
        changed = sorted(set(back) & {i for t, i in landed(run) if t == "Encounter"})[0]
        north.control.put(back[changed])
        north.control.advance(1)
        second, later = export(
            workspace, car_t, since=first.transaction_time, scope=Scope(is_known=first.patients.__contains__)
        )
        assert landed(later) == {*{("Encounter", i) for i in gone}, ("Encounter", changed)}
        buried = [json.loads(line) for line in later.open("_deleted")]
        assert sorted(b["id"] for b in buried) == gone
        assert {b["deletedAt"] for b in buried} == {second.transaction_time.isoformat()}
        assert second.tombstones == 3
        assert not second.newcomers


def test_who_joins_later_is_named_as_newcomer(tmp_path: Path, car_t: Study) -> None:
    """`_since` keeps the history of a new member back: the caller must pull it."""
    with hospital() as north:
        workspace = workspace_for(tmp_path, north.base_url)
        first, _ = export(workspace, car_t)
        north.control.advance(1)
        night = north.control.mutate(7)
        newly = {*night.joined, *night.arrived}
        assert newly
        second, _ = export(
            workspace, car_t, since=first.transaction_time, scope=Scope(is_known=first.patients.__contains__)
        )
        whole, _ = export(workspace, car_t)
        assert second.newcomers == whole.patients - first.patients
        assert second.newcomers <= newly
        assert second.newcomers


EXPORT_IN_A_PROCESS = """
import sys
from pathlib import Path
from rwe.config import open_workspace
from rwe.study import load_study
from rwe import export as export_module
from rwe.fhir import bulk
from tests.contract.exporter import export
bulk.FIRST_POLL_SECONDS = 0.02
slow = bulk.download
def download(*given, **named):
    done = slow(*given, **named)
    print("file", flush=True)
    import time; time.sleep(0.3)
    return done
export_module.download = download
made = open_workspace(Path(sys.argv[1]))
export(made, load_study(Path(sys.argv[2])))
"""


def test_killed_in_the_middle_the_next_night_goes_on(
    tmp_path: Path, car_t: Study, north: RunningHospital
) -> None:
    workspace = workspace_for(tmp_path, north.base_url)
    text = (workspace.root / "rwe.yaml").read_text()
    url = json.dumps(north.base_url)
    fields = f'base_url: {url}, allow_plain_http: "loopback only", min_export_interval_hours: 0'
    (workspace.root / "rwe.yaml").write_text(text.replace("sites: {}", f"sites: {{a: {{{fields}}}}}"))
    study_path = ROOT / "studies" / "lenalidomide_after_car_t.yaml"
    command = [sys.executable, "-c", EXPORT_IN_A_PROCESS, str(workspace.root), str(study_path)]
    started, read = kick_offs(north), len(files_read(north))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for _ in range(3):
            assert process.stdout.readline() == b"file\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    job = JobStore(workspace.landing, "a").load()
    assert job is not None
    assert len(job.files) >= 2
    kept = workspace.landing / "site=a" / ".export.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert (kept.parent / ".export").stat().st_mode & 0o777 == 0o700
    assert list(workspace.landing.glob("site=a/run=*")) == []
    _, run = export(workspace, car_t)
    assert kick_offs(north) - started == 1
    files = files_read(north)[read:]
    assert len(files) <= len(set(files)) + 1  # the one that was under way
    assert not (kept.parent / ".export").exists()
    _, undisturbed = export(workspace_for(tmp_path / "2", north.base_url), car_t)
    assert landed(run) == landed(undisturbed)


def test_a_run_that_was_not_committed_lands_from_disk(
    tmp_path: Path, car_t: Study, north: RunningHospital
) -> None:
    workspace = workspace_for(tmp_path, north.base_url)
    site = workspace.site("a")
    started = kick_offs(north)
    with FhirClient("a", site) as client, new_run(workspace.landing, "a") as writer:
        plan = plan_extraction([car_t])
        export_site(workspace, "a", site, client, plan, writer, types=TYPES, level="system")
    before = len(files_read(north))
    _, run = export(workspace, car_t)
    assert len(files_read(north)) == before
    assert kick_offs(north) - started == 1
    assert landed(run)
    export(workspace, car_t)
    assert kick_offs(north) - started == 2


@pytest.mark.parametrize("requires", [True, False])
def test_the_token_goes_with_files_only_where_they_require_it(
    tmp_path: Path, car_t: Study, requires: bool
) -> None:
    access = Access(mode="bearer", bearer_token=SECRET)
    with hospital(access, requires_access_token=requires) as north:
        outcome, _ = export(workspace_for(tmp_path, north.base_url, **bearer(tmp_path)), car_t)
        assert not outcome.errors
        seen = [s for s in north.control.requests() if "$export" in s.path]
        assert {s.is_authorized for s in seen if "$export-file" in s.path} == {requires}
        assert all(s.is_authorized for s in seen if "$export-file" not in s.path)


@pytest.mark.parametrize("what", ["file_origin", "status_origin"])
def test_the_token_goes_to_no_other_origin(
    tmp_path: Path, car_t: Study, httpserver: HTTPServer, what: str
) -> None:
    heard: list[dict[str, str]] = []

    def listen(request: Request) -> Response:
        heard.append(dict(request.headers))
        return Response(status=404)

    httpserver.expect_request(re.compile(".*")).respond_with_handler(listen)
    access = Access(mode="bearer", bearer_token=SECRET)
    with hospital(access, **{what: httpserver.url_for("").rstrip("/")}) as north:
        workspace = workspace_for(tmp_path, north.base_url, **bearer(tmp_path))
        with pytest.raises(SiteError, match="leads to another host, port or scheme") as caught:
            export(workspace, car_t)
    assert heard == []
    assert SECRET not in str(caught.value)


def test_a_group_is_its_members_with_or_without_an_index_event(
    tmp_path: Path, study: Study, north: RunningHospital
) -> None:
    """The site says who belongs: also those whose infusion is not among the study's codes."""
    cohort = {"cohort": {"source": "group", "id": COHORT_GROUP}}
    for level in ("group", "patient"):
        workspace = workspace_for(tmp_path / level, north.base_url, **cohort)
        outcome, run = export(workspace, study, level=level)
        state = north.control.state()
        members = {m["entity"]["reference"].partition("/")[2] for m in state["Group"][COHORT_GROUP]["member"]}
        assert {i for t, i in landed(run) if t == "Patient"} == members == outcome.patients
