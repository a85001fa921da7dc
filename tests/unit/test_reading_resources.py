"""What is read of a resource, alone or in a page, and that the bytes stay those that were served."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.fhir.bundle import (
    NotAResourceError,
    Resource,
    latest_update,
    parse_instant,
    read_bundle,
    read_resource,
)
from rwe.landing import RunFacts, new_run

FACTS = RunFacts(route="search", time_zone="UTC")
LACTATE = {"coding": [{"system": "http://loinc.org", "code": "2532-0"}, {"code": "LDH"}]}
PLAIN: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "meta": {"lastUpdated": "2024-05-04T03:02:01.123+02:00"},
    "subject": {"reference": "https://clinic.example/fhir/Patient/p-1/_history/4"},
    "code": LACTATE,
}

#: A resource with something odd, and what is read of it: id, patient, medication, number of codes.
ODD: dict[str, tuple[dict[str, Any], tuple[str | None, str | None, str | None, int]]] = {
    "nothing odd": (PLAIN, ("o1", "p-1", None, 2)),
    "a code that is text": ({**PLAIN, "code": "2532-0"}, ("o1", "p-1", None, 0)),
    "an id that is a number": ({**PLAIN, "id": 7}, (None, None, None, 0)),
    "a subject that is a list": ({**PLAIN, "subject": []}, (None, None, None, 0)),
    "a subject that is a Group": ({**PLAIN, "subject": {"reference": "Group/g"}}, ("o1", None, None, 2)),
    "a patient beside it": (
        {**PLAIN, "subject": None, "patient": {"reference": "Patient/p2"}},
        ("o1", "p2", None, 2),
    ),
    "a Medication": (
        {
            **PLAIN,
            "medicationReference": {"reference": "Medication/m1"},
            "medicationCodeableConcept": LACTATE,
        },
        ("o1", "p-1", "m1", 2),
    ),
    "a time that is none": ({**PLAIN, "meta": {"lastUpdated": "yesterday"}}, ("o1", "p-1", None, 2)),
}


def page(*resources: Any) -> bytes:
    return json.dumps({"resourceType": "Bundle", "entry": [{"resource": r} for r in resources]}).encode()


def seen(resource: Resource | None) -> tuple[str | None, str | None, str | None, int]:
    assert resource is not None
    return resource.id, resource.patient, resource.medication, len(resource.codes)


@pytest.mark.parametrize("name", ODD)
def test_a_field_of_an_odd_shape_counts_as_absent(name: str) -> None:
    content, expected = ODD[name]
    resource = read_resource(json.dumps(content).encode())
    assert resource.type == "Observation"
    assert seen(resource) == expected
    assert (resource.last_updated is None) == ("a time" in name or expected[0] is None)


@pytest.mark.parametrize("name", ODD)
def test_one_odd_resource_leaves_the_others_of_its_page_as_they_are(name: str) -> None:
    content, expected = ODD[name]
    body = page(PLAIN, content, "no resource", {"id": "without a type"}, PLAIN, None)
    found, subsetted, malformed = read_bundle(body, with_heads=True).found()
    assert [seen(f.resource) for f in found] == [ODD["nothing odd"][1], expected, ODD["nothing odd"][1]]
    assert [f.resource.raw for f in found] == [json.dumps(c).encode() for c in (PLAIN, content, PLAIN)]
    assert (subsetted, malformed) == (0, 2)


@pytest.mark.parametrize("with_heads", [True, False])
def test_an_included_resource_and_an_outcome_are_told_apart(with_heads: bool) -> None:
    entries = [{"resource": PLAIN, "search": {"mode": m}} for m in ("match", "include", "outcome")]
    body = json.dumps({"resourceType": "Bundle", "entry": [*entries, {"fullUrl": "x"}]}).encode()
    bundle = read_bundle(body, with_heads=with_heads)
    found, _, malformed = bundle.found()
    assert ([f.is_match for f in found], malformed) == ([True, False], 0)
    assert [(e.raw, e.mode) for e in bundle.entries] == [
        (json.dumps(PLAIN).encode(), m) for m in ("match", "include", "outcome")
    ]


def test_a_type_that_is_no_name_is_no_resource_however_often_it_is_read() -> None:
    for _ in range(2):
        with pytest.raises(NotAResourceError):
            read_resource(b'{"resourceType":"../../etc"}')


def test_what_is_kept_without_its_bytes_keeps_its_codes() -> None:
    kept = Resource("Observation", b"", known_codes=read_resource(json.dumps(PLAIN).encode()).codes)
    assert kept.codes == {("http://loinc.org", "2532-0"), (None, "LDH")}
    assert Resource("Observation", b"").codes == frozenset()


INSTANTS = st.builds(
    lambda at, digits, zone: f"{at:%Y-%m-%dT%H:%M:%S}{digits}{zone}",
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)),
    st.sampled_from(["", ".5", ".123", ".123456", ".1234567"]),
    st.sampled_from(["Z", "+00:00", "+02:00", "-05:30", "+14:00"]),
)


@given(st.lists(INSTANTS | st.sampled_from(["", "2024", "2024-05-04T03:02:60Z", "9999-99-99T99:99:99Z"])))
def test_the_latest_update_is_the_latest_instant_whatever_the_zones(texts: list[str]) -> None:
    instants = [at for t in texts if (at := parse_instant(t))]
    resources = [Resource("Observation", b"", updated=t) for t in texts]
    assert latest_update(resources) == max(instants, default=None)


def test_the_text_that_sorts_last_need_not_be_the_latest() -> None:
    texts = ["2024-05-04T23:30:00+14:00", "2024-05-04T12:00:00-05:00"]
    found = latest_update([Resource("Observation", b"", updated=t) for t in texts])
    assert found == datetime(2024, 5, 4, 17, tzinfo=UTC)


@given(
    st.lists(
        st.lists(
            st.sampled_from([b'{"a":1}', b'{\n"a":\r\n1}', b'{"a":"\\n"}', b"{}\r", b"\n{}"]), max_size=4
        )
    )
)
def test_lines_written_at_once_are_the_lines_written_one_by_one(batches: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with new_run(Path(folder), "a") as writer:
            for batch in batches:
                writer.write_all("Observation", batch)
            at_once = writer.commit(FACTS)
        with new_run(Path(folder), "b") as writer:
            for line in (line for batch in batches for line in batch):
                writer.write("Observation", line)
            one_by_one = writer.commit(FACTS)
        lines = list(at_once.open("Observation"))
        assert lines == list(one_by_one.open("Observation"))
        assert [json.loads(line) for line in lines] == [json.loads(line) for b in batches for line in b]
        sizes = [[(f.lines, f.bytes) for f in run.manifest.files if f.lines] for run in (at_once, one_by_one)]
        assert sizes[0] == sizes[1]
