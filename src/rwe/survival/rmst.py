"""Restricted mean survival time: days lived up to a horizon, on average, per arm and their difference.

The area under the Kaplan-Meier curve to the horizon. Its variance is Greenwood's for an area: the sum over
event times of (area still to come)^2 d / (n (n - d)), as R's `survRM2`. An arm without an event before the
horizon has no such variance, nor has one whose members all die on one day: `se` and interval are None then,
never 0. What can be said of an arm without events is a bound: with n patients followed to the horizon
and none dead, survival to it is at least alpha^(1/n) with confidence 1 - alpha (exact binomial), so the mean
is at least horizon x alpha^(1/n).

Sources: Uno et al. 2014, J Clin Oncol 32:2380; Klein & Moeschberger 2003, section 4.5.

For the planner: `exposure_rmst(landmark_split(table, day), horizon)` for each landmark, the horizon in days
from the landmark; `largest_horizon(rows)` says how far the shorter arm carries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from rwe.survival.data import (
    BoolArray,
    CountingProcess,
    FloatArray,
    NotEstimableError,
    SurvivalDataError,
)
from rwe.survival.kaplan_meier import kaplan_meier
from rwe.survival.rows import checked_rows, require_fixed_groups

METHOD = "area under the Kaplan-Meier curve"
CI_METHOD = "Wald, variance of the area"
ASSUMPTIONS = (
    "Censoring is independent of prognosis within each arm.",
    "No adjustment for covariates; no assumption of proportional hazards.",
)


@dataclass(frozen=True)
class ArmMean:
    """Mean days alive up to the horizon. `se` and limits are None where the variance is not defined.

    `events` are those before the horizon, `events_after` later ones.

    `lower_bound` is given for an arm without events: the mean is at least that, with one-sided confidence
    `ci_level`, by the patients `followed_to_horizon` (from day 0 on).
    """

    estimate: float
    se: float | None
    ci_low: float | None
    ci_high: float | None
    lower_bound: float | None
    n_patients: int
    events: int
    followed_to_horizon: int
    warnings: tuple[str, ...] = ()
    events_after: int = 0


@dataclass(frozen=True)
class RestrictedMeans:
    """Restricted means of both arms up to `horizon` (days) and their difference, exposed less unexposed."""

    horizon: float
    unexposed: ArmMean
    exposed: ArmMean
    difference: float
    se: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    ci_level: float
    warnings: tuple[str, ...]
    method: str = METHOD
    ci_method: str = CI_METHOD
    assumptions: tuple[str, ...] = ASSUMPTIONS


def exposure_rmst(data: CountingProcess, horizon: float, *, level: float = 0.95) -> RestrictedMeans:
    """Exposed against unexposed, on rows with fixed groups (landmark; naive is biased).

    Raises NotEstimableError where a group is empty, patients change groups, or an arm's curve ends, above 0,
    before the horizon.
    """
    data.require_both_groups()
    require_fixed_groups(data, "a restricted mean")
    return restricted_means(
        data.stop, data.event, data.exposed, horizon, entry=data.start, patient=data.patient, level=level
    )


def largest_horizon(data: CountingProcess) -> float:
    """The last day to which both curves are defined. Raises NotEstimableError where a group is empty."""
    data.require_both_groups()
    return min(_defined_until(data.stop[rows], data.event[rows]) for rows in (data.exposed, ~data.exposed))


def restricted_means(
    stop: npt.ArrayLike,
    event: npt.ArrayLike,
    group: npt.ArrayLike,
    horizon: float,
    *,
    entry: npt.ArrayLike | None = None,
    patient: npt.ArrayLike | None = None,
    level: float = 0.95,
) -> RestrictedMeans:
    """Restricted means of `group` 1 and 0, at risk on (entry, stop], days; `patient` labels rows of one.

    Raises SurvivalDataError as `logrank` and for a horizon or level out of range, NotEstimableError for an
    empty group or one whose curve ends, above 0, before the horizon.
    """
    stops, events, groups, entries = checked_rows(stop, event, group, entry)
    whose = np.arange(len(stops)) if patient is None else np.asarray(patient)
    _check_horizon(horizon, level)
    arms = []
    for rows, name in ((~groups, "unexposed"), (groups, "exposed")):
        if not rows.any():
            raise NotEstimableError(f"nobody is {name}, so there is no restricted mean")
        if _defined_until(stops[rows], events[rows]) < horizon:
            last = float(stops[rows].max())
            raise NotEstimableError(
                f"nobody {name} was followed for {horizon:g} days",
                advice=f"use a horizon up to {last:g} days",
            )
        arms.append(
            _arm(
                stops[rows],
                events[rows],
                entry=entries[rows],
                patient=whose[rows],
                horizon=float(horizon),
                name=name,
                level=level,
            )
        )
    unexposed, exposed = arms
    difference = exposed.estimate - unexposed.estimate
    z = float(ndtri(0.5 + level / 2))
    se, note = _difference_se(unexposed, exposed)
    warnings = [*unexposed.warnings, *exposed.warnings, *note]
    return RestrictedMeans(
        horizon=float(horizon),
        unexposed=unexposed,
        exposed=exposed,
        difference=difference,
        se=se,
        ci_low=None if se is None else difference - z * se,
        ci_high=None if se is None else difference + z * se,
        p_value=None if se is None else float(2 * ndtr(-abs(difference) / se)),
        ci_level=level,
        warnings=tuple(warnings),
    )


def _difference_se(unexposed: ArmMean, exposed: ArmMean) -> tuple[float | None, list[str]]:
    """The standard error of the difference, and what must be said of it.

    An arm whose events all come after the horizon adds a sum of zero terms, as in R's `survRM2`: the other
    arm's error is then all there is, and too small. An arm without any event says nothing of its own error.
    """
    known = [arm.se for arm in (unexposed, exposed) if arm.se is not None]
    silent = [arm for arm in (unexposed, exposed) if arm.se is None]
    if not silent:
        return float(np.hypot(known[0], known[1])), []
    if known and all(not arm.events and arm.events_after for arm in silent):
        return known[0], [
            "All events of an arm come after the horizon, so only the other arm's error is in the interval "
            "of the difference: it is too narrow."
        ]
    return None, ["The difference has no standard error, because an arm has none."]


def _check_horizon(horizon: float, level: float) -> None:
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")
    if not (np.isfinite(horizon) and horizon > 0):
        raise SurvivalDataError(f"the horizon {horizon} is not a time after day 0")


def _arm(
    stop: FloatArray,
    event: BoolArray,
    *,
    entry: FloatArray,
    patient: npt.NDArray[np.generic],
    horizon: float,
    name: str,
    level: float,
) -> ArmMean:
    curve = kaplan_meier(stop, event, entry=entry)
    inside = curve.time < horizon
    time = np.append(curve.time[inside], horizon)
    areas = np.diff(time) * curve.survival[inside]
    estimate = float(areas.sum())
    # What is still to come after each time; an event on the horizon itself takes nothing away.
    to_come = areas[::-1].cumsum()[::-1]
    n, d = curve.at_risk[inside].astype(np.float64), curve.events[inside].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        term = np.where((d > 0) & (n > d), d / (n * (n - d)), 0.0)
    variance = float((to_come**2 * term).sum())
    followed = _followed_throughout(patient, entry, stop, horizon)
    events = int(d.sum())
    warnings = list(curve.warnings)
    if (entry.min() > 0) and len(stop):
        warnings.append(f"Nobody {name} is at risk before day {entry.min():g}: survival to then is assumed.")
    se = float(np.sqrt(variance)) if variance > 0 else None
    bound = None
    if not events:
        bound = horizon * (1 - level) ** (1 / followed) if followed else None
        warnings.append(
            f"No event among the {name} before day {horizon:g}, so their mean has no standard error"
            + (f"; it is at least {bound:.4g} days (one-sided {level:.0%})." if bound is not None else ".")
        )
    elif se is None:
        warnings.append(f"All {name} have their event on one day, so their mean has no standard error.")
    z = float(ndtri(0.5 + level / 2))
    return ArmMean(
        estimate=estimate,
        se=se,
        ci_low=None if se is None else estimate - z * se,
        ci_high=None if se is None else estimate + z * se,
        lower_bound=bound,
        n_patients=len(np.unique(patient)),
        events=events,
        followed_to_horizon=followed,
        warnings=tuple(warnings),
        events_after=int(event.sum()) - events,
    )


def _followed_throughout(
    patient: npt.NDArray[np.generic], entry: FloatArray, stop: FloatArray, horizon: float
) -> int:
    """Patients under observation from day 0 to the horizon: no late entry hides a death in them."""
    code = np.unique(patient, return_inverse=True)[1]
    first, last = np.full(code.max() + 1, np.inf), np.zeros(code.max() + 1)
    np.minimum.at(first, code, entry)
    np.maximum.at(last, code, stop)
    return int(((first <= 0) & (last >= horizon)).sum())


def _defined_until(stop: FloatArray, event: BoolArray) -> float:
    """How far the curve is known: for ever once it is 0, else to the last time under observation."""
    last = stop == stop.max()
    return float("inf") if bool(event[last].all()) else float(stop.max())
