"""Sums over intervals of slots by additions alone.

A risk set is usually summed as a difference of cumulative sums. Where one row outweighs the others by many
orders of magnitude (a coefficient on its way to infinity), that difference drowns the others in rounding.
Here every interval is cut once, at the highest power of two inside it: the left part then ends where a block
of that size ends, the right part starts where one starts, so both are partial sums within a block and nothing
is ever subtracted. This is the disjoint sparse table; its cost is rows + slots x log2(slots).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.data import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class IntervalSums:
    """Rows with intervals of slots. Build it with `interval_sums`.

    `rows` are those whose interval is not empty. `left` and `right` are places (level x width + slot) of the
    two parts of each; `is_cut` is False where the interval is a single slot, which has no right part.
    """

    n_rows: int
    n_slots: int
    width: int
    levels: int
    rows: IntArray
    left: IntArray
    right: IntArray
    is_cut: BoolArray

    def over_rows(self, values: FloatArray) -> FloatArray:
        """For each slot the sum of `values` (by row) over the rows whose interval holds it."""
        used = values[self.rows]
        size = self.levels * self.width
        begins = np.bincount(self.left, used, size).reshape(self.levels, self.width)
        ends = np.bincount(self.right[self.is_cut], used[self.is_cut], size).reshape(self.levels, self.width)
        total = begins[0].copy()
        for level in range(1, self.levels):
            total += _running(begins[level], level) + _running_back(ends[level], level)
        return np.asarray(total[: self.n_slots])

    def over_slots(self, values: FloatArray) -> FloatArray:
        """For each row the sum of `values` (by slot) over its interval."""
        padded = np.zeros(self.width)
        padded[: self.n_slots] = values
        to_end = np.empty((self.levels, self.width))
        from_start = np.zeros((self.levels, self.width))
        to_end[0] = padded
        for level in range(1, self.levels):
            to_end[level] = _running_back(padded, level)
            from_start[level] = _running(padded, level)
        result = np.zeros(self.n_rows)
        result[self.rows] = to_end.ravel()[self.left] + np.where(
            self.is_cut, from_start.ravel()[self.right], 0.0
        )
        return result


def interval_sums(first: IntArray, past: IntArray, n_slots: int) -> IntervalSums:
    """Intervals first <= slot < past, one a row; empty where past <= first."""
    rows = np.flatnonzero(past > first)
    low, high = first[rows], past[rows] - 1
    # Highest bit in which the ends differ, plus one; 0 for a single slot. frexp is exact below 2^53.
    level = np.frexp((low ^ high).astype(np.float64))[1].astype(np.int64)
    width = 1 << max(n_slots - 1, 0).bit_length()
    return IntervalSums(
        n_rows=len(first),
        n_slots=n_slots,
        width=width,
        levels=width.bit_length(),
        rows=rows,
        left=level * width + low,
        right=level * width + high,
        is_cut=level > 0,
    )


def _running(values: FloatArray, level: int) -> FloatArray:
    """Cumulative sums within blocks of 2^(level - 1) slots."""
    if level == 1:
        return values
    return np.asarray(values.reshape(-1, 1 << (level - 1)).cumsum(axis=1).ravel())


def _running_back(values: FloatArray, level: int) -> FloatArray:
    """The same from the end of each block."""
    return _running(values[::-1], level)[::-1]
