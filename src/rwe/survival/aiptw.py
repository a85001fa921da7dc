"""Survival at a horizon by augmented inverse-probability weighting: right if either of two models is.

Groups are fixed at a landmark (see `propensity`). With the propensity pi (logistic), survival S given group
and covariates (Cox models of each group) and being uncensored G likewise, the estimate for group a is the
mean over all patients of

    S_a(h|x) x (1 - [A = a] / pi_a(x) x sum over days u <= h of
                        (dN(u) - [at risk at u] dL_a(u|x)) / (S_a(u|x) G_a(u-|x)))

with dL the discrete hazard 1 - exp(-dH exp(xb)), so that S is its product. It is consistent if S is right, or
if pi and G are. The variance is that of the patients' terms (the efficient influence function): it takes the
models as known, and is too small with few events. Or it is that of a bootstrap of patients, with all models
refitted.

Sources: Hubbard, van der Laan & Robins 2000; Bai, Tsiatis & O'Brien 2013, Biometrics 69:830; Westling et al.
2024, JASA 119:1541. R: riskRegression::ate.

For the planner: `aiptw_survival(table, day, fixed, time_varying, horizons=[365, 730])` for each landmark,
horizons counted from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rwe.progress import SILENT, Progress
from rwe.survival.bootstrap import bootstrap
from rwe.survival.data import (
    BoolArray,
    CohortTable,
    CountingProcess,
    FloatArray,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
    landmark_split,
)
from rwe.survival.effects import Effect, bootstrap_effect, wald_effect
from rwe.survival.hazard_model import HazardFit, HazardModel, fit_hazard, hazard_model
from rwe.survival.histories import HistoryRows
from rwe.survival.logistic import fit_logistic
from rwe.survival.propensity import with_sites

METHOD = "AIPTW: logistic propensity, Cox models of outcome and censoring in each group"
VARIANCE = "efficient influence function"
REFITTED = "bootstrap of patients, all models refitted"
TOO_NARROW = (
    "The interval takes all models as known, and is too narrow unless events are many: in simulations with "
    "some 120 one of 95 % held the truth in 92 %. Ask for bootstrap replicates."
)
ASSUMPTIONS = (
    "Given the covariates at the landmark, whoever had started has the prognosis of whoever had not, but for "
    "the treatment (no unmeasured confounding), and leaving is independent of prognosis.",
    "Everybody at the landmark could have started, and could have not, and could be followed to the horizon.",
    "The outcome model is right, or those of the propensity and of censoring are.",
)
_SMALLEST = 0.01
"""Probabilities of group and follow-up are bounded here from below; it is said how often."""
_CHUNK = 4_000_000


@dataclass(frozen=True)
class AiptwPlan:
    """What an estimate, or a replicate of the bootstrap, is computed from: one row a patient."""

    rows: CountingProcess
    X: FloatArray
    models: tuple[HazardModel, HazardModel]
    horizons: tuple[float, ...]


@dataclass(frozen=True)
class AiptwSurvival:
    """Survival `day` days after the landmark if all had started, if none had, and the difference.

    `n_bounded`: patients whose probability of their group, or of being followed, was below 0.01.
    """

    day: float
    control: Effect
    treated: Effect
    difference: Effect
    n: tuple[int, int]
    events: tuple[int, int]
    n_bounded: int
    method: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    effect_type: str = "marginal"


def aiptw_survival(
    table: CohortTable,
    day: int,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    horizons: Sequence[float],
    outcome_covariates: Sequence[str] | None = None,
    propensity_covariates: Sequence[str] | None = None,
    site_indicators: bool = False,
    replicates: int = 0,
    seed: int = 0,
    workers: int | None = None,
    level: float = 0.95,
    progress: Progress = SILENT,
) -> tuple[AiptwSurvival, ...]:
    """Survival at each of `horizons` (days from the landmark) in both arms.

    `replicates` of the bootstrap, patients drawn within sites; 0: the variance of the influence function.

    `outcome_covariates` and `propensity_covariates` are the subsets of the covariates that enter the outcome
    model, and those of propensity and censoring; all by default. `site_indicators`: the sites enter all three
    models, each with a coefficient, so that either model of them can be the right one.

    Raises NotEstimableError where a group is empty or nobody of it is followed to a horizon, or covariates
    are collinear; SurvivalDataError for an unknown covariate or a horizon not after the landmark.
    """
    if not horizons or any(not (np.isfinite(h) and h > 0) for h in horizons):
        raise SurvivalDataError("a horizon is not after the landmark")
    rows = landmark_split(table, day, covariates, time_varying)
    rows.require_both_groups()
    given = rows.names
    rows = with_sites(rows) if site_indicators else rows
    sites = rows.names[len(given) :]
    outcome_names = (*(given if outcome_covariates is None else outcome_covariates), *sites)
    propensity_names = (*(given if propensity_covariates is None else propensity_covariates), *sites)
    propensity_X = _columns(rows, propensity_names)
    scaled = _scaled(propensity_X)
    fit = fit_logistic(scaled, rows.exposed)
    models = (
        hazard_model(_history(rows, rows.event, outcome_names), "the outcome"),
        hazard_model(_history(rows, ~rows.event, propensity_names), "loss to follow-up"),
    )
    notes = [*rows.warnings(), *models[0].warnings, *models[1].warnings]
    if fit.is_separated:
        notes.append("The covariates tell some who started from the others without error: no overlap there.")
    plan = AiptwPlan(rows, scaled, models, tuple(float(h) for h in horizons))
    found = [_both_arms(plan, fit.probability, h, np.ones(len(rows))) for h in plan.horizons]
    draws: FloatArray | None = None
    if replicates:
        label = f"bootstrapping AIPTW, day {day}"
        draws = _draws(
            plan, replicates=replicates, seed=seed, workers=workers, progress=progress, label=label
        )
    return tuple(
        _at_horizon(
            rows,
            both,
            h,
            notes=notes,
            level=level,
            drawn=None if draws is None else (draws[:, 2 * k], draws[:, 2 * k + 1]),
        )
        for k, (h, both) in enumerate(zip(plan.horizons, found, strict=True))
    )


def _draws(
    plan: AiptwPlan, *, replicates: int, seed: int, workers: int | None, progress: Progress, label: str
) -> FloatArray:
    return bootstrap(
        aiptw_once,
        plan,
        np.unique(plan.rows.site.astype(str), return_inverse=True)[1].astype(np.int64),
        replicates=replicates,
        seed=seed,
        workers=workers,
        progress=progress,
        label=label,
    ).values


def aiptw_once(plan: AiptwPlan, counts: FloatArray) -> FloatArray:
    """Survival of control and treated at each horizon, of patients drawn `counts` times each, refitted."""
    fit = fit_logistic(plan.X, plan.rows.exposed, counts)
    values: list[float] = []
    for horizon in plan.horizons:
        try:
            both = _both_arms(plan, fit.probability, horizon, counts)
        except NotEstimableError:
            values += [np.nan, np.nan]
            continue
        values += [float(np.sum(counts * arm.terms) / counts.sum()) for arm in both]
    return np.array(values)


def _both_arms(
    plan: AiptwPlan, propensity: FloatArray, horizon: float, counts: FloatArray
) -> tuple[_Terms, _Terms]:
    rows, models = plan.rows, plan.models
    return (
        _terms(rows, np.where(rows.exposed, 0.0, counts), 1 - propensity, models, horizon),
        _terms(rows, np.where(rows.exposed, counts, 0.0), propensity, models, horizon),
    )


def _at_horizon(
    rows: CountingProcess,
    both: tuple[_Terms, _Terms],
    horizon: float,
    *,
    notes: Sequence[str],
    level: float,
    drawn: tuple[FloatArray, FloatArray] | None,
) -> AiptwSurvival:
    control, treated = both
    apart = None if drawn is None else drawn[1] - drawn[0]
    early = rows.event & (rows.stop <= horizon)
    empty = [not (early & ~rows.exposed).any(), not (early & rows.exposed).any()]
    bounded = int((control.is_bounded | treated.is_bounded).sum())
    many = "1 patient" if bounded == 1 else f"{bounded} patients"
    extra = (f"A probability of {many} was below {_SMALLEST:g} and was bounded there.",) if bounded else ()
    return AiptwSurvival(
        day=horizon,
        control=_effect(control.terms, level, empty[:1], None if drawn is None else drawn[0]),
        treated=_effect(treated.terms, level, empty[1:], None if drawn is None else drawn[1]),
        difference=_effect(treated.terms - control.terms, level, empty, apart),
        n=(int((~rows.exposed).sum()), int(rows.exposed.sum())),
        events=(int(rows.event[~rows.exposed].sum()), int(rows.event[rows.exposed].sum())),
        n_bounded=bounded,
        method=METHOD,
        assumptions=ASSUMPTIONS,
        warnings=(*notes, *extra, *((TOO_NARROW,) if drawn is None and rows.names else ())),
    )


@dataclass(frozen=True)
class _Terms:
    """Each patient's term of the mean, and whether one of his probabilities was bounded."""

    terms: FloatArray
    is_bounded: BoolArray


def _terms(
    rows: CountingProcess,
    drawn: FloatArray,
    chance: FloatArray,
    models: tuple[HazardModel, HazardModel],
    horizon: float,
) -> _Terms:
    """`drawn`: how often each patient of the arm was drawn, 0 for those of the other."""
    in_arm = drawn > 0
    if not (rows.stop[in_arm] >= horizon).any():
        raise NotEstimableError(f"nobody of an arm was followed until {horizon:g} days after the landmark")
    outcome, leaving = (fit_hazard(m, drawn) for m in models)
    slots = models[0].time2 <= 2 * horizon
    hazard = np.cumsum(outcome.increments[slots])
    survival = np.exp(-(hazard[-1] if len(hazard) else 0.0) * outcome.relative)
    augmentation, is_bounded = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
    members = np.flatnonzero(in_arm)
    for part in np.array_split(members, max(1, len(members) * len(hazard) // _CHUNK)):
        found = _augmentation(rows, part, models, (outcome, leaving), slots)
        augmentation[part], is_bounded[part] = found
    is_bounded |= in_arm & (chance < _SMALLEST)
    weight = in_arm / np.maximum(chance, _SMALLEST)
    return _Terms(survival - weight * augmentation, is_bounded)


def _augmentation(
    rows: CountingProcess,
    who: IntArray,
    models: tuple[HazardModel, HazardModel],
    fits: tuple[HazardFit, HazardFit],
    slots: BoolArray,
) -> tuple[FloatArray, BoolArray]:
    """Sum over days of S(h)/S(u) (dN - at risk x dL) / G(u-), for patients `who`; and where G was bounded."""
    outcome, leaving = fits
    u2, step = models[0].time2[slots], outcome.increments[slots]
    stop2 = np.rint(2 * rows.stop[who]).astype(np.int64)[:, None]
    at_risk = stop2 >= u2
    dies = (stop2 == u2) & rows.event[who][:, None]
    relative = outcome.relative[who][:, None]
    hazard = np.cumsum(step)
    to_horizon = np.exp(-(hazard[-1:] - hazard) * relative)
    before = np.concatenate([[0.0], np.cumsum(leaving.increments)])[np.searchsorted(models[1].time2, u2)]
    stays = np.exp(-before * leaving.relative[who][:, None])
    is_bounded = np.asarray((at_risk & (stays < _SMALLEST)).any(axis=1))
    innovation = dies + at_risk * np.expm1(-step * relative)
    return (innovation * to_horizon / np.maximum(stays, _SMALLEST)).sum(axis=1), is_bounded


def _effect(
    terms: FloatArray, level: float, is_without_event: Sequence[bool], drawn: FloatArray | None
) -> Effect:
    value, n = float(terms.mean()), len(terms)
    if any(is_without_event):
        why = "An arm has no event by then, so there is no standard error."
        return Effect(value, ci_level=level, warnings=(why,))
    if drawn is not None:
        return bootstrap_effect(value, drawn, level=level, variance_method=REFITTED)
    se = float(terms.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return wald_effect(value, se, level=level, variance_method=VARIANCE)


def _history(rows: CountingProcess, event: BoolArray, names: tuple[str, ...]) -> HistoryRows:
    n = len(rows)
    stop2 = np.rint(2 * rows.stop).astype(np.int64)
    return HistoryRows(np.zeros(n, dtype=np.int64), stop2, event, _columns(rows, names), names, np.arange(n))


def _columns(rows: CountingProcess, names: tuple[str, ...]) -> FloatArray:
    unknown = [name for name in names if name not in rows.names]
    if unknown:
        raise SurvivalDataError(f"there is no covariate {', '.join(unknown)}")
    return np.asarray(rows.X[:, [rows.names.index(name) for name in names]])


def _scaled(X: FloatArray) -> FloatArray:
    spread = X.std(axis=0)
    return np.asarray((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
