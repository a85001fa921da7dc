"""Pseudonyms: keyed, stable, apart by site and type, the same for every way to write a reference."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.lake.pseudonyms import Pseudonymiser, key_fingerprint

KEY = bytes(range(32))
IDS = st.from_regex(r"[A-Za-z0-9\-.]{1,64}", fullmatch=True)


def test_a_pseudonym_is_the_first_half_of_hmac_sha256_of_site_type_and_id() -> None:
    message = b"north|Patient|p-1"
    expected = hmac.new(KEY, message, hashlib.sha256).hexdigest()[:32]
    assert Pseudonymiser(KEY, "north").of("Patient", "p-1") == expected


@given(IDS)
def test_every_way_to_write_a_reference_gives_the_patients_pseudonym(identity: str) -> None:
    pseudonyms = Pseudonymiser(KEY, "north")
    expected = pseudonyms.of("Patient", identity)
    for reference in (
        f"Patient/{identity}",
        f"Patient/{identity}/_history/3",
        f"https://fhir.example.org/r4/Patient/{identity}",
        f"http://fhir.example.org:8080/r4/Patient/{identity}/_history/3",
        f"urn:uuid:{identity}",
    ):
        assert pseudonyms.of_reference(reference, "Patient") == expected


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "",
        "#p1",
        "Group/1",
        "https://fhir.example.org/Group/1",
        "Patient?identifier=1",
        "Patient/",
        "Patient/a/b",
        "Patient/ä",
        "Patient/" + "a" * 65,
        "ftp://fhir.example.org/Patient/1",
    ],
)
def test_what_does_not_point_to_a_patient_has_no_pseudonym(reference: str | None) -> None:
    assert Pseudonymiser(KEY, "north").of_reference(reference, "Patient") is None


def test_site_type_and_key_each_change_the_pseudonym() -> None:
    found = {
        Pseudonymiser(KEY, "north").of("Patient", "1"),
        Pseudonymiser(KEY, "south").of("Patient", "1"),
        Pseudonymiser(KEY, "north").of("Encounter", "1"),
        Pseudonymiser(bytes(32), "north").of("Patient", "1"),
    }
    assert len(found) == 4


def test_a_fingerprint_tells_keys_apart_and_does_not_show_them() -> None:
    assert key_fingerprint(KEY) == key_fingerprint(bytes(range(32)))
    assert key_fingerprint(KEY) != key_fingerprint(bytes(32))
    assert KEY.hex()[:16] not in key_fingerprint(KEY)
