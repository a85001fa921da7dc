"""The commands of a night, as a user types them: extract, build, analyse, report, status; the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from rwe import audit
from rwe.audit import AuditEntry
from rwe.config import init_workspace
from rwe.landing import list_runs
from rwe.sandbox.server import HospitalSpec, RunningHospital, running_hospitals
from tests.contract.nights import the_study
from tests.unit.test_cli import Ran, run

STUDY = "lenalidomide_after_car_t"


@dataclass(frozen=True)
class Place:
    root: Path
    hospitals: dict[str, RunningHospital]

    def site(self, name: str, **settings: Any) -> None:
        path = self.root / "rwe.yaml"
        content = yaml.safe_load(path.read_text())
        content["sites"].setdefault(name, {}).update(settings)
        path.write_text(yaml.safe_dump(content))

    def audit(self) -> list[AuditEntry]:
        return list(audit.entries(self.root))

    def runs(self, site: str) -> int:
        return len(list_runs(self.root / "landing", site))


@pytest.fixture(scope="module")
def hospitals() -> Iterator[dict[str, RunningHospital]]:
    specs = [HospitalSpec("north", "a", 20, seed=1), HospitalSpec("river", "b", 20, seed=1)]
    with running_hospitals(specs) as running:
        yield {h.name: h for h in running}


@pytest.fixture
def place(tmp_path: Path, hospitals: dict[str, RunningHospital]) -> Place:
    root = init_workspace(tmp_path / "ws", key_file=tmp_path / "ws.key").root
    the_study(root / "studies")
    text = (root / "rwe.yaml").read_text()
    (root / "rwe.yaml").write_text(text.replace("approval: null", "approval: EK-17"))
    made = Place(root, hospitals)
    for name, hospital in hospitals.items():
        made.site(name, base_url=hospital.base_url, allow_plain_http="loopback only", max_retries=0)
    return made


def fine(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def fits(text: str) -> bool:
    """Whether a terminal of 80 columns shows it; only a line with a path may be longer."""
    return all(len(line) <= 80 or "/" in line for line in text.splitlines())


def test_a_night_from_the_servers_to_the_report_is_told_and_recorded(place: Place) -> None:
    root = place.root
    fine(run("extract", "-w", root))
    built = fine(run("build", "-w", root))
    with duckdb.connect(str(root / "published" / "rwe.duckdb"), read_only=True) as db:
        counts = db.execute(
            "select site, sum(in_lake), sum(duplicate), sum(quarantined) from meta.reconciliation group by 1"
        ).fetchall()
    assert {site for site, *_ in counts} == {"north", "river"}
    for site, in_lake, duplicate, quarantined in counts:
        told = f"{site}: {in_lake:,} in the lake, {duplicate:,} duplicate, {quarantined:,} quarantined"
        assert told in built.out
    assert "(see meta.quarantine)" in built.out, "the sandbox has a few resources that are no good"
    fine(run("analyse", STUDY, "-w", root))
    fine(run("report", STUDY, "-w", root))
    entries = place.audit()
    assert [(e.command, e.site, e.study, e.outcome) for e in entries] == [
        ("extract", "north", None, "done"),
        ("extract", "river", None, "done"),
        ("build", None, None, "done"),
        ("analyse", None, STUDY, "done"),
        ("report", None, STUDY, "done"),
    ]
    assert {e.approval for e in entries} == {"EK-17"}
    (landed,) = list_runs(root / "landing", "north")
    assert (entries[0].run, entries[0].counts) == (landed.run, landed.resources)
    ids = [i for h in place.hospitals.values() for i in h.control.state()["Patient"]]
    assert not [i for i in ids if i in (root / audit.FILE).read_text()]

    shown = fine(run("status", "-w", root)).out
    assert fits(shown)
    assert "less than an hour ago" in shown
    status = json.loads(fine(run("status", "-w", root, "--json")).out)
    quarantined = {site: q for site, _, _, q in counts}
    for site in status["sites"]:
        assert site["failed_types"] == []
        assert 0 <= site["fresh_hours"] < 0.2
        assert site["quarantined"] == quarantined[site["site"]]
        assert {m["resource_type"] for m in site["watermarks"]} >= {"Patient", "Encounter", "Observation"}
        assert all(m["at"].endswith("+00:00") for m in site["watermarks"])


def test_a_site_named_twice_is_extracted_once_and_full_pulls_everything_again(place: Place) -> None:
    root = place.root
    first = json.loads(fine(run("extract", "--site", "north", "--site", "north", "-w", root, "--json")).out)
    assert [r["site"] for r in first] == ["north"]
    assert place.runs("north") == 1
    again = json.loads(fine(run("extract", "--site", "north", "-w", root, "--json")).out)
    full = json.loads(fine(run("extract", "--site", "north", "--full", "-w", root, "--json")).out)
    assert again[0]["resources"]["Encounter"] < first[0]["resources"]["Encounter"] / 10
    assert full[0]["resources"] == first[0]["resources"]


def test_a_dry_run_shows_an_estimate_and_lands_nothing(place: Place) -> None:
    shown = fine(run("extract", "--dry-run", "-w", place.root))
    assert fits(shown.out)
    assert "lands   about" in shown.out
    assert "Nothing has landed" in shown.out
    estimates = json.loads(
        fine(run("extract", "--dry-run", "--site", "river", "-w", place.root, "--json")).out
    )
    assert [(e["site"], e["route"]) for e in estimates] == [("river", "search")]
    assert estimates[0]["total_rows"] == sum(estimates[0]["rows"].values())
    assert not (place.root / "landing").exists()
    assert [e.command for e in place.audit()] == ["estimate", "estimate", "estimate"]


def test_types_that_landed_of_the_only_site_are_shown_and_the_rest_is_named(place: Place) -> None:
    place.site("north", max_resources_per_type=60)
    ran = run("extract", "--site", "north", "-w", place.root)
    assert ran.code == 3
    assert "landed as run" in ran.out
    assert "Encounter: " in ran.err
    (entry,) = place.audit()
    assert (entry.outcome, entry.counts["Patient"] >= 20) == ("partly", True)
    shown = fine(run("status", "--json", "-w", place.root))
    north = json.loads(shown.out)["sites"][0]
    assert "Encounter" in north["failed_types"]
    assert north["fresh_hours"] is None
    assert "Encounter" not in {m["resource_type"] for m in north["watermarks"]}
    plain = fine(run("status", "-w", place.root)).out
    assert fits(plain)
    assert "never" in plain


def test_an_import_and_a_failed_analysis_are_recorded_too(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "handed"
    folder.mkdir()
    (folder / "one.ndjson").write_text('{"resourceType":"Patient","id":"p1"}\n{"resourceType":\n')
    ran = run("import", folder, "--site", "leiden", "--time-zone", "Europe/Amsterdam", "-w", place.root)
    assert ran.code == 3
    assert "leiden: 1 resource landed as run" in ran.out
    assert run("report", STUDY, "-w", place.root).code == 1
    imported, reported = place.audit()
    assert (imported.command, imported.site, imported.outcome) == ("import", "leiden", "partly")
    assert imported.counts == {"Patient": 1, "_unreadable": 1}
    assert (reported.command, reported.study, reported.outcome) == ("report", STUDY, "failed")
    assert "Europe/Amsterdam" in (place.root / "rwe.yaml").read_text()


def test_a_build_of_nothing_says_so_and_what_was_published_stays(place: Place) -> None:
    assert "Nothing has landed yet" in fine(run("build", "-w", place.root)).out
    assert not (place.root / "published").exists()
    yesterday = place.root / "published" / "rwe.duckdb"
    yesterday.parent.mkdir()
    yesterday.write_bytes(b"of yesterday")
    told = json.loads(fine(run("build", "-w", place.root, "--json")).out)
    assert (told["path"], told["tables"], told["sites"]) == (None, {}, [])
    assert yesterday.read_bytes() == b"of yesterday"


def test_a_key_that_is_gone_is_said_once_and_nobody_is_asked(place: Place) -> None:
    (place.root.parent / "ws.key").unlink()
    ran = run("extract", "-w", place.root)
    assert ran.code == 2
    assert ran.err.count("ws.key") == 1
    assert "restore it" in ran.err
    assert not list((place.root / "landing").glob("site=*/run=*"))


@pytest.mark.parametrize("words", [("extract",), ("build",), ("analyse", STUDY)])
def test_nothing_is_done_that_cannot_be_recorded(place: Place, words: tuple[str, ...]) -> None:
    (place.root / audit.FILE).mkdir()
    ran = run(*words, "-w", place.root)
    assert ran.code == 1
    assert "the audit log cannot be written" in ran.err
    assert not list((place.root / "landing").glob("site=*/run=*"))
    assert not (place.root / "published").exists()
    assert not (place.root / "evidence").exists()
