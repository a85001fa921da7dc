"""`rwe demo`: synthetic hospitals with a known truth, and the whole way from their servers to a report."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path

import requests
from rich.markup import escape

from rwe import terminal
from rwe.config import Workspace, add_site, init_workspace
from rwe.demo_folder import fresh_folder, remember
from rwe.errors import RweError
from rwe.progress import watched_by
from rwe.resources import bundled, load_flow

STUDY = "lenalidomide_after_car_t"
_PREFECT_SECONDS = 120


def run_demo(folder: Path, *, patients: int, seed: int, serve: bool, anew: bool = False) -> None:
    """Run the demo in `folder`, which is made anew; a folder that no demo made is refused.

    patients: eligible patients a site. seed: of the synthetic hospitals. serve: keep them up afterwards.
    anew: delete also what the demo before did not write; else a folder with such a thing is refused.
    """
    started = time.monotonic()
    folder = fresh_folder(folder.expanduser().resolve(), study=STUDY, anew=anew)
    _quiet_prefect(folder)
    from rwe.sandbox.server import demo_specs, running_hospitals

    specs = demo_specs(seed=seed, patients=patients)
    terminal.out.print(f"[bold]{len(specs)} synthetic hospitals, {patients} patients each, over FHIR[/]")
    with running_hospitals(specs) as hospitals:
        workspace = init_workspace(folder / "workspace", key_file=folder / "demo.key", patients="made_up")
        shutil.copytree(bundled("studies"), workspace.studies, dirs_exist_ok=True)
        for h in hospitals:
            fields = {"base_url": h.base_url, "time_zone": h.time_zone, "allow_plain_http": "loopback only"}
            workspace = add_site(workspace, h.name, fields)
        remember(folder)
        _run_flows(workspace, folder)
        _show(workspace, specs[0].truth.hazard_ratio, time.monotonic() - started)
        if serve:
            _keep_up(workspace)


def _run_flows(workspace: Workspace, folder: Path) -> None:
    root = str(workspace.root)
    with terminal.progress_bars() as bars, watched_by(bars), ExitStack() as stack:
        with bars.step("starting Prefect"):
            stack.enter_context(_prefect_server(folder))
            nightly = load_flow("nightly_extraction")
            refresh = load_flow("evidence_refresh")
        nightly.nightly_extraction(workspace=root)
        refresh.evidence_refresh(workspace=root, studies=[STUDY])


@contextmanager
def _prefect_server(folder: Path) -> Iterator[None]:
    """A Prefect server of the demo's own on loopback, in a session of its own: Ctrl-C reaches us first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "prefect.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
            [*command, "--no-services"],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    try:
        _await(f"http://127.0.0.1:{port}/api/health", process)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PREFECT_SECONDS
    session = requests.Session()
    session.trust_env = False  # no proxy of the environment between us and this machine
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if session.get(url, timeout=2).status_code == HTTPStatus.OK:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise RweError(
        "Prefect's server did not start", where="rwe demo", advice="see prefect.log in the demo's folder"
    )


def _show(workspace: Workspace, truth: float, seconds: float) -> None:
    from rwe.analyse import latest_folder
    from rwe.evidence.contract import read_evidence

    latest = latest_folder(workspace, STUDY)
    evidence = read_evidence(latest / "evidence.json")
    terminal.out.print()
    terminal.out.print(terminal.hazard_ratio_table(evidence.estimates, truth=truth))
    terminal.out.print()
    terminal.out.print(
        "The naive estimate gives immortal time away: whoever started maintenance had survived until then. "
        "Unadjusted estimates are confounded: responders start more often. The truth is the effect at "
        "given age, ECOG, LDH and disease status, so it stands beside the estimates adjusted for all of them."
    )
    terminal.out.print(
        f"\nDone in {seconds:.0f} s. Report: {escape(str(latest / 'report.html'))}", soft_wrap=True
    )

    _suggest(workspace, "Next, for example:", ['sql -c "from cohort.attrition"', f"study check {STUDY}"])


def _keep_up(workspace: Workspace) -> None:
    terminal.out.print()
    _suggest(
        workspace,
        "The hospitals stay up until Ctrl-C. In another terminal, try:",
        ["status", "extract", f"refresh {STUDY}"],
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        terminal.out.print("The hospitals are closed.")


def _suggest(workspace: Workspace, said: str, commands: list[str]) -> None:
    """Commands to copy: the program as it was called, the workspace as seen from here."""
    here, root = Path.cwd(), workspace.root
    named = root.relative_to(here) if root.is_relative_to(here) else root
    program = sys.argv[0] if Path(sys.argv[0]).name == "rwe" else "rwe"
    terminal.out.print(said)
    for words in commands:
        line = f"  {shlex.quote(program)} {words} -w {shlex.quote(str(named))}"
        terminal.out.print(escape(line), soft_wrap=True)


def _quiet_prefect(folder: Path) -> None:
    """A Prefect of the demo's own: its files in the demo's folder, no other server, no telemetry."""
    for name in [n for n in os.environ if n.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
        PREFECT_LOGGING_LEVEL="CRITICAL",
        PREFECT_LOGGING_TO_API_ENABLED="false",
    )
