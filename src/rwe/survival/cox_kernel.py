"""The sums behind every Cox model: log partial likelihood, score, information, residuals, baseline hazard.

Rows are at risk on (start, stop]. All sums over risk sets are cumulative sums over the distinct event
times of a stratum, so one evaluation costs O(rows x covariates^2) and has no loop over rows or times.

Notation of Therneau & Grambsch 2000: S0, S1 are sums of w exp(eta) and w exp(eta) x over a risk set, D0, D1
the same over its events. With d tied events of mean weight m, Efron's approximation replaces them by d terms
r = 0..d-1, each with the risk set's sums less a = r/d of the events' own, and weight m; Breslow's has a = 0.
Sources: Efron 1977; Therneau & Grambsch 2000, sections 3.3, 4.2 and 7; R `coxph` agrees to its precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rwe.survival.data import BoolArray, FloatArray, IntArray

Ties = Literal["efron", "breslow"]


@dataclass(frozen=True)
class RiskSets:
    """Which rows are at risk at which event times, worked out once for all evaluations.

    Event times of all strata lie on one line of slots: each stratum's distinct event times in order, then one
    empty slot. A row is at risk in the slots first <= k < past. `event_row` are rows with an event and
    `event_slot` their slots. One Efron term for each event: `term_slot`, `term_share` (a), `term_weight` (m).
    """

    X: FloatArray
    weight: FloatArray
    first: IntArray
    past: IntArray
    event_row: IntArray
    event_slot: IntArray
    term_slot: IntArray
    term_share: FloatArray
    term_weight: FloatArray
    tied: FloatArray
    row_stratum: IntArray
    slot_stratum: IntArray
    slot_time: FloatArray

    @property
    def n_slots(self) -> int:
        return len(self.slot_time)


@dataclass(frozen=True)
class Evaluation:
    """Log partial likelihood, score (p) and observed information (p x p) at one beta."""

    loglik: float
    score: FloatArray
    information: FloatArray


@dataclass(frozen=True)
class _Sums:
    """By row: eta less its stratum's maximum (`shift`), weight x exp of that; by Efron term: S0, S1/S0."""

    eta: FloatArray
    shift: FloatArray
    risk: FloatArray
    term_s0: FloatArray
    term_mean: FloatArray


def risk_sets(
    X: FloatArray,
    *,
    start: FloatArray,
    stop: FloatArray,
    event: BoolArray,
    weight: FloatArray,
    stratum: IntArray,
    ties: Ties,
) -> RiskSets:
    """Sort out the risk sets. `stratum` are codes 0..S-1; `weight` is positive. At least one row."""
    times = np.unique(stop[event])
    span = len(times) + 1
    event_key = stratum[event] * span + np.searchsorted(times, stop[event])
    # The empty slot that ends each stratum has the key after its last possible time.
    ends = np.arange(int(stratum.max()) + 1) * span + span - 1
    keys = np.unique(np.concatenate([event_key, ends]))
    event_slot = np.searchsorted(keys, event_key)
    tied = np.bincount(event_slot, minlength=len(keys)).astype(np.float64)
    mean_weight = _sum_at(event_slot, weight[event], len(keys)) / np.maximum(tied, 1)

    term_slot = np.sort(event_slot)
    rank = np.arange(len(term_slot)) - np.searchsorted(term_slot, term_slot, side="left")
    share = rank / tied[term_slot] if ties == "efron" else np.zeros(len(term_slot))
    return RiskSets(
        X=X,
        weight=weight,
        first=np.searchsorted(keys, stratum * span + np.searchsorted(times, start, side="right")),
        past=np.searchsorted(keys, stratum * span + np.searchsorted(times, stop, side="right")),
        event_row=np.flatnonzero(event),
        event_slot=event_slot,
        term_slot=term_slot,
        term_share=share,
        term_weight=mean_weight[term_slot],
        tied=tied,
        row_stratum=stratum,
        slot_stratum=keys // span,
        slot_time=np.append(times, np.nan)[keys % span],
    )


def evaluate(sets: RiskSets, beta: FloatArray) -> Evaluation:
    """Log partial likelihood and its derivatives. Not finite where exp(X beta) leaves the doubles' range."""
    sums = _sums(sets, beta)
    x_event = sets.X[sets.event_row]
    w_event = sets.weight[sets.event_row]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        loglik = w_event @ sums.eta[sets.event_row] - sets.term_weight @ np.log(sums.term_s0)
        score = w_event @ x_event - sets.term_weight @ sums.term_mean
        hazard = sets.term_weight / sums.term_s0
        rows = sums.risk * _between(sets, _sum_at(sets.term_slot, hazard, sets.n_slots))
        tie = _sum_at(sets.term_slot, hazard * sets.term_share, sets.n_slots)
        rows[sets.event_row] -= sums.risk[sets.event_row] * tie[sets.event_slot]
        information = (sets.X * rows[:, None]).T @ sets.X
        information -= (sums.term_mean * sets.term_weight[:, None]).T @ sums.term_mean
    return Evaluation(float(loglik), score, (information + information.T) / 2)


def score_residuals(sets: RiskSets, beta: FloatArray) -> FloatArray:
    """Score residual of each row (rows x p), without its weight; weighted they add up to the score.

    With Efron ties a tied event stays at risk by 1 - a in term r, as in R's `residuals.coxph`.
    """
    sums = _sums(sets, beta)
    slot, n = sets.term_slot, sets.n_slots
    exp_eta = sums.risk / sets.weight
    hazard = sets.term_weight / sums.term_s0
    at_event = exp_eta[sets.event_row]
    through = _between(sets, _sum_at(slot, hazard, n))
    own = _sum_at(slot, hazard * sets.term_share, n)[sets.event_slot]
    residuals = np.empty_like(sets.X)
    for j, mean in enumerate(sums.term_mean.T):
        x = sets.X[:, j]
        residual = exp_eta * (_between(sets, _sum_at(slot, hazard * mean, n)) - x * through)
        average = (_sum_at(slot, mean, n) / np.maximum(sets.tied, 1))[sets.event_slot]
        own_mean = _sum_at(slot, hazard * sets.term_share * mean, n)[sets.event_slot]
        x_event = x[sets.event_row]
        residual[sets.event_row] += x_event - average + at_event * (x_event * own - own_mean)
        residuals[:, j] = residual
    return residuals


def hazard_increments(sets: RiskSets, beta: FloatArray) -> FloatArray:
    """Increments of the baseline cumulative hazard (covariates at 0) by slot; 0 at the empty slots."""
    sums = _sums(sets, beta)
    increments = _sum_at(sets.term_slot, sets.term_weight / sums.term_s0, sets.n_slots)
    return np.asarray(increments * np.exp(-sums.shift[sets.slot_stratum]))


def _sums(sets: RiskSets, beta: FloatArray) -> _Sums:
    eta = sets.X @ beta
    # A constant taken from a stratum's eta cancels in the likelihood. It keeps exp() in range and the strata
    # on one scale, so that none is lost in the rounding of another.
    shift = np.full(int(sets.slot_stratum[-1]) + 1, -np.inf)
    np.maximum.at(shift, sets.row_stratum, eta)
    eta -= shift[sets.row_stratum]
    risk = sets.weight * np.exp(eta)
    slot, a = sets.term_slot, sets.term_share
    event_risk = risk[sets.event_row]
    n, p = sets.n_slots, sets.X.shape[1]
    term_s0 = _over_risk_set(sets, risk)[slot] - a * _sum_at(sets.event_slot, event_risk, n)[slot]
    term_mean = np.empty((len(slot), p))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for j in range(p):
            whole = _over_risk_set(sets, risk * sets.X[:, j])
            events = _sum_at(sets.event_slot, event_risk * sets.X[sets.event_row, j], n)
            term_mean[:, j] = (whole[slot] - a * events[slot]) / term_s0
    return _Sums(eta, shift, risk, term_s0, term_mean)


def _over_risk_set(sets: RiskSets, values: FloatArray) -> FloatArray:
    """Sum of `values` over the rows at risk in each slot.

    Summed from the last time back, where risk sets are small, so that little is lost by cancellation; what
    rounding leaves over at the empty slot after a stratum is taken off that stratum.
    """
    n = sets.n_slots
    changes = _sum_at(sets.past, values, n) - _sum_at(sets.first, values, n)
    tail = np.append(np.cumsum(changes[::-1])[::-1], 0.0)[1:]
    rest = tail[np.flatnonzero(np.isnan(sets.slot_time))]
    return np.asarray(tail - rest[sets.slot_stratum])


def _sum_at(slot: IntArray, values: FloatArray, n_slots: int) -> FloatArray:
    return np.asarray(np.bincount(slot, values, n_slots), dtype=np.float64)


def _between(sets: RiskSets, by_slot: FloatArray) -> FloatArray:
    """Sum of `by_slot` over the slots in which each row is at risk."""
    total = np.concatenate([[0.0], np.cumsum(by_slot)])
    return np.asarray(total[sets.past] - total[sets.first])
