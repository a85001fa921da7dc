"""kill -9 at any moment of a night, then a rerun: the lake is that of an undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rwe.config import Workspace, add_site
from rwe.extract import extract_site
from rwe.landing import list_runs
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Quirks
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.study import load_studies
from tests.contract.nights import Rows, lake_rows, the_study, workspace_for
from tests.support import ROOT

#: Slow answers and small pages: the stretch between the first landed byte and the rename is a wide one.
SPEC = HospitalSpec("north", "a", patients=8, seed=3, quirks=Quirks(latency_seconds=0.1))
FIELDS = {"page_size": 20, "max_concurrency": 1, "patients_per_request": 4}


@pytest.fixture(scope="module")
def hospital() -> Iterator[RunningHospital]:
    with running_hospitals([SPEC]) as [north]:
        yield north


def on_disk(folder: Path, hospital: RunningHospital) -> Workspace:
    """A workspace whose rwe.yaml another process can read."""
    workspace = workspace_for(folder, hospital)
    the_study(workspace.studies)
    plain = Workspace(workspace.root, workspace.settings.model_copy(update={"sites": {}}))
    fields = {"base_url": hospital.base_url, "time_zone": hospital.time_zone}
    fields |= {"allow_plain_http": "loopback only", **{k: str(v) for k, v in FIELDS.items()}}
    return add_site(plain, hospital.name, fields)


def start_night(workspace: Workspace) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.faults.one_night", str(workspace.root), "north"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def is_landing(workspace: Workspace) -> bool:
    """Whether a run is between its first resource and the rename."""
    return any(workspace.landing.glob("site=*/.run=*.part/*.zst"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all workspaces lie: they share the key beside them."""
    return tmp_path_factory.mktemp("kill")


@dataclass(frozen=True)
class Undisturbed:
    """What an undisturbed night makes, how long it takes, and how long of that it lands (seconds)."""

    rows: Rows
    seconds: float
    landing_seconds: float


@pytest.fixture(scope="module")
def undisturbed(hospital: RunningHospital, folder: Path) -> Undisturbed:
    workspace = on_disk(folder / "undisturbed", hospital)
    started = time.monotonic()
    night = start_night(workspace)
    wait_for_landing(night, workspace)
    first = time.monotonic()
    while is_landing(workspace):
        time.sleep(0.01)
    landing = time.monotonic() - first
    assert night.wait() == 0
    seconds = time.monotonic() - started
    assert landing > 0.5, "too quick to be struck"
    return Undisturbed(lake_rows(workspace), seconds, landing)


def wait_for_landing(night: subprocess.Popen[bytes], workspace: Workspace) -> None:
    while not is_landing(workspace) and night.poll() is None:
        time.sleep(0.01)


def strike_and_rerun(
    kills: int, seed: int, hospital: RunningHospital, undisturbed: Undisturbed, folder: Path
) -> None:
    """Half of the kills at a random moment of the whole night, half at one of its landing."""
    share, rng = 0.9, random.Random(seed)
    struck = in_landing = attempts = 0
    while struck < kills:
        attempts += 1
        assert attempts <= 3 * kills, "the process ended before it could be killed"
        workspace = on_disk(folder / f"seed{seed}-{attempts}", hospital)
        night = start_night(workspace)
        if struck % 2 == 0:
            wait_for_landing(night, workspace)
            time.sleep(share * undisturbed.landing_seconds * rng.random())
        else:
            # One moment in each equal part of the night: random, and spread over all of it.
            time.sleep(share * undisturbed.seconds * (struck + rng.random()) / kills)
        if night.poll() is not None:
            share *= 0.8  # the machine is less busy than it was when the night was measured
            continue
        was_landing = is_landing(workspace)
        night.send_signal(signal.SIGKILL)
        night.wait()
        struck += 1
        in_landing += was_landing and is_landing(workspace)
        landed = len(list_runs(workspace.landing))  # whole or absent: it would raise
        extract_site(workspace, "north", load_studies(workspace.studies))
        assert len(list_runs(workspace.landing)) == landed + 1
        assert not is_landing(workspace)
        assert lake_rows(workspace) == undisturbed.rows
    assert in_landing >= kills / 3


def test_killed_nights_leave_nothing_that_a_rerun_does_not_put_right(
    hospital: RunningHospital, undisturbed: Undisturbed, folder: Path
) -> None:
    strike_and_rerun(3, 1, hospital, undisturbed, folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_thirty_killed_nights(hospital: RunningHospital, undisturbed: Undisturbed, folder: Path) -> None:
    strike_and_rerun(30, 2, hospital, undisturbed, folder)
