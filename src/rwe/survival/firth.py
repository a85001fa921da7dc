"""Cox regression with Firth's penalty, for few or no events in an arm: profile-likelihood intervals.

The log-likelihood is raised by half the log determinant of the information. Estimates stay finite when an
arm has no event (monotone likelihood) and lose their small-sample bias. As R's `coxphf`: Breslow ties, the
penalty from the full information matrix also while profiling, standard errors from its inverse, p values by
penalised likelihood ratio. The profile interval is the one to report: the likelihood is far from a parabola.

Sources: Firth 1993, Biometrika 80:27; Heinze & Schemper 2001, Biometrics 57:114.

For the planner: `exposure_firth(rows, stratify_by_site=..., level=...)` on rows of `landmark_split` or
`exposure_split` where `exposure_cox` diverges, or where an arm has fewer than five events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtrc, chdtri, ndtri

from rwe.survival.cox import EXPOSURE, CoxData, exposure_data
from rwe.survival.cox_derivatives import information_derivative, penalised_score
from rwe.survival.cox_kernel import RiskSets, Ties, evaluate, risk_sets
from rwe.survival.cox_newton import refuse_collinear
from rwe.survival.data import (
    BoolArray,
    CountingProcess,
    FloatArray,
    NotEstimableError,
    SurvivalDataError,
    frozen_floats,
)

METHOD = "Cox model with Firth's penalty"
CI_METHOD = "profile penalised likelihood"
PENALTY = "The penalty draws the estimate towards no effect, the more so the fewer the events."
ASSUMPTIONS = (
    "Proportional hazards.",
    "Censoring is independent of prognosis, given the covariates.",
    PENALTY,
)

_MAX_ITERATIONS = 200
_CONVERGED = 1e-18
_FLOOR = 1e-12
_LONGEST_STEP = 2.0
"""In standard deviations of a covariate: the penalty is only steep enough near the optimum."""
_FARTHEST = 60.0
"""How far (in standard deviations of the covariate) a profile limit is looked for."""


@dataclass(frozen=True)
class FirthRatio:
    """One hazard ratio. Limits are ratios: profile-likelihood, and Wald's for comparison.

    `ci_low`, `ci_high`, `chi_square`, `p_value` are None if the coefficient was not profiled; a single limit
    is None if the profile never falls far enough on that side.
    """

    name: str
    estimate: float
    log_estimate: float
    se: float
    ci_low: float | None
    ci_high: float | None
    wald_low: float
    wald_high: float
    chi_square: float | None
    p_value: float | None


@dataclass(frozen=True)
class FirthFit:
    """A penalised Cox model. Arrays follow `names`; coefficients and standard errors on the log scale.

    `se` comes from the inverse of the (unpenalised) information at the estimate. `ci_low`, `ci_high`,
    `chi_square` and `p_value` are NaN for coefficients that were not profiled. `loglik` and `loglik_null` are
    penalised, the latter with every coefficient at 0.
    """

    names: tuple[str, ...]
    coefficients: FloatArray
    se: FloatArray
    variance: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    chi_square: FloatArray
    p_value: FloatArray
    ci_level: float
    ties: Ties
    loglik_null: float
    loglik: float
    n_rows: int
    n_patients: int
    events: int
    events_exposed: int | None
    events_unexposed: int | None
    strata: tuple[str, ...]
    iterations: int
    warnings: tuple[str, ...]
    method: str = METHOD
    ci_method: str = CI_METHOD
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def hazard_ratio(self, name: str = EXPOSURE) -> FirthRatio:
        """The hazard ratio of one unit of `name`. Raises SurvivalDataError if the model lacks it."""
        if name not in self.names:
            raise SurvivalDataError(f"the model has no covariate {name}")
        j = self.names.index(name)
        half = float(ndtri(0.5 + self.ci_level / 2)) * self.se[j]
        return FirthRatio(
            name=name,
            estimate=float(np.exp(self.coefficients[j])),
            log_estimate=float(self.coefficients[j]),
            se=float(self.se[j]),
            ci_low=_finite(np.exp(self.ci_low[j])),
            ci_high=_finite(np.exp(self.ci_high[j])),
            wald_low=float(np.exp(self.coefficients[j] - half)),
            wald_high=float(np.exp(self.coefficients[j] + half)),
            chi_square=_finite(self.chi_square[j]),
            p_value=_finite(self.p_value[j]),
        )


def exposure_firth(data: CountingProcess, *, stratify_by_site: bool = False, level: float = 0.95) -> FirthFit:
    """Penalised Cox model of exposure and the adjustment covariates; exposure alone is profiled.

    Raises NotEstimableError as `fit_firth`, where a group is empty, and for rows in which a patient is in
    several trials: their variance has to be the robust one, which Firth's model does not have.
    """
    if data.trial is not None:
        raise NotEstimableError("Firth's model has no robust variance", advice="use the time-dependent rows")
    rows = exposure_data(data, stratify_by_site=stratify_by_site)
    return fit_firth(rows, level=level, profile=(EXPOSURE,))


def fit_firth(
    data: CoxData,
    *,
    ties: Ties = "breslow",
    level: float = 0.95,
    profile: Sequence[str] | None = None,
) -> FirthFit:
    """Maximise the penalised partial likelihood; profile the coefficients named (all of them by default).

    Raises NotEstimableError without any event, for a covariate that varies within no risk set or is
    collinear, and if no maximum is found; SurvivalDataError for weights other than 1, because the penalty
    depends on their scale.
    """
    wanted = data.names if profile is None else tuple(profile)
    _check(data, wanted, level)
    likelihood, scale = _likelihood(data, ties)
    p = len(data.names)
    free = np.ones(p, dtype=bool)
    best = _climb(likelihood, np.zeros(p), free)
    variance = np.linalg.inv(best.information)
    se = np.sqrt(np.diag(variance))
    low, high, chi_square = np.full((3, p), np.nan)
    warnings = list(data.warnings)
    for name in wanted:
        j = data.names.index(name)
        low[j], high[j] = (_limit(likelihood, best, j, side * se[j], level) for side in (-1, 1))
        chi_square[j] = max(0.0, 2 * (best.loglik - _profiled(likelihood, best, j, 0.0).loglik))
        if not np.isfinite([low[j], high[j]]).all():
            warnings.append(f"The profile of {name} does not fall far enough: that side is open.")
    exposed = data.X[:, data.names.index(EXPOSURE)] == 1 if EXPOSURE in data.names else None
    return FirthFit(
        names=data.names,
        coefficients=frozen_floats(best.beta / scale),
        se=frozen_floats(se / scale),
        variance=frozen_floats(variance / np.outer(scale, scale)),
        ci_low=frozen_floats(low / scale),
        ci_high=frozen_floats(high / scale),
        chi_square=frozen_floats(chi_square),
        p_value=frozen_floats(chdtrc(1, chi_square)),
        ci_level=level,
        ties=ties,
        loglik_null=likelihood.at(np.zeros(p)).loglik + float(np.log(scale).sum()),
        loglik=best.loglik + float(np.log(scale).sum()),
        n_rows=len(data),
        n_patients=len(np.unique(data.cluster)),
        events=int(data.event.sum()),
        events_exposed=None if exposed is None else int(data.event[exposed].sum()),
        events_unexposed=None if exposed is None else int(data.event[~exposed].sum()),
        strata=data.strata,
        iterations=best.iterations,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Point:
    """The penalised log-likelihood at one beta (scaled covariates). Not finite where it is undefined."""

    beta: FloatArray
    loglik: float
    score: FloatArray
    information: FloatArray
    iterations: int = 0


@dataclass(frozen=True)
class _Likelihood:
    sets: RiskSets

    def at(self, beta: FloatArray) -> _Point:
        here = evaluate(self.sets, beta)
        sign, log_det = (
            np.linalg.slogdet(here.information) if np.isfinite(here.information).all() else (0.0, np.nan)
        )
        if sign <= 0 or not np.isfinite(log_det):
            return _Point(beta, -np.inf, np.full(len(beta), np.nan), here.information)
        derivative = information_derivative(self.sets, beta)
        score = penalised_score(here.score, here.information, derivative)
        return _Point(beta, here.loglik + 0.5 * float(log_det), score, here.information)

    def curvature(self, point: _Point, free: BoolArray) -> FloatArray:
        """Minus the second derivative in the free coefficients, by differences of the exact score."""
        width = 1e-4
        columns = []
        for j in np.flatnonzero(free):
            shift = np.zeros(len(point.beta))
            shift[j] = width
            ahead, behind = self.at(point.beta + shift), self.at(point.beta - shift)
            columns.append((behind.score - ahead.score)[free] / (2 * width))
        matrix = np.array(columns)
        return (matrix + matrix.T) / 2


def _check(data: CoxData, wanted: Sequence[str], level: float) -> None:
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")
    if not data.names:
        raise SurvivalDataError("a Cox model needs a covariate")
    unknown = [name for name in wanted if name not in data.names]
    if unknown:
        raise SurvivalDataError(f"the model has no covariate {', '.join(unknown)}")
    if not data.event.any():
        raise NotEstimableError("there is no event, so no hazard ratio")
    if (data.weight != 1).any():
        raise SurvivalDataError("Firth's penalty is not defined for weighted rows")


def _likelihood(data: CoxData, ties: Ties) -> tuple[_Likelihood, FloatArray]:
    scale = data.X.std(axis=0)
    constant = data.X.max(axis=0) == data.X.min(axis=0)
    if constant.any():
        names = ", ".join(np.array(data.names)[constant])
        raise NotEstimableError(f"{names} has one value only, so its hazard ratio is not defined")
    sets = risk_sets(
        (data.X - data.X.mean(axis=0)) / scale,
        start=data.start,
        stop=data.stop,
        event=data.event,
        weight=data.weight,
        stratum=data.stratum,
        ties=ties,
    )
    null = evaluate(sets, np.zeros(len(data.names)))
    refuse_collinear(data.names, null.information, float(data.event.sum()))
    return _Likelihood(sets), scale


def _climb(likelihood: _Likelihood, start: FloatArray, free: BoolArray) -> _Point:
    """To the maximum over the free coefficients, from `start`, with step halving."""
    here = likelihood.at(start)
    if not np.isfinite(here.loglik):
        raise NotEstimableError("the penalised likelihood is not defined where its search starts")
    if not free.any():
        return here
    # Fisher scoring costs one evaluation a step and does well with many events; where it is slow, the true
    # curvature is worth its many evaluations.
    matrix: FloatArray | None = None
    before = np.inf
    for iteration in range(1, _MAX_ITERATIONS + 1):
        step = _step(matrix, here, free)
        decrement = float(here.score @ step)
        if decrement < _CONVERGED or (decrement < _FLOOR and decrement >= before):
            return _Point(here.beta, here.loglik, here.score, here.information, iteration)
        better = _halved(likelihood, here, step)
        if better is None:
            if decrement < _FLOOR:
                return _Point(here.beta, here.loglik, here.score, here.information, iteration)
            break
        if decrement > 1e-3 * before:
            matrix = likelihood.curvature(better, free)
        here, before = better, decrement
    raise NotEstimableError("the penalised likelihood has no maximum that its search could find")


def _step(matrix: FloatArray | None, here: _Point, free: BoolArray) -> FloatArray:
    """The step of Newton, or of Fisher where the curvature is not that of a maximum; of limited length."""
    if matrix is None or not _is_positive_definite(matrix):
        matrix = here.information[np.ix_(free, free)]
    step = np.zeros(len(free))
    step[free] = np.linalg.solve(matrix, here.score[free])
    return np.asarray(step * min(1.0, _LONGEST_STEP / max(float(np.abs(step).max()), 1e-300)))


def _is_positive_definite(matrix: FloatArray) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _halved(likelihood: _Likelihood, here: _Point, step: FloatArray) -> _Point | None:
    slack = 1e-12 * (1 + abs(here.loglik))
    for halvings in range(40):
        there = likelihood.at(here.beta + step / 2**halvings)
        if np.isfinite(there.score).all() and there.loglik >= here.loglik - slack:
            return there
    return None


def _profiled(likelihood: _Likelihood, near: _Point, j: int, value: float) -> _Point:
    """The maximum over the other coefficients with coefficient j held at `value`."""
    start = near.beta.copy()
    start[j] = value
    free = np.ones(len(start), dtype=bool)
    free[j] = False
    return _climb(likelihood, start, free)


def _limit(likelihood: _Likelihood, best: _Point, j: int, step: float, level: float) -> float:
    """Where the profile has fallen by half the chi-square quantile, on the side of `step`; NaN: nowhere."""
    target = best.loglik - float(chdtri(1, 1 - level)) / 2
    near = best

    def excess(value: float) -> float:
        nonlocal near
        point = _profiled(likelihood, near, j, value)
        near = point
        return point.loglik - target

    inside, outside = float(best.beta[j]), float(best.beta[j]) + 1.5 * step
    while True:
        try:
            if excess(outside) < 0:
                break
        except NotEstimableError:
            return float("nan")
        inside, outside = outside, outside + step
        step *= 1.5
        if abs(outside) > _FARTHEST:
            return float("nan")
    return float(brentq(excess, inside, outside, xtol=1e-10, rtol=1e-12))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
