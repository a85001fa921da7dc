"""Bad input on the command line: one sentence, a stable exit status, nothing lost, nobody shown."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.server import running_hospitals
from tests.support import ROOT
from tests.unit.test_cli import Ran, run

HEART = ROOT / "tests" / "cases" / "a_stanford_heart" / "fhir"
SECRET = "Zebedee-7731"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the heart case has landed and is published."""
    folder = tmp_path_factory.mktemp("bad")
    root = folder / "ws"
    assert run("init", root, "--key-file", folder / "key").code == 0
    shutil.rmtree(root / "studies")
    shutil.copytree(ROOT / "tests" / "cases_studies" / "codelists", root / "studies" / "codelists")
    shutil.copy(ROOT / "tests" / "cases_studies" / "stanford_heart.yaml", root / "studies")
    assert run("import", HEART, "--site", "stanford", "-w", root).code == 0
    assert run("build", "-w", root).code == 0
    return root


def kept(root: Path) -> dict[str, str]:
    """The bytes of all that has landed or been published."""
    files = [p for name in ("landing", "published") for p in (root / name).rglob("*") if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.name != ".lock"}


def settings(root: Path, **site: object) -> None:
    path = root / "rwe.yaml"
    content = yaml.safe_load(path.read_text())
    content["sites"]["other"] = site
    path.write_text(yaml.safe_dump(content))


def told(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, ran.err
    for word in words:
        assert word in ran.err
    assert "Traceback" not in ran.err
    assert SECRET not in ran.err + ran.out


@contextmanager
def server(status: int, body: bytes, kind: str = "application/fhir+json") -> Iterator[str]:
    """A real server on loopback that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/fhir"
        http.shutdown()
        thread.join()


def test_a_wrong_url_changes_nothing(published: Path) -> None:
    before = kept(published)
    settings(published, base_url="fhir.example.org/r4")
    told(run("extract", "--site", "other", "-w", published), 2, "base_url", "https://")
    assert kept(published) == before


def test_plain_http_to_a_foreign_host_is_refused_before_anything_is_sent(published: Path) -> None:
    settings(published, base_url="http://fhir.example.org/r4")
    told(run("extract", "--site", "other", "-w", published), 2, "http")


def test_a_dead_server_is_told_and_nothing_is_lost(published: Path) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = kept(published)
    settings(
        published, base_url=f"http://127.0.0.1:{port}/fhir", allow_plain_http="loopback only", max_retries=0
    )
    told(run("extract", "--site", "other", "-w", published), 1, "other")
    assert kept(published) == before


OUTCOME = {"resourceType": "OperationOutcome", "issue": [{"diagnostics": SECRET}]}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, f"<html>login {SECRET}</html>", "text/html"),
        (401, json.dumps(OUTCOME), "application/json"),
        (404, SECRET, "text/plain"),
        (500, json.dumps(OUTCOME), "application/json"),
    ],
)
def test_a_server_that_answers_wrongly_is_told_without_its_text(
    published: Path, status: int, body: str, kind: str
) -> None:
    before = kept(published)
    with server(status, body.encode(), kind) as url:
        settings(published, base_url=url, allow_plain_http="loopback only", max_retries=0)
        told(run("extract", "--site", "other", "-w", published), 1, "other")
    assert kept(published) == before


def test_one_of_two_sites_failing_is_partly_done(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    assert run("init", root, "--key-file", tmp_path / "key").code == 0
    spec = HospitalSpec("good", "a", 20, seed=1)
    with running_hospitals([spec]) as (good,), server(404, b"") as broken:
        sites = {"good": good.base_url, "broken": broken}
        path = root / "rwe.yaml"
        content = yaml.safe_load(path.read_text())
        content["sites"] = {n: {"base_url": u, "allow_plain_http": "loopback only"} for n, u in sites.items()}
        path.write_text(yaml.safe_dump(content))
        ran = run("extract", "-w", root)
    told(ran, 3, "broken", "good")
    assert [p.parent.name for p in (root / "landing").glob("site=*/run=*")] == ["site=good"]


def test_a_corrupt_line_is_named_and_the_rest_is_kept(published: Path, tmp_path: Path) -> None:
    lines = (HEART / "Patient.ndjson").read_bytes().splitlines()[:3]
    broken = b'{"resourceType": "Patient", "id": "p1", "name": [{"family": "' + SECRET.encode() + b'"'
    (tmp_path / "Patient.ndjson").write_bytes(b"\n".join([lines[0], broken, *lines[1:]]) + b"\n")
    ran = run("import", tmp_path, "--site", "damaged", "-w", published)
    told(ran, 3, "file 1 of 1 (.ndjson), line 2")
    built = run("build", "-w", published, "--json")
    assert built.code == 0, built.err
    assert SECRET not in built.out


@pytest.mark.parametrize("make", [True, False], ids=["empty", "missing"])
def test_an_empty_or_missing_folder_changes_nothing(published: Path, tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "handed-over"
    if make:
        folder.mkdir()
    before, text = kept(published), (published / "rwe.yaml").read_text()
    told(run("import", folder, "--site", "nobody", "-w", published), 2, str(folder.name))
    assert kept(published) == before
    assert (published / "rwe.yaml").read_text() == text


def test_a_study_with_an_unknown_field_stops_before_the_build(published: Path) -> None:
    path = published / "studies" / "stanford_heart.yaml"
    text, before = path.read_text(), kept(published)
    path.write_text(text + "landmark: [3]\n")
    try:
        told(run("refresh", "stanford_heart", "-w", published), 2, "landmark", "stanford_heart.yaml")
        told(run("build", "-w", published), 2, "landmark")
    finally:
        path.write_text(text)
    assert kept(published) == before


def test_a_broken_code_stops_before_the_build(published: Path) -> None:
    used = published / "studies" / "codelists" / "car_t.csv"
    text, before = used.read_text(), kept(published)
    used.write_text(text.replace("L01XL03", "L0!XL03"))
    try:
        told(run("build", "-w", published), 2, "car_t.csv, line 2", "L0!XL03")
    finally:
        used.write_text(text)
    assert kept(published) == before


def test_an_impossible_value_in_a_record_is_never_printed(published: Path, tmp_path: Path) -> None:
    """pydantic prints the offending value by default; it goes to quarantine as a rule and a path instead."""
    patient = {"resourceType": "Patient", "id": "p9", "birthDate": SECRET, "gender": SECRET}
    (tmp_path / "Patient.ndjson").write_text(json.dumps(patient) + "\n")
    imported = run("import", tmp_path, "--site", "odd", "-w", published)
    told(imported, 0)
    built = run("build", "-w", published)
    told(built, 0)
    for path in filter(Path.is_file, (published / "published").rglob("*")):
        assert SECRET.encode() not in path.read_bytes()
    for path in (published / "quarantine").rglob("*.parquet"):
        assert SECRET.encode() not in path.read_bytes()
