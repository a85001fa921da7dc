"""A code that its system could not have issued is refused."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe import codes
from rwe.codes import Code, InvalidCodeError

# Codes in use, from the terminologies themselves.
REAL = [
    (codes.LOINC, "2532-0"),
    (codes.LOINC, "89247-1"),
    (codes.LOINC, "97509-4"),
    (codes.SNOMED, "271299001"),
    (codes.SNOMED, "268910001"),
    (codes.SNOMED, "260415000"),
    (codes.RXNORM, "342369"),
    (codes.ATC, "L04AX04"),
    (codes.ATC, "L01"),
    (codes.ICD_10_CM, "C83.30"),
    (codes.ICD_10_CM, "S72.001A"),
    (codes.ICD_10_PCS, "XW033C3"),
    (codes.HCPCS, "Q2041"),
    (codes.CPT, "0540T"),
    (codes.CPT, "38228"),
    (codes.NDC, "59572-410-28"),
]


@pytest.mark.parametrize(("system", "code"), REAL)
def test_a_code_in_use_is_accepted(system: str, code: str) -> None:
    assert Code(system, code).code == code


@pytest.mark.parametrize(
    ("system", "code"),
    [
        (codes.LOINC, "2532-1"),  # wrong check digit
        (codes.SNOMED, "271299002"),  # wrong check digit
        (codes.ATC, "L04A04X"),
        (codes.ICD_10_PCS, "XWO33C3"),  # the letter O does not exist there
        (codes.ICD_10_CM, "83.30"),
        (codes.RXNORM, "0342369"),
        (codes.HCPCS, "2041Q"),
        ("rxnorm", "342369"),  # no URI
        (codes.ATC, ""),
        (codes.ATC, "L04AX04 "),
    ],
)
def test_a_code_no_system_issued_is_refused(system: str, code: str) -> None:
    with pytest.raises(InvalidCodeError):
        Code(system, code)


@given(st.sampled_from([c for s, c in REAL if s == codes.SNOMED]), st.data())
def test_any_single_wrong_digit_of_a_snomed_id_is_found(code: str, data: st.DataObject) -> None:
    # Verhoeff (1969): every single-digit error is detected.
    at = data.draw(st.integers(0, len(code) - 1))
    digit = data.draw(st.sampled_from([d for d in "123456789" if d != code[at]]))
    with pytest.raises(InvalidCodeError):
        Code(codes.SNOMED, code[:at] + digit + code[at + 1 :])


@given(st.sampled_from([c for s, c in REAL if s == codes.SNOMED]), st.data())
def test_two_neighbouring_digits_swapped_in_a_snomed_id_are_found(code: str, data: st.DataObject) -> None:
    at = data.draw(
        st.integers(0, len(code) - 2).filter(lambda i: code[i] != code[i + 1] and code[i + 1] != "0")
    )
    swapped = code[:at] + code[at + 1] + code[at] + code[at + 2 :]
    with pytest.raises(InvalidCodeError):
        Code(codes.SNOMED, swapped)


def test_a_prefix_stands_only_where_codes_form_a_tree() -> None:
    assert Code(codes.ICD_10_CM, "C83.3", is_prefix=True).is_prefix
    with pytest.raises(InvalidCodeError, match="tree"):
        Code(codes.LOINC, "2532-0", is_prefix=True)


def test_validity_must_run_forward() -> None:
    with pytest.raises(InvalidCodeError, match="valid from"):
        Code(codes.HCPCS, "Q2040", valid_from=date(2019, 1, 1), valid_to=date(2018, 12, 31))
