"""No credential and no patient in a log, a manifest, a message or a traceback, whatever the server does."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from rwe.config import init_workspace
from rwe.sandbox.options import Access
from rwe.sandbox.server import HospitalSpec, running_hospitals
from tests.contract.sandbox_client import EC_KEY, jwk_set
from tests.faults.hostile import BEHAVIOURS, MRN, NAME, PATIENT, hostile_server
from tests.faults.leaks import leaks, leaks_in_files
from tests.unit.test_smart import pem, write_key

TOKEN, PASSWORD = "canary-token/5f2c+77==", "canary-password-é-91"
#: Where records belong: landed lines, typed rows.
RECORDS = (".ndjson.zst", ".parquet")
COMMANDS = (["sites", "check"], ["sites", "check", "--json"], ["extract"], ["status"])

RUNNER = """
import logging, sys, traceback, json
from pathlib import Path
out, workspace, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
logging.basicConfig(level=logging.DEBUG, filename=out / "debug.log", force=True)
from rwe.cli import main
if mode == "unsilenced":
    import rwe.fhir.client
    for name in [n for n in logging.root.manager.loggerDict if n.startswith("urllib3")]:
        logging.getLogger(name).filters.clear()
if mode.startswith("plant:"):
    logging.getLogger("planted").debug("something %s", mode.removeprefix("plant:"))
for words in json.loads(sys.argv[4]):
    try:
        main(["-w", workspace, "--debug", *words])
    except SystemExit as e:
        print("exit", e.code)
logging.debug("the end")
"""

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "plain": lambda c: f"x{c}x".encode(),
    "URL": lambda c: quote(f"x={c}", safe="").encode(),
    "URL twice": lambda c: quote(quote(c, safe=""), safe="").encode(),
    "hex": lambda c: c.encode().hex().encode(),
    "base64 at 0": lambda c: base64.b64encode(f"{c} and more".encode()),
    "base64 at 1": lambda c: base64.b64encode(f"1{c} and more".encode()),
    "base64 at 2": lambda c: base64.b64encode(f"12{c}".encode()),
    "base64 for URLs": lambda c: base64.urlsafe_b64encode(f"??{c}>>".encode()),
    "gzip": lambda c: b"before" + gzip.compress(f"x{c}x".encode()) + b"after",
    "gzip in base64": lambda c: b"log: " + base64.b64encode(gzip.compress(f"<{c}> 12345678".encode())),
    "base64 in gzip": lambda c: gzip.compress(base64.b64encode(f"user:{c}".encode())),
}


@pytest.mark.parametrize("canary", [TOKEN, PASSWORD, NAME, PATIENT, "29ccadc0d44263f8"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_scan_finds_what_is_there_and_nothing_else(encoding: str, canary: str) -> None:
    content = b"line one\n" + ENCODINGS[encoding](canary) + b"\nline three"
    assert leaks(content, [canary, "not-in-there-1234"]) == {canary}


@dataclass(frozen=True)
class Scene:
    """A workspace of good and hostile sites, and all that must not come out of it."""

    root: Path
    canaries: tuple[str, ...]

    def run(self, out: Path, mode: str = "plain", commands: Any = COMMANDS) -> str:
        out.mkdir()
        command = [sys.executable, "-c", RUNNER, str(out), str(self.root), mode, json.dumps(commands)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=240)
        (out / "stdout").write_bytes(done.stdout)
        (out / "stderr").write_bytes(done.stderr)
        return done.stdout.decode() + done.stderr.decode()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("leaks")
    root = init_workspace(folder / "ws", key_file=folder / "ws.key").root
    studies = Path(__file__).parents[2] / "studies"
    (root / "studies" / "codelists").rmdir()
    (root / "studies").rmdir()
    (root / "studies").symlink_to(studies)
    token, password = write_key(folder / "token", TOKEN), write_key(folder / "password", PASSWORD)
    key = write_key(folder / "key.pem", pem(EC_KEY))
    smart = {"kind": "smart", "client_id": "rwe-client", "kid": "ec", "key_file": str(key)}
    specs = [
        HospitalSpec("bearer", "a", patients=4, seed=1, access=Access(mode="bearer", bearer_token=TOKEN)),
        HospitalSpec("smart", "c", patients=4, seed=3, access=Access(mode="smart", jwks=jwk_set(ec=EC_KEY))),
    ]
    with running_hospitals(specs) as (bearer, smart_hospital), hostile_server() as hostile:
        common = {"allow_plain_http": "loopback only", "max_retries": 1, "timeout_seconds": 5}
        sites: dict[str, Any] = {
            "bearer": {"base_url": bearer.base_url, "auth": {"kind": "bearer", "token_file": str(token)}},
            "smart": {"base_url": smart_hospital.base_url, "auth": smart},
        }
        for behaviour in BEHAVIOURS:
            auth = {"kind": "basic", "user": "u", "password_file": str(password)}
            auth = smart if behaviour == "smart" else auth
            sites[behaviour] = {"base_url": f"{hostile}/{behaviour}/fhir", "auth": auth}
        text = (root / "rwe.yaml").read_text().partition("\nsites:")[0]
        sites = {name: {**common, **site} for name, site in sites.items()}
        (root / "rwe.yaml").write_text(text + "\n" + yaml.safe_dump({"sites": sites}))
        people = [r for h in (bearer, smart_hospital) for r in h.control.state()["Patient"].values()]
        basic = base64.b64encode(f"u:{PASSWORD}".encode()).decode()
        secrets = [TOKEN, PASSWORD, basic, NAME, PATIENT, MRN, *pem(EC_KEY).splitlines()[1:-1]]
        yield Scene(root, tuple({*secrets, *(v for p in people for v in identifying(p))}))


def identifying(patient: dict[str, Any]) -> list[str]:
    found = [patient["id"], *(i["value"] for i in patient.get("identifier", []))]
    for name in patient.get("name", []):
        found += [name.get("family", ""), *name.get("given", [])]
    return [v for v in found if len(v) >= 6]


def test_nothing_that_identifies_comes_out(scene: Scene, tmp_path: Path) -> None:
    told = scene.run(tmp_path / "out")
    assert told.count("exit") == len(COMMANDS)
    assert "Traceback" in told
    for site in BEHAVIOURS:
        assert f"{site}: " in told
    assert "the end" in (tmp_path / "out" / "debug.log").read_text()
    assert list(scene.root.glob("landing/site=bearer/run=*/manifest.json"))
    assert len(scene.canaries) > 30
    assert leaks_in_files(tmp_path / "out", scene.canaries, but=()) == {}
    assert leaks_in_files(scene.root, scene.canaries, but=RECORDS) == {}


def test_the_records_are_there_to_be_found(scene: Scene, tmp_path: Path) -> None:
    """The scan of the landed lines finds patients: what is not found elsewhere is truly absent."""
    import zstandard

    scene.run(tmp_path / "out", commands=[["extract", "--site", "bearer"]])
    (landed, *_) = scene.root.glob("landing/site=bearer/run=*/Patient.ndjson.zst")
    with zstandard.open(landed, "rb") as f:
        assert leaks(f.read(), scene.canaries)


@pytest.mark.parametrize("encoding", ["plain", "URL", "base64 at 1", "gzip in base64"])
def test_a_planted_leak_is_found(scene: Scene, tmp_path: Path, encoding: str) -> None:
    planted = ENCODINGS[encoding](PATIENT).decode()
    scene.run(tmp_path / "out", f"plant:{planted}", [["status"]])
    assert leaks_in_files(tmp_path / "out", scene.canaries, but=()) == {"debug.log": {PATIENT}}


def test_without_the_filter_urllib3_would_tell_patients(scene: Scene, tmp_path: Path) -> None:
    """What the filter is for: if this fails, urllib3 logs elsewhere or no more."""
    scene.run(tmp_path / "out", "unsilenced", [["extract", "--site", "bearer"]])
    assert "debug.log" in leaks_in_files(tmp_path / "out", scene.canaries, but=())
