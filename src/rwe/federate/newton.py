"""How beta follows from the totals: one rule, worked out by the hub and by every site alike.

It starts at 0 and takes Newton steps. No log-likelihood leaves a site, so a step that goes too far is seen by
the score: where the slope along the step has turned round and is steeper than it was, half the step is taken
instead. Steps are bounded, and so is beta: at an extreme beta a score is a count of deaths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rwe.federate.plan import ARMS, Plan
from rwe.survival.cox_derivatives import penalised_score
from rwe.survival.data import FloatArray

_CONVERGED = 1e-18
_FLOOR = 1e-13
_LONGEST_STEP = 1.5  # in standard deviations of a covariate within risk sets
_SAME = 1e-9

Ending = Literal["goes_on", "converged", "out_of_the_box", "singular", "too_many_steps"]


@dataclass(frozen=True)
class Point:
    """Totals at one beta: score (p, penalised where the plan is), information (p x p), `meat` if robust.

    `events` is the total of all events, known at step 0 of rows without weights.
    """

    beta: FloatArray
    score: FloatArray
    information: FloatArray
    meat: FloatArray | None
    events: float | None = None


@dataclass(frozen=True)
class Decision:
    """What comes after the points so far: another `beta`, or the end.

    `best` is the place of the point at which the estimate stands. `coefficients` names those that leave the
    box, or have no information. `following` is the beta that the rule gives next, also where the end is
    reached: another machine may round to the other side of it.
    """

    ending: Ending
    beta: tuple[float, ...] | None
    best: int
    coefficients: tuple[str, ...] = ()
    following: tuple[float, ...] | None = None


def point_of(plan: Plan, beta: Sequence[float], totals: Mapping[str, float]) -> Point:
    """The totals of a step as matrices."""
    names = plan.coefficients
    information = _symmetric(plan, totals, "information")
    score = np.array([totals[f"score[{a}]"] for a in names])
    if plan.kind == "firth":
        score = _penalised(plan, score, information, totals)
    meat = _symmetric(plan, totals, "meat") if plan.is_robust else None
    observed = [totals.get(f"logrank.observed[{arm}]") for arm in ARMS]
    events = sum(n for n in observed if n is not None) if None not in observed else None
    return Point(np.asarray(beta, dtype=np.float64), score, information, meat, events)


def _symmetric(plan: Plan, totals: Mapping[str, float], what: str) -> FloatArray:
    place = {name: j for j, name in enumerate(plan.coefficients)}
    matrix = np.zeros((len(place), len(place)))
    for a, b in plan.pairs():
        matrix[place[a], place[b]] = matrix[place[b], place[a]] = totals[f"{what}[{a},{b}]"]
    return matrix


def _penalised(
    plan: Plan, score: FloatArray, information: FloatArray, totals: Mapping[str, float]
) -> FloatArray:
    place = {name: j for j, name in enumerate(plan.coefficients)}
    p = len(place)
    change = np.zeros((p, p, p))
    for names in plan.triples():
        i, j, k = (place[n] for n in names)
        value = totals["information_change[{},{},{}]".format(*names)]
        for at in ((i, j, k), (i, k, j), (j, i, k), (j, k, i), (k, i, j), (k, j, i)):
            change[at] = value
    try:
        return penalised_score(score, information, change)
    except np.linalg.LinAlgError:
        return score  # the information says so itself, in `decide`


def decide(plan: Plan, points: Sequence[Point]) -> Decision:
    """What follows from the points so far, the first of them at 0. The same points give the same decision."""
    base = 0
    tried: FloatArray | None = None
    for k in range(1, len(points)):
        step = points[k].beta - points[base].beta
        if points[k].score @ step < -(points[base].score @ step):  # overshot: the slope turned round
            tried = points[base].beta + step / 2
        else:
            base, tried = k, None
    here = points[base]
    flat = _without_information(plan, points[0])
    newton = None if flat else _solve(here.information, here.score)
    if newton is None:
        return Decision("singular", None, base, flat)
    decrement = float(here.score @ newton)
    is_over = tried is None and _has_converged(points, base, decrement)
    if tried is None:
        tried = here.beta + newton * _shortening(points[0], newton)
    following = tuple(float(b) for b in tried)
    if is_over:
        return Decision("converged", None, base, following=following)
    outside = _outside(plan, points[0], tried)
    if outside:
        return Decision("out_of_the_box", None, base, outside)
    if len(points) >= plan.most_steps:
        return Decision("too_many_steps", None, base)
    return Decision("goes_on", following, base, following=following)


def _has_converged(points: Sequence[Point], base: int, decrement: float) -> bool:
    """At the optimum, or at the second of two steps that only rounding is left of."""
    if abs(decrement) < _CONVERGED:
        return True
    if base == 0 or abs(decrement) > _FLOOR:
        return False
    before = points[base - 1]
    step = _solve(before.information, before.score)
    return step is not None and abs(decrement) >= abs(float(before.score @ step))


def _solve(information: FloatArray, score: FloatArray) -> FloatArray | None:
    try:
        root = np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        return None
    step = np.linalg.solve(root.T, np.linalg.solve(root, score))
    return step if np.isfinite(step).all() else None


def _without_information(plan: Plan, first: Point) -> tuple[str, ...]:
    diagonal = np.diag(first.information)
    return tuple(n for n, d in zip(plan.coefficients, diagonal, strict=True) if not d > 1e-12)


def _spread(first: Point) -> FloatArray:
    """Standard deviations of the covariates within risk sets, from the information at 0."""
    diagonal = np.diag(first.information)
    # Where events are not counted: an event adds at most 1/4 to the information of the arm.
    return np.asarray(np.sqrt(diagonal / (first.events or 4 * diagonal[0])))


def _shortening(first: Point, step: FloatArray) -> float:
    longest = float(np.max(np.abs(step) * _spread(first)))
    return min(1.0, _LONGEST_STEP / longest) if longest > 0 else 1.0


def _outside(plan: Plan, first: Point, beta: FloatArray) -> tuple[str, ...]:
    standardised = np.abs(beta) * _spread(first)
    is_out = (np.abs(beta) > plan.largest_coefficient) | (standardised > plan.largest_standardised)
    return tuple(n for n, out in zip(plan.coefficients, is_out, strict=True) if out)


def is_same_beta(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two machines worked out the same beta, up to rounding."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= _SAME * (1 + np.abs(b))))
