"""Behind a network that fails in every way at once, reruns end where an undisturbed extraction ends.

mitmproxy stands before the sandbox as a reverse proxy, with the seeded faults of mitm_addon.py. The server
wants SMART tokens, and its clock is an hour ahead (odd seeds) or behind (even ones). Two nights, with a night
of changes between them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from urllib3.util.retry import Retry

from rwe.config import Workspace
from rwe.errors import PartialError, SiteError
from rwe.extract import extract_site, remember
from rwe.fhir import client as fhir_client
from rwe.landing import list_runs
from rwe.sandbox.control import Control
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Access
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.study import Study
from tests.contract.nights import departures, lake_rows, patients_of, the_study, with_site, workspace_for
from tests.contract.sandbox_client import EC_KEY, jwk_set
from tests.support import ROOT, missing
from tests.unit.test_smart import pem, write_key

MITMDUMP = ROOT / ".venv-mitmproxy" / "bin" / "mitmdump"
SPEC = HospitalSpec("north", "a", patients=8, seed=3, access=Access(mode="smart", jwks=jwk_set(ec=EC_KEY)))
SKEW_SECONDS = 3600
MOST_RERUNS = 10
KINDS = {
    "unavailable_503",
    "busy_429_absent",
    "busy_429_seconds",
    "busy_429_date",
    "busy_429_epoch",
    "reset",
    "truncated",
    "html_200",
    "unauthorized_401",
    "duplicated_page",
    "replayed_page",
    "expired_410",
}
NIGHT_SECONDS = 86_400
SHORT_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Proxy:
    port: int
    log: Path
    off: Path

    def counts(self) -> Counter[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(json.loads(line)["fault"] for line in lines)


@contextmanager
def bad_network(target: str, seed: int, folder: Path) -> Iterator[Proxy]:
    """mitmproxy as a reverse proxy in front of the server at `target` (scheme, host and port)."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    proxy = Proxy(port, folder / "faults.ndjson", folder / "off")
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "RWE_FAULT_SEED": str(seed),
        "RWE_FAULT_LOG": str(proxy.log),
        "RWE_FAULT_OFF": str(proxy.off),
    }
    command = [str(MITMDUMP), "--quiet", "--mode", f"reverse:{target}", "--listen-host", "127.0.0.1"]
    command += ["--listen-port", str(port), "--set", f"confdir={folder}"]
    command += ["--scripts", str(Path(__file__).with_name("mitm_addon.py"))]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None, "mitmdump did not start"
            assert time.monotonic() < deadline, "mitmdump does not listen"
            time.sleep(0.1)
        yield proxy
    finally:
        process.terminate()
        process.wait(timeout=10)


def _listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of production, in hundredths of a second."""
    monkeypatch.setattr(fhir_client, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(fhir_client.FhirClient, "pause", lambda *_: None)
    monkeypatch.setattr(Retry, "get_backoff_time", lambda _: 0.02)


def until_whole(workspace: Workspace, study: Study, control: Control) -> None:
    """Rerun the night until a run lands whole, ten times at most; no watermark is ever ahead of what landed.

    No run need be whole: what one fails at another may bring. But each type must come whole once.
    """
    failures: list[str] = []
    before = {r.run for r in list_runs(workspace.landing)}
    for _ in range(MOST_RERUNS + 1):
        try:
            extract_site(workspace, "north", [study])
        except (SiteError, PartialError) as e:
            failures.append(str(e))
            assert_no_watermark_is_ahead(workspace, control)
            continue
        assert_no_watermark_is_ahead(workspace, control)
        return
    tried = [r.manifest for r in list_runs(workspace.landing) if r.run not in before]
    never = {t for m in tried for t in m.scopes} - {
        t for m in tried for t, s in m.scopes.items() if s.is_complete
    }
    assert tried, f"no run landed anything: {failures}"
    assert not never, f"never whole in {MOST_RERUNS} reruns: {never}; {failures}"


def assert_the_clock_was_seen_wrong(workspace: Workspace, skew_seconds: int) -> None:
    """Each run took the server's clock for what it was: wrong by the hour, and one night further or not."""
    for run in list_runs(workspace.landing):
        assert run.manifest.clock_ahead is not None
        least, most = (s - skew_seconds for s in run.manifest.clock_ahead)
        nights = round(most / NIGHT_SECONDS)
        assert nights in {0, 1}
        assert -60 < least - nights * NIGHT_SECONDS <= most - nights * NIGHT_SECONDS < 5


def assert_no_watermark_is_ahead(workspace: Workspace, control: Control) -> None:
    """Whatever the next night will not ask for again has landed: of the patients of each type's last pull."""
    memory = remember(workspace, "north")
    codes = _observation_codes(workspace)
    state = control.state()
    for resource_type, baseline in memory.baselines.items():
        since = baseline.ask_from(timedelta(), None)
        if since is None or resource_type in {"Patient", "Medication"}:
            continue
        landed = {
            (r["id"], r["meta"]["versionId"])
            for run in list_runs(workspace.landing)
            for r in map(json.loads, run.open(resource_type))
        }
        for resource in state[resource_type].values():
            patient = resource["subject"]["reference"].removeprefix("Patient/")
            is_old = datetime.fromisoformat(resource["meta"]["lastUpdated"]) < since
            is_asked = resource_type != "Observation" or codes & _codes(resource)
            if is_old and is_asked and memory.is_covered(patient, baseline):
                assert (resource["id"], resource["meta"]["versionId"]) in landed, resource_type


def _codes(resource: dict[str, object]) -> set[tuple[str, str]]:
    code = resource.get("code")
    codings = code.get("coding", []) if isinstance(code, dict) else []
    return {(c.get("system"), c.get("code")) for c in codings}


def _observation_codes(workspace: Workspace) -> set[tuple[str, str]]:
    return set(OBSERVED[workspace.root])


OBSERVED: dict[Path, tuple[tuple[str, str], ...]] = {}


def two_bad_nights(seed: int, folder: Path) -> Counter[str]:
    """Two nights through the bad network, compared with a fresh start without it. Returns the faults."""
    from rwe.extraction_plan import plan_extraction

    skew = SKEW_SECONDS if seed % 2 else -SKEW_SECONDS
    folder.mkdir()
    with running_hospitals([SPEC]) as [hospital]:
        control = hospital.control
        control.skew(skew)
        assert abs((control.now() - datetime.now(UTC)).total_seconds() - skew) < 60
        with bad_network(hospital.base_url.removesuffix("/fhir"), seed, folder) as proxy:
            behind = f"http://127.0.0.1:{proxy.port}/fhir"
            control.speak_as(behind)
            workspace = _workspace(folder / "ws", hospital, behind)
            study = the_study(folder / "studies")
            OBSERVED[workspace.root] = plan_extraction([study]).observation_codes
            with naming(seed, "first night"):
                until_whole(workspace, study, control)
            control.mutate(seed)
            control.advance()
            with naming(seed, "second night"):
                until_whole(workspace, study, control)
            counts = proxy.counts()
        control.speak_as(hospital.base_url)
        fresh = workspace_for(folder / "fresh", hospital, auth=smart(folder))
        extract_site(fresh, "north", [study])
    assert_the_clock_was_seen_wrong(workspace, skew)
    expected = lake_rows(fresh)
    assert expected["Observation"]
    assert departures(lake_rows(workspace, patients_of(expected)), expected) == {}, f"seed {seed}"
    return counts


@contextmanager
def naming(seed: int, night: str) -> Iterator[None]:
    """Let a failure say which seed and night it is of."""
    try:
        yield
    except AssertionError as e:
        raise AssertionError(f"seed {seed}, {night}: {e}") from e


def smart(folder: Path) -> dict[str, object]:
    key = folder / "key.pem"
    key_file = key if key.exists() else write_key(key, pem(EC_KEY))
    return {"kind": "smart", "client_id": "rwe-client", "kid": "ec", "key_file": key_file}


def _workspace(folder: Path, hospital: RunningHospital, base_url: str) -> Workspace:
    fields = {"page_size": 20, "patients_per_request": 4, "max_retries": 6, "base_url": base_url}
    fields["auth"] = smart(folder.parent)
    return with_site(workspace_for(folder, hospital), hospital, **fields)


def test_bad_nights_end_where_undisturbed_ones_do_and_every_kind_of_fault_occurred(tmp_path: Path) -> None:
    if not MITMDUMP.exists():
        missing(".venv-mitmproxy (make .venv-mitmproxy)")
    counts = Counter[str]()
    for seed in SHORT_SEEDS:
        counts += two_bad_nights(seed, tmp_path / str(seed))
    assert counts.keys() == KINDS, counts


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_bad_nights(tmp_path: Path) -> None:
    if not MITMDUMP.exists():
        missing(".venv-mitmproxy (make .venv-mitmproxy)")
    counts = Counter[str]()
    for seed in range(100, 150):
        counts += two_bad_nights(seed, tmp_path / str(seed))
        shutil.rmtree(tmp_path / str(seed))
    assert counts.keys() == KINDS, counts
