"""Inverse-probability weights of clones, as steps in time, and the weighted sums that estimates are made of.

A weight is exp(sum of hazards of departing up to, but not at, the day): piecewise constant, left-continuous.
`ArmPlan` sorts out once which clones are at risk at which death; `weighted_sums` then walks through time
with the draw of one bootstrap replicate. No row is ever split, so 10,000 patients take some 10 ms.
Sources: Maringe et al. 2020; Robins & Finkelstein 2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rwe.survival.clones import ArmClones
from rwe.survival.data import FloatArray, IntArray
from rwe.survival.hazard_model import LARGEST, HazardFit, HazardModel


@dataclass(frozen=True)
class Activations:
    """By slot of a model: which clones (positions of an arm) change to which row; row -1 is "not at risk"."""

    position: tuple[IntArray, ...]
    row: tuple[IntArray, ...]


class Steps(Protocol):
    """Adds to the log weights of an arm's clones, step after step."""

    time2: IntArray

    def add(self, step: int, log_weight: FloatArray) -> None:
        """Add step `step` to the log weights (a prefix of the arm's clones, longest followed first)."""

    def rewind(self) -> None:
        """Make ready for another walk."""


class HazardSteps:
    """Log weights grow by baseline increment x relative hazard of the row on which a clone then is."""

    def __init__(self, model: HazardModel, fit: HazardFit, activations: Activations, n: int) -> None:
        self.time2 = model.time2
        self._fit, self._activations = fit, activations
        self._theta = np.zeros(n)

    def add(self, step: int, log_weight: FloatArray) -> None:
        who, row = self._activations.position[step], self._activations.row[step]
        if len(who):
            self._theta[who] = np.where(row >= 0, self._fit.relative[row], 0.0)
        increment = self._fit.increments[step]
        if increment > 0:
            with np.errstate(over="ignore"):  # what is beyond LARGEST is cut to it, infinite or not
                log_weight += increment * self._theta[: len(log_weight)]

    def rewind(self) -> None:
        self._theta[:] = 0.0


class OneStep:
    """Log weights grow once, each clone by its own amount (by position)."""

    def __init__(self, at2: int, amount: FloatArray) -> None:
        self.time2 = np.array([at2], dtype=np.int64)
        self._amount = amount

    def add(self, step: int, log_weight: FloatArray) -> None:  # noqa: ARG002
        log_weight += self._amount[: len(log_weight)]

    def rewind(self) -> None: ...


@dataclass(frozen=True)
class ArmPlan:
    """One arm's clones, longest followed first (`order`: patient of each position; `position` the reverse).

    At slot s (a time of death in the cohort, half days) the first `at_risk[s]` positions are at risk, and
    dead_position[dead_from[s]:dead_from[s + 1]] die.
    """

    order: IntArray
    position: IntArray
    at_risk: IntArray
    dead_position: IntArray
    dead_slot: IntArray
    dead_from: IntArray
    time2: IntArray


@dataclass(frozen=True)
class ArmSums:
    """By slot: weighted clones at risk, weighted deaths, deaths drawn. By position: the last `log_weight`."""

    at_risk: FloatArray
    deaths: FloatArray
    count: FloatArray
    log_weight: FloatArray


def arm_plan(clones: ArmClones, time2: IntArray) -> ArmPlan:
    """Sort out one arm for the death times `time2` (half days, ascending)."""
    order = np.argsort(-clones.stop2, kind="stable")
    stop2 = clones.stop2[order]
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    dead = np.flatnonzero(clones.event[order])
    slot = np.searchsorted(time2, stop2[dead])
    by_slot = np.argsort(slot, kind="stable")
    return ArmPlan(
        order=order,
        position=position,
        at_risk=np.searchsorted(-stop2, -time2, side="right"),
        dead_position=dead[by_slot],
        dead_slot=slot[by_slot],
        dead_from=np.searchsorted(slot[by_slot], np.arange(len(time2) + 1)),
        time2=time2,
    )


def activations(model: HazardModel, plan: ArmPlan) -> Activations:
    """When which clone of the arm comes under which row of the model."""
    rows = np.flatnonzero(model.past > model.first)
    begins = np.stack([model.first[rows], plan.position[model.patient[rows]], rows])
    # A row that ends while no other row of its patient begins: at risk no more.
    ends = np.stack([model.past[rows], plan.position[model.patient[rows]], np.full(len(rows), -1)])
    ends = ends[:, ends[0] < model.n_slots]
    width = len(plan.order) + 1
    taken = np.isin(ends[0] * width + ends[1], begins[0] * width + begins[1])
    changes = np.hstack([begins, ends[:, ~taken]])
    changes = changes[:, np.lexsort((changes[1], changes[0]))]
    cuts = np.searchsorted(changes[0], np.arange(1, model.n_slots))
    if not model.n_slots:
        return Activations((), ())
    return Activations(tuple(np.split(changes[1], cuts)), tuple(np.split(changes[2], cuts)))


def weighted_sums(
    plan: ArmPlan, counts: FloatArray, sources: Sequence[Steps], cap: float | None = None
) -> ArmSums:
    """Walk through time: weighted risk sets and deaths at each slot, for patients drawn `counts` times each.

    `cap`: no weight counts more than this (truncation).
    """
    T = len(plan.time2)
    drawn = counts[plan.order]
    sums = np.zeros((2, T))
    log_weight = np.zeros(len(drawn))
    weight, slot = drawn, 0
    for begin, steps in _schedule(plan, sources):
        _fill(plan, weight, slot, begin, sums)
        slot, m = begin, int(plan.at_risk[begin])
        for source, step in steps:
            source.add(step, log_weight[:m])
        weight = np.exp(np.minimum(log_weight[:m], LARGEST))
        if cap is not None:
            np.minimum(weight, cap, out=weight)
        weight *= drawn[:m]
    _fill(plan, weight, slot, T, sums)
    count = np.bincount(plan.dead_slot, drawn[plan.dead_position], T).astype(np.float64)
    return ArmSums(sums[0], sums[1], count, log_weight)


def _schedule(plan: ArmPlan, sources: Sequence[Steps]) -> list[tuple[int, list[tuple[Steps, int]]]]:
    """Steps by the first slot after them: a step on the day of a death does not weigh that death."""
    by_slot: dict[int, list[tuple[Steps, int]]] = {}
    for source in sources:
        for step, slot in enumerate(np.searchsorted(plan.time2, source.time2, side="right").tolist()):
            by_slot.setdefault(slot, []).append((source, step))
    return [(slot, by_slot[slot]) for slot in sorted(by_slot) if slot < len(plan.time2)]


def _fill(plan: ArmPlan, weight: FloatArray, begin: int, end: int, sums: FloatArray) -> None:
    """Sums (2 x T: at risk, dead) of slots begin <= s < end, over which no weight changes.

    `weight` covers those at risk at begin.
    """
    if begin == end:
        return
    low, high = plan.dead_from[begin], plan.dead_from[end]
    who = plan.dead_position[low:high]
    if end - begin == 1:
        sums[0, begin] = weight[: plan.at_risk[begin]].sum()
        sums[1, begin] = weight[who].sum()
        return
    running = np.concatenate([[0.0], np.cumsum(weight)])
    sums[0, begin:end] = running[plan.at_risk[begin:end]]
    sums[1, begin:end] = np.bincount(plan.dead_slot[low:high] - begin, weight[who], end - begin)
