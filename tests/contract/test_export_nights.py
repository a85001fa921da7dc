"""A full export on top of earlier nights: what it holds no more is gone, if the export can be believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rwe import id_sets
from rwe.config import Workspace
from rwe.extract import ExtractionResult, PartlyLandedError, extract_site
from rwe.landing import DELETED
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import COHORT_GROUP, Bulk, Quirks
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.study import Study
from tests.contract.nights import departures, lake_rows, patients_of, the_study, with_site, workspace_for

SPEC = HospitalSpec("north", "a", patients=8, seed=3)
EXPORT = {"route": "export", "export_level": "patient", "min_export_interval_hours": 0}


@pytest.fixture(autouse=True)
def ids_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids lie on disk, as those of a big site do, and are compared in slices."""
    for name in ("_HELD", "_COMPARED", "_PORTION"):
        monkeypatch.setattr(id_sets, name, 50)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return the_study(tmp_path / "studies")


@contextmanager
def hospital_with(read_status: int = 0, **bulk: Any) -> Iterator[RunningHospital]:
    """One whose export never lists deletions: all of them must show by what is missing."""
    quirks = Quirks(read_status=read_status)
    spec = replace(SPEC, quirks=quirks, bulk=Bulk(polls=0, **{"deleted": False, **bulk}))
    with running_hospitals([spec]) as [north]:
        yield north


def buried(result: ExtractionResult) -> set[tuple[str, str]]:
    lines = [json.loads(line) for line in result.run.open(DELETED)]
    return {(x["resourceType"], x["id"]) for x in lines}


def assert_as_fresh(workspace: Workspace, hospital: RunningHospital, study: Study, folder: Path) -> None:
    """The lake holds what a search of the server's present state gives; nobody who was deleted is left."""
    fresh = workspace_for(folder, hospital, route="search")
    extract_site(fresh, hospital.name, [study])
    expected, found = lake_rows(fresh), lake_rows(workspace)
    there = hospital.control.state()
    assert len(patients_of(found)) <= len(there["Patient"])
    assert patients_of(found) <= patients_of(expected), "patients who are gone, or of no cohort"
    assert departures(lake_rows(workspace, patients_of(expected)), expected) == {}
    assert expected["Observation"]


def a_night_of_deletions(hospital: RunningHospital) -> set[tuple[str, str]]:
    """Delete a member with all records, and single resources of another. Returns what went."""
    state = hospital.control.state()
    members = [m["entity"]["reference"] for m in state["Group"][COHORT_GROUP]["member"]]
    first, second = sorted(members)[:2]
    gone = {("Patient", first.partition("/")[2])}
    for resource_type, records in state.items():
        of = {i: r.get("subject", {}).get("reference") for i, r in records.items()}
        gone |= {(resource_type, i) for i, who in of.items() if who == first}
        gone |= {(resource_type, i) for i in sorted(i for i, who in of.items() if who == second)[:1]}
    for resource_type, one in sorted(gone):
        hospital.control.delete(resource_type, one)
    hospital.control.advance()
    return gone


@pytest.mark.parametrize(
    ("before", "level"),
    [("export", "patient"), ("export", "group"), ("search", "patient"), ("search", "system")],
)
def test_what_a_full_export_holds_no_more_leaves_the_lake(
    tmp_path: Path, study: Study, before: str, level: str
) -> None:
    """After nights by search too: then the first export is of everything by itself."""
    with hospital_with() as hospital:
        cohort = {"cohort": {"source": "group", "id": COHORT_GROUP}} if level == "group" else {}
        fields = {**EXPORT, "export_level": level, **cohort}
        workspace = workspace_for(tmp_path / "ws", hospital, **(fields if before == "export" else {}))
        extract_site(workspace, "north", [study])
        landed = lake_rows(workspace)
        gone = a_night_of_deletions(hospital)
        workspace = with_site(workspace, hospital, **fields)
        night = extract_site(workspace, "north", [study], full=before == "export")
        assert night.run.manifest.scopes["Encounter"].since is None
        assert buried(night) <= gone
        assert {t for t, _ in buried(night)} >= {"Patient", "Encounter", "Condition", "Observation"}
        assert all(s.is_reconciled for s in night.run.manifest.scopes.values() if s.is_complete)
        after = lake_rows(workspace)
        assert len(landed["Patient"]) - len(after["Patient"]) == 1
        if level != "group":
            assert_as_fresh(workspace, hospital, study, tmp_path / "fresh")


def test_nothing_is_buried_by_a_quiet_full_export(tmp_path: Path, study: Study) -> None:
    with hospital_with() as hospital:
        workspace = workspace_for(tmp_path / "ws", hospital, **EXPORT)
        extract_site(workspace, "north", [study])
        before = lake_rows(workspace)
        hospital.control.forget_requests()
        night = extract_site(workspace, "north", [study], full=True)
        assert buried(night) == set()
        assert lake_rows(workspace) == before
        reads = [s.path for s in hospital.control.requests() if s.path.count("/") > 2 and "$" not in s.path]
        assert reads == []


def test_after_nights_of_changes_a_full_export_is_as_a_fresh_start(tmp_path: Path, study: Study) -> None:
    with hospital_with() as hospital:
        workspace = workspace_for(tmp_path / "ws", hospital, **EXPORT)
        extract_site(workspace, "north", [study])
        for seed in (1, 2, 3):
            hospital.control.mutate(seed)
            hospital.control.advance()
            extract_site(workspace, "north", [study])
        hospital.control.advance()
        extract_site(workspace, "north", [study], full=True)
        fresh = workspace_for(tmp_path / "fresh", hospital)
        extract_site(fresh, "north", [study])
        expected = lake_rows(fresh)
        assert departures(lake_rows(workspace, patients_of(expected)), expected) == {}


@pytest.mark.parametrize("how", ["failed_types", "wrong_count"])
def test_a_partial_export_buries_nothing(tmp_path: Path, study: Study, how: str) -> None:
    """An error file does not say what is missing: no type can be believed."""
    with hospital_with() as hospital:
        workspace = workspace_for(tmp_path / "ws", hospital, **EXPORT)
        extract_site(workspace, "north", [study])
    options: dict[str, Any] = {how: ("Encounter",)} if how == "failed_types" else {how: True}
    with hospital_with(**options) as hospital:
        gone = a_night_of_deletions(hospital)
        workspace = with_site(workspace, hospital, **EXPORT)
        with pytest.raises(PartlyLandedError) as caught:
            extract_site(workspace, "north", [study], full=True)
        told = buried(caught.value.result)
        (failed,) = {"Encounter"} if how == "failed_types" else failed_types(caught.value.result)
        assert not {t for t, _ in told} & {failed}
        assert told <= (set() if how == "failed_types" else gone)


def failed_types(result: ExtractionResult) -> set[str]:
    return {t for t, s in result.run.manifest.scopes.items() if not s.is_complete}


def test_an_export_that_is_empty_by_mistake_buries_nothing_and_loses_nothing(
    tmp_path: Path, study: Study
) -> None:
    """Each missing resource is read, is there, and lands."""
    with hospital_with(hidden_types=("Condition", "Encounter")) as hospital:
        workspace = workspace_for(tmp_path / "ws", hospital, **EXPORT)
        extract_site(workspace, "north", [study])
        before = lake_rows(workspace)
        night = extract_site(workspace, "north", [study], full=True)
        assert buried(night) == set()
        assert any(w.startswith("Condition: not found by search or export, but") for w in night.warnings)
        assert lake_rows(workspace) == before


UNREADABLE = [403, 404]


@pytest.mark.parametrize("status", UNREADABLE)
def test_where_nothing_can_be_read_a_credible_export_counts(
    tmp_path: Path, study: Study, status: int
) -> None:
    with hospital_with(status) as hospital:
        workspace = workspace_for(tmp_path / "ws", hospital, **EXPORT)
        extract_site(workspace, "north", [study])
        gone = a_night_of_deletions(hospital)
        night = extract_site(workspace, "north", [study], full=True)
        assert buried(night) <= gone
        assert ("Patient", min(i for t, i in gone if t == "Patient")) in buried(night)
        assert any("taken as deleted" in w for w in night.warnings)


@pytest.mark.parametrize("status", UNREADABLE)
def test_where_nothing_can_be_read_an_empty_export_buries_nothing(
    tmp_path: Path, study: Study, status: int
) -> None:
    """A server that knows no reads says 404 to each: that proves nothing."""
    with hospital_with(status, hidden_types=("Condition", "Encounter")) as hospital:
        workspace = workspace_for(tmp_path / "ws", hospital, **EXPORT)
        extract_site(workspace, "north", [study])
        before = lake_rows(workspace)
        night = extract_site(workspace, "north", [study], full=True)
        assert buried(night) == set()
        assert any(w.startswith("Encounter: not in the export, not to be read, and") for w in night.warnings)
        assert not night.run.manifest.scopes["Encounter"].is_reconciled
        assert lake_rows(workspace) == before


def test_who_was_deleted_shows_to_a_full_search_too(tmp_path: Path, study: Study) -> None:
    """Everything asked for anew must not mean that who is gone is not asked about."""
    with hospital_with() as hospital:
        workspace = workspace_for(tmp_path / "ws", hospital, route="search")
        extract_site(workspace, "north", [study])
        gone = a_night_of_deletions(hospital)
        night = extract_site(workspace, "north", [study], full=True)
        assert buried(night) <= gone
        assert_as_fresh(workspace, hospital, study, tmp_path / "fresh")
