"""Two weighted arms compared: survival on given days, restricted means, hazard ratio, with their intervals.

A draw of the bootstrap is the vector [log HR, S of control at each day, S of treated at each day, RMST of
control, RMST of treated]; `contrast_vector` makes it, `arm_contrasts` reads intervals out of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rwe.survival.bootstrap import Draws, percentile_interval
from rwe.survival.data import FloatArray, frozen_floats
from rwe.survival.effects import Effect, bootstrap_effect, defined, wald_effect
from rwe.survival.weighted_curves import WeightedCurve

ARMS = ("control", "treated")


@dataclass(frozen=True)
class SurvivalContrast:
    """Survival of both arms on one day, their difference and ratio (treated over control)."""

    day: float
    control: Effect
    treated: Effect
    difference: Effect
    ratio: Effect


@dataclass(frozen=True)
class Band:
    """Pointwise limits of an arm's survival on given days: what a figure shades. NaN where undefined."""

    day: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray


@dataclass(frozen=True)
class ArmContrasts:
    """All contrasts of two arms. Curves and bands are (control, treated).

    Restricted means run to `horizon_days`; `bands` are None unless days were asked for and drawn.
    """

    curves: tuple[WeightedCurve, WeightedCurve]
    horizon_days: float
    survival: tuple[SurvivalContrast, ...]
    rmst_control: Effect
    rmst_treated: Effect
    rmst_difference: Effect
    hazard_ratio: Effect
    bands: tuple[Band, Band] | None = None


def contrast_vector(
    curves: tuple[WeightedCurve, WeightedCurve],
    log_hazard_ratio: float | None,
    times: Sequence[float],
    horizon: float,
) -> FloatArray:
    """What one draw of the bootstrap keeps; NaN where undefined."""
    log_hr = np.nan if log_hazard_ratio is None else log_hazard_ratio
    survival = [curve.at(t) for curve in curves for t in times]
    return np.array([log_hr, *survival, *(curve.rmst(horizon) for curve in curves)])


def arm_contrasts(
    curves: tuple[WeightedCurve, WeightedCurve],
    log_hazard_ratio: float | None,
    times: Sequence[float],
    horizon: float,
    *,
    draws: Draws | None,
    robust_se: float | None,
    level: float,
    n_band_days: int = 0,
) -> ArmContrasts:
    """Intervals are percentiles of `draws`. Without draws only the hazard ratio has one, by `robust_se`.

    The last `n_band_days` of `times` are for the bands alone.
    """
    drawn = None if draws is None else draws.values
    reported = len(times) - n_band_days
    survival = tuple(_at(curves, times, i, drawn, level) for i in range(reported))
    m0, m1 = (curve.rmst(horizon) for curve in curves)
    drawn0 = None if drawn is None else drawn[:, -2]
    drawn1 = None if drawn is None else drawn[:, -1]
    notes = [_unknown(arm, m, horizon) for arm, m in zip(ARMS, (m0, m1), strict=True)]
    return ArmContrasts(
        curves=curves,
        horizon_days=horizon,
        survival=survival,
        rmst_control=_effect(m0, drawn0, level, notes[0]),
        rmst_treated=_effect(m1, drawn1, level, notes[1]),
        rmst_difference=_effect(m1 - m0, _minus(drawn1, drawn0), level, notes[0] + notes[1]),
        hazard_ratio=_hazard_ratio(curves, log_hazard_ratio, drawn, robust_se, level),
        bands=_bands(times, reported, drawn, level),
    )


def _at(
    curves: tuple[WeightedCurve, WeightedCurve],
    times: Sequence[float],
    i: int,
    drawn: FloatArray | None,
    level: float,
) -> SurvivalContrast:
    day, k = float(times[i]), len(times)
    s0, s1 = (curve.at(day) for curve in curves)
    drawn0 = None if drawn is None else drawn[:, 1 + i]
    drawn1 = None if drawn is None else drawn[:, 1 + k + i]
    notes = [_unknown(arm, s, day) for arm, s in zip(ARMS, (s0, s1), strict=True)]
    return SurvivalContrast(
        day=day,
        control=_effect(s0, drawn0, level, notes[0]),
        treated=_effect(s1, drawn1, level, notes[1]),
        difference=_effect(s1 - s0, _minus(drawn1, drawn0), level, notes[0] + notes[1]),
        ratio=_ratio((s0, s1), drawn0, drawn1, level, notes[0] + notes[1]),
    )


def _bands(
    times: Sequence[float], first: int, drawn: FloatArray | None, level: float
) -> tuple[Band, Band] | None:
    if drawn is None or first == len(times):
        return None
    day, k = frozen_floats(times[first:]), len(times)
    found = []
    for a in (0, 1):
        limits = [percentile_interval(drawn[:, 1 + a * k + i], level) for i in range(first, k)]
        low = [np.nan if x.ci_low is None else x.ci_low for x in limits]
        high = [np.nan if x.ci_high is None else x.ci_high for x in limits]
        found.append(Band(day, frozen_floats(low), frozen_floats(high)))
    return found[0], found[1]


def _effect(value: float, drawn: FloatArray | None, level: float, notes: tuple[str, ...]) -> Effect:
    if drawn is None:
        return Effect(defined(value), ci_level=level, warnings=notes)
    return bootstrap_effect(value, drawn, level=level, warnings=notes)


def _ratio(
    survival: tuple[float, float],
    drawn0: FloatArray | None,
    drawn1: FloatArray | None,
    level: float,
    notes: tuple[str, ...],
) -> Effect:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.log(np.float64(survival[1]) / np.float64(survival[0])))
        drawn = None if drawn0 is None or drawn1 is None else np.log(drawn1 / drawn0)
    if not np.isfinite(value):
        why = notes or ("Survival is 0 in an arm, so there is no ratio.",)
        return Effect(None, ci_level=level, warnings=why)
    if drawn is None:
        return Effect(float(np.exp(value)), value, ci_level=level, warnings=notes)
    return bootstrap_effect(value, drawn, level=level, is_log=True, warnings=notes)


def _hazard_ratio(
    curves: tuple[WeightedCurve, WeightedCurve],
    log_hazard_ratio: float | None,
    drawn: FloatArray | None,
    robust_se: float | None,
    level: float,
) -> Effect:
    if log_hazard_ratio is None:
        empty = [arm for arm, c in zip(ARMS, curves, strict=True) if not c.events]
        why = f"there is no event in the {' and the '.join(empty)} arm" if empty else "one arm has all events"
        return Effect(None, ci_level=level, warnings=(f"There is no hazard ratio: {why}.",))
    if drawn is None:
        return wald_effect(log_hazard_ratio, robust_se, level=level, is_log=True)
    return bootstrap_effect(log_hazard_ratio, drawn[:, 0], level=level, is_log=True)


def _minus(one: FloatArray | None, other: FloatArray | None) -> FloatArray | None:
    return None if one is None or other is None else np.asarray(one - other)


def _unknown(arm: str, value: float, day: float) -> tuple[str, ...]:
    if np.isfinite(value):
        return ()
    return (f"Nobody of the {arm} arm was followed until day {day:g}, so there is no estimate.",)
