"""Consents and labels in synthetic records, and how options reach a hospital's process."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B import get_fhir_model_class

from rwe.sandbox.clock import Clock, instant_text
from rwe.sandbox.export_content import Wish, content
from rwe.sandbox.extras import LABELS, PERMITTING, consent_kind
from rwe.sandbox.hospital import HospitalSpec, hospital_resources
from rwe.sandbox.nights import mutate
from rwe.sandbox.options import Access, Bulk, Extras, Quirks
from rwe.sandbox.store import Store, open_store
from rwe.sandbox.truth import Truth

PLAIN = HospitalSpec("north", "a", 60, 3)
RICH = HospitalSpec("north", "a", 60, 3, extras=Extras(consents=True, labels=True))


@pytest.fixture(scope="module")
def rich() -> list[dict[str, Any]]:
    return list(hospital_resources(RICH))


def of_type(held: list[dict[str, Any]], resource_type: str) -> list[dict[str, Any]]:
    return [r for r in held if r["resourceType"] == resource_type]


def lets_in(consent: dict[str, Any], today: date) -> bool:
    """As a reader decides: active, to research, permitting, in its period."""
    provision = consent["provision"]
    period = provision["period"]
    is_current = period["start"] <= today.isoformat() <= period.get("end", "9999")
    is_research = consent["scope"]["coding"][0]["code"] == "research"
    return consent["status"] == "active" and provision["type"] == "permit" and is_current and is_research


def test_extras_change_nothing_else(rich: list[dict[str, Any]]) -> None:
    stripped = [
        {**r, "meta": {k: v for k, v in r["meta"].items() if k != "security"}}
        for r in rich
        if r["resourceType"] != "Consent"
    ]
    assert stripped == list(hospital_resources(PLAIN))


def test_consents_are_valid_and_say_what_was_decided(rich: list[dict[str, Any]]) -> None:
    consents = {c["patient"]["reference"].removeprefix("Patient/"): c for c in of_type(rich, "Consent")}
    patients = {p["id"] for p in of_type(rich, "Patient")}
    kinds = {p: consent_kind(p, "3:north") for p in patients}
    assert set(Counter(kinds.values())) == {
        "permit", "permit_until", "expired", "deny", "withdrawn", "none"
    }  # fmt: skip
    assert {p for p, kind in kinds.items() if kind == "none"} == patients - set(consents)
    for patient, consent in consents.items():
        get_fhir_model_class("Consent").model_validate(consent)
        assert lets_in(consent, date(2025, 12, 1)) == (kinds[patient] in PERMITTING), kinds[patient]


def test_every_label_is_on_some_valid_resource(rich: list[dict[str, Any]]) -> None:
    labels: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for resource in rich:
        for label in resource["meta"].get("security", []):
            labels[label["code"]].append(resource)
    assert set(labels) == set(LABELS) == {"R", "V", "42CFRPart2", "HTEST"}
    assert sum(map(len, labels.values())) < 0.05 * len(rich)
    for held in labels.values():
        get_fhir_model_class(held[0]["resourceType"]).model_validate(held[0])


def test_a_spec_survives_the_way_to_its_process() -> None:
    spec = HospitalSpec(
        "n", "b", 3, 1, Truth(last_index=date(2022, 1, 1)), Bulk(levels=("group",), polls=7),
        Access(mode="smart", scopes=("system/*.rs",)), Quirks(no_last_updated=("Patient",)), Extras(True),
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(spec), type=HospitalSpec) == spec
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(spec).replace(b'"smart"', b'"smrat"'), type=HospitalSpec)


def test_the_same_night_on_the_same_records_makes_the_same_changes() -> None:
    spec = HospitalSpec("north", "c", 8, 3, extras=Extras(group=True))

    def after(*seeds: int) -> tuple[list[Any], dict[tuple[str, str], Any]]:
        store = open_store(spec)
        nights = [mutate(store, spec, Clock(), seed) for seed in seeds]
        held = {s.key: _without_times(s.resource) for t in store.types for s in store.all(t)}
        return nights, held

    assert after(1, 2) == after(1, 2)
    assert after(1, 2)[0] != after(1, 3)[0]


def _without_times(resource: dict[str, Any]) -> dict[str, Any]:
    return {**resource, "meta": {k: v for k, v in resource["meta"].items() if k != "lastUpdated"}}


def test_many_nights_leave_a_hospital_that_hangs_together() -> None:
    spec = HospitalSpec("north", "a", 10, 3, Truth(share_messy=0.0), extras=Extras(group=True, consents=True))
    store, clock = open_store(spec), Clock()
    nights = []
    for seed in range(12):
        nights.append(mutate(store, spec, clock, seed))
        clock.advance(1)
    assert all(n.arrived and n.updated and n.corrected and n.deleted and n.merged for n in nights)
    assert all(n.unmerged for n in nights[2:])
    assert sum(bool(n.joined) for n in nights) > 6
    assert store.members() == store.infused()
    assert "Patient/" + min(store.members()) in store.all("Group")[0].body.decode()
    patients = {s.id for s in store.all("Patient")}
    about = [s for t in store.types - {"Patient", "Group"} for s in store.all(t) if s.patient]
    orphans = [s.key for s in about if s.patient not in patients]
    assert not orphans
    _assert_history_leads_to(store)


def _assert_history_leads_to(store: Store) -> None:
    """Replaying the history gives what the store holds; its instants never go back once it was filled."""
    held: dict[tuple[str, str], bytes] = {}
    for change in store.history:
        if change.method == "DELETE":
            del held[change.stored.key]
        else:
            held[change.stored.key] = change.stored.body
    assert held == {s.key: s.body for t in store.types for s in store.all(t)}
    filled = next(i for i, c in enumerate(store.history) if c.stored.resource_type == "Group")
    instants = [c.at for c in store.history[filled + 1 :]]
    assert instants == sorted(instants)


def test_since_can_miss_new_observations_of_unchanged_patients() -> None:
    store = open_store(HospitalSpec("north", "a", 3, 3, bulk=Bulk()))
    one, other = store.all("Patient")[:2]
    at = instant_text(Clock().now())
    for person in (one, other):
        held = store.search("Observation", [("patient", person.id)])[0]
        store.put({**held.resource, "id": f"new-{person.id}"}, at)
    store.put(one.resource, at)
    wish = Wish("patient", (), at, {})

    def found(bulk: Bulk) -> set[str]:
        return {s.id for s in content(store, wish, bulk)["Observation"]}

    assert found(Bulk()) == {f"new-{one.id}", f"new-{other.id}"}
    assert found(Bulk(since_misses_unchanged=True)) == {f"new-{one.id}"}


def test_a_store_finds_only_the_newest_version() -> None:
    store = open_store(HospitalSpec("north", "a", 2, 3))
    old = store.all("Observation")[0]
    patient = old.patient or ""
    before = len(store.search("Observation", [("patient", patient)]))
    new = store.put({**old.resource, "status": "amended"}, instant_text(Clock().now()))
    assert new.version[1] == old.version[1] + 1
    assert len(store.search("Observation", [("patient", patient)])) == before
    assert store.search("Observation", [("_id", old.id)]) == [new]
    code = old.resource["code"]["coding"][0]["code"]
    assert old not in store.search("Observation", [("code", code)])
    other = {"reference": "Patient/somebody"}
    store.put({**old.resource, "subject": other}, instant_text(Clock().now()))
    assert len(store.search("Observation", [("patient", patient)])) == before - 1
    assert [s.id for s in store.search("Observation", [("patient", "somebody")])] == [old.id]
