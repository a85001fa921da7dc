"""A landed run is complete or absent, private, and exactly what was served."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard

from rwe.errors import LandingError
from rwe.landing import (
    UNREADABLE,
    Run,
    RunFacts,
    ServerIdentity,
    StudyReference,
    list_runs,
    new_run,
    open_run,
)

FACTS = RunFacts(route="search", time_zone="Europe/Berlin")


def land(landing: Path, site: str = "a", lines: int = 3) -> Run:
    with new_run(landing, site) as run:
        for i in range(lines):
            run.write("Patient", b'{"resourceType":"Patient","id":"p%d"}' % i)
        return run.commit(FACTS)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_bytes_come_back_as_they_were_served(tmp_path: Path) -> None:
    odd = '{"resourceType":"Observation","valueQuantity":{"value":7.10},"note":"é\\n\u2028"}'.encode()
    with new_run(tmp_path / "landing", "a") as writer:
        writer.write("Observation", odd)
        writer.write(UNREADABLE, b"\xff\x00 half a line")
        run = writer.commit(FACTS)
    assert list(run.open("Observation")) == [odd]
    assert list(run.open(UNREADABLE)) == [b"\xff\x00 half a line"]
    assert list(run.open("Condition")) == []
    assert run.resources == {"Observation": 1, UNREADABLE: 1}


def test_a_pretty_printed_resource_becomes_one_line_of_the_same_content(tmp_path: Path) -> None:
    resource = {"resourceType": "Patient", "name": [{"text": "two\nlines"}]}
    with new_run(tmp_path, "a") as writer:
        writer.write("Patient", json.dumps(resource, indent=2).replace("\n", "\r\n").encode())
        run = writer.commit(FACTS)
    (line,) = run.open("Patient")
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == resource


def test_nobody_else_can_read_what_is_landed(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = land(tmp_path / "landing")
    finally:
        os.umask(before)
    assert [mode(p) for p in (tmp_path / "landing", run.path.parent, run.path)] == [0o700] * 3
    assert {mode(p) for p in run.path.iterdir()} == {0o600}


def test_the_manifest_tells_counts_hashes_and_clocks(tmp_path: Path) -> None:
    facts = RunFacts(
        route="search",
        time_zone="Europe/Berlin",
        server=ServerIdentity("Some Server", "8.8", "4.0.1"),
        requests={"Patient": {"200": 2, "503": 1}},
        watermarks={"Patient": "2026-03-01T00:00:00+00:00"},
        studies=[StudyReference("s", "ab" * 32)],
        patients=2,
    )
    late, early = datetime(2026, 2, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC)
    with new_run(tmp_path, "a") as writer:
        writer.write("Patient", b'{"resourceType":"Patient"}', last_updated=late)
        writer.write("Patient", b'{"resourceType":"Patient"}', last_updated=early)
        run = writer.commit(facts)
    manifest = json.loads((run.path / "manifest.json").read_bytes())
    (file,) = manifest["files"]
    content = (run.path / "Patient.ndjson.zst").read_bytes()
    plain = zstandard.ZstdDecompressor().stream_reader(content).read()
    assert (file["lines"], file["bytes"]) == (2, len(plain))
    assert subprocess.run(
        ["sha256sum", run.path / "Patient.ndjson.zst"], capture_output=True, text=True, check=True
    ).stdout.startswith(file["sha256"])
    assert manifest["last_updated"] == {"Patient": "2026-02-01T00:00:00+00:00"}
    assert manifest["requests"] == {"Patient": {"200": 2, "503": 1}}
    assert (manifest["site"], manifest["run"], manifest["schema_version"]) == ("a", run.run, 1)


def test_runs_are_listed_oldest_first_and_read_back_alike(tmp_path: Path) -> None:
    runs = [land(tmp_path, "b"), land(tmp_path, "a", 1)]
    assert list_runs(tmp_path) == sorted(runs, key=lambda r: (r.run, r.site))
    assert list_runs(tmp_path, "a") == [runs[1]]
    assert list_runs(tmp_path / "none") == []


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_run(tmp_path, "a") as writer:
            writer.write("Patient", b"{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with new_run(tmp_path, "a") as writer:
        writer.write("Patient", b"{}")
    assert list_runs(tmp_path) == []
    assert [p.name for p in (tmp_path / "site=a").iterdir()] == [".lock"]


def test_a_second_run_of_a_site_waits_outside_and_another_site_does_not(tmp_path: Path) -> None:
    with new_run(tmp_path, "a") as first:
        first.write("Patient", b"{}")
        with pytest.raises(LandingError, match="another run of this site"), new_run(tmp_path, "a"):
            pass
        land(tmp_path, "b")
        first.commit(FACTS)
    assert {r.site for r in list_runs(tmp_path)} == {"a", "b"}


def test_what_a_killed_run_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from rwe.landing import new_run\n"
        "with new_run(pathlib.Path(sys.argv[1]), 'a') as run:\n"
        "    run.write('Patient', b'{}'); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        with pytest.raises(LandingError), new_run(tmp_path, "a"):
            pass
        process.send_signal(signal.SIGKILL)
    folder = tmp_path / "site=a"
    assert len(list(folder.glob(".run=*.part"))) == 1
    assert list_runs(tmp_path) == []
    run = land(tmp_path, "a")
    assert list(folder.glob(".run=*.part")) == []
    assert list_runs(tmp_path) == [run]


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_file_that_changed_after_landing_is_not_read_as_if_it_had_not(tmp_path: Path, damage: str) -> None:
    run = land(tmp_path, lines=500)
    file = run.file("Patient")
    assert file is not None
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(LandingError, match="site a, run "):
        list(run.open("Patient"))


@pytest.mark.parametrize("change", ["missing", "not json", "other run", "outside"])
def test_a_manifest_that_is_not_the_runs_own_is_refused(tmp_path: Path, change: str) -> None:
    run = land(tmp_path)
    path = run.path / "manifest.json"
    content = json.loads(path.read_bytes())
    if change == "missing":
        path.unlink()
    elif change == "not json":
        path.write_text("{")
    elif change == "other run":
        path.write_text(json.dumps({**content, "run": "20200101T000000Z-0000"}))
    else:
        content["files"][0]["name"] = "../../../etc/passwd"
        path.write_text(json.dumps(content))
    with pytest.raises(LandingError):
        open_run(run.path)


@pytest.mark.parametrize("name", ["../evil", "Patient/x", "", "a" * 65, "_other"])
def test_a_type_that_is_no_word_never_names_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(LandingError), new_run(tmp_path, "a") as writer:
        writer.write(name, b"{}")
    assert [p.name for p in tmp_path.rglob("*.zst")] == []
