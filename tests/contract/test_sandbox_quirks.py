"""The misbehaviours of real servers that a synthetic hospital can show, each over real HTTP."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Quirks
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.sandbox.truth import Truth
from tests.contract.sandbox_client import ask, entries, get, next_link, pages, resources, self_link

CLEAN = Truth(share_messy=0.0)
ELSEWHERE = "http://127.0.0.1:9"
EPIC = Quirks(
    no_last_updated=("Observation",), last_updated_answer="ignored", pairs_are_empty=True,
    category_demanded=True, no_post=True, no_version_id=True, no_history=True, page_seconds=0.4,
    latency_seconds=0.15,
)  # fmt: skip
ORACLE = Quirks(
    no_last_updated=("MedicationAdministration",), code_refused=("MedicationAdministration",),
    bare_patient_is_empty=True, no_include=True, unknown_ignored=True, no_elements=True,
    deleted_is_404=True, ties="repeated", busy_requests=2, busy_retry_after="date", busy_retry_seconds=30,
)  # fmt: skip
LIAR = Quirks(
    no_last_updated=("Observation",), no_history=True, no_include=True, lies=True, ties="skipped",
    next_origin=ELSEWHERE, busy_requests=1, busy_status=503, busy_retry_after="epoch",
)  # fmt: skip
MUTE = Quirks(busy_requests=1, busy_retry_after="absent", outcome_entries=True)
SPECS = [
    HospitalSpec("epic", "a", 4, 5, CLEAN, quirks=EPIC),
    HospitalSpec("oracle", "b", 4, 5, CLEAN, quirks=ORACLE),
    HospitalSpec("liar", "b", 4, 5, CLEAN, quirks=LIAR),
    HospitalSpec("mute", "a", 2, 5, CLEAN, quirks=MUTE),
]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningHospital]]:
    with running_hospitals(SPECS, log_folder=tmp_path_factory.mktemp("logs")) as up:
        yield {h.name: h for h in up}


@pytest.fixture(scope="module")
def busy(hospitals: dict[str, RunningHospital]) -> dict[str, list[Any]]:
    """The first answers of each: whoever is busy gets over it here."""
    return {name: [get(f"{h.base_url}/Patient") for _ in range(3)] for name, h in hospitals.items()}


@pytest.fixture
def epic(hospitals: dict[str, RunningHospital], busy: object) -> RunningHospital:
    return hospitals["epic"]


@pytest.fixture
def oracle(hospitals: dict[str, RunningHospital], busy: object) -> RunningHospital:
    return hospitals["oracle"]


@pytest.fixture
def liar(hospitals: dict[str, RunningHospital], busy: object) -> RunningHospital:
    return hospitals["liar"]


def statement(hospital: RunningHospital, resource_type: str) -> dict[str, Any]:
    found = get(f"{hospital.base_url}/metadata").json()["rest"][0]["resource"]
    return next(r for r in found if r["type"] == resource_type)


def parameters(hospital: RunningHospital, resource_type: str) -> set[str]:
    return {p["name"] for p in statement(hospital, resource_type)["searchParam"]}


def test_a_busy_server_refuses_first_and_says_when_in_its_own_way(busy: dict[str, list[Any]]) -> None:
    assert [a.status_code for a in busy["epic"]] == [200, 200, 200]
    assert [a.status_code for a in busy["oracle"]] == [429, 429, 200]
    assert [a.status_code for a in busy["liar"]] == [503, 200, 200]
    assert [a.status_code for a in busy["mute"]] == [429, 200, 200]
    at = parsedate_to_datetime(busy["oracle"][0].headers["Retry-After"])
    told = parsedate_to_datetime(busy["oracle"][0].headers["Date"])
    assert 29 <= (at - told).total_seconds() <= 31
    assert abs(int(busy["liar"][0].headers["Retry-After"]) - time.time()) < 60, "an absolute epoch"
    assert "Retry-After" not in busy["mute"][0].headers
    assert busy["mute"][0].json()["issue"][0]["code"] == "throttled"


def test_last_updated_can_be_ignored_or_refused(
    epic: RunningHospital, oracle: RunningHospital, liar: RunningHospital
) -> None:
    everything = set(epic.control.state()["Observation"])
    query = {"_lastUpdated": "ge2099", "category": "laboratory,exam", "_count": 1000}
    bundle = get(f"{epic.base_url}/Observation", params=query).json()
    assert {e["resource"]["id"] for e in bundle["entry"]} == everything
    assert "_lastUpdated" not in self_link(bundle)
    assert "_lastUpdated" not in parameters(epic, "Observation")
    assert not resources(f"{epic.base_url}/Encounter", _lastUpdated="ge2099"), "other types know it"

    url = f"{oracle.base_url}/MedicationAdministration"
    assert get(url, params={"patient": "Patient/x", "_lastUpdated": "ge2020"}).status_code == 400
    assert "_lastUpdated" not in parameters(oracle, "MedicationAdministration")
    assert "_lastUpdated" in parameters(liar, "Observation"), "its statement lies"
    assert get(f"{liar.base_url}/Observation", params={"_lastUpdated": "ge2020"}).status_code == 400


def test_pairs_of_patients_find_nothing(epic: RunningHospital) -> None:
    one, other = sorted(epic.control.state()["Patient"])[:2]
    assert resources(f"{epic.base_url}/Encounter", patient=one)
    pair = get(f"{epic.base_url}/Encounter", params={"patient": f"{one},{other}"}).json()
    assert pair["total"] == 0
    assert "entry" not in pair


def test_a_bare_id_finds_nothing(oracle: RunningHospital) -> None:
    one = min(oracle.control.state()["Patient"])
    bare = get(f"{oracle.base_url}/Encounter", params={"patient": one}).json()
    assert bare["total"] == 0
    assert resources(f"{oracle.base_url}/Encounter", patient=f"Patient/{one}")


def test_observations_want_a_category(epic: RunningHospital) -> None:
    one = min(epic.control.state()["Patient"])
    assert get(f"{epic.base_url}/Observation", params={"patient": one}).status_code == 400
    assert resources(f"{epic.base_url}/Observation", patient=one, category="laboratory")


def test_a_search_cannot_be_posted(epic: RunningHospital, oracle: RunningHospital) -> None:
    assert ask("POST", f"{epic.base_url}/Encounter/_search", data={"_count": "1"}).status_code == 405
    assert ask("POST", f"{oracle.base_url}/Encounter/_search", data={"_count": "1"}).status_code == 200


def test_patients_cannot_be_found_by_code(oracle: RunningHospital) -> None:
    url = f"{oracle.base_url}/MedicationAdministration"
    one = min(oracle.control.state()["Patient"])
    assert get(url, params={"code": "L01XL03"}).status_code == 400
    assert get(url).status_code == 400
    assert get(url, params={"code": "L01XL03", "patient": f"Patient/{one}"}).status_code == 200


def test_unknown_parameters_are_ignored_and_missing_from_the_self_link(
    oracle: RunningHospital, epic: RunningHospital
) -> None:
    bundle = get(f"{oracle.base_url}/Patient", params={"favourite-colour": "blue", "_count": 100}).json()
    assert len(bundle["entry"]) == len(oracle.control.state()["Patient"])
    assert self_link(bundle) == f"{oracle.base_url}/Patient?_count=100"
    assert get(f"{epic.base_url}/Patient", params={"favourite-colour": "blue"}).status_code == 400


def test_includes_and_elements_can_be_missing(oracle: RunningHospital, liar: RunningHospital) -> None:
    include = {"_include": "MedicationRequest:medication"}
    assert get(f"{oracle.base_url}/MedicationRequest", params=include).status_code == 400
    assert "searchInclude" not in statement(oracle, "MedicationRequest")
    assert "searchInclude" in statement(liar, "MedicationRequest")
    whole = resources(f"{oracle.base_url}/Encounter", _elements="id")
    assert all("class" in r and "tag" not in r["meta"] for r in whole)


def test_versions_and_history_can_be_missing(epic: RunningHospital, liar: RunningHospital) -> None:
    one = min(epic.control.state()["Patient"])
    answer = get(f"{epic.base_url}/Patient/{one}")
    assert set(answer.json()["meta"]) == {"lastUpdated"}
    assert "ETag" not in answer.headers
    assert statement(epic, "Patient")["versioning"] == "no-version"
    epic.control.put(answer.json())
    assert set(get(f"{epic.base_url}/Patient/{one}").json()["meta"]) == {"lastUpdated"}
    for hospital in (epic, liar):
        assert get(f"{hospital.base_url}/_history").status_code == 404
        assert get(f"{hospital.base_url}/Patient/_history").status_code == 404

    def has_history(hospital: RunningHospital) -> bool:
        return {"code": "history-type"} in statement(hospital, "Patient")["interaction"]

    assert (has_history(epic), has_history(liar)) == (False, True)


def test_what_is_deleted_can_look_as_if_it_never_was(oracle: RunningHospital) -> None:
    one = min(oracle.control.state()["Condition"])
    oracle.control.delete("Condition", one)
    assert get(f"{oracle.base_url}/Condition/{one}").status_code == 404


def test_next_links_can_lie_elsewhere(liar: RunningHospital) -> None:
    bundle = get(f"{liar.base_url}/Encounter", params={"_count": 5}).json()
    following = next_link(bundle)
    assert following is not None
    assert following.startswith(f"{ELSEWHERE}/fhir?_getpages=")


def test_ties_at_page_edges_are_repeated_or_skipped(oracle: RunningHospital, liar: RunningHospital) -> None:
    held = oracle.control.state()["Observation"]
    instants = Counter(r["meta"]["lastUpdated"] for r in held.values())
    assert max(instants.values()) > 10, "a migration filed many at once"
    query = {"_count": 10, "_sort": "_lastUpdated"}
    seen = [e["resource"]["id"] for e in entries(f"{oracle.base_url}/Observation", **query)]
    assert set(seen) == set(held)
    assert len(seen) > len(held), "some come twice"

    seen, url = [], f"{liar.base_url}/Observation?_count=10&_sort=_lastUpdated"
    while url:
        bundle = get(url.replace(ELSEWHERE, liar.base_url.removesuffix("/fhir"))).json()
        seen += [e["resource"]["id"] for e in bundle["entry"]]
        url = next_link(bundle) or ""
    assert len(set(seen)) == len(seen) < len(liar.control.state()["Observation"]), "some never come"


def test_page_links_expire(epic: RunningHospital, oracle: RunningHospital) -> None:
    following = next_link(get(f"{epic.base_url}/Encounter", params={"_count": 5}).json())
    assert following is not None
    assert get(following).status_code == 200
    time.sleep(0.4)
    assert get(following).status_code == 410
    following = next_link(get(f"{oracle.base_url}/Encounter", params={"_count": 5}).json())
    assert following is not None
    assert get(following).status_code == 200
    oracle.control.expire_pages()
    assert get(following).status_code == 410
    assert sum(1 for _ in pages(f"{oracle.base_url}/Encounter", _count=50)) > 1, "a new search works"


def test_a_searchset_can_hold_an_outcome(busy: object, hospitals: dict[str, RunningHospital]) -> None:
    mute = hospitals["mute"]
    for bundle in pages(f"{mute.base_url}/Patient", _count=1):
        match, outcome = bundle["entry"]
        assert (match["search"]["mode"], match["resource"]["resourceType"]) == ("match", "Patient")
        assert outcome["search"]["mode"] == "outcome"
        assert outcome["resource"]["resourceType"] == "OperationOutcome"


def test_answers_can_be_slow(epic: RunningHospital) -> None:
    start = time.monotonic()
    get(f"{epic.base_url}/Patient")
    assert time.monotonic() - start >= 0.15
