"""Fixed point modulo 2^128: what goes in comes out, sums are exact, and what would not fit is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.errors import EvidenceError
from rwe.federate import fixed_point

NUMBERS = st.floats(min_value=-1e15, max_value=1e15, allow_nan=False)


@given(NUMBERS)
def test_a_number_comes_back_to_half_a_step(value: float) -> None:
    back = fixed_point.decode(fixed_point.encode(value, addends=1))
    assert abs(Fraction(back) - Fraction(value)) <= Fraction(1, 2**65)
    assert back == value or abs(value) < 2**-11  # 53 bits above 2^-64 are kept whole


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.data())
def test_masks_that_cancel_leave_the_exact_sum(values: list[float], data: st.DataObject) -> None:
    numbers = st.integers(min_value=0, max_value=fixed_point.MODULUS - 1)
    masks = data.draw(st.lists(numbers, min_size=len(values) - 1, max_size=len(values) - 1))
    masks.append(-sum(masks))
    hidden = [
        fixed_point.total((fixed_point.encode(v, addends=len(values)), m))
        for v, m in zip(values, masks, strict=True)
    ]
    rounded = [Fraction(round(Fraction(v) * 2**64), 2**64) for v in values]
    total = fixed_point.decode(fixed_point.total(hidden))
    assert total == float(sum(rounded))  # the nearest double of the exact sum, whatever the order


@given(st.integers(min_value=0, max_value=fixed_point.MODULUS - 1))
def test_text_and_number_are_one(number: int) -> None:
    text = fixed_point.to_text(number)
    assert len(text) == 32
    assert fixed_point.from_text(text) == number


@pytest.mark.parametrize("value", [2.0**62, -(2.0**62), 1e300, math.inf, -math.inf, math.nan])
def test_a_number_that_does_not_fit_is_refused_with_a_sentence(value: float) -> None:
    with pytest.raises(EvidenceError, match=r"too large for a total that can be masked.*larger units"):
        fixed_point.encode(value, addends=1)


@given(st.integers(min_value=1, max_value=500))
def test_the_largest_numbers_of_all_sites_still_add_up(sites: int) -> None:
    largest = math.nextafter(2.0**62 / sites, 0)
    for value in (largest, -largest):
        total = fixed_point.total(fixed_point.encode(value, addends=sites) for _ in range(sites))
        assert fixed_point.decode(total) == pytest.approx(sites * value, rel=1e-15)
    with pytest.raises(EvidenceError):
        fixed_point.encode(2.0**62 / sites * (1 + 1e-15), addends=sites)
