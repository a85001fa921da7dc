"""`rwe extract --dry-run`: what it says before a hospital agrees is what extraction then takes, roughly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe import audit
from rwe.config import Workspace
from rwe.errors import SiteError
from rwe.estimate import Estimate, PartlyEstimatedError, estimate_site, estimate_sites
from rwe.extract import extract_site
from rwe.sandbox.options import Bulk, Quirks
from rwe.sandbox.server import HospitalSpec, RunningHospital, running_hospitals
from rwe.study import Study
from tests.contract.nights import the_study, with_site, workspace_for
from tests.contract.quirky import COHORT, Hospital, write_study
from tests.contract.test_extraction import workspace_for as quirky_workspace

SPECS = [
    HospitalSpec("north", "a", 70, seed=11),
    HospitalSpec("river", "b", 70, seed=12, quirks=Quirks(pairs_are_empty=True, category_demanded=True)),
    HospitalSpec("summit", "c", 70, seed=13, quirks=Quirks(no_post=True, unknown_ignored=True)),
    HospitalSpec("wide", "c", 40, seed=14, bulk=Bulk(), quirks=Quirks(bare_patient_is_empty=True)),
]


@pytest.fixture(scope="module")
def hospitals() -> Iterator[dict[str, RunningHospital]]:
    with running_hospitals(SPECS) as running:
        yield {h.name: h for h in running}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return the_study(tmp_path / "studies")


def within(estimate: int, truth: int, share: float) -> bool:
    return abs(estimate - truth) <= share * truth


def landing_of(workspace: Workspace) -> list[Path]:
    return [p for p in workspace.landing.rglob("*") if p.is_file()] if workspace.landing.exists() else []


@pytest.mark.parametrize("name", ["north", "river", "summit"])
def test_the_estimate_is_what_extraction_then_takes(
    hospitals: dict[str, RunningHospital], study: Study, tmp_path: Path, name: str
) -> None:
    workspace = workspace_for(tmp_path / name, hospitals[name])
    estimate = estimate_site(workspace, name, [study])
    assert landing_of(workspace) == []
    result = extract_site(workspace, name, [study])
    assert estimate.patients == result.patients
    assert estimate.sampled == 20
    assert within(estimate.total_rows, sum(result.resources.values()), 0.35)
    assert estimate.requests is not None
    assert within(estimate.requests, result.requests, 0.5)
    for resource_type in ("Encounter", "MedicationAdministration", "Observation"):
        assert within(estimate.rows[resource_type], result.resources[resource_type], 0.35), resource_type
    # What is not counted is told, and is little.
    missed = sum(n for t, n in result.resources.items() if t not in estimate.rows)
    assert missed <= 0.05 * sum(result.resources.values())
    assert {t for t in result.resources if t not in estimate.rows} <= set(estimate.uncounted)


def test_a_few_patients_need_few_requests(
    hospitals: dict[str, RunningHospital], study: Study, tmp_path: Path
) -> None:
    workspace = workspace_for(tmp_path / "north", hospitals["north"])
    estimate = estimate_site(workspace, "north", [study])
    assert estimate.requests is not None
    assert estimate.asked < estimate.requests / 2
    assert estimate_site(workspace, "north", [study]) == estimate


def test_it_is_in_the_audit_log_with_counts_and_without_ids(
    hospitals: dict[str, RunningHospital], study: Study, tmp_path: Path
) -> None:
    workspace = workspace_for(tmp_path / "north", hospitals["north"])
    estimate = estimate_site(workspace, "north", [study])
    (entry,) = audit.entries(workspace.root)
    assert (entry.command, entry.site, entry.outcome) == ("estimate", "north", "done")
    assert entry.counts == {"patients": estimate.patients, "requests": estimate.asked}
    text = (workspace.root / audit.FILE).read_text() + repr(estimate)
    assert not [i for i in hospitals["north"].control.state()["Patient"] if i in text]


def test_an_export_of_everybody_tells_what_it_reads_of_the_hospital(
    hospitals: dict[str, RunningHospital], study: Study, tmp_path: Path
) -> None:
    hospital = hospitals["wide"]
    workspace = workspace_for(tmp_path / "wide", hospital, route="export")
    estimate = estimate_site(workspace, "wide", [study])
    state = hospital.control.state()
    assert (estimate.route, estimate.level, estimate.requests) == ("export", "patient", None)
    assert estimate.exported["Encounter"] == len(state["Encounter"])
    assert estimate.exported["Patient"] == len(state["Patient"])
    assert estimate.patients is not None
    assert estimate.rows["Encounter"] < estimate.exported["Encounter"]
    assert any("route: export" in reason for reason in estimate.reasons)


def test_after_a_first_night_it_says_what_it_does_not_know(
    hospitals: dict[str, RunningHospital], study: Study, tmp_path: Path
) -> None:
    workspace = workspace_for(tmp_path / "wide", hospitals["wide"], route="search")
    before = estimate_site(workspace, "wide", [study])
    extract_site(workspace, "wide", [study])
    after = estimate_site(workspace, "wide", [study])
    assert before.rows == after.rows
    assert [n for n in after.notes if n not in before.notes] == [
        "estimated as if nothing had landed yet: later nights ask for what is new"
    ]


def test_one_dead_site_does_not_cost_the_estimate_of_the_others(
    hospitals: dict[str, RunningHospital], study: Study, tmp_path: Path, unused_tcp_port: int
) -> None:
    workspace = workspace_for(tmp_path / "north", hospitals["north"])
    dead = workspace.site("north").model_copy(
        update={"base_url": f"http://127.0.0.1:{unused_tcp_port}/fhir", "max_retries": 0}
    )
    sites = {**workspace.settings.sites, "dead": dead}
    workspace = Workspace(workspace.root, workspace.settings.model_copy(update={"sites": sites}))
    with pytest.raises(PartlyEstimatedError, match="dead") as caught:
        estimate_sites(workspace, ["north", "dead", "north"], [study])
    assert [e.site for e in caught.value.results] == ["north"]
    assert caught.value.exit_status == 3
    with pytest.raises(SiteError, match="no answer"):
        estimate_sites(workspace, ["dead", "dead"], [study])


def miscounting(hospital: Hospital, server: HTTPServer, **told: Any) -> str:
    """The quirky hospital behind a server that says something else of how many there are."""

    def answer(request: Request) -> Response:
        response = hospital.answer(request)
        if request.args.get("_summary") == "count" or "_total" in request.args:
            if told.get("status"):
                return Response(status=told["status"])
            bundle = response.get_json()
            bundle.pop("total", None)
            bundle |= {"total": told["total"]} if "total" in told else {}
            bundle.pop("entry", None)
            response.set_data(json.dumps(bundle))
        return response

    server.expect_request(re.compile(r"/fhir/.*")).respond_with_handler(answer)
    return server.url_for("/fhir").rstrip("/")


def quirky(tmp_path: Path, url: str, **hospital: Any) -> Estimate:
    workspace = quirky_workspace(tmp_path, a=url)
    return estimate_site(workspace, "a", [write_study(tmp_path / "s")])


@pytest.mark.parametrize("told", [{}, {"status": 400}, {"total": "many"}], ids=["nothing", "refusal", "text"])
def test_a_server_that_does_not_count_is_not_guessed_at(
    tmp_path: Path, httpserver: HTTPServer, told: dict[str, Any]
) -> None:
    estimate = quirky(tmp_path, miscounting(Hospital(), httpserver, **told))
    assert estimate.rows == {"Patient": len(COHORT)}
    assert {"Encounter", "Observation", "Procedure"} <= set(estimate.uncounted)


def test_a_server_that_counts_none_of_what_it_has_shown_is_not_believed(
    tmp_path: Path, httpserver: HTTPServer
) -> None:
    estimate = quirky(tmp_path, miscounting(Hospital(), httpserver, total=0))
    assert "fewer than it has shown" in estimate.uncounted["MedicationAdministration"]
    assert "MedicationAdministration" not in estimate.rows


def test_a_server_that_ignores_code_counts_other_things(tmp_path: Path, httpserver: HTTPServer) -> None:
    hospital = Hospital(ignored=frozenset({"code"}))
    estimate = quirky(tmp_path, miscounting(hospital, httpserver, total=40))
    assert "Observation" in estimate.uncounted
    assert "Encounter" in estimate.rows


def test_what_the_site_does_not_want_asked_is_not_in_the_estimate(
    hospitals: dict[str, RunningHospital], study: Study, tmp_path: Path
) -> None:
    workspace = workspace_for(tmp_path / "north", hospitals["north"])
    everybody = estimate_site(workspace, "north", [study])
    out = tmp_path / "opt-out.txt"
    out.write_text("\n".join(hospitals["north"].control.state()["Patient"]))
    workspace = with_site(workspace, hospitals["north"], opt_out_file=out)
    nobody = estimate_site(workspace, "north", [study])
    assert everybody.patients
    assert (nobody.patients, nobody.total_rows) == (0, 0)
    assert landing_of(workspace) == []
