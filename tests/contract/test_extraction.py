"""Whatever a server's quirks: what belongs to the cohort lands, once and verbatim, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from rwe.config import Site, Workspace, init_workspace
from rwe.errors import LandingError, SiteError, StudyError, UsageError
from rwe.extract import PartlyExtractedError, PartlyLandedError, extract_site, extract_sites
from rwe.extraction_plan import plan_extraction
from rwe.landing import Run, list_runs, new_run
from rwe.study import Study
from tests.contract.quirky import (
    COHORT,
    INDEX_DRUG,
    INDEX_PROCEDURE,
    LDH,
    Hospital,
    concept,
    expected_to_land,
    write_study,
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "studies")


def workspace_for(tmp_path: Path, **urls: str) -> Workspace:
    workspace = init_workspace(tmp_path / "ws", tmp_path / "keys" / "key")
    sites = {
        name: Site(
            base_url=url,
            page_size=3,
            patients_per_request=2,
            max_retries=0,
            timeout_seconds=5,
            allow_plain_http="loopback only",
        )
        for name, url in urls.items()
    }
    return Workspace(workspace.root, workspace.settings.model_copy(update={"sites": sites}))


def landed(run: Run) -> list[tuple[str, str]]:
    return [(t, json.loads(line)["id"]) for t in run.types for line in run.open(t)]


QUIRKS: dict[str, dict[str, Any]] = {
    "none": {},
    "takes one patient a request": {"one_patient_a_request": True},
    "wants Patient/ID": {"typed_patient_only": True},
    "wants Patient/ID, one a request": {"typed_patient_only": True, "one_patient_a_request": True},
    "ignores code and says so": {"ignored": frozenset({"code"})},
    "finds nothing by _id": {"no_id_search": True},
    "tells no self link": {"tells_ignored": False},
    "has no POST": {"no_post": True},
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_the_cohort_lands_whole_and_alone(
    tmp_path: Path, httpserver: HTTPServer, study: Study, quirk: str
) -> None:
    workspace = workspace_for(tmp_path, a=Hospital(**QUIRKS[quirk]).serve(httpserver))
    result = extract_site(workspace, "a", [study])
    ids = landed(result.run)
    assert sorted(ids) == sorted(expected_to_land())
    assert result.patients == len(COHORT)
    assert result.resources["Observation"] == 4 * len(COHORT)
    assert result.run.manifest.patients == len(COHORT)


def test_landed_bytes_are_the_served_ones(tmp_path: Path, httpserver: HTTPServer, study: Study) -> None:
    hospital = Hospital()
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    run = extract_site(workspace, "a", [study]).run
    served = {json.dumps(r).encode() for r in hospital.content}
    assert all(line in served for t in run.types for line in run.open(t))


def test_a_silent_server_that_answers_with_strangers_does_not_get_them_landed(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    """It ignores `patient` and gives no self link: all that tells is whose the resources are."""
    hospital = Hospital(ignored=frozenset({"patient"}), tells_ignored=False)
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    result = extract_site(workspace, "a", [study])
    assert set(landed(result.run)) == expected_to_land()
    assert any(
        w.startswith("Encounter: answered for patients who were not asked for") for w in result.warnings
    )


def test_a_server_that_says_it_ignores_patient_is_not_pulled_empty(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    workspace = workspace_for(tmp_path, a=Hospital(ignored=frozenset({"patient"})).serve(httpserver))
    with pytest.raises(SiteError, match="ignores the search parameter patient"):
        extract_site(workspace, "a", [study])
    assert list_runs(workspace.landing) == []


def test_types_the_server_does_not_list_are_skipped_with_a_note(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    types = ("Patient", "Encounter", "Condition", "Procedure", "MedicationAdministration", "Observation")
    hospital = Hospital(types=types)
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    result = extract_site(workspace, "a", [study])
    # Without Medication p3's infusion cannot be recognised: the note says so.
    expected = {(t, i) for t, i in expected_to_land() if t in types and i[1] != "3"}
    assert set(landed(result.run)) == expected
    assert any(w.startswith("Medication: the server does not list") for w in result.run.manifest.warnings)
    assert not [a for a in hospital.asked if "/MedicationRequest" in a]


def test_only_the_studies_codes_are_asked_of_observations_and_nothing_else_is_filtered(
    tmp_path: Path, study: Study
) -> None:
    plan = plan_extraction([study, study])
    assert plan.observation_codes == (LDH,)
    assert plan.index_codes["MedicationAdministration"][0] == INDEX_DRUG
    assert set(plan.index_codes) == {"MedicationAdministration", "Procedure"}


def test_a_code_with_a_star_cannot_find_a_cohort(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"index has L01X\*"):
        plan_extraction([write_study(tmp_path / "s", index_code="L01X*")])
    with pytest.raises(UsageError):
        plan_extraction([])


def test_no_patient_of_the_cohort_is_an_empty_run_with_a_warning(
    tmp_path: Path, httpserver: HTTPServer
) -> None:
    study = write_study(tmp_path / "s", index_code="L01XL99")
    hospital = Hospital()
    hospital.content = [r for r in hospital.content if r["resourceType"] != "Procedure"]
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    result = extract_site(workspace, "a", [study])
    assert (result.resources, result.patients) == ({}, 0)
    assert "no patient has an index event of any study" in result.run.manifest.warnings


def test_an_index_event_of_nobody_is_counted(tmp_path: Path, httpserver: HTTPServer, study: Study) -> None:
    hospital = Hospital()
    orphan = {"resourceType": "Procedure", "id": "c9", "subject": {"display": "Secretname9"}}
    hospital.content.append({**orphan, "code": concept(*INDEX_PROCEDURE)})
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    result = extract_site(workspace, "a", [study])
    assert set(landed(result.run)) == expected_to_land()
    assert "Procedure: index events that refer to no patient by id, passed over: 1" in result.warnings


def test_a_server_that_cannot_be_searched_by_code_says_what_to_do(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    hospital = Hospital(refuses={"MedicationAdministration": 400})
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    with pytest.raises(SiteError, match=r"refuses a search by code.*rwe import"):
        extract_site(workspace, "a", [study])


@pytest.mark.parametrize("fail_after", [2, 6, 7])
def test_a_run_that_breaks_off_before_any_type_is_whole_lands_nothing(
    tmp_path: Path, httpserver: HTTPServer, study: Study, fail_after: int
) -> None:
    hospital = Hospital(fail_after=fail_after)
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    with pytest.raises(SiteError, match="status 500") as caught:
        extract_site(workspace, "a", [study])
    assert "secret" not in str(caught.value)
    assert list_runs(workspace.landing) == []
    assert list(workspace.landing.rglob("*.zst")) == []


@pytest.mark.parametrize("fail_after", [20, 35])
def test_a_run_that_breaks_off_later_keeps_the_types_that_are_whole_and_names_the_others(
    tmp_path: Path, httpserver: HTTPServer, study: Study, fail_after: int
) -> None:
    hospital = Hospital(fail_after=fail_after)
    workspace = workspace_for(tmp_path, a=hospital.serve(httpserver))
    with pytest.raises(PartlyLandedError, match="Observation: ") as caught:
        extract_site(workspace, "a", [study])
    assert caught.value.exit_status == 3
    assert "secret" not in str(caught.value)
    manifest = caught.value.result.run.manifest
    whole = {t for t, scope in manifest.scopes.items() if scope.is_complete}
    expected = {i for t, i in expected_to_land() if t in whole}
    assert expected <= {i for _, i in landed(caught.value.result.run)}
    assert "Patient" in whole
    assert "Observation" not in whole
    assert manifest.watermarks.keys() <= whole
    assert any(e.startswith("Observation: ") for e in manifest.errors)
    hospital.fail_after = 10**9
    extract_site(workspace, "a", [study])
    assert {found for run in list_runs(workspace.landing) for found in landed(run)} == expected_to_land()


def test_one_failing_site_does_not_cost_the_others(
    tmp_path: Path, httpserver: HTTPServer, study: Study, unused_tcp_port: int
) -> None:
    good, dead = Hospital().serve(httpserver), f"http://127.0.0.1:{unused_tcp_port}/fhir"
    workspace = workspace_for(tmp_path, good=good, dead=dead, dead2=dead)
    with pytest.raises(PartlyExtractedError, match=r"1 of 2 sites failed: dead: .*no answer") as caught:
        extract_sites(workspace, ["dead", "good"], [study])
    assert caught.value.exit_status == 3
    assert [r.site for r in caught.value.results] == ["good"]
    assert list_runs(workspace.landing) == [caught.value.results[0].run]
    with pytest.raises(SiteError, match="no answer from the server"):
        extract_sites(workspace, ["dead"], [study])
    with pytest.raises(SiteError, match=r"no site could be read: dead: .* / dead2: "):
        extract_sites(workspace, ["dead", "dead2"], [study])
    assert [r.site for r in extract_sites(workspace, ["good"], [study])] == ["good"]


def test_wrong_settings_are_told_before_anything_is_asked(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    hospital = Hospital()
    workspace = workspace_for(tmp_path, good=hospital.serve(httpserver))
    sites = {**workspace.settings.sites, "files_only": Site()}
    workspace = Workspace(workspace.root, workspace.settings.model_copy(update={"sites": sites}))
    for names in (["good", "unknown"], ["good", "files_only"], []):
        with pytest.raises(UsageError):
            extract_sites(workspace, names, [study])
    assert hospital.asked == []


def test_two_extractions_of_one_site_do_not_overlap(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    workspace = workspace_for(tmp_path, a=Hospital().serve(httpserver))
    with new_run(workspace.landing, "a"), pytest.raises(LandingError, match="another run"):
        extract_site(workspace, "a", [study])


def test_the_manifest_says_how_it_was_asked_and_names_no_patient(
    tmp_path: Path, httpserver: HTTPServer, study: Study
) -> None:
    workspace = workspace_for(tmp_path, a=Hospital().serve(httpserver))
    run = extract_site(workspace, "a", [study]).run
    manifest, text = run.manifest, (run.path / "manifest.json").read_text()
    assert manifest.server is not None
    assert (manifest.server.software, manifest.server.fhir_version) == ("Quirky", "4.0.1")
    assert manifest.studies[0].protocol_sha256 == study.protocol_sha256
    assert manifest.requests["Patient"] == {"200": 2}
    assert "Encounter?patient={patients}" in manifest.queries
    assert set(manifest.watermarks) >= {"Patient", "Encounter", "Observation"}
    assert all(at and at.endswith("+00:00") for at in manifest.watermarks.values())
    names = {f'"{p}"' for p in COHORT} | {"Patient/p", "Secretname", "a1-0", "Medication/m"}
    assert not [n for n in names if n in text]


def test_paging_does_not_change_what_lands(tmp_path: Path, httpserver: HTTPServer, study: Study) -> None:
    workspace = workspace_for(tmp_path, a=Hospital().serve(httpserver))
    small = extract_site(workspace, "a", [study])
    site = workspace.site("a").model_copy(update={"page_size": 1000, "patients_per_request": 100})
    whole = Workspace(workspace.root, workspace.settings.model_copy(update={"sites": {"a": site}}))
    large = extract_site(whole, "a", [study])
    assert sorted(landed(small.run)) == sorted(landed(large.run))
    assert large.requests < small.requests
    assert replace(large, run=small.run, requests=0, seconds=0) == replace(small, requests=0, seconds=0)
