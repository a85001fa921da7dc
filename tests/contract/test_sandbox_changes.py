"""A synthetic hospital that changes: nights, the clock, deletions, history, and changes while it is paged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from rwe.errors import SiteError
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Extras, Quirks
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.sandbox.truth import Truth
from tests.contract.sandbox_client import ask, entries, get, pages, resources

CLEAN = Truth(share_messy=0.0)
SPECS = [
    HospitalSpec("north", "a", 12, 5, CLEAN, extras=Extras(group=True)),
    HospitalSpec("twin", "a", 12, 5, CLEAN, extras=Extras(group=True)),
    HospitalSpec("steady", "b", 5, 5, CLEAN),
    HospitalSpec("live", "b", 5, 5, CLEAN, quirks=Quirks(live_paging=True, whole_seconds=True)),
]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningHospital]]:
    with running_hospitals(SPECS, log_folder=tmp_path_factory.mktemp("logs")) as up:
        yield {h.name: h for h in up}


@pytest.fixture
def north(hospitals: dict[str, RunningHospital]) -> RunningHospital:
    return hospitals["north"]


@pytest.fixture
def steady(hospitals: dict[str, RunningHospital]) -> RunningHospital:
    return hospitals["steady"]


def an_observation(resource_id: str, patient: str, value: float = 1.0) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": resource_id,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2532-0"}]},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": "2024-05-01",
        "valueQuantity": {"value": value, "unit": "U/L"},
    }


def found_ids(hospital: RunningHospital, resource_type: str, **params: Any) -> set[str]:
    return {r["id"] for r in resources(f"{hospital.base_url}/{resource_type}", **params)}


def test_what_is_put_is_served_with_the_servers_version_and_instant(steady: RunningHospital) -> None:
    patient = min(steady.control.state()["Patient"])
    before = steady.control.now()
    steady.control.put(an_observation("new-1", patient))
    first = get(f"{steady.base_url}/Observation/new-1")
    assert first.json()["meta"]["versionId"] == "1"
    assert first.headers["ETag"] == 'W/"1"'
    filed = datetime.fromisoformat(first.json()["meta"]["lastUpdated"])
    assert before - timedelta(milliseconds=1) <= filed <= steady.control.now()

    steady.control.put(an_observation("new-1", patient, 2.5))
    second = get(f"{steady.base_url}/Observation/new-1").json()
    assert second["meta"]["versionId"] == "2"
    assert second["valueQuantity"]["value"] == 2.5
    assert steady.control.state()["Observation"]["new-1"] == second
    assert resources(f"{steady.base_url}/Observation", _id="new-1") == [second]
    assert second in resources(f"{steady.base_url}/Observation", patient=patient, code="2532-0")
    since = first.json()["meta"]["lastUpdated"]
    assert found_ids(steady, "Observation", _lastUpdated=f"ge{since}") == {"new-1"}
    with pytest.raises(SiteError, match="steady: the control room refused put"):
        steady.control.put({"resourceType": "Nothing", "id": "x"})


def test_what_is_deleted_is_gone_everywhere_and_can_come_back(steady: RunningHospital) -> None:
    patient = min(steady.control.state()["Patient"])
    steady.control.put(an_observation("gone-1", patient))
    steady.control.delete("Observation", "gone-1")
    assert get(f"{steady.base_url}/Observation/gone-1").status_code == 410
    assert get(f"{steady.base_url}/Observation/never-1").status_code == 404
    assert not resources(f"{steady.base_url}/Observation", _id="gone-1")
    assert "gone-1" not in found_ids(steady, "Observation", patient=patient)
    assert "gone-1" not in steady.control.state()["Observation"]
    with pytest.raises(SiteError, match="refused delete"):
        steady.control.delete("Observation", "gone-1")
    steady.control.put(an_observation("gone-1", patient))
    back = get(f"{steady.base_url}/Observation/gone-1")
    assert back.json()["meta"]["versionId"] == "3", "the deletion was version 2"


def test_history_lists_every_change_newest_first(steady: RunningHospital) -> None:
    patient = min(steady.control.state()["Patient"])
    since = steady.control.now().isoformat(timespec="milliseconds")
    time.sleep(0.002)
    steady.control.put(an_observation("history-1", patient))
    steady.control.put(an_observation("history-1", patient, 7))
    steady.control.put(an_observation("history-2", patient))
    time.sleep(0.002)
    steady.control.delete("Observation", "history-1")
    for path in ("Observation/_history", "_history"):
        bundles = list(pages(f"{steady.base_url}/{path}", _since=since, _count=3))
        assert len(bundles) == 2
        get_fhir_model_class("Bundle").model_validate(bundles[0])
        assert {b["type"] for b in bundles} == {"history"}
        found = [e for b in bundles for e in b["entry"]]
        assert [(e["request"]["method"], e["request"]["url"]) for e in found] == [
            ("DELETE", "Observation/history-1"),
            ("POST", "Observation"),
            ("PUT", "Observation/history-1"),
            ("POST", "Observation"),
        ]
        assert ["resource" in e for e in found] == [False, True, True, True]
        assert [e["response"]["etag"] for e in found] == ['W/"3"', 'W/"1"', 'W/"2"', 'W/"1"']
        assert found[2]["resource"]["valueQuantity"]["value"] == 7
        assert found[3]["resource"]["valueQuantity"]["value"] == 1
    at = found[0]["response"]["lastModified"]
    from_there = entries(f"{steady.base_url}/_history", _since=at)
    assert [e["request"]["method"] for e in from_there] == ["DELETE"], "the very instant is included"
    assert not entries(f"{steady.base_url}/Encounter/_history", _since=since)
    whole = {e["resource"]["id"] for e in entries(f"{steady.base_url}/Encounter/_history")}
    assert whole == set(steady.control.state()["Encounter"])
    assert get(f"{steady.base_url}/_history", params={"_since": "yesterday"}).status_code == 400
    assert get(f"{steady.base_url}/_history", params={"patient": "x"}).status_code == 400
    assert get(f"{steady.base_url}/Nothing/_history").status_code == 404


def test_ids_alone_can_be_listed(steady: RunningHospital) -> None:
    found = resources(f"{steady.base_url}/Encounter", _elements="id")
    assert {r["id"] for r in found} == set(steady.control.state()["Encounter"])
    for resource in found:
        assert set(resource) == {"resourceType", "id", "meta"}
        assert "SUBSETTED" in {t["code"] for t in resource["meta"]["tag"]}


def test_a_night_changes_what_it_says(north: RunningHospital, hospitals: dict[str, RunningHospital]) -> None:
    before = north.control.state()
    since = north.control.now()
    night = north.control.mutate(1)
    after = north.control.state()
    group = {m["entity"]["reference"] for m in after["Group"]["car-t-cohort"]["member"]}
    old_group = {m["entity"]["reference"] for m in before["Group"]["car-t-cohort"]["member"]}

    assert len(night.arrived) >= 2
    for patient in (*night.arrived, *night.joined):
        assert (patient in before["Patient"]) == (patient in night.joined)
        assert f"Patient/{patient}" in group - old_group
    [joined] = night.joined
    about = {"subject": {"reference": f"Patient/{joined}"}}
    history = [r for r in before["Observation"].values() if r["subject"] == about["subject"]]
    assert history
    assert all(after["Observation"][r["id"]] == r for r in history), "old history, untouched"

    for where in night.updated:
        resource_type, _, resource_id = where.partition("/")
        old, new = before[resource_type][resource_id], after[resource_type][resource_id]
        assert int(new["meta"]["versionId"]) == int(old["meta"]["versionId"]) + 1
        assert datetime.fromisoformat(new["meta"]["lastUpdated"]) >= since - timedelta(milliseconds=1)
    assert night.corrected
    for where in night.corrected:
        resource_type, _, resource_id = where.partition("/")
        assert after[resource_type][resource_id]["status"] == "entered-in-error"
        assert before[resource_type][resource_id]["status"] != "entered-in-error"
    gone = {f"{t}/{i}" for t, held in before.items() for i in held if i not in after[t]}
    assert gone == set(night.deleted)
    assert f"Patient/{night.deleted_patient}" in gone
    assert any(not d.startswith("Patient/") for d in gone)
    left = [r for held in after.values() for r in held.values()]
    assert not [
        r for r in left if r.get("subject", {}).get("reference") == f"Patient/{night.deleted_patient}"
    ]

    twin = hospitals["twin"]
    assert twin.control.state()["Patient"].keys() != before["Patient"].keys(), "other names, other patients"
    again = twin.control.mutate(1)
    assert again.updated != night.updated


def test_everything_a_night_files_is_valid(hospitals: dict[str, RunningHospital]) -> None:
    twin = hospitals["twin"]
    since = twin.control.now().isoformat(timespec="milliseconds")
    for seed in (5, 6):
        twin.control.mutate(seed)
    found = [e["resource"] for e in entries(f"{twin.base_url}/_history", _since=since) if "resource" in e]
    assert {r["resourceType"] for r in found} >= {"Patient", "Observation", "MedicationAdministration"}
    for resource in found:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_a_merge_links_both_and_the_next_night_undoes_it(north: RunningHospital) -> None:
    before = north.control.state()
    [(loser, survivor)] = north.control.mutate(2).merged
    after = north.control.state()
    link = after["Patient"][loser]["link"]
    assert link == [{"other": {"reference": f"Patient/{survivor}"}, "type": "replaced-by"}]
    assert after["Patient"][loser]["active"] is False
    assert {"other": {"reference": f"Patient/{loser}"}, "type": "replaces"} in after["Patient"][survivor][
        "link"
    ]
    assert found_ids(north, "Patient", link=f"Patient/{survivor}") == {loser}

    def records_of(state: dict[str, dict[str, Any]], patient: str) -> set[str]:
        reference = f"Patient/{patient}"
        held = (r for shelf in state.values() for r in shelf.values())
        return {r["id"] for r in held if r.get("subject", {}).get("reference") == reference}

    moved = records_of(before, loser) & records_of(after, survivor)
    assert moved
    assert records_of(before, loser) & records_of(after, loser), "some servers re-point only a part"

    assert (loser, survivor) in north.control.mutate(3).unmerged
    undone = north.control.state()
    assert "link" not in undone["Patient"][loser]
    assert undone["Patient"][loser]["active"] is True
    assert moved <= records_of(undone, loser)


def test_the_clock_goes_on_and_can_be_wrong(steady: RunningHospital) -> None:
    control, patient = steady.control, min(steady.control.state()["Patient"])

    def clocks() -> list[datetime]:
        answer = get(f"{steady.base_url}/Patient")
        control.put(an_observation("clock-1", patient))
        filed = control.state()["Observation"]["clock-1"]["meta"]["lastUpdated"]
        told = answer.json()["meta"]["lastUpdated"]
        date = parsedate_to_datetime(answer.headers["Date"])
        return [control.now(), date, datetime.fromisoformat(told), datetime.fromisoformat(filed)]

    for nights, seconds in ((0, 0), (0, 3600), (0, -3600), (1, 0)):
        control.advance(nights)
        control.skew(seconds)
        right = datetime.now(UTC) + timedelta(days=nights, seconds=seconds)
        for at in clocks():
            assert abs((at - right).total_seconds()) < 20, (nights, seconds)


def test_a_search_under_way_keeps_its_ids_and_shows_the_moment(steady: RunningHospital) -> None:
    ids = sorted(steady.control.state()["Encounter"])
    walk = pages(f"{steady.base_url}/Encounter", _count=10)
    first = [e["resource"]["id"] for e in next(walk)["entry"]]
    later = [i for i in ids if i not in first]
    last = steady.control.state()["Encounter"][later[0]]
    steady.control.put({**last, "status": "cancelled"})
    steady.control.delete("Encounter", later[1])
    steady.control.delete("Encounter", first[0])
    steady.control.put({**last, "id": "added-while-paged"})
    rest = [e["resource"] for bundle in walk for e in bundle.get("entry", [])]
    assert {r["id"] for r in rest} == set(later) - {later[1]}, (
        "nothing is shifted, the deleted one is left out"
    )
    assert next(r for r in rest if r["id"] == later[0])["status"] == "cancelled"


def test_live_paging_shifts_under_changes(hospitals: dict[str, RunningHospital]) -> None:
    live = hospitals["live"]
    in_order = [r["id"] for r in resources(f"{live.base_url}/Encounter")]
    walk = pages(f"{live.base_url}/Encounter", _count=10)
    seen = [e["resource"]["id"] for e in next(walk)["entry"]]
    live.control.delete("Encounter", seen[0])
    seen += [e["resource"]["id"] for bundle in walk for e in bundle["entry"]]
    assert seen == [*in_order[:10], *in_order[11:]], "the eleventh moved onto the page already read"
    patient = min(live.control.state()["Patient"])
    live.control.put(an_observation("whole-1", patient), an_observation("whole-2", patient))
    assert live.control.state()["Observation"]["whole-2"]["meta"]["lastUpdated"].endswith(".000Z")


def test_nights_can_fall_while_the_server_is_paged(hospitals: dict[str, RunningHospital]) -> None:
    live = hospitals["live"]
    before = live.control.state()
    live.control.while_paged(after_pages=2, seeds=[11, 12])
    assert sum(1 for _ in pages(f"{live.base_url}/Observation", _count=20)) > 4
    nights = live.control.nights_while_paged()
    assert [n.seed for n in nights] == [11, 12]
    after = live.control.state()
    assert all(p in after["Patient"] and p not in before["Patient"] for p in nights[0].arrived)
    steps = [(s.path, s.status) for s in live.control.requests()]
    assert ("/fhir", 200) in steps
    live.control.forget_requests()
    assert live.control.requests() == []
    assert ask("GET", f"{live.base_url}/Patient").status_code == 200
    [seen] = live.control.requests()
    assert (seen.method, seen.path, seen.query, seen.is_authorized) == ("GET", "/fhir/Patient", "", False)
