"""Small cells: curves and numbers as they may leave a site. Counts: `rwe.small_cells`.

Rounded Kaplan-Meier steps are those of OpenSAFELY (its action `kaplan-meier-function`): a curve steps only
where the rounded number of events does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

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


def rounded_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Each count rounded, by its name."""
    return {k: midpoint_6(v) for k, v in counts.items()}


def digits_of(value: float | None, digits: int = 3) -> float | None:
    """The number with so many significant digits; None stays None."""
    return None if value is None else significant(value, digits)


def has_number(text: str) -> bool:
    """Whether a sentence holds a digit."""
    return re.search(r"\d", text) is not None


def without_numbers(sentences: Sequence[str]) -> list[str]:
    """Sentences that hold a number may hold a count; they stay inside."""
    return [s for s in sentences if not has_number(s)]


def whole_months(day: date | None) -> date | None:
    """The last day of the month before: the last day of care is one patient's."""
    return day.replace(day=1) - timedelta(days=1) if day else None
