"""Negative controls and what they say about the primary estimate: empirical calibration.

A negative control is an outcome (or exposure) that the treatment cannot affect; what an analysis finds for it
is its systematic error. With several, the error is taken as normal with mean mu and standard deviation sigma,
fitted by maximum likelihood to their estimates, each with its own standard error. The calibrated p value asks
how extreme the primary estimate is among such errors; the calibrated interval takes mu off and adds sigma^2,
which supposes that a true effect is distorted as the null is.

Sources: Lipsitch, Tchetgen Tchetgen & Cohen 2010, Epidemiology 21:383; Schuemie et al. 2014, Stat Med 33:209
(p values); Schuemie et al. 2018, PNAS 115:2571 (intervals).

For the planner: run the primary analysis on each negative control named in the protocol, pass their (name,
log estimate, se) to `systematic_error`, and `calibrate` the primary estimate with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri

from rwe.survival.data import FloatArray, NotEstimableError, SurvivalDataError

FEWEST_CONTROLS = 3
FEW_CONTROLS = 20
METHOD = "empirical calibration by negative controls"


@dataclass(frozen=True)
class NegativeControl:
    """What the primary analysis finds for something the treatment cannot affect, on the log scale."""

    name: str
    log_estimate: float
    se: float


@dataclass(frozen=True)
class SystematicError:
    """The fitted error of the analysis on the log scale.

    `share_excluding_null` of the controls have a nominal interval that excludes no effect; of an unbiased
    analysis it is about 1 - `ci_level`.
    """

    mean: float
    sd: float
    n_controls: int
    share_excluding_null: float
    ci_level: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CalibratedRatio:
    """The primary hazard ratio after calibration. `ci_low` and `ci_high` are ratios."""

    estimate: float
    log_estimate: float
    se: float
    ci_low: float
    ci_high: float
    ci_level: float
    p_value: float
    warnings: tuple[str, ...]
    method: str = METHOD
    assumptions: tuple[str, ...] = (
        "The controls suffer the confounding and measurement error of the primary analysis, and no effect.",
        "Systematic error is normal on the log scale, and the same with an effect as without.",
    )


def systematic_error(controls: Sequence[NegativeControl], *, level: float = 0.95) -> SystematicError:
    """Fit the error to the controls.

    Raises NotEstimableError for fewer than three controls, SurvivalDataError for a standard error not > 0.
    """
    beta = np.array([c.log_estimate for c in controls], dtype=np.float64)
    se = np.array([c.se for c in controls], dtype=np.float64)
    if not (np.isfinite(beta).all() and np.isfinite(se).all() and (se > 0).all()):
        raise SurvivalDataError("a negative control needs a finite estimate and a standard error above 0")
    if len(beta) < FEWEST_CONTROLS:
        raise NotEstimableError(
            f"{len(beta)} negative controls cannot show a systematic error",
            advice=f"name at least {FEWEST_CONTROLS}, better {FEW_CONTROLS}, in the protocol",
        )
    sd = _fitted_sd(beta, se)
    z = float(ndtri(0.5 + level / 2))
    warnings = []
    if len(beta) < FEW_CONTROLS:
        warnings.append(
            f"Only {len(beta)} negative controls: the systematic error is known badly, and its own "
            "uncertainty is not in the calibrated interval."
        )
    return SystematicError(
        mean=_mean(beta, se, sd),
        sd=sd,
        n_controls=len(beta),
        share_excluding_null=float(np.mean(np.abs(beta) > z * se)),
        ci_level=level,
        warnings=tuple(warnings),
    )


def calibrate(
    log_estimate: float, se: float, error: SystematicError, *, level: float = 0.95
) -> CalibratedRatio:
    """Calibrate an estimate. Raises SurvivalDataError for a standard error not above 0."""
    if not (np.isfinite(log_estimate) and np.isfinite(se) and se > 0):
        raise SurvivalDataError("the estimate needs a finite standard error above 0")
    total = float(np.hypot(se, error.sd))
    corrected = log_estimate - error.mean
    half = float(ndtri(0.5 + level / 2)) * total
    return CalibratedRatio(
        estimate=float(np.exp(corrected)),
        log_estimate=corrected,
        se=total,
        ci_low=float(np.exp(corrected - half)),
        ci_high=float(np.exp(corrected + half)),
        ci_level=level,
        p_value=float(2 * ndtr(-abs(corrected) / total)),
        warnings=error.warnings,
    )


def _mean(beta: FloatArray, se: FloatArray, sd: float) -> float:
    return float(np.average(beta, weights=1 / (se**2 + sd**2)))


def _fitted_sd(beta: FloatArray, se: FloatArray) -> float:
    """The maximum over sigma of the likelihood with the mean at its best for each sigma."""

    def minus_loglik(sd: float) -> float:
        variance = se**2 + sd**2
        gap = beta - _mean(beta, se, sd)
        return float(0.5 * np.sum(np.log(variance) + gap**2 / variance))

    # The likelihood may have more than one top: find the highest on a grid first.
    grid = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 200)]) * max(float(np.ptp(beta)), 1e-12)
    best = int(np.argmin([minus_loglik(sd) for sd in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(minus_loglik, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    return 0.0 if minus_loglik(0.0) <= found.fun else float(found.x)
