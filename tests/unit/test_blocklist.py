"""What stays of landed lines once somebody is erased: byte by byte, whatever the line looks like."""

from __future__ import annotations

import json

import pytest

from rwe.blocklist import without_blocked

GONE = frozenset({"p7", "long-id-of-hans"})


def left(line: bytes, *, is_unreadable: bool = False) -> bytes | None:
    return without_blocked(line, GONE.__contains__, is_unreadable=is_unreadable)


@pytest.mark.parametrize(
    "line",
    [
        b'{"resourceType":"Patient","id":"p7","name":[{"family":"Mue',
        b'{"resourceType":"Patient","name":[{"family":"Mueller"}],"id":"p7',
        b'{"resourceType":"Observation","subject":{"reference":"Patient/p7',
        b'{"resourceType":"Observation","subject":{"reference":"https://a.example/fhir/Patient/p7"},',
        b'{"name":[{"family":"Mueller"}],"id":"p7"}',
        b'<Patient><id value="p7"/><name>',
        b'{"resourceType":"Observation","id":"o1","subject":[{"reference":"Patient/p7"}]}',
        b'{"resourceType":"Patient","id":["p7"],"name":[{"family":"Mueller"}]}',
    ],
)
def test_a_line_whose_owner_cannot_be_read_goes_if_it_names_the_erased(line: bytes) -> None:
    assert left(line) is None
    other = line.replace(b"p7", b"p77")
    assert left(other) == other


def test_a_line_that_landed_as_unreadable_goes_even_where_it_is_json() -> None:
    line = b'{"resourceType":"Pat1ent","id":"p7","name":[{"family":"Mueller"}]}'
    assert left(line, is_unreadable=True) is None


def test_a_short_id_is_no_word_of_other_peoples_records() -> None:
    line = b'{"resourceType":"Observation","id":"p7","subject":{"reference":"Patient/p8"},"valueString":"p7"}'
    assert left(line) == line


def test_a_reference_to_the_erased_goes_whole_and_every_other_byte_stays() -> None:
    who = {
        "reference": "Patient/long-id-of-hans",
        "display": 'LongIdName, "{Hans\\',
        "identifier": {"value": "MRN-4711", "assigner": {"reference": "Organization/1", "display": "{"}},
    }
    around = [b'{"resourceType":"Observation", "valueQuantity":{"value":1.50},"performer":[', b"]}"]
    line = around[0] + json.dumps(who).encode() + b', {"reference":"Patient/p8"}' + around[1]
    expected = around[0] + b'{"reference":"Patient/erased"}, {"reference":"Patient/p8"}' + around[1]
    assert left(line) == expected
    assert left(line.replace(b"Patient/long", b"Patient\\/long")) == expected
    inner = b'{"resourceType":"Group","member":[{"entity":{"display":"Hans","reference":"Patient/p7"}}]}'
    assert left(inner) == b'{"resourceType":"Group","member":[{"entity":{"reference":"Patient/erased"}}]}'


def test_a_reference_inside_one_that_goes_goes_with_it() -> None:
    line = (
        b'{"resourceType":"Observation","focus":[{"reference":"Patient/p7","identifier":{"assigner":'
        b'{"reference":"Patient/p7","display":"Hans"}}}],"note":[{"text":"of urn:uuid:p7, Patient/p7."}]}'
    )
    assert left(line) == (
        b'{"resourceType":"Observation","focus":[{"reference":"Patient/erased"}],'
        b'"note":[{"text":"of urn:uuid:erased, Patient/erased."}]}'
    )
