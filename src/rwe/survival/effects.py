"""One number with its uncertainty, as every estimator of a marginal effect reports it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from rwe.survival.bootstrap import percentile_interval
from rwe.survival.data import FloatArray

Scale = Literal["log", "natural"]
PERCENTILE = "percentiles of the bootstrap"
BOOTSTRAP = "bootstrap of patients, weights refitted"
ROBUST = "robust, clustered by patient, weights taken as known"


@dataclass(frozen=True)
class Effect:
    """An estimate and its interval; None where undefined, and `warnings` then says why.

    A ratio has `log_estimate`, and its `se` is that of the logarithm (`se_scale` "log"); limits are ratios.
    """

    estimate: float | None
    log_estimate: float | None = None
    se: float | None = None
    se_scale: Scale | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    ci_level: float = 0.95
    ci_method: str | None = None
    variance_method: str | None = None
    p_value: float | None = None
    warnings: tuple[str, ...] = ()


def defined(value: float | None) -> float | None:
    """The value, None where it is missing or infinite."""
    return float(value) if value is not None and np.isfinite(value) else None


def wald_effect(
    value: float | None,
    se: float | None,
    *,
    level: float,
    is_log: bool = False,
    variance_method: str = ROBUST,
    warnings: tuple[str, ...] = (),
) -> Effect:
    """An estimate (on the log scale if `is_log`) with limits z standard errors away."""
    value, se = defined(value), defined(se)
    scale: Scale = "log" if is_log else "natural"
    show: Callable[[float], float | None] = _exp if is_log else defined
    if value is None:
        return Effect(None, ci_level=level, warnings=warnings)
    if se is None or se <= 0:
        return Effect(show(value), value if is_log else None, ci_level=level, warnings=warnings)
    half = float(ndtri(0.5 + level / 2)) * se
    return Effect(
        estimate=show(value),
        log_estimate=value if is_log else None,
        se=se,
        se_scale=scale,
        ci_low=show(value - half),
        ci_high=show(value + half),
        ci_level=level,
        ci_method=f"Wald on the {scale} scale",
        variance_method=variance_method,
        p_value=float(2 * ndtr(-abs(value / se))),
        warnings=warnings,
    )


def bootstrap_effect(
    value: float | None,
    replicates: FloatArray,
    *,
    level: float,
    is_log: bool = False,
    variance_method: str = BOOTSTRAP,
    warnings: tuple[str, ...] = (),
) -> Effect:
    """An estimate (on the log scale if `is_log`) with percentile limits from its replicates.

    Replicates that are all equal give no interval: an arm without events has none by resampling.
    """
    value = defined(value)
    show: Callable[[float | None], float | None] = _exp if is_log else defined
    log_value = value if is_log else None
    if value is None:
        return Effect(None, ci_level=level, warnings=warnings)
    found = percentile_interval(replicates, level)
    if found.se is None:
        what = f"{found.failed} of {found.replicates} bootstrap replicates gave no estimate: no interval."
        return Effect(show(value), log_value, ci_level=level, warnings=(*warnings, what))
    if found.se <= 1e-12 * max(1.0, abs(value)):
        what = "Every bootstrap replicate gave the same value, so resampling gives no interval."
        return Effect(show(value), log_value, ci_level=level, warnings=(*warnings, what))
    notes = warnings
    if found.failed:
        what = (
            f"{found.failed} of {found.replicates} bootstrap replicates gave no estimate and were left out."
        )
        notes = (*warnings, what)
    return Effect(
        estimate=show(value),
        log_estimate=log_value,
        se=found.se,
        se_scale="log" if is_log else "natural",
        ci_low=show(found.ci_low),
        ci_high=show(found.ci_high),
        ci_level=level,
        ci_method=PERCENTILE,
        variance_method=variance_method,
        warnings=notes,
    )


def _exp(value: float | None) -> float | None:
    with np.errstate(over="ignore"):
        return defined(None if value is None else float(np.exp(value)))
