"""The sums behind every Cox model: log partial likelihood, score, information, residuals, baseline hazard.

Rows are at risk on (start, stop]. The distinct event times of all strata lie on one line of slots, and a row
is at risk in an interval of them: one evaluation is a few sums over intervals, no loop over rows or times.

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
from rwe.survival.interval_sums import IntervalSums, interval_sums

Ties = Literal["efron", "breslow"]


@dataclass(frozen=True)
class RiskSets:
    """Which rows are at risk at which event times, worked out once for all evaluations.

    A slot is one distinct event time of one stratum; `tied` events happen in it. `at_risk` are the slots in
    which each row is at risk. `event_row` are rows with an event and `event_slot` their slots. One Efron term
    for each event: `term_slot`, `term_share` (a), `term_weight` (m).
    """

    X: FloatArray
    weight: FloatArray
    at_risk: IntervalSums
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
    keys = np.unique(event_key)
    event_slot = np.searchsorted(keys, event_key)
    tied = np.bincount(event_slot, minlength=len(keys)).astype(np.float64)
    mean_weight = _sum_at(event_slot, weight[event], len(keys)) / np.maximum(tied, 1)

    term_slot = np.sort(event_slot)
    rank = np.arange(len(term_slot)) - np.searchsorted(term_slot, term_slot, side="left")
    share = rank / tied[term_slot] if ties == "efron" else np.zeros(len(term_slot))
    first = np.searchsorted(keys, stratum * span + np.searchsorted(times, start, side="right"))
    past = np.searchsorted(keys, stratum * span + np.searchsorted(times, stop, side="right"))
    return RiskSets(
        X=X,
        weight=weight,
        at_risk=interval_sums(first, past, len(keys)),
        event_row=np.flatnonzero(event),
        event_slot=event_slot,
        term_slot=term_slot,
        term_share=share,
        term_weight=mean_weight[term_slot],
        tied=tied,
        row_stratum=stratum,
        slot_stratum=keys // span,
        slot_time=times[keys % span],
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
        rows = sums.risk * sets.at_risk.over_slots(_sum_at(sets.term_slot, hazard, sets.n_slots))
        tie = _sum_at(sets.term_slot, hazard * sets.term_share, sets.n_slots)
        rows[sets.event_row] -= sums.risk[sets.event_row] * tie[sets.event_slot]
        information = (sets.X * rows[:, None]).T @ sets.X
        information -= (sums.term_mean * sets.term_weight[:, None]).T @ sums.term_mean
    return Evaluation(float(loglik), score, (information + information.T) / 2)


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def score_residuals(sets: RiskSets, beta: FloatArray) -> FloatArray:
    """Score residual of each row (rows x p), without its weight; weighted they add up to the score.

    Not finite where a risk set is lost in rounding (weights or hazards some 300 decades apart).
    With Efron ties a tied event stays at risk by 1 - a in term r, as in R's `residuals.coxph`.
    """
    sums = _sums(sets, beta)
    slot, n = sets.term_slot, sets.n_slots
    exp_eta = sums.risk / sets.weight
    hazard = sets.term_weight / sums.term_s0
    at_event = exp_eta[sets.event_row]
    through = sets.at_risk.over_slots(_sum_at(slot, hazard, n))
    own = _sum_at(slot, hazard * sets.term_share, n)[sets.event_slot]
    residuals = np.empty_like(sets.X)
    for j, mean in enumerate(sums.term_mean.T):
        x = sets.X[:, j]
        residual = exp_eta * (sets.at_risk.over_slots(_sum_at(slot, hazard * mean, n)) - x * through)
        average = (_sum_at(slot, mean, n) / np.maximum(sets.tied, 1))[sets.event_slot]
        own_mean = _sum_at(slot, hazard * sets.term_share * mean, n)[sets.event_slot]
        x_event = x[sets.event_row]
        residual[sets.event_row] += x_event - average + at_event * (x_event * own - own_mean)
        residuals[:, j] = residual
    return residuals


def hazard_increments(sets: RiskSets, beta: FloatArray) -> FloatArray:
    """Increments of the baseline cumulative hazard (covariates at 0) by slot."""
    sums = _sums(sets, beta)
    increments = _sum_at(sets.term_slot, sets.term_weight / sums.term_s0, sets.n_slots)
    return np.asarray(increments * np.exp(-sums.shift[sets.slot_stratum]))


def _sums(sets: RiskSets, beta: FloatArray) -> _Sums:
    eta = sets.X @ beta
    # A constant taken from a stratum's eta cancels in the likelihood. It keeps exp() in range and the strata
    # on one scale, so that none is lost in the rounding of another.
    shift = np.full(int(sets.row_stratum.max()) + 1, -np.inf)
    np.maximum.at(shift, sets.row_stratum, eta)
    eta -= shift[sets.row_stratum]
    risk = sets.weight * np.exp(eta)
    slot, a = sets.term_slot, sets.term_share
    event_risk = risk[sets.event_row]
    n, p = sets.n_slots, sets.X.shape[1]
    term_s0 = sets.at_risk.over_rows(risk)[slot] - a * _sum_at(sets.event_slot, event_risk, n)[slot]
    term_mean = np.empty((len(slot), p))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for j in range(p):
            whole = sets.at_risk.over_rows(risk * sets.X[:, j])
            events = _sum_at(sets.event_slot, event_risk * sets.X[sets.event_row, j], n)
            term_mean[:, j] = (whole[slot] - a * events[slot]) / term_s0
    return _Sums(eta, shift, risk, term_s0, term_mean)


def _sum_at(slot: IntArray, values: FloatArray, n_slots: int) -> FloatArray:
    return np.asarray(np.bincount(slot, values, n_slots), dtype=np.float64)
