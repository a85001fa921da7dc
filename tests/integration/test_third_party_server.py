"""A server and patients that no one here wrote: sekmet-fhir 0.1.1 with clinosim 0.6.5 data.

What this server does that ours need not: it writes `meta` into every resource (version, lastUpdated), so
content is compared without it; ignores parameters it does not know and says so in the self link and in an
entry of mode outcome; lists all types it knows, also those it holds nothing of; gives next links by offset.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rwe.analyse import analyse
from rwe.config import Site, Workspace, init_workspace
from rwe.extract import ExtractionResult, extract_site
from rwe.fhir.client import FhirClient
from rwe.fhir.search import Page, search
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.study import load_study
from rwe.warehouse.build import build
from tests.integration.conftest import ATORVASTATIN, CREATININE, SALINE, ThirdPartySite

PAGE_SIZE = 25


def has(resource: dict[str, Any], code: tuple[str, str]) -> bool:
    concept = resource.get("code") or resource.get("medicationCodeableConcept") or {}
    return any((c.get("system"), c.get("code")) == code for c in concept.get("coding", []))


def patient_of(resource: dict[str, Any]) -> str:
    if resource["resourceType"] == "Patient":
        return str(resource["id"])
    return str(resource["subject"]["reference"]).removeprefix("Patient/")


def without_meta(resource: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in resource.items() if k != "meta"}, sort_keys=True)


@pytest.fixture(scope="module")
def site(third_party_site: ThirdPartySite) -> Site:
    return Site(
        base_url=third_party_site.base_url,
        page_size=PAGE_SIZE,
        patients_per_request=3,
        allow_plain_http="loopback only",
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Workspace:
    root: Path = tmp_path_factory.mktemp("third_party")
    made = init_workspace(root / "ws", root / "key")
    return Workspace(made.root, made.settings.model_copy(update={"sites": {"sekmet": site}}))


@pytest.fixture(scope="module")
def extraction(workspace: Workspace, third_party_site: ThirdPartySite) -> ExtractionResult:
    return extract_site(workspace, "sekmet", [load_study(third_party_site.study_path)])


@pytest.fixture(scope="module")
def cohort(third_party_site: ThirdPartySite) -> set[str]:
    """Read off what was loaded, not off what was served."""
    given = [r for r in third_party_site.loaded if r["resourceType"] == "MedicationAdministration"]
    return {patient_of(r) for r in given if has(r, SALINE)}


def test_the_fixture_can_tell_right_from_wrong(third_party_site: ThirdPartySite, cohort: set[str]) -> None:
    loaded = third_party_site.loaded
    assert len(loaded) < 5_000
    assert 3 < len(cohort) < len({patient_of(r) for r in loaded}) - 10
    observations = [r for r in loaded if r["resourceType"] == "Observation" and patient_of(r) in cohort]
    assert 0 < sum(has(r, CREATININE) for r in observations) < len(observations)


def test_exactly_the_cohorts_resources_land(
    extraction: ExtractionResult, third_party_site: ThirdPartySite, cohort: set[str]
) -> None:
    expected = [
        r
        for r in third_party_site.loaded
        if patient_of(r) in cohort and (r["resourceType"] != "Observation" or has(r, CREATININE))
    ]
    run = extraction.run
    landed = [json.loads(line) for t in run.types for line in run.open(t)]
    assert extraction.patients == len(cohort)
    assert extraction.resources == dict(sorted(Counter(r["resourceType"] for r in expected).items()))
    assert sorted(map(without_meta, landed)) == sorted(map(without_meta, expected))


def test_nobody_elses_resource_lands(extraction: ExtractionResult, cohort: set[str]) -> None:
    run = extraction.run
    assert {patient_of(json.loads(line)) for t in run.types for line in run.open(t)} == cohort


def test_the_server_was_read_page_by_page(extraction: ExtractionResult) -> None:
    manifest = extraction.run.manifest
    given = extraction.resources["MedicationAdministration"]
    assert manifest.requests["MedicationAdministration"]["200"] > given / PAGE_SIZE > 1
    assert {status for counts in manifest.requests.values() for status in counts} == {"200"}
    assert manifest.server is not None
    assert manifest.server.fhir_version == "4.0.1"
    assert manifest.server.software == "SEKMET FHIR R4 Tester"
    assert all(manifest.watermarks.values())


@pytest.mark.usefixtures("extraction")
def test_it_goes_on_to_evidence(
    workspace: Workspace, third_party_site: ThirdPartySite, cohort: set[str]
) -> None:
    """Time zero, start and follow-up read off what was loaded, by other means than the SQL."""
    study = load_study(third_party_site.study_path)
    build(workspace, [study])
    evidence = analyse(workspace, study).evidence
    given = [r for r in third_party_site.loaded if r["resourceType"] == "MedicationAdministration"]
    days: dict[tuple[str, str], dict[str, date]] = {SALINE: {}, ATORVASTATIN: {}}
    for code, first in days.items():
        for r in given:
            if has(r, code) and patient_of(r) in cohort:
                day = date.fromisoformat(r["effectiveDateTime"][:10])
                first[patient_of(r)] = min(day, first.get(patient_of(r), day))
    with closing(duckdb.connect(str(workspace.database), read_only=True)) as db:
        found = db.execute("select patient_id, index_date, start_day from cohort.survival").fetchall()
    names = Pseudonymiser(workspace.pseudonym_key(), "sekmet")
    index = {names.of("Patient", p): day for p, day in days[SALINE].items()}
    starts = {names.of("Patient", p): day for p, day in days[ATORVASTATIN].items()}
    assert evidence.cohort.n == len(found) == len(cohort)
    assert {p: day for p, day, _ in found} == index
    for patient, _, start_day in found:
        later = (starts[patient] - index[patient]).days if patient in starts else -1
        if later >= 0:  # an earlier first record may be followed by another after time zero
            assert start_day == later
    assert {e.analysis for e in evidence.estimates} == {"naive_logrank", "mantel_byar"}


def test_what_the_server_ignores_is_noticed(site: Site, third_party_site: ThirdPartySite) -> None:
    """It answers an unknown parameter with everyone, an outcome among them: no resource, and said."""
    pages: list[Page] = []
    with FhirClient("sekmet", site) as client:
        done = search(
            client, "Procedure", [("no-such-parameter", "x")], page_size=1_000, on_page=pages.append
        )
    loaded = [r["id"] for r in third_party_site.loaded if r["resourceType"] == "Procedure"]
    assert done.ignored == {"no-such-parameter"}
    assert sorted(f.resource.id or "" for p in pages for f in p.found) == sorted(loaded)
