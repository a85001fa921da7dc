"""Rubin's rules: one estimate and interval out of analyses of several imputed tables.

The pooled variance is the mean variance plus (1 + 1/m) times the variance between the estimates; its degrees
of freedom are Barnard and Rubin's, which never exceed those of the complete data.

Sources: Rubin 1987, Multiple Imputation for Nonresponse in Surveys; Barnard & Rubin 1999, Biometrika 86:948.

For the planner: `pool_hazard_ratios([exposure_cox(split(t)) for t in imputed.tables])`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from rwe.survival.cox_fit import EXPOSURE, CoxFit
from rwe.survival.data import NotEstimableError, SurvivalDataError

METHOD = "Rubin's rules"


@dataclass(frozen=True)
class Pooled:
    """An estimate pooled over imputations, with its t interval on the scale of the estimates.

    `within` and `between` are the two variances, `fraction_missing` the fraction of missing information,
    `df` Barnard and Rubin's degrees of freedom (None: infinite).
    """

    estimate: float
    se: float
    ci_low: float
    ci_high: float
    ci_level: float
    p_value: float
    df: float | None
    within: float
    between: float
    fraction_missing: float
    m: int
    method: str = METHOD


@dataclass(frozen=True)
class PooledRatio:
    """A hazard ratio pooled on the log scale; `log` holds the pooled log ratio."""

    name: str
    estimate: float
    ci_low: float
    ci_high: float
    log: Pooled
    warnings: tuple[str, ...]


def pool(
    estimates: Sequence[float],
    variances: Sequence[float],
    *,
    complete_df: float = math.inf,
    level: float = 0.95,
) -> Pooled:
    """Pool estimates and their variances. `complete_df` are degrees of freedom had nothing been missing.

    Raises SurvivalDataError for fewer than two estimates, values that are not finite, variances not above 0,
    or complete_df not above 0.
    """
    q, u = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    m = len(q)
    if m < 2 or len(u) != m:
        raise SurvivalDataError("pooling needs two estimates at least, each with its variance")
    if not (np.isfinite(q).all() and np.isfinite(u).all() and (u > 0).all() and complete_df > 0):
        raise SurvivalDataError("an estimate to be pooled is not finite, or its variance not above 0")
    within, between = float(u.mean()), float(q.var(ddof=1))
    total = within + (1 + 1 / m) * between
    df = _degrees_of_freedom(m, within, between, complete_df)
    ratio = (1 + 1 / m) * between / within
    fraction = ratio / (1 + ratio) if math.isinf(df) else (ratio + 2 / (df + 3)) / (1 + ratio)
    estimate, se = float(q.mean()), math.sqrt(total)
    # stdtr and stdtrit know no infinite df; beyond 1e15 t is the normal to all digits.
    finite = min(df, 1e15)
    half = float(stdtrit(finite, 0.5 + level / 2)) * se
    return Pooled(
        estimate=estimate,
        se=se,
        ci_low=estimate - half,
        ci_high=estimate + half,
        ci_level=level,
        p_value=float(2 * stdtr(finite, -abs(estimate) / se)),
        df=None if math.isinf(df) else df,
        within=within,
        between=between,
        fraction_missing=fraction if between > 0 else 0.0,
        m=m,
    )


def pool_hazard_ratios(fits: Sequence[CoxFit], name: str = EXPOSURE, *, level: float = 0.95) -> PooledRatio:
    """Pool the hazard ratio of `name`; the complete data have as many degrees of freedom as events less
    coefficients.

    Raises NotEstimableError where an imputed table gave no estimate.
    """
    ratios = [fit.hazard_ratio(name) for fit in fits]
    found = [(r.log_estimate, r.se) for r in ratios if r.log_estimate is not None and r.se is not None]
    if len(found) < len(fits):
        raise NotEstimableError(f"{len(fits) - len(found)} of {len(fits)} imputed tables give no estimate")
    logs, errors = zip(*found, strict=True) if found else ((), ())
    complete_df = min((max(fit.events - len(fit.names), 1) for fit in fits), default=1)
    pooled = pool(logs, [se**2 for se in errors], complete_df=complete_df, level=level)
    return PooledRatio(
        name=name,
        estimate=math.exp(pooled.estimate),
        ci_low=math.exp(pooled.ci_low),
        ci_high=math.exp(pooled.ci_high),
        log=pooled,
        warnings=tuple(dict.fromkeys(w for fit in fits for w in fit.warnings)),
    )


def _degrees_of_freedom(m: int, within: float, between: float, complete: float) -> float:
    share = (1 + 1 / m) * between / (within + (1 + 1 / m) * between)
    old = math.inf if share == 0 else (m - 1) / share**2
    if math.isinf(complete):
        return old
    observed = (complete + 1) / (complete + 3) * complete * (1 - share)
    return observed if math.isinf(old) else old * observed / (old + observed)
