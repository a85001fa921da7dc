"""`rwe demo`, as a newcomer runs it: flows, the table beside the truth, the report, no trace of a name."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
import yaml
import zstandard

from rwe.demo import STUDY
from rwe.demo_folder import of_others
from rwe.evidence.contract import Evidence, read_evidence
from tests.support import ROOT
from tests.unit.test_cli import Ran, run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    folder = tmp_path_factory.mktemp("demo") / "rwe-demo"
    ran = run("demo", "--dir", folder, "--patients", "80")
    assert ran.code == 0, ran.err
    return folder, ran


@pytest.fixture(scope="module")
def evidence(demo: tuple[Path, Ran]) -> Evidence:
    return read_evidence(latest(demo[0]) / "evidence.json")


def latest(folder: Path) -> Path:
    return folder / "workspace" / "evidence" / "lenalidomide_after_car_t" / "latest"


def test_it_ends_with_the_estimates_beside_the_truth_and_the_report(demo: tuple[Path, Ran]) -> None:
    folder, ran = demo
    assert "truth" in ran.out
    assert "biased" in ran.out
    assert "primary" in ran.out
    assert str(latest(folder) / "report.html") in ran.out
    assert (latest(folder) / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_all_three_sites_came_over_http(evidence: Evidence) -> None:
    assert [s.name for s in evidence.sites] == ["north", "river", "summit"]
    assert {r.route for r in evidence.runs} == {"search"}
    assert all(r.server_software for r in evidence.runs)
    assert evidence.cohort.n == 240


def test_the_naive_estimate_is_far_from_the_truth_and_marked(evidence: Evidence) -> None:
    (naive,) = [e for e in evidence.estimates if e.analysis == "naive_cox"]
    assert naive.is_biased
    assert naive.ci_high is not None
    assert naive.ci_high < 0.6


def test_the_hospitals_and_the_prefect_server_are_gone(demo: tuple[Path, Ran]) -> None:
    folder, _ = demo
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in listing


def landed(folder: Path) -> Iterator[dict[str, object]]:
    for path in (folder / "workspace" / "landing").rglob("Patient.ndjson.zst"):
        with path.open("rb") as f, zstandard.ZstdDecompressor().stream_reader(f) as lines:
            for line in lines.read().splitlines():
                yield json.loads(line)


def content(path: Path) -> bytes:
    """The bytes of a file; of Parquet and DuckDB, whose bytes are compressed, all values as text."""
    if path.suffix == ".parquet":
        return str(duckdb.sql(f"select * from read_parquet('{path}')").fetchall()).encode()
    if path.suffix == ".duckdb":
        with closing(duckdb.connect(str(path), read_only=True)) as db:
            tables = db.execute("select schema_name || '.' || table_name from duckdb_tables()").fetchall()
            return str([db.execute(f"select * from {name}").fetchall() for (name,) in tables]).encode()
    return path.read_bytes()


def test_no_name_or_record_id_leaves_the_landing(demo: tuple[Path, Ran]) -> None:
    """Searched: lake, database, evidence, report, Prefect's own database, output."""
    folder, ran = demo
    canaries = set()
    for patient in landed(folder):
        text = json.dumps(patient)
        canaries |= {str(patient["id"]), *re.findall(r'"(?:family|value)": "([^"]{4,})"', text)}
    assert len(canaries) > 480, "the landed patients have ids and names to look for"
    found = b"|".join(re.escape(c.encode()) for c in sorted(canaries))
    for path in folder.rglob("*"):
        if path.is_file() and "landing" not in path.parts:
            assert re.search(found, content(path)) is None, path.name
    assert re.search(found, (ran.out + ran.err).encode()) is None
    raw = next((folder / "workspace" / "landing").rglob("Patient.ndjson.zst"))
    with raw.open("rb") as f, zstandard.ZstdDecompressor().stream_reader(f) as lines:
        assert re.search(found, lines.read()) is not None, "the search finds what is there"


def test_evidence_and_report_say_that_the_patients_are_made_up(demo: tuple[Path, Ran]) -> None:
    [latest] = (demo[0] / "workspace" / "evidence").glob("*/latest")
    assert json.loads((latest / "evidence.json").read_text())["is_made_up"] is True
    assert "Made-up patients" in (latest / "report.html").read_text().partition("<h1>")[0]


def test_what_only_the_nightly_account_may_read_is_private(demo: tuple[Path, Ran]) -> None:
    workspace = demo[0] / "workspace"
    for name in ("landing", "lake", "quarantine", "private"):
        assert (workspace / name).stat().st_mode & 0o077 == 0, name
    for path in (workspace / "landing").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path.name
    assert (workspace / "published" / "rwe.duckdb").stat().st_mode & 0o222 == 0


def test_it_ends_with_commands_that_run_as_they_stand(demo: tuple[Path, Ran]) -> None:
    folder, ran = demo
    lines = [line for line in ran.out.splitlines() if " -w " in line]
    assert any(" sql " in line for line in lines)
    for line in lines:
        program, *words = shlex.split(line)
        assert (program, words[-2:]) == ("rwe", ["-w", str(folder / "workspace")])
        again = run(*words)
        assert (again.code, again.err) == (0, ""), line
        assert again.out


def test_a_second_demo_does_not_delete_a_study_of_ones_own(demo: tuple[Path, Ran]) -> None:
    folder, _ = demo
    assert of_others(folder, study=STUDY) == (), "nothing that a demo makes is taken for somebody's"
    mine = folder / "workspace" / "studies" / "mine.yaml"
    mine.write_text("name: mine\n")
    ran = run("demo", "--dir", folder)
    assert ran.code == 2
    assert "the demo did not write workspace/studies/mine.yaml" in ran.err
    assert mine.read_text() == "name: mine\n"
    assert (latest(folder) / "report.html").exists()
    mine.unlink()


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    ran = run("demo", "--dir", tmp_path)
    assert ran.code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def own_study_of_the_readme() -> list[list[str]]:
    """The commands under "Your own study" of README.md, word by word."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own study")[1]
    lines = section.split("```")[1].strip().splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_the_readmes_way_to_a_study_of_ones_own_keeps_the_lock(demo: tuple[Path, Ran]) -> None:
    """Last in this file: it leaves a study in the demo's workspace."""
    workspace = demo[0] / "workspace"
    copy, edit, *commands = own_study_of_the_readme()
    assert copy == ["cd", "~/evidence/studies", "&&", "cp", *copy[4:]]
    assert edit == ["$EDITOR", "my_study.yaml"]
    file = workspace / "studies" / copy[5]
    content = yaml.safe_load((workspace / "studies" / copy[4]).read_text())
    content["name"] = "my_study"
    content["analyses"] = [a for a in content["analyses"] if a.get("role") == "primary"]
    file.write_text(
        yaml.safe_dump({k: v for k, v in content.items() if k not in {"sensitivity_grid", "subgroups"}})
    )
    for program, *words in commands:
        assert program == "rwe"
        if words[0] != "extract":  # the hospitals are closed
            ran = run(*(str(workspace) if w == "~/evidence" else w for w in words))
            assert ran.code == 0, (words, ran.err)
    found = read_evidence(workspace / "evidence" / "my_study" / "latest" / "evidence.json")
    assert found.protocol_lock is not None
    assert found.protocol_lock.status == "locked"
    assert len(found.protocol_lock.log) == 1
