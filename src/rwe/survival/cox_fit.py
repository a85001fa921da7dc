"""What a fitted Cox model says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.cox_kernel import Ties
from rwe.survival.data import FloatArray, SurvivalDataError

EXPOSURE = "exposed"


@dataclass(frozen=True)
class HazardRatio:
    """The effect of one covariate. `log_estimate` and `se` are on the log scale; limits are ratios.

    Everything is None where the likelihood has no maximum in this coefficient.
    """

    name: str
    estimate: float | None
    log_estimate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    z: float | None
    p_value: float | None


@dataclass(frozen=True)
class ScoreTest:
    """The score test that all coefficients are 0. For one binary covariate: the log-rank."""

    chi_square: float
    df: int
    p_value: float


@dataclass(frozen=True)
class CoxFit:
    """A fitted Cox model. Arrays follow `names`; coefficients and standard errors are on the log scale.

    `se`, `variance`, `z`, `p_value`, `ci_low`, `ci_high` use the sandwich by cluster if `is_robust`, else the
    inverse information; `model_se`, `model_variance` are always the latter.

    `diverged` are coefficients along which the likelihood rises without end: `converged` is False, they are
    NaN and `warnings` says why. The others are then the limits of their estimates. If Newton's method fails
    otherwise, `converged` is False and all are NaN. `loglik_null` is at 0, `loglik` at the optimum or close
    to its limit.
    `events_exposed` and `events_unexposed` are None unless the model has a 0/1 covariate named "exposed".
    """

    names: tuple[str, ...]
    coefficients: FloatArray
    se: FloatArray
    variance: FloatArray
    model_se: FloatArray
    model_variance: FloatArray
    z: FloatArray
    p_value: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    ci_level: float
    is_robust: bool
    ties: Ties
    loglik_null: float
    loglik: float
    score_test: ScoreTest
    n_rows: int
    n_patients: int
    events: int
    events_exposed: int | None
    events_unexposed: int | None
    strata: tuple[str, ...]
    iterations: int
    converged: bool
    diverged: tuple[str, ...]
    warnings: tuple[str, ...]

    def hazard_ratio(self, name: str = EXPOSURE) -> HazardRatio:
        """The hazard ratio of one unit of `name`. Raises SurvivalDataError if the model lacks it."""
        if name not in self.names:
            raise SurvivalDataError(f"the model has no covariate {name}")
        j = self.names.index(name)
        return HazardRatio(
            name=name,
            estimate=_exp(self.coefficients[j]),
            log_estimate=_finite(self.coefficients[j]),
            se=_finite(self.se[j]),
            ci_low=_exp(self.ci_low[j]),
            ci_high=_exp(self.ci_high[j]),
            z=_finite(self.z[j]),
            p_value=_finite(self.p_value[j]),
        )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _exp(value: float) -> float | None:
    with np.errstate(over="ignore"):
        return _finite(np.exp(value))
