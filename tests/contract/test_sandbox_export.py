"""$export of a synthetic hospital: the Bulk Data state machine over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Bulk
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.sandbox.truth import Truth
from tests.contract.sandbox_client import (
    ASYNC,
    ask,
    deleted_urls,
    exported,
    finished,
    get,
    kick_off,
    lines,
    resources,
)

GROUP = "Group/car-t-cohort/$export"
CLEAN = Truth(share_messy=0.0)
SPECS = [
    HospitalSpec("north", "a", 8, 5, CLEAN, bulk=Bulk(polls=2, lines_per_file=100, files_per_page=3)),
    HospitalSpec(
        "presigned",
        "c",
        4,
        5,
        CLEAN,
        bulk=Bulk(
            polls=0, requires_access_token=False, counts=False, file_seconds=0.3, fresh_links=True,
            failed_types=("Condition",), repeats_job=True, since_misses_joined=True,
        ),
    ),
    HospitalSpec(
        "strict",
        "b",
        4,
        5,
        CLEAN,
        bulk=Bulk(
            levels=("group",), polls=1, retry_after="epoch", retry_seconds=120, progress=False,
            one_at_a_time=True, failed_jobs=1, min_interval_seconds=3600, type_filter=False,
            wrong_count=True, expired_status=404, file_origin="http://127.0.0.1:9", status_origin="http://127.0.0.1:9",
        ),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningHospital]]:
    with running_hospitals(SPECS, log_folder=tmp_path_factory.mktemp("logs")) as up:
        yield up


@pytest.fixture
def north(hospitals: list[RunningHospital]) -> RunningHospital:
    return hospitals[0]


@pytest.fixture
def presigned(hospitals: list[RunningHospital]) -> RunningHospital:
    return hospitals[1]


@pytest.fixture
def strict(hospitals: list[RunningHospital]) -> RunningHospital:
    return hospitals[2]


def members(hospital: RunningHospital) -> set[str]:
    group = hospital.control.state()["Group"]["car-t-cohort"]
    return {m["entity"]["reference"].removeprefix("Patient/") for m in group["member"]}


def is_about(resource: dict[str, Any], patients: set[str]) -> bool:
    if resource["resourceType"] == "Patient":
        return resource["id"] in patients
    return resource.get("subject", {}).get("reference", "").removeprefix("Patient/") in patients


def test_the_statement_declares_exports_and_is_valid(hospitals: list[RunningHospital]) -> None:
    north, _, strict = (get(f"{h.base_url}/metadata").json() for h in hospitals)
    for statement in (north, strict):
        get_fhir_model_class("CapabilityStatement").model_validate(statement)
        assert statement["instantiates"] == ["http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"]

    def operations(statement: dict[str, Any]) -> set[str]:
        rest = statement["rest"][0]
        found = [*rest.get("operation", []), *(o for r in rest["resource"] for o in r.get("operation", []))]
        return {o["definition"].rpartition("/")[2] for o in found}

    assert operations(north) == {"export", "patient-export", "group-export"}
    assert operations(strict) == {"group-export"}
    assert get(f"{hospitals[2].base_url}/Patient/$export", headers=ASYNC).status_code == 404


def test_the_group_names_the_patients_with_an_infusion(north: RunningHospital) -> None:
    group = get(f"{north.base_url}/Group/car-t-cohort").json()
    get_fhir_model_class("Group").model_validate(group)
    assert resources(f"{north.base_url}/Group", _id="car-t-cohort") == [group]
    patients = north.control.state()["Patient"]
    assert members(north) < set(patients), "some have the lymphoma and no infusion"
    one = min(members(north))
    assert resources(f"{north.base_url}/Group", member=f"Patient/{one}") == [group]


def test_an_export_goes_from_kick_off_to_files(north: RunningHospital) -> None:
    before = datetime.now().astimezone() - timedelta(milliseconds=1)
    assert get(f"{north.base_url}/Patient/$export").status_code == 400, "without Prefer: respond-async"
    where = kick_off(f"{north.base_url}/Patient/$export")
    for _ in range(2):
        waiting = get(where)
        assert waiting.status_code == 202
        assert waiting.headers["Retry-After"] == "1"
        assert waiting.headers["X-Progress"].endswith("%")
    first = get(where).json()
    assert len(first["output"]) == 3
    assert not first["deleted"]
    assert not first["error"]
    assert first["link"][0]["relation"] == "next"
    manifest = finished(where)
    assert before <= datetime.fromisoformat(manifest["transactionTime"]) <= datetime.now().astimezone()
    assert manifest["request"] == f"{north.base_url}/Patient/$export"
    assert manifest["requiresAccessToken"] is True
    assert sum(item["type"] == "Observation" for item in manifest["output"]) > 1, "several files of a type"
    assert all(len(lines(item)) == item["count"] <= 100 for item in manifest["output"])


def test_levels_choose_whose_resources_come(north: RunningHospital) -> None:
    state = north.control.state()
    everything = exported(finished(kick_off(f"{north.base_url}/$export")))
    assert everything == {t: held for t, held in state.items() if held}

    of_group = exported(finished(kick_off(f"{north.base_url}/{GROUP}")))
    cohort = members(north)
    for resource_type, held in of_group.items():
        if resource_type != "Medication":
            right = {i: r for i, r in state[resource_type].items() if is_about(r, cohort)}
            assert held == right, resource_type
    referred = {
        r["medicationReference"]["reference"]
        for r in of_group["MedicationAdministration"].values()
        if "medicationReference" in r
    }
    assert referred
    assert {f"Medication/{i}" for i in of_group["Medication"]} == referred
    assert get(f"{north.base_url}/Group/another/$export", headers=ASYNC).status_code == 404


def test_types_filters_and_formats(north: RunningHospital) -> None:
    url = f"{north.base_url}/{GROUP}"
    found = exported(finished(kick_off(url, _type="Patient,Condition")))
    assert set(found) == {"Patient", "Condition"}
    code = "http://loinc.org|2532-0"
    filters = [f"Observation?code={code}", "Encounter?class=IMP"]
    found = exported(finished(kick_off(url, _type="Patient,Observation,Encounter", _typeFilter=filters)))
    wanted = {r["id"] for r in resources(f"{north.base_url}/Observation", code=code)}
    assert found["Observation"]
    assert set(found["Observation"]) <= wanted
    assert all(r["class"]["code"] == "IMP" for r in found["Encounter"].values())
    assert set(found["Patient"]) == members(north), "a type without a filter comes whole"
    joined = exported(finished(kick_off(url, _type="Observation,Encounter", _typeFilter=",".join(filters))))
    assert joined == {t: found[t] for t in ("Observation", "Encounter")}
    for wrong in ({"_type": "Nothing"}, {"_outputFormat": "text/csv"}, {"_surprise": "1"}, {"_since": "x"}):
        assert get(url, params=wrong, headers=ASYNC).status_code == 400, wrong
    lenient = {"Prefer": "respond-async, handling=lenient"}
    assert get(url, params={"_surprise": "1"}, headers=lenient).status_code == 202


def test_an_export_can_be_posted_and_packed(north: RunningHospital) -> None:
    parameters = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueString": "Condition"},
            {"name": "_outputFormat", "valueString": "application/fhir+ndjson"},
        ],
    }
    answer = ask("POST", f"{north.base_url}/{GROUP}", json=parameters, headers=ASYNC)
    assert answer.status_code == 202
    manifest = finished(answer.headers["Content-Location"])
    assert set(exported(manifest)) == {"Condition"}
    packed = get(manifest["output"][0]["url"], headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    plain = get(manifest["output"][0]["url"], headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.content == packed.content
    assert ask("POST", f"{north.base_url}/{GROUP}", data="[1", headers=ASYNC).status_code == 400


def test_since_gives_changes_deletions_and_the_history_of_new_members(north: RunningHospital) -> None:
    url, control = f"{north.base_url}/{GROUP}", north.control
    whole = finished(kick_off(url))
    held, since = exported(whole), whole["transactionTime"]
    time.sleep(0.005)
    night = control.mutate(1)
    assert night.joined
    assert night.deleted
    assert night.deleted_patient
    manifest = finished(kick_off(url, _since=since))
    assert datetime.fromisoformat(manifest["transactionTime"]) > datetime.fromisoformat(since)
    news, gone = exported(manifest), deleted_urls(manifest)
    assert set(gone) == set(night.deleted)
    old_history = [
        r
        for r in news["Observation"].values()
        if is_about(r, set(night.joined)) and r["meta"]["lastUpdated"] < since
    ]
    assert old_history, "who joins later brings what is older than _since"
    changed = {f"{t}/{i}" for t, held_type in news.items() for i in held_type}
    assert set(night.updated) <= changed

    # What was held, the news put over it and the deletions taken out, is a fresh export, but for patients who
    # left the cohort: a Group's export cannot say that.
    for resource_type, found in news.items():
        held.setdefault(resource_type, {}).update(found)
    for url_gone in gone:
        resource_type, _, resource_id = url_gone.partition("/")
        held[resource_type].pop(resource_id, None)
    fresh, cohort = exported(finished(kick_off(url))), members(north)
    for resource_type, found in fresh.items():
        kept = held[resource_type]
        if resource_type != "Medication":
            kept = {i: r for i, r in kept.items() if is_about(r, cohort)}
            assert kept == found, resource_type
    assert finished(kick_off(url))["deleted"] == [], "without _since there are no deletions to tell"


def test_a_group_export_can_miss_the_history_of_new_members(presigned: RunningHospital) -> None:
    url = f"{presigned.base_url}/{GROUP}"
    since = finished(kick_off(url))["transactionTime"]
    time.sleep(0.005)
    joined = set(presigned.control.mutate(3).joined)
    assert joined <= members(presigned)
    news = exported(finished(kick_off(url, _since=since)))
    about = [r for held in news.values() for r in held.values() if is_about(r, joined)]
    assert about, "the infusion itself is new"
    assert all(r["meta"]["lastUpdated"] >= since for r in about)


def test_signed_files_want_no_token_expire_and_come_back(presigned: RunningHospital) -> None:
    where = kick_off(f"{presigned.base_url}/$export", _type="Patient,Condition")
    manifest = finished(where)
    item = manifest["output"][0]
    assert manifest["requiresAccessToken"] is False
    assert "count" not in item
    assert get(item["url"], headers={"Authorization": "Bearer x"}).status_code == 400
    assert lines(item)
    time.sleep(0.35)
    assert get(item["url"]).status_code == 410
    again = finished(where)
    assert again["transactionTime"] == manifest["transactionTime"]
    assert again["output"][0]["url"] != item["url"]
    assert lines(again["output"][0])
    presigned.control.expire_exports()
    assert get(again["output"][0]["url"]).status_code == 410


def test_a_partial_export_says_so(presigned: RunningHospital) -> None:
    manifest = finished(kick_off(f"{presigned.base_url}/$export", _type="Patient,Condition,Encounter"))
    assert {item["type"] for item in manifest["output"]} == {"Patient", "Encounter"}
    [error] = manifest["error"]
    assert error["type"] == "OperationOutcome"
    [problem] = lines(error)
    assert problem["issue"][0]["severity"] == "error"


def test_an_identical_request_gets_the_old_job_until_it_is_deleted(presigned: RunningHospital) -> None:
    url = f"{presigned.base_url}/$export"
    first = kick_off(url, _type="Encounter")
    assert kick_off(url, _type="Encounter") == first
    assert kick_off(url, _type="Patient") != first
    assert ask("DELETE", first).status_code == 202
    assert get(first).status_code == 404
    assert kick_off(url, _type="Encounter") != first


def test_a_strict_server_refuses_fails_and_points_elsewhere(strict: RunningHospital) -> None:
    url = f"{strict.base_url}/{GROUP}"
    assert get(url, params={"_typeFilter": "Patient?gender=male"}, headers=ASYNC).status_code == 400
    elsewhere = kick_off(url)
    assert elsewhere.startswith("http://127.0.0.1:9/fhir/$export-status/")
    where = elsewhere.replace("http://127.0.0.1:9/fhir", strict.base_url)
    busy = get(url, params={"_type": "Patient"}, headers=ASYNC)
    assert busy.status_code == 429, "one job at a time"
    assert int(busy.headers["Retry-After"]) >= 1
    waiting = get(where)
    assert waiting.status_code == 202
    assert abs(int(waiting.headers["Retry-After"]) - time.time() - 120) < 20, "an absolute epoch"
    assert "X-Progress" not in waiting.headers
    assert get(where).status_code == 500, "the first job fails"
    assert get(url, headers=ASYNC).status_code == 429, "the same export within the hour"
    strict.control.advance(0.1)
    where = kick_off(url).replace("http://127.0.0.1:9/fhir", strict.base_url)
    item = finished(where)["output"][0]
    assert item["url"].startswith("http://127.0.0.1:9/fhir/$export-file/")
    here = {**item, "url": item["url"].replace("http://127.0.0.1:9/fhir", strict.base_url)}
    assert len(lines(here)) == item["count"] - 1, "the manifest counts one more than there is"
    strict.control.expire_exports()
    assert get(here["url"]).status_code == 404


def test_transaction_time_is_the_servers_clock(north: RunningHospital) -> None:
    north.control.skew(-3600)
    try:
        where = kick_off(f"{north.base_url}/$export", _type="Patient")
        answer = get(where)
        manifest = finished(where)
    finally:
        north.control.skew(0)
    hour_ago = datetime.now().astimezone() - timedelta(hours=1)
    for at in (
        datetime.fromisoformat(manifest["transactionTime"]),
        parsedate_to_datetime(answer.headers["Date"]),
    ):
        assert abs((at - hour_ago).total_seconds()) < 30
