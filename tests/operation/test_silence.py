"""A run whose process is gone while nobody looks: Prefect ends it by itself, and tells of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from rwe.config import init_workspace
from rwe.sandbox.options import Quirks
from rwe.sandbox.server import HospitalSpec, running_hospitals
from tests.contract.nights import the_study
from tests.operation.running import await_, running_prefect

SPEC = HospitalSpec("slow", "a", 12, seed=4, quirks=Quirks(latency_seconds=0.5))
#: Prefect lets a run beat each 30 seconds at most often; the product waits for five minutes.
DEPLOY = """
from datetime import timedelta
from rwe.deploying import automations
automations.SILENCE = timedelta(seconds=75)
from rwe.cli import main
main()
"""


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_silent_run_is_ended_and_its_place_is_free_for_the_next(tmp_path: Path) -> None:
    with running_hospitals([SPEC]) as [hospital], running_prefect(tmp_path) as prefect:
        workspace = init_workspace(tmp_path / "ws", key_file=tmp_path / "key")
        the_study(workspace.studies)
        path = workspace.root / "rwe.yaml"
        content = yaml.safe_load(path.read_text())
        plain = {"base_url": hospital.base_url, "allow_plain_http": "loopback only"}
        content["sites"] = {"slow": plain | {"max_concurrency": 1, "page_size": 20}}
        path.write_text(yaml.safe_dump(content))
        subprocess.run(
            [sys.executable, "-c", DEPLOY, "deploy", "-w", str(workspace.root)],
            env=prefect.env, check=True, capture_output=True,
        )  # fmt: skip
        prefect.start_worker()
        run = prefect.run("nightly-extraction/slow")
        await_(lambda: any(workspace.landing.glob("site=slow/.run=*.part/*.zst")), seconds=120)
        pid = int(prefect.api("GET", f"/flow_runs/{run['id']}")["infrastructure_pid"])
        prefect.workers.pop().kill_group()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        assert prefect.state(run) == "Running", "nobody knows yet"
        assert prefect.ended(run, seconds=300) == "Crashed"
        message = prefect.api("GET", f"/flow_runs/{run['id']}")["state"]["message"]
        assert message == "no sign of life from its process"
        prefect.start_worker()
        assert prefect.ended(prefect.run("nightly-extraction/slow"), seconds=300) == "Completed"
