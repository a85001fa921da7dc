"""Bulk Data export over real sockets: whatever the server does, what is landed is whole, or named as not."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.errors import PartialError, SiteError
from rwe.fhir import bulk
from rwe.fhir.bulk import ExportTooEarlyError, JobFailedError
from rwe.fhir.bulk_files import IncompleteFileError, read_lines, store
from rwe.fhir.bulk_manifest import is_manifest, names_in_manifest, tombstones
from rwe.study import Study
from tests.contract.exporter import TYPES, Exporter, bearer, export, landed, workspace_for
from tests.contract.quirky import COHORT, INDEX_DRUG, concept, expected_to_land, records, write_study


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FIRST_POLL_SECONDS", 0.02)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "studies")


def test_only_the_cohort_lands_from_an_export_of_everything(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    exporter = Exporter(httpserver)
    outcome, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert landed(run) == expected_to_land()
    assert outcome.patients == COHORT
    assert not outcome.newcomers
    assert set(outcome.watermarks) == set(TYPES)
    assert set(outcome.watermarks.values()) == {datetime(2026, 5, 1, 2, tzinfo=UTC)}
    assert exporter.seen[-1] == "DELETE status/1"


@pytest.mark.parametrize("delete_status", [404, 405, 500])
def test_a_server_that_keeps_its_jobs_is_no_failure(
    tmp_path: Path, httpserver: HTTPServer, study: Study, delete_status: int
) -> None:
    exporter = Exporter(httpserver, delete_status=delete_status)
    _, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert landed(run) == expected_to_land()


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        ("7", (7, 7)),
        ("999999", (300, 300)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", (0.1, 0.1)),
        ("Wed, 21 Oct 2099 07:28:00 GMT", (300, 300)),
        ("epoch", (58, 61)),
        ("soon", (0.02, 0.02)),
        ("nan", (0.02, 0.02)),
        (None, (0.02, 0.02)),
    ],
)
def test_the_server_says_when_to_come_back_but_not_never(
    tmp_path: Path,
    httpserver: HTTPServer,
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    retry_after: str | None,
    expected: tuple[float, float],
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(bulk, "sleep", waits.append)
    if retry_after == "epoch":
        retry_after = str(int(time.time()) + 60)
    headers = {"Retry-After": retry_after} if retry_after else {}
    exporter = Exporter(httpserver, answers_before=[Response(status=202, headers=headers)])
    export(workspace_for(tmp_path, exporter.serve()), study)
    assert len(waits) == 1
    assert expected[0] <= waits[0] <= expected[1]


def test_silence_backs_off(
    tmp_path: Path, httpserver: HTTPServer, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(bulk, "sleep", waits.append)
    busy = [Response(status=s) for s in (202, 429, 202, 503, 202)]
    exporter = Exporter(httpserver, answers_before=busy)
    export(workspace_for(tmp_path, exporter.serve()), study)
    assert len(waits) == 5
    assert all(late > early for early, late in itertools.pairwise(waits))


def test_progress_shows_percentages_and_never_the_servers_words(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    shown: list[tuple[str, int]] = []

    class Step:
        def __init__(self, label: str) -> None:
            self.label = label

        def advance(self, amount: int = 1) -> None:
            shown.append((self.label, amount))

        def total(self, total: int) -> None: ...

    class Watcher:
        @contextmanager
        def step(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Step]:
            yield Step(label)

    before = [Response(status=202, headers={"X-Progress": p}) for p in ("25%", "patient p1", "60 % done")]
    exporter = Exporter(httpserver, answers_before=before)
    export(workspace_for(tmp_path, exporter.serve()), study, progress=Watcher())
    assert [n for label, n in shown if label == "a: export"] == [25, 35, 40]
    assert sum(n for label, n in shown if label == "a: files") == len({t for t, _ in expected_to_land()})


def test_a_job_that_is_not_ready_by_its_deadline(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    exporter = Exporter(httpserver, answers_before=[Response(status=202)] * 10_000)
    workspace = workspace_for(tmp_path, exporter.serve(), export_deadline_hours=0.3 / 3600)
    with pytest.raises(SiteError, match=r"not ready by its deadline; set a longer export_deadline_hours"):
        export(workspace, study)


def test_an_export_that_fails_is_begun_once_more(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "fatal", "diagnostics": "p1 broke"}],
    }
    failure = json.dumps(outcome)
    exporter = Exporter(httpserver, answers_before=[Response(failure, status=500)])
    _, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert landed(run) == expected_to_land()
    assert exporter.jobs == 2
    exporter.answers_before = [Response(failure, status=500)] * 9
    with pytest.raises(JobFailedError, match=r"status 500; 1 fatal") as caught:
        export(workspace_for(tmp_path / "2", exporter.serve()), study)
    assert "p1" not in str(caught.value)


def test_refused_extras_are_left_out_and_done_here(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    """A server without _typeFilter that exports no Medication with patients: no row is lost."""
    exporter = Exporter(httpserver, start_status={"_typeFilter": 400, "CObservation%2CMedication": 422})
    exporter.content = [r for r in records() if r["resourceType"] != "Medication"]
    exporter.singles = {r["id"]: r for r in records() if r["resourceType"] == "Medication"}
    outcome, run = export(
        workspace_for(tmp_path, exporter.serve()), study, level="patient", use_type_filter=True
    )
    assert landed(run) == expected_to_land()  # also p3, whose index event is coded in a Medication only
    assert any("_typeFilter" in w for w in outcome.warnings)
    assert any("Medication" in w for w in outcome.warnings)
    assert "Medication" not in outcome.watermarks
    assert exporter.seen.count("GET Patient/$export") == 3


@pytest.mark.parametrize(
    ("status", "told"), [(404, "does not export"), (403, "refuses"), (200, "does not start")]
)
def test_a_server_that_starts_no_export(
    tmp_path: Path, httpserver: HTTPServer, study: Study, status: int, told: str
) -> None:
    exporter = Exporter(httpserver, start_status={"": status})
    with pytest.raises(SiteError, match=told):
        export(workspace_for(tmp_path, exporter.serve()), study)


def test_too_early_is_a_sentence(tmp_path: Path, httpserver: HTTPServer, study: Study) -> None:
    exporter = Exporter(httpserver)
    workspace = workspace_for(tmp_path, exporter.serve(), min_export_interval_hours=24)
    export(workspace, study)
    with pytest.raises(ExportTooEarlyError, match=r"less than 24 hours ago.*try again after"):
        export(workspace, study)
    assert exporter.jobs == 1
    exporter.start_status = {"": 429}
    with pytest.raises(ExportTooEarlyError, match="takes no export"):
        export(workspace_for(tmp_path / "2", exporter.serve()), study)


def test_an_old_job_in_answer_to_a_new_request_is_recognised(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    """HAPI answers an identical request with the job it has: it brings nothing new, so a new one is begun."""
    early, late = "2026-05-01T02:00:00Z", "2026-05-02T02:00:00Z"
    exporter = Exporter(httpserver, transaction_times=[early, early, late])
    workspace = workspace_for(tmp_path, exporter.serve())
    first, _ = export(workspace, study)
    second, _ = export(workspace, study)
    assert exporter.jobs == 3
    assert second.transaction_time - first.transaction_time == timedelta(days=1)
    assert any("begun earlier" in w for w in second.warnings)  # by the server's own clock, it is long ago
    with pytest.raises(SiteError, match="answers with an old export"):
        export(workspace, study)


def test_bytes_are_utf8_and_verbatim_whatever_the_content_type_says(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    line = '{"resourceType":"Patient","id":"p1","name":[{"family":"Müßig-Škoda"}],"x":7.10}'.encode()
    exporter = Exporter(httpserver)
    odd = Response(line + b"\r\n\r\n", content_type="application/json; charset=ISO-8859-1")
    exporter.bodies = {"Patient": odd}
    _, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert list(run.open("Patient")) == [line]


@pytest.mark.parametrize("encoded", [True, False])
def test_a_compressed_file(tmp_path: Path, httpserver: HTTPServer, study: Study, encoded: bool) -> None:
    """With Content-Encoding, or simply as a .gz: the same lines, and its count holds."""
    exporter = Exporter(httpserver)
    lines = [json.dumps(r).encode() for r in records() if r["resourceType"] == "Patient"]
    packed = gzip.compress(b"\n".join(lines[:3]) + b"\n") + gzip.compress(b"\n".join(lines[3:]))
    headers = {"Content-Encoding": "gzip"} if encoded else {}
    exporter.bodies["Patient"] = Response(packed, headers=headers)
    _, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert {i for t, i in landed(run) if t == "Patient"} == COHORT


PATIENTS = b"\n".join(json.dumps(r).encode() for r in records() if r["resourceType"] == "Patient") + b"\n"
BROKEN = {
    "a web page": Response("<html>login</html>"),
    "half a resource": Response(PATIENTS[:-10]),
    "half a compressed file": Response(gzip.compress(PATIENTS)[:-12]),
    "damaged compressed data": Response(gzip.compress(PATIENTS)[:40] + b"damage" * 20),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_never_comes_whole_fails_its_type_and_no_other(
    tmp_path: Path, httpserver: HTTPServer, study: Study, what: str
) -> None:
    exporter = Exporter(httpserver, bodies={"Condition": BROKEN[what]})
    outcome, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert landed(run) == {(t, i) for t, i in expected_to_land() if t != "Condition"}
    assert set(outcome.watermarks) == set(TYPES) - {"Condition"}
    with pytest.raises(PartialError, match="Condition: a file never came whole") as caught:
        outcome.raise_if_partial("a")
    assert caught.value.exit_status == 3
    assert exporter.seen.count("GET file/Condition") == 3


def test_a_whole_file_that_holds_no_resource_fails_its_type(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    """HAPI wraps a file asked for as FHIR JSON in a Binary, printed over several lines."""
    wrapped = b'{\n  "resourceType": "Binary",\n  "contentType": "application/fhir+ndjson"\n}\n'
    exporter = Exporter(httpserver, bodies={"Condition": wrapped})
    outcome, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert landed(run) == {(t, i) for t, i in expected_to_land() if t != "Condition"}
    assert "Condition" not in outcome.watermarks
    with pytest.raises(PartialError, match="Condition: a file holds no FHIR resource"):
        outcome.raise_if_partial("a")


def test_files_are_asked_for_as_ndjson(tmp_path: Path, httpserver: HTTPServer, study: Study) -> None:
    export(workspace_for(tmp_path, Exporter(httpserver).serve()), study)
    asked = {r.headers["Accept"] for r, _ in httpserver.log if "/files/" in r.path or "file" in r.path}
    assert asked == {"application/fhir+ndjson"}


@pytest.mark.parametrize(("severity", "is_partial"), [("error", True), ("fatal", True), ("warning", False)])
def test_a_partial_export_is_no_success(
    tmp_path: Path, httpserver: HTTPServer, study: Study, severity: str, is_partial: bool
) -> None:
    issue = {"severity": severity, "diagnostics": "Patient/p3 of Secretname3 could not be read"}
    body = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()
    exporter = Exporter(httpserver, bodies={"errors": body + b"\n"})
    exporter.manifest = {
        "error": [{"type": "OperationOutcome", "url": httpserver.url_for("/fhir/file/errors"), "count": 1}]
    }
    outcome, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert landed(run) == expected_to_land()
    assert bool(outcome.errors) == is_partial
    assert bool(outcome.watermarks) != is_partial
    said = " ".join([*outcome.errors, *outcome.warnings])
    assert f"1 {severity}" in said
    assert "p3" not in said
    assert "Secret" not in said


def test_what_refers_to_no_one_or_is_no_resource_is_counted(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    exporter = Exporter(httpserver)
    lines = [json.dumps(r) for r in records() if r["resourceType"] == "Procedure"]
    exporter.bodies["Procedure"] = "\n".join([*lines, json.dumps({"id": "x"})]).encode()
    kind = "MedicationAdministration"
    orphan = {"resourceType": kind, "id": "z", "medicationCodeableConcept": concept(*INDEX_DRUG)}
    exporter.content = [*records(), orphan]
    outcome, run = export(workspace_for(tmp_path, exporter.serve()), study)
    assert landed(run) == expected_to_land()
    assert "Procedure: incomplete (tagged SUBSETTED) or no resource, and not landed: 1" in outcome.warnings
    assert any(w.startswith(f"{kind}: index events that refer to no patient") for w in outcome.warnings)


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({"link": [{"relation": "next", "url": "https://elsewhere.example.org/2"}]}, "another host"),
        ({"link": [{"relation": "next", "url": "1"}]}, "in a circle"),
        ({"transactionTime": "yesterday"}, "its transactionTime is no instant"),
        ({"output": None}, "lacks a field, or has one of another shape"),
    ],
)
def test_a_manifest_that_makes_no_sense(
    tmp_path: Path, httpserver: HTTPServer, study: Study, manifest: dict[str, Any], told: str
) -> None:
    exporter = Exporter(httpserver, manifest=manifest)
    with pytest.raises(SiteError, match=told):
        export(workspace_for(tmp_path, exporter.serve()), study)


def test_manifests_and_deletions_are_told_from_resources() -> None:
    assert is_manifest(b'{"transactionTime":"2026-01-01T00:00:00Z","output":[],"request":"x"}')
    assert not is_manifest(b'{"resourceType":"Bundle","output":[],"transactionTime":"2026-01-01T00:00:00Z"}')
    assert not is_manifest(b'{"output":[]}')
    assert not is_manifest(b"[1]")
    manifest = {
        "transactionTime": "2026-01-01T00:00:00Z",
        "output": [{"type": "Patient", "url": "https://files.example.org/x/Patient.1.ndjson?sig=1"}],
        "deleted": [{"type": "Bundle", "url": "deleted.ndjson"}],
    }
    raw = json.dumps(manifest).encode()
    assert names_in_manifest(raw, "deleted") == {"deleted.ndjson"}
    assert names_in_manifest(raw, "output") == {"Patient.1.ndjson"}
    entries = [
        {"request": {"method": "DELETE", "url": "Patient/p9"}},
        {"request": {"method": "PUT", "url": "Patient/p8"}},
        {
            "request": {"method": "DELETE", "url": "https://fhir.example.org/r4/Observation/o.1"},
            "response": {"lastModified": "2026-01-02T03:04:05Z"},
        },
    ]
    line = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()
    at = datetime(2026, 2, 1, tzinfo=UTC)
    found = list(tombstones(line, at))
    assert [(t.resource_type, t.id) for t in found] == [("Patient", "p9"), ("Observation", "o.1")]
    assert [t.deleted_at for t in found] == [at, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)]
    assert json.loads(found[0].line()) == {
        "resourceType": "Patient",
        "id": "p9",
        "deletedAt": "2026-02-01T00:00:00+00:00",
        "source": "export",
    }


@given(
    st.lists(st.sampled_from([b'{"a":1}', b'{"bb":22}', b"", b"\r", b" ", b"\t\r"]), max_size=9),
    st.lists(st.integers(0, 60), max_size=4),
    st.booleans(),
)
def test_blank_lines_are_no_resources_wherever_chunks_end(
    lines: list[bytes], cuts: list[int], packed: bool
) -> None:
    content = b'{"resourceType":"Patient"}\n' + b"\n".join(lines)
    data = gzip.compress(content) if packed else content
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    if packed and any(0 < len(c) < 2 for c in chunks[:1]):
        chunks = [data]  # one octet is not enough to tell what it is
    expected = 1 + sum(bool(line.strip()) for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        assert store(chunks, path, expected=expected).lines == expected
        assert len(list(read_lines(path))) == expected
        with pytest.raises(IncompleteFileError):
            store(chunks, path, expected=expected + 1)


def test_a_file_of_any_size_needs_little_memory(tmp_path: Path) -> None:
    line = b'{"resourceType":"Observation","id":"' + b"x" * 400 + b'"}\n'
    chunk = line * 600
    tracemalloc.start()
    try:
        stored = store((chunk for _ in range(400)), tmp_path / "big", expected=240_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stored.bytes == 400 * len(chunk) > 100_000_000
    assert peak < 4_000_000
    assert (tmp_path / "big").stat().st_mode & 0o777 == 0o600
    with pytest.raises(IncompleteFileError, match="it has 600 resources, and the manifest says 601"):
        store([chunk], tmp_path / "big", expected=601)


def test_files_elsewhere_that_need_no_token_are_fetched_without_it(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    exporter = Exporter(httpserver)
    heard: list[str | None] = []
    url = exporter.serve()
    with HTTPServer(host="127.0.0.1", port=0) as other:

        def serve(request: Request) -> Response:
            heard.append(request.headers.get("Authorization"))
            return exporter.file(request.path.rpartition("/")[2])

        other.expect_request(re.compile(".*")).respond_with_handler(serve)
        types = sorted({r["resourceType"] for r in records()})
        exporter.manifest = {"output": [{"type": t, "url": other.url_for(f"/signed/{t}")} for t in types]}
        _, run = export(workspace_for(tmp_path, url, **bearer(tmp_path)), study)
    assert landed(run) == expected_to_land()
    assert heard
    assert set(heard) == {None}
