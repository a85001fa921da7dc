"""Survival, restricted mean and hazard ratio of two arms, from weighted sums over risk sets at each death.

Product-limit with weighted counts, as R's `survfit(weights = )`; Cox model of the arm alone with Efron ties,
as `coxph(weights = )`: tied deaths weigh their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rwe.survival.data import FloatArray, IntArray, frozen_floats, frozen_ints

_MOST_ITERATIONS = 60
_CONVERGED = 1e-20
_FARTHEST = 200.0
"""A log hazard ratio that no data can hold."""


@dataclass(frozen=True)
class WeightedCurve:
    """S(t), right-continuous: 1 from day 0, then `survival` from each of `time` (days) on.

    `at_risk` are weighted numbers just before each time; `n_at_risk` and `n_events` count patients.

    `last_time`: the longest follow-up of a clone that counts; None where there is none. Beyond it survival is
    not known, unless it is 0.
    """

    time: FloatArray
    survival: FloatArray
    at_risk: FloatArray
    n_at_risk: IntArray
    n_events: IntArray
    last_time: float | None

    @property
    def events(self) -> int:
        """Deaths, counted."""
        return int(self.n_events.sum())

    def at(self, day: float) -> float:
        """S(day), NaN where nobody was followed that long and the curve is above 0."""
        i = int(np.searchsorted(self.time, day, side="right"))
        value = float(self.survival[i - 1]) if i else 1.0
        known = self.last_time is not None and (day <= self.last_time or value == 0.0)
        return value if known else np.nan

    def rmst(self, horizon: float) -> float:
        """Area under S from 0 to `horizon`, days; NaN where S(horizon) is not known."""
        if np.isnan(self.at(horizon)):
            return np.nan
        inside = self.time < horizon
        edges = np.concatenate([[0.0], self.time[inside], [horizon]])
        return float(np.sum(np.diff(edges) * np.concatenate([[1.0], self.survival[inside]])))


def weighted_curve(
    time: FloatArray,
    at_risk: FloatArray,
    deaths: FloatArray,
    *,
    n_at_risk: npt.ArrayLike,
    n_events: npt.ArrayLike,
    last_time: float | None,
) -> WeightedCurve:
    """The product-limit curve of weighted risk sets. Where nobody is at risk the curve stays where it is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(at_risk > 0, deaths / at_risk, 0.0)
    # All at risk die: 0, whatever rounding left of the quotient.
    factor = np.where(share > 1 - 1e-12, 0.0, 1.0 - share)
    return WeightedCurve(
        time=frozen_floats(time),
        survival=frozen_floats(np.cumprod(factor)),
        at_risk=frozen_floats(at_risk),
        n_at_risk=frozen_ints(n_at_risk),
        n_events=frozen_ints(n_events),
        last_time=last_time,
    )


def arm_log_hazard_ratio(
    at_risk: tuple[FloatArray, FloatArray],
    deaths: tuple[FloatArray, FloatArray],
    count: tuple[FloatArray, FloatArray],
) -> float | None:
    """Log hazard ratio of arm 1 against arm 0 by Efron's weighted partial likelihood.

    Each is (arm 0, arm 1), by time of death: weighted numbers at risk, weighted deaths, deaths counted.
    None where the likelihood has no maximum (no death in an arm while the other is at risk).
    """
    tied = (count[0] + count[1]).astype(np.int64)
    slot = np.repeat(np.arange(len(tied)), tied)
    if not len(slot):
        return None
    share = (np.arange(len(slot)) - np.repeat(np.cumsum(tied) - tied, tied)) / tied[slot]
    r0 = at_risk[0][slot] - share * deaths[0][slot]
    r1 = at_risk[1][slot] - share * deaths[1][slot]
    mean_weight = ((deaths[0] + deaths[1]) / np.maximum(tied, 1))[slot]
    both = (r0 > 0) & (r1 > 0)
    # Where arm 1 alone is at risk its deaths are certain to be its own: they say nothing.
    observed = float(deaths[1].sum()) - float(mean_weight[(r0 <= 0) & (r1 > 0)].sum())
    return _root(r0[both], r1[both], mean_weight[both], observed)


def _root(r0: FloatArray, r1: FloatArray, weight: FloatArray, observed: float) -> float | None:
    """Where observed = sum of weight e^b r1 / (r0 + e^b r1): Newton, kept inside a bracket."""
    total = float(weight.sum())
    slack = 1e-9 * max(total, 1e-300)
    if not slack < observed < total - slack:
        return None
    low, high, b = -_FARTHEST, _FARTHEST, 0.0
    for _ in range(_MOST_ITERATIONS):
        p = r1 / (r1 + r0 * np.exp(-b))
        score = observed - float(np.sum(weight * p))
        low, high = (b, high) if score > 0 else (low, b)
        information = float(np.sum(weight * p * (1 - p)))
        step = score / information if information > 0 else np.inf
        if score * step < _CONVERGED:
            return b
        b = b + step if low < b + step < high else (low + high) / 2
    return b if high - low < 1e-9 else None
