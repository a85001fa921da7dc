"""A synthetic hospital's server over real HTTP: what a FHIR client may rely on, and what it must bear."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests
from fhir.resources.R4B import get_fhir_model_class

from rwe.errors import SiteError
from rwe.sandbox.hospital import HospitalSpec, hospital_records, hospital_resources
from rwe.sandbox.records import latent_patients
from rwe.sandbox.search import PARAMETERS
from rwe.sandbox.server import demo_specs, running_hospitals
from rwe.sandbox.truth import Truth

INFUSIONS = (
    "http://www.nlm.nih.gov/research/umls/rxnorm|1987402,http://www.nlm.nih.gov/research/umls/rxnorm|2479140,"
    "http://www.whocc.no/atc|L01XL04"
)


@dataclass(frozen=True)
class Client:
    """The least that reads a FHIR server, and the resources that the hospital holds."""

    base_url: str
    pid: int
    held: dict[str, dict[str, dict[str, Any]]]

    def get(self, path: str, **params: Any) -> requests.Response:
        return self.ask(requests.Request("GET", f"{self.base_url}/{path}", params=params))

    def ask(self, request: requests.Request) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.send(session.prepare_request(request), timeout=20)

    def pages(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        answer = self.get(path, **params)
        while True:
            answer.raise_for_status()
            bundle = answer.json()
            yield bundle
            following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
            if not following:
                return
            answer = self.ask(requests.Request("GET", following[0]))

    def search(self, resource_type: str, **params: Any) -> list[dict[str, Any]]:
        return [
            e["resource"]
            for page in self.pages(resource_type, **{"_count": 500, **params})
            for e in page.get("entry", [])
            if e["search"]["mode"] == "match"
        ]

    def ids(self, resource_type: str, **params: Any) -> list[str]:
        return [r["id"] for r in self.search(resource_type, **params)]

    def where(self, resource_type: str, test: Callable[[dict[str, Any]], bool]) -> set[str]:
        """Ids of the held resources that pass a test: what a search must find."""
        return {i for i, r in self.held[resource_type].items() if test(r)}


SPECS = [
    HospitalSpec("north", "a", 30, 5, Truth(share_messy=0.3)),
    HospitalSpec("river", "b", 30, 5, Truth(share_messy=0.3)),
]


def newest(spec: HospitalSpec) -> dict[str, dict[str, dict[str, Any]]]:
    held: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for resource in hospital_resources(spec):  # older versions come first
        held[resource["resourceType"]][resource["id"]] = resource
    return held


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Client]]:
    with running_hospitals(SPECS, log_folder=tmp_path_factory.mktemp("logs")) as hospitals:
        pairs = zip(hospitals, SPECS, strict=True)
        yield [Client(hospital.base_url, hospital.pid, newest(spec)) for hospital, spec in pairs]


@pytest.fixture(scope="module")
def north(clients: list[Client]) -> Client:
    return clients[0]


@pytest.fixture(scope="module")
def river(clients: list[Client]) -> Client:
    return clients[1]


def some_patients(client: Client, n: int = 3) -> list[str]:
    return sorted(client.held["Patient"])[:n]


def is_of(patients: list[str]) -> Callable[[dict[str, Any]], bool]:
    wanted = {f"Patient/{p}" for p in patients}
    return lambda r: r.get("subject", {}).get("reference") in wanted


def test_the_capability_statement_is_valid_and_declares_what_the_server_does(north: Client) -> None:
    answer = north.get("metadata")
    statement = answer.json()
    get_fhir_model_class("CapabilityStatement").model_validate(statement)
    assert statement["fhirVersion"] == "4.0.1"
    assert statement["software"]["name"]
    assert "sandbox" not in answer.text.lower() + str(answer.headers).lower(), "it must look like any server"
    for resource in statement["rest"][0]["resource"]:
        for parameter in resource["searchParam"]:
            value = {"date": "ge1900", "token": "x", "reference": "x"}[parameter["type"]]
            found = north.get(resource["type"], **{parameter["name"]: value})
            assert found.status_code == 200, (resource["type"], parameter["name"])


@pytest.mark.parametrize("resource_type", sorted(PARAMETERS))
def test_paging_brings_every_resource_once_and_in_its_newest_version(
    clients: list[Client], resource_type: str
) -> None:
    for client in clients:
        found = client.search(resource_type, _count=173)
        assert len(found) == len({r["id"] for r in found})
        assert {r["id"]: r for r in found} == client.held[resource_type]


def test_a_page_holds_what_was_asked_for_and_says_where_it_goes_on(north: Client) -> None:
    pages = list(north.pages("Encounter", _count=50))
    assert [len(p["entry"]) for p in pages[:-1]] == [50] * (len(pages) - 1)
    assert len(pages) > 3
    assert "total" not in pages[0], "like many servers: no total where more pages follow"
    for page in pages:
        get_fhir_model_class("Bundle").model_validate(page)
        clock = datetime.fromisoformat(page["meta"]["lastUpdated"])
        assert abs(clock - datetime.now(clock.tzinfo)) < timedelta(minutes=1)
    assert pages[0]["link"][0] == {"relation": "self", "url": f"{north.base_url}/Encounter?_count=50"}
    assert all(e["fullUrl"] == f"{north.base_url}/Encounter/{e['resource']['id']}" for e in pages[0]["entry"])


def test_two_searches_page_side_by_side_without_mixing(north: Client) -> None:
    encounters, observations = north.pages("Encounter", _count=40), north.pages("Observation", _count=40)
    for one, other in zip(encounters, observations, strict=False):
        assert {e["resource"]["resourceType"] for e in one["entry"]} == {"Encounter"}
        assert {e["resource"]["resourceType"] for e in other["entry"]} == {"Observation"}


def test_an_invented_page_link_is_gone(north: Client) -> None:
    for token in ("", "nonsense", "0123456789abcdef01234567-0"):
        answer = north.ask(requests.Request("GET", f"{north.base_url}?_getpages={token}"))
        assert answer.status_code == 410
        get_fhir_model_class("OperationOutcome").model_validate(answer.json())


def test_total_is_told_when_asked_and_when_one_page_holds_all(north: Client) -> None:
    n = len(north.held["Encounter"])
    assert north.get("Encounter", _count=5, _total="accurate").json()["total"] == n
    assert north.get("Encounter", _count=1000).json()["total"] == n
    assert "total" not in north.get("Encounter", _count=1000, _total="none").json()
    for counted in (north.get("Encounter", _count=0), north.get("Encounter", _summary="count")):
        assert counted.json()["total"] == n
        assert "entry" not in counted.json()
        get_fhir_model_class("Bundle").model_validate(counted.json())


def test_post_search_equals_get(north: Client) -> None:
    patients = [f"Patient/{p}" for p in some_patients(north, 4)]
    form = {"patient": ",".join(patients), "code": "http://loinc.org|2532-0", "_count": 500}
    posted = north.ask(requests.Request("POST", f"{north.base_url}/Observation/_search", data=form)).json()
    got = north.get("Observation", **form).json()
    assert posted["entry"] == got["entry"]
    assert posted["link"] == got["link"]
    json_body = requests.Request("POST", f"{north.base_url}/Observation/_search", json=form)
    assert north.ask(json_body).status_code == 415


def test_answers_are_compressed_only_for_who_asks(north: Client) -> None:
    request = requests.Request("GET", f"{north.base_url}/Observation?_count=100")
    request.headers = {"Accept-Encoding": "gzip"}
    packed = north.ask(request)
    assert packed.headers["Content-Encoding"] == "gzip"
    request.headers = {"Accept-Encoding": "identity"}
    plain = north.ask(request)
    assert "Content-Encoding" not in plain.headers
    assert packed.json()["entry"] == plain.json()["entry"]
    assert "Date" in plain.headers
    assert plain.headers["Content-Type"].startswith("application/fhir+json")


def test_a_list_of_patients_is_the_union_of_its_singles(clients: list[Client]) -> None:
    for client in clients:
        patients = some_patients(client)
        singles = [i for p in patients for i in client.ids("Observation", patient=p)]
        pair = client.ids("Observation", patient=",".join(patients))
        assert sorted(pair) == sorted(singles) == sorted(client.where("Observation", is_of(patients)))
        absolute = ",".join(f"{client.base_url}/Patient/{p}" for p in patients)
        for written in (",".join(f"Patient/{p}" for p in patients), absolute):
            assert client.ids("Observation", patient=written) == pair
            assert client.ids("Observation", subject=written) == pair
        assert set(client.ids("Patient", _id=",".join(patients))) == set(patients)
        assert client.ids("Observation", patient="Patient/none") == []


def test_tokens_are_matched_with_and_without_their_system(north: Client) -> None:
    def has(code: str, system: str = "http://loinc.org") -> Callable[[dict[str, Any]], bool]:
        return lambda r: any(c["code"] == code and c["system"] == system for c in r["code"]["coding"])

    ldh, ecog = north.where("Observation", has("2532-0")), north.where("Observation", has("89247-1"))
    assert ldh
    assert set(north.ids("Observation", code="http://loinc.org|2532-0")) == ldh
    assert set(north.ids("Observation", code="2532-0")) == ldh
    assert set(north.ids("Observation", code="2532-0,http://loinc.org|89247-1")) == ldh | ecog
    assert north.ids("Observation", code="http://snomed.info/sct|2532-0") == []
    assert north.ids("Observation", code="|2532-0") == []
    local = north.where(
        "Observation", lambda r: r["code"]["coding"][0]["system"].startswith("http://example")
    )
    assert set(north.ids("Observation", code="http://example.org/rwe/codes|")) == local
    both = north.ids("Observation", code="2532-0", patient=some_patients(north, 1)[0])
    assert set(both) == ldh & north.where("Observation", is_of(some_patients(north, 1)))
    assert set(north.ids("Observation", category="laboratory", status="final")) > ldh


def test_a_search_by_code_is_blind_to_medication_references(north: Client) -> None:
    """As on real servers: only Medication?code= and then medication= finds all infusions."""
    by_code = set(north.ids("MedicationAdministration", code=INFUSIONS))
    medications = north.ids("Medication", code=INFUSIONS)
    references = ",".join(f"Medication/{m}" for m in medications)
    by_reference = set(north.ids("MedicationAdministration", medication=references))
    assert by_code
    assert by_reference
    assert not by_code & by_reference
    found = {
        north.held["MedicationAdministration"][i].get("subject", {}).get("reference")
        for i in by_code | by_reference
    }
    spec = SPECS[0]
    infused = {f"Patient/{p.patient_id}" for p in latent_patients(spec.cohort()) if p.kind == "eligible"}
    assert infused <= found
    assert not {f"Patient/{r.patient_id}" for r in hospital_records(spec) if r.kind == "no_car_t"} & found
    assert north.ids("MedicationAdministration", medication=INFUSIONS) == [], "a reference is no token"


def test_included_medications_come_once_a_page_beside_the_matches(north: Client) -> None:
    name = "MedicationAdministration:medication"
    for page in north.pages("MedicationAdministration", _include=name, _count=100):
        modes = defaultdict(list)
        for entry in page["entry"]:
            modes[entry["search"]["mode"]].append(entry["resource"])
        asked = {
            r["medicationReference"]["reference"] for r in modes["match"] if "medicationReference" in r
        } & {f"Medication/{i}" for i in north.held["Medication"]}
        assert sorted(f"Medication/{r['id']}" for r in modes["include"]) == sorted(asked)
        assert len(modes["match"]) <= 100
    subjects = north.get("Encounter", _include="Encounter:patient", _count=5).json()["entry"]
    assert "Patient" in {e["resource"]["resourceType"] for e in subjects}


@pytest.mark.parametrize("prefix", ["ge", "gt", "le", "lt", "sa", "eb", "eq", "ne", ""])
def test_last_updated_compares_instants(river: Client, prefix: str) -> None:
    """On the day of its migration the hospital gave thousands of resources the same instant."""
    instant = "2021-03-01T02:00:00.000Z"
    asked = datetime.fromisoformat(instant)
    compare = {
        "ge": lambda at: at >= asked,
        "sa": lambda at: at > asked,
        "gt": lambda at: at > asked,
        "le": lambda at: at <= asked,
        "lt": lambda at: at < asked,
        "eb": lambda at: at < asked,
        "eq": lambda at: at == asked,
        "": lambda at: at == asked,
        "ne": lambda at: at != asked,
    }[prefix]
    expected = river.where("Encounter", lambda r: compare(datetime.fromisoformat(r["meta"]["lastUpdated"])))
    assert set(river.ids("Encounter", _lastUpdated=prefix + instant)) == expected
    if prefix in {"ge", "eq", "le"}:
        assert len(expected) > 20, "ties at the edge"


def test_a_date_search_means_the_local_days_of_the_hospital(river: Client) -> None:
    zone = ZoneInfo("Europe/Berlin")

    def day(r: dict[str, Any]) -> date | None:
        text = r["effectiveDateTime"]
        if "-13-" in text:
            return None
        return (
            datetime.fromisoformat(text).astimezone(zone).date() if "T" in text else date.fromisoformat(text)
        )

    def between(first: date, last: date) -> set[str]:
        return river.where("Observation", lambda r: (d := day(r)) is not None and first <= d <= last)

    year = between(date(2021, 1, 1), date(2021, 12, 31))
    assert len(year) > 50
    assert set(river.ids("Observation", date="2021")) == year
    assert set(river.ids("Observation", date=["ge2021-01-01", "le2021-12-31"])) == year
    assert set(river.ids("Observation", date=["sa2020", "lt2022"])) == year
    assert set(river.ids("Observation", date="2021-02,2021-04-30")) == (
        between(date(2021, 2, 1), date(2021, 2, 28)) | between(date(2021, 4, 30), date(2021, 4, 30))
    )


def test_sorting_is_by_the_instant_in_both_directions(river: Client) -> None:
    def times(sort: str) -> list[str]:
        return [r["meta"]["lastUpdated"] for r in river.search("Observation", _sort=sort, _count=100)]

    assert times("_lastUpdated") == sorted(times("_lastUpdated"))
    assert times("-_lastUpdated") == sorted(times("_lastUpdated"), reverse=True)
    latest_first = river.search("Observation", _sort="-date", code="2532-0")
    by_patient = [r["effectiveDateTime"][:4] for r in latest_first if "-13-" not in r["effectiveDateTime"]]
    assert by_patient == sorted(by_patient, reverse=True)
    assert set(river.ids("Observation", _sort="date")) == set(river.held["Observation"]), "undated ones too"


@pytest.mark.parametrize(
    "query",
    [
        "unknown=secret",
        "code:text=secret",
        "subject.name=secret",
        "date=secret",
        "date=xx2021",
        "date=2021-13-45",
        "_lastUpdated=ge2021-01-01T00:00:00 01:00",
        "_count=secret",
        "_sort=secret",
        "_include=secret",
        "code=",
        "patient=",
        "_summary=secret",
    ],
)
def test_what_is_not_understood_is_refused_and_not_repeated(north: Client, query: str) -> None:
    answer = north.ask(requests.Request("GET", f"{north.base_url}/Observation?{query}"))
    assert answer.status_code == 400
    get_fhir_model_class("OperationOutcome").model_validate(answer.json())
    assert "secret" not in answer.text


def test_resources_are_read_by_id(north: Client) -> None:
    patient = some_patients(north, 1)[0]
    answer = north.get(f"Patient/{patient}")
    assert answer.json() == north.held["Patient"][patient]
    assert north.get("Patient/nobody").status_code == 404
    assert north.get("Practitioner").status_code == 404
    assert north.ask(requests.Request("DELETE", f"{north.base_url}/Patient/{patient}")).status_code == 405


def test_cut_resources_are_tagged_so_that_nobody_takes_them_for_a_version(north: Client) -> None:
    for resource in north.search("Patient", _elements="id,gender"):
        assert set(resource) == {"resourceType", "id", "meta", "gender"}
        assert [tag["code"] for tag in resource["meta"]["tag"]] == ["SUBSETTED"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_hospitals_stop_with_the_work_even_if_it_fails() -> None:
    class WorkError(Exception):
        pass

    tiny = [replace(spec, patients=2) for spec in demo_specs(1)[:2]]
    pids: list[int] = []

    def work() -> None:
        with running_hospitals(tiny) as hospitals:
            pids.extend(h.pid for h in hospitals)
            assert [(h.name, h.time_zone) for h in hospitals] == [
                ("north", "America/New_York"),
                ("river", "Europe/Berlin"),
            ]
            assert all(h.base_url.startswith("http://127.0.0.1:") for h in hospitals)
            raise WorkError

    with pytest.raises(WorkError):
        work()
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


def test_a_hospital_that_cannot_start_is_named() -> None:
    broken = replace(demo_specs(1)[0], dialect="z")
    with (
        pytest.raises(SiteError, match="north: the synthetic hospital did not start"),
        running_hospitals([broken]),
    ):
        pytest.fail("it cannot be up")


def test_a_hospital_ends_when_the_process_that_started_it_is_gone() -> None:
    program = (
        "import os, sys; from rwe.sandbox.server import *; from dataclasses import replace\n"
        "with running_hospitals([replace(demo_specs(1)[0], patients=2)]) as up:\n"
        "    print(up[0].pid, flush=True); os._exit(9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == 9
    pid, deadline = int(killed.stdout), time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)
