"""A Cox model of departing from a strategy, to be fitted again and again to resampled patients.

The rows are sorted out once; a fit takes how often each patient was drawn. A patient drawn twice counts as
two tied patients (Efron), so a fit equals that of the resampled rows written out. The hazard at the modelled
times is returned with the coefficients, for the weights are made of it. Without covariates there is no Cox
model: the hazards are then those whose exponential is Kaplan-Meier's. Sums avoid BLAS, so that no result
depends on a number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.cox import cox_data
from rwe.survival.cox_kernel import RiskSets, evaluate, risk_sets
from rwe.survival.cox_newton import maximise, refuse_collinear
from rwe.survival.data import BoolArray, FloatArray, IntArray, frozen_floats
from rwe.survival.histories import HistoryRows
from rwe.survival.newton import solve_flat

_MOST_ITERATIONS = 40
_CONVERGED = 1e-12
"""Newton decrement after whose step nothing is left but rounding."""
_FLAT = 1e-10
_TINY = 1e-15
LARGEST = 600.0
"""Log of the largest weight: sums of a million such still fit a double."""
_FARTHEST = 700.0
"""How far an exponent can be from 0 and its exponential still fit a double."""
_FAR = 30.0
"""A log hazard ratio between two patients this large is infinite for every purpose of a weight."""


@dataclass(frozen=True)
class HazardModel:
    """Rows and slots of the model. A slot is one time (half days) at which someone departs.

    X is p x rows, centred and scaled. A row is at risk in slots first <= k < past. `coefficients` are those
    of the whole cohort in the units of the covariates; NaN for one that is not estimable.
    """

    names: tuple[str, ...]
    X: FloatArray
    scale: FloatArray
    patient: IntArray
    first: IntArray
    past: IntArray
    event_row: IntArray
    event_slot: IntArray
    time2: IntArray
    start_at: FloatArray
    coefficients: FloatArray
    warnings: tuple[str, ...]

    @property
    def n_slots(self) -> int:
        return len(self.time2)


@dataclass(frozen=True)
class HazardFit:
    """Increments of the baseline hazard by slot, relative hazard by row; beta in the model's scale.

    Both are against the row with the largest hazard of those drawn: only their product is used, and it fits a
    double where a hazard at the mean of the covariates would not.
    """

    beta: FloatArray
    increments: FloatArray
    relative: FloatArray


def hazard_model(rows: HistoryRows, what: str) -> HazardModel:
    """Prepare the model of `what` (a noun for messages, e.g. "starting") and fit it to the whole cohort.

    A covariate that does not vary among those at risk is left out; one along which the likelihood rises for
    ever is held where it is flat, and so are the weights: both with a warning.
    Raises NotEstimableError for collinear covariates.
    """
    time2 = np.unique(rows.stop2[rows.event])
    first = np.searchsorted(time2, rows.start2, side="right")
    past = np.searchsorted(time2, rows.stop2, side="right")
    at_risk = past > first
    varies = _varies_at_events(rows, at_risk)
    names = tuple(n for n, v in zip(rows.names, varies, strict=True) if v)
    raw = rows.X[:, varies]
    centre = raw[at_risk].mean(axis=0) if at_risk.any() else np.zeros(len(names))
    scale = raw[at_risk].std(axis=0) if at_risk.any() else np.ones(len(names))
    notes = [
        f"{n} has one value only among those at risk of {what}: it was left out of the weights."
        for n, v in zip(rows.names, varies, strict=True)
        if not v and len(time2)
    ]
    X = np.ascontiguousarray(((raw - centre) / scale).T)
    start_at, coefficients = np.zeros(len(names)), np.full(len(names), np.nan)
    if len(time2) and names:
        start_at, runaway = _whole_cohort(rows, names, X.T, what)
        coefficients = np.where(runaway, np.nan, start_at / scale)
        notes += [
            f"The log hazard ratio of {n} in the model of {what} has no maximum: {what} is certain to differ "
            "by it, so the weights rest on nobody there."
            for n, r in zip(names, runaway, strict=True)
            if r
        ]
    event_row = np.flatnonzero(rows.event)
    return HazardModel(
        names=names,
        X=X,
        scale=scale,
        patient=rows.patient,
        first=first.astype(np.int64),
        past=past.astype(np.int64),
        event_row=event_row,
        event_slot=np.searchsorted(time2, rows.stop2[event_row]),
        time2=time2,
        start_at=start_at,
        coefficients=frozen_floats(coefficients),
        warnings=tuple(notes),
    )


def fit_hazard(model: HazardModel, counts: FloatArray) -> HazardFit:
    """Fit to patients drawn `counts` times each (by patient). If nobody departs there is no hazard."""
    weight = counts[model.patient]
    tied = np.bincount(model.event_slot, weight[model.event_row], model.n_slots).astype(np.int64)
    slot = np.repeat(np.arange(model.n_slots), tied)
    if not len(slot):
        return HazardFit(model.start_at, np.zeros(model.n_slots), np.ones(model.X.shape[1]))
    rank = np.arange(len(slot)) - np.repeat(np.cumsum(tied) - tied, tied)
    sums = _Sums(model, weight, slot, rank / tied[slot])
    beta = model.start_at.copy()
    here = sums.at(beta)
    if not np.isfinite(here.loglik):
        beta = np.zeros_like(beta)
        here = sums.at(beta)
    for _ in range(_MOST_ITERATIONS if len(beta) else 0):
        step = solve_flat(here.information, here.score)
        converged = float(here.score @ step) < _CONVERGED
        for halvings in range(30):
            there = sums.at(beta + step / 2**halvings)
            if there.loglik >= here.loglik - 1e-11 * (1 + abs(here.loglik)):
                break
        beta, here = beta + step / 2**halvings, there
        if converged or here.spread > _FAR:
            break
    above = np.einsum("jn,j->n", model.X, beta) - here.shift
    return HazardFit(beta, here.increments, np.exp(np.clip(above, -_FARTHEST, _FARTHEST)))


@dataclass(frozen=True)
class _At:
    loglik: float
    score: FloatArray
    information: FloatArray
    increments: FloatArray
    shift: float
    spread: float


class _Sums:
    """Partial likelihood and derivatives for one draw of the patients."""

    def __init__(self, model: HazardModel, weight: FloatArray, slot: IntArray, share: FloatArray) -> None:
        used = np.flatnonzero((weight > 0) & (model.past > model.first))
        self.model, self.slot, self.share = model, slot, share
        self.X, self.weight = np.ascontiguousarray(model.X[:, used]), weight[used]
        self.first, self.past = model.first[used], model.past[used]
        self.late = bool((self.first > 0).any())
        place = np.full(model.X.shape[1], -1)
        place[used] = np.arange(len(used))
        drawn = weight[model.event_row] > 0
        self.event = place[model.event_row[drawn]]
        self.event_slot = model.event_slot[drawn]
        self.event_weight = self.weight[self.event]
        self.x_event = np.einsum("jn,n->j", np.ascontiguousarray(self.X[:, self.event]), self.event_weight)

    def at(self, beta: FloatArray) -> _At:
        K, slot, share = self.model.n_slots, self.slot, self.share
        eta = np.einsum("jn,j->n", self.X, beta) if len(beta) else np.zeros(len(self.weight))
        shift = float(eta.max())
        risk = self.weight * np.exp(eta - shift)
        s0 = self._terms(risk)
        # Where a risk set is lost in rounding there is no likelihood, and a step there is taken back.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            hazard = 1.0 / s0
            loglik = float(np.sum(self.event_weight * (eta[self.event] - shift)) - np.sum(np.log(s0)))
            loglik = loglik if np.isfinite(loglik) else -np.inf
            means = np.stack([self._terms(risk * x) for x in self.X]) * hazard if len(beta) else None
        increments = np.bincount(slot, hazard, K).astype(np.float64)
        if means is None:
            # The first term of a slot has its whole risk set, the share of those who depart is d / n.
            at_risk = np.zeros(K)
            np.maximum.at(at_risk, slot, s0)
            tied = np.bincount(slot, minlength=K)
            increments = -np.log(np.maximum(1 - tied / np.maximum(at_risk, 1.0), _TINY))
            return _At(loglik, np.zeros(0), np.zeros((0, 0)), increments, shift, 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            cumulative = np.concatenate([[0.0], np.cumsum(increments)])
            q = risk * (cumulative[self.past] - cumulative[self.first])
            tie = np.bincount(slot, hazard * share, K)
            q[self.event] -= risk[self.event] * tie[self.event_slot]
            information = np.stack([np.einsum("kn,n->k", self.X, x * q) for x in self.X])
            information -= np.stack([np.einsum("kn,n->k", means, m) for m in means])
            score = self.x_event - means.sum(axis=1)
        return _At(loglik, score, information, increments, shift, float(np.ptp(eta)))

    def _terms(self, values: FloatArray) -> FloatArray:
        """For each Efron term the sum over its risk set, less the share of its events."""
        K = self.model.n_slots
        at_risk = np.cumsum(np.bincount(self.past, values, K + 1)[::-1])[::-1][1:]
        if self.late:
            at_risk = at_risk - np.cumsum(np.bincount(self.first, values, K + 1)[::-1])[::-1][1:]
        events = np.bincount(self.event_slot, values[self.event], K)
        return np.asarray(at_risk[self.slot] - self.share * events[self.slot])


def _whole_cohort(
    rows: HistoryRows, names: tuple[str, ...], X: FloatArray, what: str
) -> tuple[FloatArray, BoolArray]:
    """Coefficients (in the scale of X) by the project's Cox kernel, and which of them run away."""
    sets = _risk_sets(rows, X, names)
    null = evaluate(sets, np.zeros(len(names)))
    refuse_collinear(
        tuple(f"{n} (model of {what})" for n in names), null.information, float(rows.event.sum())
    )
    optimum = maximise(sets, null)
    runaway = np.zeros(len(names), dtype=bool)
    runaway[list(optimum.runaway)] = True
    beta = np.where(np.isfinite(optimum.beta), optimum.beta, 0.0)
    return beta, runaway


def _varies_at_events(rows: HistoryRows, at_risk: BoolArray) -> BoolArray:
    """Which covariates vary among those at risk at some event: the others have no coefficient."""
    varies = np.array([at_risk.any() and np.ptp(x[at_risk]) > 0 for x in rows.X.T], dtype=bool)
    if not varies.any():
        return varies
    X = rows.X[:, varies]
    X = (X - X[at_risk].mean(axis=0)) / X[at_risk].std(axis=0)
    null = evaluate(_risk_sets(rows, X, tuple(map(str, range(X.shape[1])))), np.zeros(X.shape[1]))
    varies[varies] = np.diag(null.information) > _FLAT * rows.event.sum()
    return varies


def _risk_sets(rows: HistoryRows, X: FloatArray, names: tuple[str, ...]) -> RiskSets:
    data = cox_data(X, rows.stop2, rows.event, names=names, start=rows.start2, cluster=rows.patient)
    return risk_sets(
        data.X,
        start=data.start,
        stop=data.stop,
        event=data.event,
        weight=data.weight,
        stratum=data.stratum,
        ties="efron",
    )
