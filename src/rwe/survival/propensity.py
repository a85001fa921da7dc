"""Weights by the propensity of having started by a landmark: inverse probability, or overlap.

Groups are fixed at the landmark among those followed beyond it, the clock restarts there, covariates are as
known then (`rwe.survival.data.landmark_split`). The propensity is a logistic model of having started.

- "iptw": 1/e for those who started, 1/(1 - e) for the others: the effect in all who reach the landmark.
- "overlap": 1 - e and e: the effect in those of whom either could have been expected; weighted means of the
  model's covariates are then equal exactly, and no weight is large.

Standardised mean differences use the unweighted standard deviations of both groups before and after, so that
both are on one scale (Austin & Stuart 2015, Stat Med 34:3661). Confidence by a bootstrap of patients with the
propensity refitted. Sources: Rosenbaum & Rubin 1983; Li, Morgan & Zaslavsky 2018, JASA 113:390; Kish 1965.

For the planner: `landmark_weighted(table, day, fixed, time_varying, kind=..., horizon_days=..., times=...,
seed=protocol.seed)` for each landmark; horizon and times count from the landmark. `balance` fills
`smd_before` and `smd_after` of the baseline table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from rwe.progress import SILENT, Progress
from rwe.survival.arm_contrasts import ArmContrasts, arm_contrasts, contrast_vector
from rwe.survival.bootstrap import Draws, bootstrap
from rwe.survival.cox import EXPOSURE, CoxData, cox_data, fit_cox
from rwe.survival.data import (
    BoolArray,
    CohortTable,
    CountingProcess,
    FloatArray,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
    frozen_flags,
    frozen_floats,
    frozen_ints,
    landmark_split,
)
from rwe.survival.effects import defined
from rwe.survival.histories import SITE_COLUMN
from rwe.survival.logistic import LogisticFit, fit_logistic, overlap_of
from rwe.survival.weight_diagnostics import (
    Stratum,
    WeightDiagnostics,
    strata_counts,
    weight_diagnostics,
)
from rwe.survival.weighted_curves import WeightedCurve, arm_log_hazard_ratio, weighted_curve

Kind = Literal["iptw", "overlap"]
METHODS = {
    "iptw": "inverse-probability weights of having started by the landmark",
    "overlap": "overlap weights of having started by the landmark",
}
ASSUMPTIONS = (
    "Given the covariates at the landmark, whoever had started has the prognosis of whoever had not, but for "
    "the treatment (no unmeasured confounding).",
    "Everybody at the landmark could have started, and could have not (positivity).",
    "The propensity model is right.",
    "Loss to follow-up is independent of prognosis within each arm.",
)
_TARGET = {
    "iptw": "The effect is in all who reach the landmark.",
    "overlap": "The effect is in the overlap population: those in whom either choice was to be expected.",
}
_IMBALANCE = 0.1
_TINY = 1e-300


@dataclass(frozen=True)
class Balance:
    """Standardised mean difference (started less not) of a covariate; None where it does not vary."""

    covariate: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class PropensityRange:
    """Propensities of an arm: minimum, median, maximum, and how many lie outside the other arm's range."""

    minimum: float
    median: float
    maximum: float
    n_outside: int


@dataclass(frozen=True)
class LandmarkWeighted:
    """Result of `landmark_weighted`. Pairs are (not started, started); times count from the landmark.

    `in_overlap`: the patients whom the covariates do not tell apart, where they do so with others without
    error (see `logistic.overlapping`); None where they tell nobody apart.
    """

    day: int
    kind: Kind
    contrasts: ArmContrasts
    robust_se: float | None
    n: tuple[int, int]
    events: tuple[int, int]
    balance: tuple[Balance, ...]
    weights: tuple[WeightDiagnostics, WeightDiagnostics]
    propensity: tuple[PropensityRange, PropensityRange]
    positivity: tuple[Stratum, ...]
    draws: Draws | None
    method: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    effect_type: str = "marginal"
    data: CoxData | None = field(default=None, repr=False, compare=False)
    in_overlap: tuple[int, int] | None = None


@dataclass(frozen=True)
class LandmarkPlan:
    """Patients sorted by follow-up, longest first; `past`: slots (times of death) up to their end."""

    kind: Kind
    X: FloatArray
    started: BoolArray
    stop: FloatArray
    event: BoolArray
    past: IntArray
    death_days: FloatArray
    start_at: FloatArray | None
    times: tuple[float, ...]
    horizon: float


def landmark_weighted(
    table: CohortTable,
    day: int,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    kind: Kind = "iptw",
    horizon_days: float,
    times: Sequence[float] = (),
    band_days: Sequence[float] = (),
    site_indicators: bool = False,
    replicates: int = 500,
    seed: int = 0,
    workers: int | None = None,
    level: float = 0.95,
    progress: Progress = SILENT,
) -> LandmarkWeighted:
    """Compare those who had started by the landmark with those who had not, weighted.

    `horizon_days`, `times` and `band_days` (of limits for a figure) count from the landmark.
    `replicates` 0: no bootstrap; the interval of the
    hazard ratio is then the sandwich's with the weights taken as known (conservative for "iptw").

    Raises NotEstimableError where a group is empty, SurvivalDataError for options that make no sense.
    """
    if not (np.isfinite(horizon_days) and horizon_days > 0) or any(not t >= 0 for t in (*times, *band_days)):
        raise SurvivalDataError("the horizon or a day of survival is not after the landmark")
    rows = landmark_split(table, day, covariates, time_varying)
    rows.require_both_groups()
    order = np.argsort(-rows.stop, kind="stable")
    names, X, notes = _design(with_sites(rows) if site_indicators else rows)
    plan = _plan(rows, X, order, kind=kind, times=(*times, *band_days), horizon=horizon_days)
    draws = None
    if replicates:
        draws = bootstrap(
            landmark_once,
            plan,
            np.unique(rows.site[order].astype(str), return_inverse=True)[1].astype(np.int64),
            replicates=replicates,
            seed=seed,
            workers=workers,
            progress=progress,
            label=f"bootstrapping landmark {day}",
        )
    return _result(
        plan,
        day,
        X[order],
        names=names,
        notes=(*rows.warnings(), *notes),
        draws=draws,
        level=level,
        n_band_days=len(band_days),
    )


def propensity_weights(probability: FloatArray, started: BoolArray, kind: Kind) -> FloatArray:
    """Weights of each patient, given the probability of having started."""
    own = np.where(started, probability, 1 - probability)
    return np.asarray(1 / np.maximum(own, _TINY) if kind == "iptw" else 1 - own)


def with_sites(rows: CountingProcess) -> CountingProcess:
    """The rows with a 0/1 covariate for each site but the first."""
    others = sorted(set(rows.site.tolist()))[1:]
    columns = [rows.X, *((rows.site == s).astype(np.float64)[:, None] for s in others)]
    return replace(
        rows,
        X=frozen_floats(np.hstack(columns)),
        names=(*rows.names, *(f"{SITE_COLUMN}{s}" for s in others)),
    )


def balance_of(
    X: FloatArray, names: Sequence[str], started: BoolArray, weight: FloatArray
) -> tuple[Balance, ...]:
    """Standardised mean differences before and after weighting. The unit is the unweighted pooled SD."""
    found = []
    for name, x in zip(names, X.T, strict=True):
        groups = (x[started], x[~started])
        unit = np.sqrt(sum(g.var(ddof=1) if len(g) > 1 else 0.0 for g in groups) / 2)
        if unit == 0:
            found.append(Balance(name, None, None))
            continue
        before = groups[0].mean() - groups[1].mean()
        after = _mean(groups[0], weight[started]) - _mean(groups[1], weight[~started])
        found.append(Balance(name, float(before / unit), defined(after / unit)))
    return tuple(found)


def fit_propensity(plan: LandmarkPlan, counts: FloatArray) -> LogisticFit:
    """The logistic model of having started, of patients drawn `counts` times each."""
    return fit_logistic(plan.X, plan.started, counts, start=plan.start_at)


def landmark_once(plan: LandmarkPlan, counts: FloatArray) -> FloatArray:
    """`arm_contrasts.contrast_vector` of patients drawn `counts` times each, the propensity refitted."""
    fit = fit_propensity(plan, counts)
    weight = propensity_weights(fit.probability, plan.started, plan.kind)
    curves, log_hr = weigh_landmark(plan, weight, counts)
    return contrast_vector(curves, log_hr, plan.times, plan.horizon)


def weigh_landmark(
    plan: LandmarkPlan, weight: FloatArray, counts: FloatArray | None = None
) -> tuple[tuple[WeightedCurve, WeightedCurve], float | None]:
    """Weighted curves (not started, started) and log hazard ratio."""
    drawn = np.ones(len(weight)) if counts is None else counts
    T = len(plan.death_days)
    at_risk, deaths, count, curves = [], [], [], []
    for is_arm in (~plan.started, plan.started):
        w = np.where(is_arm & (drawn > 0), drawn * weight, 0.0)
        dead = plan.event & is_arm & (drawn > 0)
        at_risk.append(np.cumsum(_sum_at(plan.past, w, T + 1)[::-1])[::-1][1:])
        deaths.append(_sum_at(plan.past[dead] - 1, w[dead], T))
        count.append(_sum_at(plan.past[dead] - 1, drawn[dead], T))
        followed = plan.stop[is_arm & (drawn > 0)].max(initial=0.0)
        curves.append(
            weighted_curve(
                plan.death_days,
                at_risk[-1],
                deaths[-1],
                n_at_risk=np.cumsum(_sum_at(plan.past, is_arm * drawn, T + 1)[::-1])[::-1][1:],
                n_events=count[-1],
                last_time=float(followed) if followed > 0 else None,
            )
        )
    log_hr = arm_log_hazard_ratio((at_risk[0], at_risk[1]), (deaths[0], deaths[1]), (count[0], count[1]))
    return (curves[0], curves[1]), log_hr


def _result(
    plan: LandmarkPlan,
    day: int,
    X: FloatArray,
    *,
    names: Sequence[str],
    notes: tuple[str, ...],
    draws: Draws | None,
    level: float,
    n_band_days: int,
) -> LandmarkWeighted:
    fit = fit_propensity(plan, np.ones(len(X)))
    if fit.is_separated:
        notes += ("The covariates tell some who started from the others without error: no overlap there.",)
    weight = propensity_weights(fit.probability, plan.started, plan.kind)
    curves, log_hr = weigh_landmark(plan, weight)
    data = _cox_rows(plan, weight)
    robust_se = None if log_hr is None else _sandwich(data, level)
    weights = _diagnostics(plan, weight)
    balance = balance_of(X, names, plan.started, weight)
    return LandmarkWeighted(
        day=day,
        kind=plan.kind,
        contrasts=arm_contrasts(
            curves,
            log_hr,
            plan.times,
            plan.horizon,
            draws=draws,
            robust_se=robust_se,
            level=level,
            n_band_days=n_band_days,
        ),
        robust_se=robust_se,
        n=(int((~plan.started).sum()), int(plan.started.sum())),
        events=(int(plan.event[~plan.started].sum()), int(plan.event[plan.started].sum())),
        balance=balance,
        weights=weights,
        propensity=_ranges(fit.probability, plan.started),
        positivity=strata_counts(X, names, plan.started),
        draws=draws,
        method=f"{METHODS[plan.kind]}, logistic model",
        assumptions=(*ASSUMPTIONS, _TARGET[plan.kind]),
        warnings=(
            *notes,
            *weights[0].warnings("control"),
            *weights[1].warnings("treated"),
            *_unbalanced(balance),
        ),
        data=data,
        in_overlap=overlap_of(plan.X, plan.started),
    )


def _sum_at(slot: IntArray, values: FloatArray, n_slots: int) -> FloatArray:
    return np.asarray(np.bincount(slot, values, n_slots), dtype=np.float64)


def _plan(
    rows: CountingProcess,
    X: FloatArray,
    order: IntArray,
    *,
    kind: Kind,
    times: Sequence[float],
    horizon: float,
) -> LandmarkPlan:
    stop, event = rows.stop[order], rows.event[order]
    death_days = np.unique(stop[event])
    spread = X.std(axis=0)
    scaled = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    whole = fit_logistic(scaled[order], rows.exposed[order])
    return LandmarkPlan(
        kind=kind,
        X=frozen_floats(scaled[order]),
        started=frozen_flags(rows.exposed[order]),
        stop=frozen_floats(stop),
        event=frozen_flags(event),
        past=frozen_ints(np.searchsorted(death_days, stop, side="right")),
        death_days=frozen_floats(death_days),
        start_at=None if whole.is_separated else whole.coefficients,
        times=tuple(float(t) for t in times),
        horizon=float(horizon),
    )


def _design(rows: CountingProcess) -> tuple[tuple[str, ...], FloatArray, tuple[str, ...]]:
    names, X = rows.names, rows.X
    varies = np.array([np.ptp(x) > 0 for x in X.T], dtype=bool)
    notes = tuple(
        f"{n} has one value only at the landmark: it was left out of the propensity."
        for n, v in zip(names, varies, strict=True)
        if not v
    )
    return tuple(n for n, v in zip(names, varies, strict=True) if v), X[:, varies], notes


def _cox_rows(plan: LandmarkPlan, weight: FloatArray) -> CoxData:
    return cox_data(
        plan.started[:, None].astype(np.float64), plan.stop, plan.event, names=(EXPOSURE,), weights=weight
    )


def _sandwich(data: CoxData, level: float) -> float | None:
    try:
        return fit_cox(data, robust=True, level=level).hazard_ratio().se
    except NotEstimableError:
        return None


def _diagnostics(plan: LandmarkPlan, weight: FloatArray) -> tuple[WeightDiagnostics, WeightDiagnostics]:
    model = METHODS[plan.kind]
    return (
        weight_diagnostics(model, weight[~plan.started]),
        weight_diagnostics(model, weight[plan.started]),
    )


def _ranges(probability: FloatArray, started: BoolArray) -> tuple[PropensityRange, PropensityRange]:
    groups = (probability[~started], probability[started])
    found = []
    for own, other in (groups, groups[::-1]):
        outside = int(((own < other.min()) | (own > other.max())).sum())
        found.append(PropensityRange(float(own.min()), float(np.median(own)), float(own.max()), outside))
    return found[0], found[1]


def _mean(x: FloatArray, weight: FloatArray) -> float:
    total = float(weight.sum())
    return float(x @ weight) / total if total > 0 else np.nan


def _unbalanced(balance: Sequence[Balance]) -> tuple[str, ...]:
    names = [b.covariate for b in balance if b.after is not None and abs(b.after) > _IMBALANCE]
    if not names:
        return ()
    return (f"After weighting the arms still differ in {', '.join(names)} (by more than 0.1 SD).",)
