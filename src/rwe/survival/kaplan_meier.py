"""Kaplan-Meier curves with delayed entry, their medians, and Simon-Makuch curves by time-dependent exposure.

Sources: Kaplan & Meier 1958; Greenwood 1926 (variance); Simon & Makuch 1984 (risk sets that patients enter
when they start treatment); R `survfit` for the interval and the median, whose defaults are followed.

Ties: an event and a censoring on one day are ordered event first. Entry on day t counts from after t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from rwe.survival.data import (
    BoolArray,
    CohortTable,
    CountingProcess,
    FloatArray,
    IntArray,
    SurvivalDataError,
    follow_up_days,
    frozen_floats,
    frozen_ints,
)
from rwe.survival.rows import checked_rows

ConfidenceType = Literal["log", "log-log"]


@dataclass(frozen=True)
class SurvivalCurve:
    """A product-limit estimate: one entry of each array for each distinct time.

    The first time is the origin; the others are all times at which someone enters or leaves. `at_risk` counts
    those under observation just before the time (at the origin: with those who enter on it); between two
    times it is that of the later one. `survival` is right-continuous.
    `se` is Greenwood's, on the scale of survival. NaN is undefined: `se` and limits once survival is 0,
    log-log limits while it is 1, survival of an arm in which nobody ever is.
    """

    time: FloatArray
    at_risk: IntArray
    events: IntArray
    survival: FloatArray
    se: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    n_patients: int
    n_events: int
    last_time: float | None
    ci_level: float
    ci_method: ConfidenceType
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Median:
    """A median survival time with its limits, days. None: the curve (or its limit) never falls to a half."""

    estimate: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class SurvivalAt:
    """Survival at one time. None where undefined.

    `is_beyond_follow_up`: nobody was followed that long and the last survival is above 0, so the value is
    carried forward (as R's `summary(extend = TRUE)` does) and should not be reported as an estimate.
    """

    time: float
    survival: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    at_risk: int
    is_beyond_follow_up: bool


@dataclass(frozen=True)
class ExposureCurves:
    """The curves of the two exposure groups."""

    unexposed: SurvivalCurve
    exposed: SurvivalCurve


def kaplan_meier(
    stop: npt.ArrayLike,
    event: npt.ArrayLike,
    *,
    entry: npt.ArrayLike | None = None,
    start_time: float = 0.0,
    level: float = 0.95,
    conf_type: ConfidenceType = "log",
    n_patients: int | None = None,
) -> SurvivalCurve:
    """The product-limit estimate of survival from `start_time` on, given survival up to it.

    An event on day `start_time` itself counts, as in R's `survfit(start.time = )`.

    Parameters: `stop` and `entry` in days, at risk on (entry, stop]; `event` at `stop`. `conf_type` "log" is
    the default of R's survfit: limits symmetric on log survival, the upper cut at 1. `n_patients` where
    several rows belong to one patient.

    An early empty risk set (all enter late) leaves the curve where it is. If all who are at risk early die,
    it is 0 from then on, whoever enters later: that is the estimate, and it carries a warning.

    Raises SurvivalDataError as `rows.checked_rows`, and for a level outside (0, 1).
    """
    if not np.isfinite(start_time):
        raise SurvivalDataError("a time is missing or infinite")
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")
    one_group = np.zeros(np.shape(stop), dtype=bool)
    stop_days, is_event, _, entry_days = checked_rows(stop, event, one_group, entry)
    kept = stop_days >= start_time
    stop_days, is_event, entry_days = stop_days[kept], is_event[kept], entry_days[kept]
    time = np.unique(np.concatenate([stop_days, entry_days[entry_days > start_time]]))
    entries, stops, deaths = np.sort(entry_days), np.sort(stop_days), np.sort(stop_days[is_event])
    at_risk = np.searchsorted(entries, time, side="left") - np.searchsorted(stops, time, side="left")
    events = np.searchsorted(deaths, time, side="right") - np.searchsorted(deaths, time, side="left")

    # Where nobody is at risk nobody dies either: the factor is 1.
    n = np.maximum(at_risk, 1)
    survival = np.cumprod(1.0 - events / n)
    with np.errstate(divide="ignore"):
        cumulative_variance = np.cumsum(events / (n * (n - events).astype(np.float64)))
    survival = np.concatenate([[1.0], survival])
    se_log = np.sqrt(np.concatenate([[0.0], cumulative_variance]))
    is_zero = survival <= 0
    se_log[is_zero] = np.nan
    if not len(stop_days):
        survival, se_log = np.array([np.nan]), np.array([np.nan])
    low, high = _limits(survival, se_log, level, conf_type)
    at_origin = int(np.sum(entry_days <= start_time))
    return SurvivalCurve(
        time=frozen_floats(np.concatenate([[start_time], time])),
        at_risk=frozen_ints(np.concatenate([[at_origin], at_risk])),
        events=frozen_ints(np.concatenate([[0], events])),
        survival=frozen_floats(survival),
        se=frozen_floats(survival * se_log),
        ci_low=frozen_floats(low),
        ci_high=frozen_floats(high),
        n_patients=len(stop_days) if n_patients is None else n_patients,
        n_events=int(is_event.sum()),
        last_time=float(stops[-1]) if len(stops) else None,
        ci_level=level,
        ci_method=conf_type,
        warnings=_curve_warnings(time, survival, entry_days),
    )


def median(curve: SurvivalCurve) -> Median:
    """The median and its limits, by the rule of R's print.survfit.

    The first time at which the curve is at most a half; where it stays at exactly a half, the middle of that
    step. The limits are those times for the lower and the upper confidence curve.
    """
    return Median(
        estimate=_falls_to_half(curve.time, curve.survival),
        ci_low=_falls_to_half(curve.time, curve.ci_low),
        ci_high=_falls_to_half(curve.time, curve.ci_high),
    )


def survival_at(curve: SurvivalCurve, times: Sequence[float]) -> tuple[SurvivalAt, ...]:
    """Survival at given days, with the number at risk just before each; see SurvivalAt for late days.

    Raises SurvivalDataError for a day before the curve's origin.
    """
    return tuple(_survival_at(curve, float(t)) for t in times)


def exposure_curves(
    data: CountingProcess,
    *,
    start_time: float = 0.0,
    level: float = 0.95,
    conf_type: ConfidenceType = "log",
) -> ExposureCurves:
    """A curve for each exposure group. On rows of `exposure_split` these are Simon-Makuch curves.

    At the start of exposure a patient leaves the unexposed risk set and enters the exposed one. Such a
    curve is not the survival of a group of people; it compares hazards. On rows with fixed groups (naive,
    landmark) they are plain Kaplan-Meier curves.
    """

    def curve(rows: BoolArray) -> SurvivalCurve:
        patients = len(np.unique(data.patient[rows & (data.stop >= start_time)]))
        return kaplan_meier(
            data.stop[rows],
            data.event[rows],
            entry=data.start[rows],
            start_time=start_time,
            level=level,
            conf_type=conf_type,
            n_patients=patients,
        )

    return ExposureCurves(unexposed=curve(~data.exposed), exposed=curve(data.exposed))


def median_follow_up(table: CohortTable, *, level: float = 0.95) -> Median:
    """Median days of follow-up by reverse Kaplan-Meier: leaving alive is the event, death censors.

    Source: Schemper & Smith 1996.
    """
    died = table.patients["is_event"].to_numpy(dtype=bool)
    return median(kaplan_meier(follow_up_days(table), ~died, level=level))


def _limits(
    survival: FloatArray, se_log: FloatArray, level: float, conf_type: ConfidenceType
) -> tuple[FloatArray, FloatArray]:
    z = float(ndtri(0.5 + level / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_survival = np.log(survival)
        if conf_type == "log":
            low = np.exp(log_survival - z * se_log)
            high = np.minimum(np.exp(log_survival + z * se_log), 1.0)
            return low, high
        width = z * se_log / log_survival
        log_hazard = np.log(-log_survival)
        # width is negative: the larger cumulative hazard belongs to the lower limit.
        return np.exp(-np.exp(log_hazard - width)), np.exp(-np.exp(log_hazard + width))


def _curve_warnings(time: FloatArray, survival: FloatArray, entry: FloatArray) -> tuple[str, ...]:
    if not len(time):
        return ("Nobody is at risk in this group at any time.",)
    zero = np.flatnonzero(survival == 0)
    if len(zero):
        day = time[zero[0] - 1]  # survival has the origin in front
        if (entry >= day).any():
            return (f"All at risk on day {day:g} died; the curve stays at 0 although others enter later.",)
    return ()


def _falls_to_half(time: FloatArray, curve: FloatArray) -> float | None:
    tolerance = float(np.sqrt(np.finfo(np.float64).eps))
    with np.errstate(invalid="ignore"):
        kept = np.flatnonzero(curve < 0.5 + tolerance)
    if not len(kept):
        return None
    first = kept[0]
    if abs(curve[first] - 0.5) < tolerance:
        # A plateau at a half, up to rounding: R takes its middle if the curve falls again.
        below = kept[curve[kept] < curve[first] - tolerance]
        if len(below):
            return float((time[first] + time[below[0]]) / 2)
    return float(time[first])


def _survival_at(curve: SurvivalCurve, t: float) -> SurvivalAt:
    if not t >= curve.time[0]:
        raise SurvivalDataError(f"day {t:g} is before the curve's origin, day {curve.time[0]:g}")
    i = int(np.searchsorted(curve.time, t, side="right")) - 1
    following = int(np.searchsorted(curve.time[1:], t, side="left")) + 1
    if t == curve.time[0] and (following == len(curve.time) or curve.time[following] > t):
        following = 0
    at_risk = int(curve.at_risk[following]) if following < len(curve.time) else 0
    return SurvivalAt(
        time=t,
        survival=_defined(curve.survival[i]),
        se=_defined(curve.se[i]),
        ci_low=_defined(curve.ci_low[i]),
        ci_high=_defined(curve.ci_high[i]),
        at_risk=at_risk,
        is_beyond_follow_up=curve.last_time is None or (t > curve.last_time and curve.survival[i] > 0),
    )


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
