"""Sums over intervals of slots: the definition, and no loss beside a value a quadrillion times larger."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.survival.interval_sums import interval_sums

intervals = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n), st.integers(0, n), st.integers(-9, 9)), min_size=1, max_size=20
        ),
    )
)


@settings(deadline=None)
@given(intervals)
def test_each_slot_gets_its_rows_and_each_row_its_slots(drawn):
    n, rows = drawn
    first, past, values = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    sums = interval_sums(first, past, n)
    by_slot = [sum(v for a, b, v in rows if a <= k < b) for k in range(n)]
    assert sums.over_rows(values.astype(float)).tolist() == by_slot
    slot_values = np.arange(1.0, n + 1) ** 2
    by_row = [slot_values[a:b].sum() if a < b else 0 for a, b, _ in rows]
    assert sums.over_slots(slot_values).tolist() == by_row


def test_a_huge_neighbour_does_not_drown_a_small_value():
    # A difference of cumulative sums would give 0 for the second slot: 1 + 1e20 - 1e20.
    sums = interval_sums(np.array([0, 1]), np.array([4, 2]), 4)
    assert sums.over_rows(np.array([1.0, 1e20]))[2:].tolist() == [1, 1]
    assert interval_sums(np.array([2]), np.array([3]), 4).over_slots(np.array([1e20, 1e20, 1.0, 1e20])) == [1]


@pytest.mark.parametrize("n_slots", [0, 1])
def test_no_slot_and_one_slot(n_slots):
    sums = interval_sums(np.array([0, 0]), np.array([n_slots, n_slots]), n_slots)
    assert sums.over_rows(np.array([2.0, 3.0])).tolist() == [5.0] * n_slots
    assert sums.over_slots(np.ones(n_slots)).tolist() == [n_slots] * 2
