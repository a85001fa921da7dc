"""The night under Prefect: what failed is named, what landed is kept, nobody is named in its records."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from rwe import audit
from rwe.config import Workspace, init_workspace
from rwe.errors import SiteError
from rwe.extract import ExtractionResult, PartlyExtractedError, PartlyLandedError
from rwe.landing import list_runs
from rwe.resources import load_flow
from rwe.sandbox.options import Access
from rwe.sandbox.server import HospitalSpec, running_hospitals
from tests.contract.nights import the_study
from tests.faults.leaks import leaks, leaks_in_files
from tests.faults.test_leaks import identifying

TOKEN, PLANTED = "canary-token/8d1e+42==", "canary-planted-5512"
STUDY = "lenalidomide_after_car_t"


@dataclass(frozen=True)
class Records:
    """The folder of the database of a Prefect server of the tests' own."""

    folder: Path

    def text(self) -> str:
        """All that is in the database, as SQL."""
        (path,) = self.folder.glob("*.db")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return "\n".join(db.iterdump())

    def leaks(self, canaries: tuple[str, ...]) -> set[str]:
        """The canaries in the rows, and in the bytes of the files, the write-ahead log included."""
        in_files = leaks_in_files(self.folder, canaries, but=()).values()
        return leaks(self.text().encode(), canaries).union(*in_files)


@pytest.fixture(scope="session")
def prefect_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        from prefect.settings import get_current_settings
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            url = get_current_settings().server.database.connection_url
            assert url is not None
            yield Records(Path(url.get_secret_value().partition(":///")[2]).parent)


@dataclass(frozen=True)
class Night:
    """A workspace of a hospital that wants a token, and of a dead one; and what must not come out of it."""

    workspace: Workspace
    canaries: tuple[str, ...]

    @property
    def root(self) -> str:
        return str(self.workspace.root)

    def outcomes(self) -> dict[str | None, str]:
        return {e.site: e.outcome for e in audit.entries(self.workspace.root)}

    def change(self, site: str, **settings: Any) -> None:
        path = self.workspace.root / "rwe.yaml"
        content = yaml.safe_load(path.read_text())
        content["sites"].setdefault(site, {}).update(settings)
        path.write_text(yaml.safe_dump(content))


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    spec = HospitalSpec("good", "a", 20, seed=5, access=Access(mode="bearer", bearer_token=TOKEN))
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    with running_hospitals([spec]) as (hospital,), closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))  # taken, and nobody listens
        workspace = init_workspace(tmp_path / "ws", key_file=tmp_path / "ws.key")
        the_study(workspace.studies)
        people = hospital.control.state()["Patient"].values()
        night = Night(workspace, (TOKEN, *{v for p in people for v in identifying(p)}))
        auth = {"kind": "bearer", "token_file": str(token)}
        addresses = {"good": hospital.base_url, "dead": f"http://127.0.0.1:{held.getsockname()[1]}/fhir"}
        for name, url in addresses.items():
            night.change(name, base_url=url, allow_plain_http="loopback only", max_retries=0, auth=auth)
        yield night


@pytest.fixture
def nightly() -> ModuleType:
    return load_flow("nightly_extraction")


def test_what_failed_is_named_and_what_landed_is_kept(
    prefect_records: Records, night: Night, nightly: ModuleType
) -> None:
    with pytest.raises(PartlyExtractedError, match="1 of 2 sites failed: dead: ") as caught:
        nightly.nightly_extraction(workspace=night.root, sites=["dead", "good", "dead"])
    assert [r.site for r in caught.value.results] == ["good"]
    assert list(caught.value.failures) == ["dead"]
    (run,) = list_runs(night.workspace.landing)
    assert run.site == "good"
    assert run.resources["Patient"] >= 20
    assert night.outcomes() == {"good": "done", "dead": "failed"}


def test_types_that_landed_of_a_site_are_kept_with_the_site_named(
    prefect_records: Records, night: Night, nightly: ModuleType
) -> None:
    night.change("good", max_resources_per_type=60)
    with pytest.raises(PartlyExtractedError, match="2 of 2 sites failed") as caught:
        nightly.nightly_extraction(workspace=night.root)
    assert [r.site for r in caught.value.results] == ["good"]
    assert isinstance(caught.value.failures["good"], PartlyLandedError)
    (run,) = list_runs(night.workspace.landing)
    assert caught.value.results[0].run == run
    assert night.outcomes() == {"good": "partly", "dead": "failed"}


def test_a_task_that_crashes_is_a_failure_by_name(
    prefect_records: Records, night: Night, nightly: ModuleType
) -> None:
    extract_site = nightly.extract_site

    def crash(opened: Workspace, site: str, *args: Any, **options: Any) -> ExtractionResult:
        if site == "dead":
            raise SystemExit(PLANTED)
        result = extract_site(opened, site, *args, **options)
        assert isinstance(result, ExtractionResult)
        return result

    nightly.extract_site = crash
    with pytest.raises(PartlyExtractedError, match=r"1 of 2 sites failed: dead: the task ended") as caught:
        nightly.nightly_extraction(workspace=night.root)
    assert [r.site for r in caught.value.results] == ["good"]
    assert PLANTED not in str(caught.value)


def test_prefect_is_told_no_token_no_name_and_no_id(
    prefect_records: Records, night: Night, nightly: ModuleType
) -> None:
    with pytest.raises(PartlyExtractedError):
        nightly.nightly_extraction(workspace=night.root)
    reports = load_flow("evidence_refresh").evidence_refresh(workspace=night.root, studies=[STUDY])
    assert Path(reports[STUDY]).is_file()
    commands = [(e.command, e.study, e.outcome) for e in audit.entries(night.workspace.root)]
    assert commands[-3:] == [("build", None, "done"), ("analyse", STUDY, "done"), ("report", STUDY, "done")]
    drain_logs()
    told = prefect_records.text()
    assert "1 of 2 sites failed: dead" in told, "the records hold what flows say"
    assert 'INSERT INTO "log"' in told, "and what they log"
    assert len(night.canaries) > 40
    assert prefect_records.leaks(night.canaries) == set()


def test_what_a_flow_is_told_would_be_found_there(prefect_records: Records, night: Night) -> None:
    from prefect import flow

    @flow(name="planted")
    def planted(word: str) -> None:
        raise SiteError("planted")

    with pytest.raises(SiteError):
        planted(word=night.canaries[-1])
    assert prefect_records.leaks(night.canaries) == {night.canaries[-1]}


def drain_logs() -> None:
    """Logs go to the server in the background."""
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
