"""The estimators as the harness calls them: a cohort in, a log ratio with its interval out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rwe.simulate.scenarios import BASELINE, TIME_VARYING, Assumption, Scenario
from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.data import (
    NotEstimableError,
    exposure_split,
    landmark_split,
    naive_split,
    start_day_split,
)
from rwe.survival.effects import Effect
from rwe.survival.emulation import CloneCensorWeight, clone_censor_weight
from rwe.survival.firth import exposure_firth
from rwe.survival.tables import CohortTable

Estimand = Literal["conditional", "strategies", "limit"]


@dataclass(frozen=True)
class Answer:
    """An estimate on the log scale with the limits of its 95 % interval; `se` where it has one."""

    estimate: float
    low: float
    high: float
    se: float | None = None


@dataclass(frozen=True)
class Estimator:
    """`needs`: what must hold for it to be right. `share`: of the replicates, how many it is given."""

    name: str
    words: str
    estimand: Estimand
    run: Callable[[CohortTable, Scenario, int], Answer]
    needs: frozenset[Assumption] = frozenset()
    is_biased: bool = False
    share: float = 1.0


def _from_cox(fit: CoxFit) -> Answer:
    return Answer(float(fit.coefficients[0]), float(fit.ci_low[0]), float(fit.ci_high[0]), float(fit.se[0]))


def _naive(table: CohortTable, _: Scenario, __: int) -> Answer:
    return _from_cox(exposure_cox(naive_split(table)))


def _crude(table: CohortTable, _: Scenario, __: int) -> Answer:
    return _from_cox(exposure_cox(exposure_split(table)))


def _adjusted(table: CohortTable, s: Scenario, __: int) -> Answer:
    rows = exposure_split(table, BASELINE, TIME_VARYING)
    return _from_cox(exposure_cox(rows, stratify_by_site=s.sites > 1))


def _adjusted_robust(table: CohortTable, s: Scenario, __: int) -> Answer:
    rows = exposure_split(table, BASELINE, TIME_VARYING)
    return _from_cox(exposure_cox(rows, stratify_by_site=s.sites > 1, robust=True))


def _frozen(table: CohortTable, s: Scenario, __: int) -> Answer:
    rows = start_day_split(table, BASELINE, TIME_VARYING)
    return _from_cox(exposure_cox(rows, stratify_by_site=s.sites > 1, robust=True))


def _landmark(table: CohortTable, s: Scenario, __: int) -> Answer:
    rows = landmark_split(table, s.landmark, BASELINE, TIME_VARYING)
    return _from_cox(exposure_cox(rows, stratify_by_site=s.sites > 1))


def _firth(table: CohortTable, s: Scenario, __: int) -> Answer:
    fit = exposure_firth(exposure_split(table), stratify_by_site=s.sites > 1)
    return Answer(float(fit.coefficients[0]), float(fit.ci_low[0]), float(fit.ci_high[0]), float(fit.se[0]))


def _cloned(table: CohortTable, s: Scenario, seed: int, replicates: int) -> CloneCensorWeight:
    return clone_censor_weight(
        table,
        s.grace_days,
        BASELINE,
        TIME_VARYING,
        horizon_days=s.horizon,
        times=(s.horizon,),
        unless="progressed",
        site_indicators=s.sites > 1,
        replicates=replicates,
        seed=seed,
        workers=1,
    )


def _cloned_sandwich(table: CohortTable, s: Scenario, seed: int) -> Answer:
    return _from_effect(_cloned(table, s, seed, 0).contrasts.hazard_ratio)


def _cloned_bootstrap(table: CohortTable, s: Scenario, seed: int) -> Answer:
    return _from_effect(_cloned(table, s, seed, _REPLICATES).contrasts.hazard_ratio)


def _from_effect(effect: Effect) -> Answer:
    if effect.log_estimate is None or not effect.ci_low or not effect.ci_high:
        raise NotEstimableError("there is no ratio with an interval")
    return Answer(effect.log_estimate, math.log(effect.ci_low), math.log(effect.ci_high), effect.se)


_REPLICATES = 200
_ONE_RATIO: frozenset[Assumption] = frozenset({"one_hazard_ratio"})

ESTIMATORS: tuple[Estimator, ...] = (
    Estimator("naive", "ever against never started", "conditional", _naive, is_biased=True),
    Estimator(
        "time_dependent",
        "time-dependent Cox, not adjusted",
        "conditional",
        _crude,
        needs=_ONE_RATIO | {"no_confounding"},
    ),
    Estimator(
        "time_dependent_adjusted",
        "time-dependent Cox, adjusted for all confounders, stratified by site",
        "conditional",
        _adjusted,
        needs=_ONE_RATIO,
    ),
    Estimator(
        "time_dependent_robust",
        "the same with the variance clustered by patient",
        "conditional",
        _adjusted_robust,
        needs=_ONE_RATIO,
    ),
    Estimator("landmark_adjusted", "landmark Cox, adjusted", "limit", _landmark, needs=_ONE_RATIO),
    Estimator(
        "start_day_strata", "sequential stratified Cox by start day", "limit", _frozen, needs=_ONE_RATIO
    ),
    Estimator(
        "time_dependent_firth",
        "time-dependent Cox with Firth's penalty, not adjusted",
        "conditional",
        _firth,
        needs=_ONE_RATIO | {"no_confounding"},
    ),
    Estimator(
        "clone_censor_weight_sandwich",
        "clone-censor-weight, variance as if the weights were known",
        "strategies",
        _cloned_sandwich,
        needs=frozenset({"independent_censoring"}),
    ),
    Estimator(
        "clone_censor_weight",
        "clone-censor-weight, bootstrap of patients",
        "strategies",
        _cloned_bootstrap,
        needs=frozenset({"independent_censoring"}),
        share=0.2,
    ),
)
