"""Night after night: only what is new is asked for, and the lake is as if it had all been asked for anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rwe import id_sets
from rwe.config import Workspace
from rwe.extract import ExtractionResult, extract_site
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.landing import DELETED, list_runs
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Bulk, Extras, Quirks
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.study import Study
from rwe.warehouse.build import build
from rwe.watermarks import watermarks
from tests.contract.nights import (
    differences,
    lake_rows,
    patients_of,
    the_study,
    with_site,
    workspace_for,
)

SPEC = HospitalSpec("north", "a", patients=14, seed=3)


@pytest.fixture(autouse=True)
def ids_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids lie on disk, as those of a big site do, and are compared in slices."""
    for name in ("_HELD", "_COMPARED", "_PORTION"):
        monkeypatch.setattr(id_sets, name, 50)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return the_study(tmp_path / "studies")


@pytest.fixture
def hospital() -> Iterator[RunningHospital]:
    with running_hospitals([SPEC]) as [north]:
        yield north


def assert_as_fresh(
    workspace: Workspace, hospital: RunningHospital, study: Study, folder: Path, **fields: Any
) -> None:
    """The lake holds what a first extraction of the server's present state gives, for its cohort."""
    fresh = workspace_for(folder, hospital, **fields)
    extract_site(fresh, hospital.name, [study])
    expected = lake_rows(fresh)
    found = lake_rows(workspace, patients_of(expected))
    assert differences(found, expected) == {}
    assert expected["Observation"]


def tombstones(result: ExtractionResult) -> int:
    return result.resources.get(DELETED, 0)


def test_a_quiet_night_asks_for_what_is_new_and_lands_next_to_nothing(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    workspace = workspace_for(tmp_path / "ws", hospital)
    first = extract_site(workspace, "north", [study])
    before = lake_rows(workspace)
    second = extract_site(workspace, "north", [study])
    assert second.resources["Patient"] == first.resources["Patient"]  # patients are few and always whole
    for name in ("Encounter", "Observation", "Condition", "Procedure"):
        assert second.resources.get(name, 0) <= max(1, 0.05 * first.resources[name])
    assert "Observation?patient={patients}&code={codes}&_lastUpdated=ge{since}" in second.run.manifest.queries
    assert tombstones(second) == 0
    assert lake_rows(workspace) == before


@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(),
        Quirks(no_history=True),
        Quirks(no_last_updated=("Observation", "Encounter", "Condition")),
        Quirks(no_last_updated=("Observation", "Encounter"), last_updated_answer="ignored", lies=True),
        Quirks(no_last_updated=("Observation",), lies=True, pairs_are_empty=True),
        Quirks(no_version_id=True, whole_seconds=True),
    ],
    ids=["plain", "no history", "no _lastUpdated", "_lastUpdated ignored", "_lastUpdated 400", "no versions"],
)
def test_after_nights_of_changes_the_lake_is_as_after_a_fresh_start(
    tmp_path: Path, study: Study, quirks: Quirks
) -> None:
    with running_hospitals([replace(SPEC, quirks=quirks)]) as [hospital]:
        workspace = workspace_for(tmp_path / "ws", hospital, reconcile_days=0 if quirks.no_history else 7)
        extract_site(workspace, "north", [study])
        for seed in (1, 2, 3):
            hospital.control.mutate(seed)
            hospital.control.advance()
            extract_site(workspace, "north", [study])
        assert_as_fresh(workspace, hospital, study, tmp_path / "fresh")


def test_a_deleted_resource_leaves_the_lake_and_one_that_is_recreated_comes_back(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    workspace = workspace_for(tmp_path / "ws", hospital)
    extract_site(workspace, "north", [study])
    encounters = hospital.control.state()["Encounter"]
    before = lake_rows(workspace)["Encounter"]
    ours = {e["id"] for e in landed_resources(workspace, "Encounter")}
    victim = encounters[sorted(ours)[0]]
    hospital.control.delete("Encounter", victim["id"])
    hospital.control.advance()
    night = extract_site(workspace, "north", [study])
    assert tombstones(night) == 1
    assert len(lake_rows(workspace)["Encounter"]) == len(before) - 1
    hospital.control.put({k: v for k, v in victim.items() if k != "meta"})
    hospital.control.advance()
    extract_site(workspace, "north", [study])
    assert len(lake_rows(workspace)["Encounter"]) == len(before)


def landed_resources(workspace: Workspace, resource_type: str) -> list[dict[str, Any]]:
    return [json.loads(x) for r in list_runs(workspace.landing) for x in r.open(resource_type)]


def test_without_history_a_deletion_is_found_when_ids_are_compared(tmp_path: Path, study: Study) -> None:
    with running_hospitals([replace(SPEC, quirks=Quirks(no_history=True))]) as [hospital]:
        workspace = workspace_for(tmp_path / "ws", hospital, reconcile_days=7)
        extract_site(workspace, "north", [study])
        victim = sorted(e["id"] for e in landed_resources(workspace, "Condition"))[0]
        hospital.control.delete("Condition", victim)
        assert tombstones(extract_site(workspace, "north", [study])) == 0
        eager = with_site(workspace, hospital, reconcile_days=0)
        assert tombstones(extract_site(eager, "north", [study])) == 1
        assert tombstones(extract_site(eager, "north", [study])) == 0
        assert_as_fresh(workspace, hospital, study, tmp_path / "fresh")


def test_watermarks_are_the_servers_clock_and_full_ignores_them(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    hospital.control.skew(-3600)
    workspace = workspace_for(tmp_path / "ws", hospital)
    before = hospital.control.now()
    first = extract_site(workspace, "north", [study])
    after = hospital.control.now()
    found = {w.resource_type: w for w in watermarks(workspace.landing, "north")}
    assert {"Patient", "Encounter", "Observation"} <= found.keys()
    assert all(w.at and before <= w.at <= after and w.run == first.run.run for w in found.values())
    whole = extract_site(workspace, "north", [study], full=True)
    assert whole.resources["Observation"] == first.resources["Observation"]


def test_a_server_whose_clock_is_set_back_loses_no_change(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    hospital.control.skew(3600)
    workspace = workspace_for(tmp_path / "ws", hospital)
    extract_site(workspace, "north", [study])
    hospital.control.skew(0)
    hospital.control.mutate(5)
    extract_site(workspace, "north", [study])
    assert_as_fresh(with_site(workspace, hospital), hospital, study, tmp_path / "fresh")


def test_a_run_that_is_moved_away_takes_its_watermark_with_it(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    workspace = workspace_for(tmp_path / "ws", hospital)
    first = extract_site(workspace, "north", [study])
    extract_site(workspace, "north", [study])
    first.run.path.rename(tmp_path / "away")
    third = extract_site(workspace, "north", [study])
    assert third.resources["Observation"] == first.resources["Observation"]


def test_a_server_that_changes_while_it_is_paged_is_caught_up_with_in_two_nights(
    tmp_path: Path, study: Study
) -> None:
    spec = replace(SPEC, quirks=Quirks(live_paging=True))
    with running_hospitals([spec]) as [hospital]:
        workspace = workspace_for(tmp_path / "ws", hospital, page_size=20)
        hospital.control.while_paged(after_pages=8, seeds=[11, 12, 13])
        extract_site(workspace, "north", [study])
        assert len(hospital.control.nights_while_paged()) == 3
        extract_site(workspace, "north", [study])
        assert_as_fresh(workspace, hospital, study, tmp_path / "fresh")


def test_nights_by_export_end_where_a_search_begins(tmp_path: Path, study: Study) -> None:
    with running_hospitals([replace(SPEC, bulk=Bulk(polls=0))]) as [hospital]:
        fields = {"route": "export", "export_level": "patient", "min_export_interval_hours": 0}
        workspace = workspace_for(tmp_path / "ws", hospital, **fields)
        extract_site(workspace, "north", [study])
        hospital.control.mutate(1)
        hospital.control.advance()
        second = extract_site(workspace, "north", [study])
        assert second.run.manifest.route == "export"
        assert second.run.manifest.scopes["Encounter"].since
        assert_as_fresh(workspace, hospital, study, tmp_path / "fresh")


def test_only_patients_who_permit_are_asked_for_and_those_who_opted_out_never(
    tmp_path: Path, study: Study
) -> None:
    with running_hospitals([replace(SPEC, patients=30, extras=Extras(consents=True))]) as [hospital]:
        everyone = workspace_for(tmp_path / "all", hospital)
        extract_site(everyone, "north", [study])
        ids = sorted(p["id"] for p in landed_resources(everyone, "Patient"))
        (tmp_path / "out.txt").write_text(ids[0] + "\n")
        strict = workspace_for(
            tmp_path / "ws", hospital, consent="required", opt_out_file=tmp_path / "out.txt"
        )
        result = extract_site(strict, "north", [study])
        landed = {p["id"] for p in landed_resources(strict, "Patient")}
        consents = hospital.control.state()["Consent"].values()
        active = {
            c["patient"]["reference"].removeprefix("Patient/")
            for c in consents
            if c["status"] == "active" and c["provision"]["type"] == "permit"
        }
        assert landed
        assert landed < set(ids) & active - {ids[0]}  # of those who permitted, some consents expired
        assert any(w.startswith("without a permitting Consent") for w in result.warnings)
        withdrawn = next(c for c in consents if c["patient"]["reference"] == f"Patient/{min(landed)}")
        hospital.control.put({**withdrawn, "status": "inactive"})
        before = patients_of(lake_rows(strict))
        extract_site(strict, "north", [study])
        assert len(patients_of(lake_rows(strict))) == len(before) - 1


def test_a_merged_record_and_the_one_that_remains_are_both_pulled_in_full(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    workspace = workspace_for(tmp_path / "ws", hospital)
    extract_site(workspace, "north", [study])
    ours = {p["id"] for p in landed_resources(workspace, "Patient")}
    patients = hospital.control.state()["Patient"]
    loser, survivor = min(ours), min(patients.keys() - ours)
    link = {"other": {"reference": f"Patient/{survivor}"}, "type": "replaced-by"}
    hospital.control.put({**patients[loser], "link": [link]})
    extract_site(workspace, "north", [study])
    landed = landed_resources(workspace, "Encounter")
    theirs = [e for e in landed if e["subject"]["reference"] == f"Patient/{survivor}"]
    on_server = hospital.control.state()["Encounter"].values()
    assert len(theirs) == sum(e["subject"]["reference"] == f"Patient/{survivor}" for e in on_server) > 0
    merged, remaining = (
        Pseudonymiser(workspace.pseudonym_key(), "north").of("Patient", i) for i in (loser, survivor)
    )
    link_query = "select * from staging.patient_link"
    database = build(workspace, [study], target=tmp_path / "merged.duckdb").path
    assert query(database, link_query) == [(merged, remaining)]
    assert (merged,) not in query(database, "select distinct patient_id from staging.encounter")
    hospital.control.put({k: v for k, v in patients[loser].items() if k != "link"})
    extract_site(workspace, "north", [study])
    database = build(workspace, [study], target=tmp_path / "unmerged.duckdb").path
    assert query(database, link_query) == []
    assert (merged,) in query(database, "select distinct patient_id from staging.encounter")


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect(str(database), read_only=True)) as db:
        return db.execute(sql).fetchall()
