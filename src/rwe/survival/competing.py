"""Cumulative incidence with competing risks: the Aalen-Johansen estimator, with delayed entry.

One minus Kaplan-Meier with other causes censored overstates a risk: it asks what would happen if nobody could
die of anything else. Here the incidence of a cause rises by S(t-) d_k / n at each of its events, S being
survival free of any event; the incidences and S add up to 1. Nothing is jittered: events of several causes on
one day share one risk set, and events come before censorings of the same day.

The variance is the delta method's with multinomial events at each time (Greenwood's for a single cause), that
of R's `survfit` without delayed entry. Limits are symmetric on the log(-log) scale.

Sources: Aalen & Johansen 1978; Andersen et al. 1993, section IV.4; Marubini & Valsecchi 1995, section 10.2.

For the planner: `exposure_incidence(competing_rows(events, landmark_split(events.table, day)))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from rwe.survival.data import (
    BoolArray,
    FloatArray,
    IntArray,
    SurvivalDataError,
    frozen_floats,
    frozen_ints,
)
from rwe.survival.first_events import CompetingRows
from rwe.survival.rows import checked_rows, require_fixed_groups

METHOD = "Aalen-Johansen"
CI_METHOD = "Wald on the log(-log) scale"
ASSUMPTIONS = ("Censoring is independent of all kinds of event.", "No adjustment for covariates.")


@dataclass(frozen=True)
class CumulativeIncidence:
    """The share of patients with an event of `cause` by each time (days): one entry for each distinct time.

    The first time is the origin. `at_risk` counts those under observation just before the time, `events`
    those of this cause on it. `event_free` is survival without any event. NaN is undefined: limits while the
    incidence is 0, `se` and limits once it is 1, everything in a group in which nobody ever is.
    """

    cause: str
    time: FloatArray
    at_risk: IntArray
    events: IntArray
    incidence: FloatArray
    event_free: FloatArray
    se: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    n_patients: int
    n_events: int
    last_time: float | None
    ci_level: float
    warnings: tuple[str, ...] = ()
    method: str = METHOD
    ci_method: str = CI_METHOD
    assumptions: tuple[str, ...] = ASSUMPTIONS


@dataclass(frozen=True)
class IncidenceAt:
    """A cumulative incidence at one time. None where undefined.

    `is_beyond_follow_up`: nobody was followed that long and someone was still free of events, so the value
    is carried forward and should not be reported as an estimate.
    """

    time: float
    incidence: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    is_beyond_follow_up: bool


@dataclass(frozen=True)
class ExposureIncidence:
    """The incidence of each cause, in the order of the causes, for both exposure groups."""

    unexposed: tuple[CumulativeIncidence, ...]
    exposed: tuple[CumulativeIncidence, ...]


def exposure_incidence(rows: CompetingRows, *, level: float = 0.95) -> ExposureIncidence:
    """Cumulative incidences of both groups, which must be fixed (landmark; naive is biased).

    Raises NotEstimableError where nobody is at risk or patients change groups. An empty group has NaN.
    """
    data = rows.data
    data.require_patients()
    require_fixed_groups(data, "a cumulative incidence")

    def curves(group: BoolArray) -> tuple[CumulativeIncidence, ...]:
        return cumulative_incidence(
            data.stop[group],
            rows.cause[group],
            rows.causes,
            entry=data.start[group],
            n_patients=len(np.unique(data.patient[group])),
            level=level,
        )

    return ExposureIncidence(unexposed=curves(~data.exposed), exposed=curves(data.exposed))


def cumulative_incidence(
    stop: npt.ArrayLike,
    cause: npt.ArrayLike,
    causes: Sequence[str],
    *,
    entry: npt.ArrayLike | None = None,
    n_patients: int | None = None,
    level: float = 0.95,
) -> tuple[CumulativeIncidence, ...]:
    """The incidence of each of `causes`; at risk on (entry, stop], days, with event `cause` at stop or 0.

    Raises SurvivalDataError for missing times, entry on or after stop, a cause that is no code of `causes`,
    or a level outside (0, 1).
    """
    codes = np.asarray(cause)
    if not np.isin(codes, np.arange(len(causes) + 1)).all():
        raise SurvivalDataError("a cause is neither 0 nor the number of a cause")
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")
    stops, _, _, entries = checked_rows(stop, codes > 0, np.zeros(len(codes)), entry)
    time = np.unique(np.concatenate([stops, entries[entries > 0]]))
    at_risk = np.searchsorted(np.sort(entries), time) - np.searchsorted(np.sort(stops), time)
    n = np.maximum(at_risk, 1).astype(np.float64)
    by_cause = [_count(stops[codes == k], time) for k in range(1, len(causes) + 1)]
    total = np.sum(by_cause, axis=0) / n
    survival = np.cumprod(1.0 - total)
    before = np.concatenate([[1.0], survival[:-1]])
    warnings = _warnings(time, survival, entries)
    return tuple(
        _curve(
            name,
            time=time,
            at_risk=at_risk,
            events=by_cause[k],
            event_free=survival,
            estimate=_increments(by_cause[k] / n, total, n, before),
            at_origin=int((entries <= 0).sum()),
            n_patients=len(stops) if n_patients is None else n_patients,
            level=level,
            warnings=warnings,
        )
        for k, name in enumerate(causes)
    )


def incidence_at(curve: CumulativeIncidence, times: Sequence[float]) -> tuple[IncidenceAt, ...]:
    """The incidence at given days; see IncidenceAt for late ones. Raises SurvivalDataError for a day < 0."""
    found = []
    for time in times:
        if not time >= 0:
            raise SurvivalDataError(f"day {time:g} is before the curve's origin, day 0")
        i = int(np.searchsorted(curve.time, time, side="right")) - 1
        found.append(
            IncidenceAt(
                time=float(time),
                incidence=_defined(curve.incidence[i]),
                se=_defined(curve.se[i]),
                ci_low=_defined(curve.ci_low[i]),
                ci_high=_defined(curve.ci_high[i]),
                is_beyond_follow_up=curve.last_time is None
                or (time > curve.last_time and bool(curve.event_free[-1] > 0)),
            )
        )
    return tuple(found)


def _increments(
    hazard: FloatArray, total: FloatArray, n: FloatArray, before: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Incidence and its variance at each time, from the cause's hazard and that of any event.

    A hazard at u moves F(t), t >= u, by S(u-) directly and by -(F(t) - F(u)) / (1 - h) through those who are
    no more at risk. Summed over multinomial events, this is a quadratic in F(t) with running sums.
    """
    F = np.cumsum(before * hazard)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Once all at risk had an event, F stays: the term is 0.
        odds = np.where(total < 1, total / (1 - total), 0.0)
    square = np.cumsum(odds / n)
    linear = np.cumsum((hazard * before + odds * F) / n)
    constant = np.cumsum((hazard * (1 - hazard) * before**2 + 2 * hazard * before * F + odds * F**2) / n)
    return F, np.maximum(constant - 2 * F * linear + F**2 * square, 0.0)


def _curve(
    name: str,
    *,
    time: FloatArray,
    at_risk: npt.NDArray[np.intp],
    events: IntArray,
    event_free: FloatArray,
    estimate: tuple[FloatArray, FloatArray],
    at_origin: int,
    n_patients: int,
    level: float,
    warnings: tuple[str, ...],
) -> CumulativeIncidence:
    first = 0.0 if len(time) else np.nan
    incidence, variance = (np.concatenate([[first], values]) for values in estimate)
    se = np.where(incidence > 1 - 1e-12, np.nan, np.sqrt(variance))
    low, high = _limits(incidence, se, level)
    return CumulativeIncidence(
        cause=name,
        time=frozen_floats(np.concatenate([[0.0], time])),
        at_risk=frozen_ints(np.concatenate([[at_origin], at_risk])),
        events=frozen_ints(np.concatenate([[0], events])),
        incidence=frozen_floats(incidence),
        event_free=frozen_floats(np.concatenate([[1.0 - first], event_free])),
        se=frozen_floats(se),
        ci_low=frozen_floats(low),
        ci_high=frozen_floats(high),
        n_patients=n_patients,
        n_events=int(events.sum()),
        last_time=float(time[-1]) if len(time) else None,
        ci_level=level,
        warnings=warnings,
    )


def _limits(incidence: FloatArray, se: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    z = float(ndtri(0.5 + level / 2))
    is_inside = (incidence > 0) & (incidence < 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(incidence)
        width = z * se / (incidence * -log)
        low, high = np.exp(log * np.exp(width)), np.exp(log * np.exp(-width))
    return np.where(is_inside, low, np.nan), np.where(is_inside, high, np.nan)


def _count(stops: FloatArray, time: FloatArray) -> IntArray:
    days = np.sort(stops)
    return (np.searchsorted(days, time, "right") - np.searchsorted(days, time, "left")).astype(np.int64)


def _warnings(time: FloatArray, survival: FloatArray, entry: FloatArray) -> tuple[str, ...]:
    if not len(time):
        return ("Nobody is at risk in this group at any time.",)
    over = np.flatnonzero(survival == 0)
    if len(over) and (entry >= time[over[0]]).any():
        day = time[over[0]]
        return (f"All at risk on day {day:g} had an event; nothing moves although others enter later.",)
    return ()


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
