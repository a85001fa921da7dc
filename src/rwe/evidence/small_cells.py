"""Small cells: curves and numbers as they may leave a site. Counts: `rwe.small_cells`.

Rounded Kaplan-Meier steps are those of OpenSAFELY (its action `kaplan-meier-function`): a curve steps only
where the rounded number of events does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rwe.small_cells import midpoint_6


def significant(value: float, digits: int = 3) -> float:
    """The number with so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


@dataclass(frozen=True)
class RoundedStep:
    """A step of a rounded curve: `at_risk` just before `time_days`, and `events` on it, are rounded counts
    (`events` a multiple of 6, but the first, which is 3); `survival` follows from those alone."""

    time_days: float
    at_risk: int
    events: int
    survival: float


def rounded_km(
    times: Sequence[float], at_risk: Sequence[int], events: Sequence[int]
) -> tuple[RoundedStep, ...]:
    """Kaplan-Meier from rounded counts: a step where the rounded cumulative number of events grows.

    times: days, rising. at_risk: exact numbers just before each. events: exact numbers on each. The curve
    with delayed entry is made alike. It ends before the first step whose rounded risk set does not exceed its
    rounded events: too few are left to say more. Raises ValueError where the lengths differ.
    """
    steps: list[RoundedStep] = []
    total = shown = 0
    survival = 1.0
    for time, n, d in zip(times, at_risk, events, strict=True):
        total += d
        rounded = midpoint_6(total)
        if rounded == shown:
            continue
        new, shown = rounded - shown, rounded
        risk = midpoint_6(n)
        if risk <= new:
            break
        survival *= 1 - new / risk
        steps.append(RoundedStep(time, risk, new, survival))
    return tuple(steps)
