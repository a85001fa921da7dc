"""Cause-specific and subdistribution hazards: Cox models with competing risks.

The cause-specific hazard ratio says how exposure acts on those still free of any event; the subdistribution
hazard ratio (Fine and Gray) whose cumulative incidence is higher. Both belong in a report.

In the subdistribution's risk set, patients with a competing event stay, weighted by the chance that they
would still be under observation: G(t-) H(t-) / (G(s-) H(s-)) after their event at s, with G Kaplan-Meier of
being censored (after the events of a day) and H, with delayed entry, the product-limit estimate of having
entered before. The model is then a weighted Cox model on start-stop rows with the sandwich variance by
patient, that of R's `finegray` and `coxph`. The variance takes the weights as known.

Sources: Fine & Gray 1999, JASA 94:496; Geskus 2011, Biometrics 67:39 (delayed entry).

For the planner: `fine_gray(competing_rows(events, landmark_split(...)), cause)` beside
`cause_specific_cox(competing_rows(events, exposure_split(...)), cause)` for each cause.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rwe.survival.cox import CoxFit, HazardRatio, exposure_cox, exposure_data, fit_cox
from rwe.survival.cox_fit import EXPOSURE
from rwe.survival.cox_kernel import Ties
from rwe.survival.data import (
    CountingProcess,
    FloatArray,
    IntArray,
    NotEstimableError,
    frozen_flags,
    frozen_floats,
    frozen_ints,
)
from rwe.survival.first_events import CompetingRows
from rwe.survival.rows import require_fixed_groups

CensoringBy = Literal["all", "exposure", "site"]
"""Whose follow-up the weights rest on: everybody's, that of the exposure group, or that of the site."""

SUBDISTRIBUTION = "Fine-Gray model of the subdistribution hazard"
CAUSE_SPECIFIC = "Cox model of the cause-specific hazard"


@dataclass(frozen=True)
class CompetingFit:
    """A Cox model for one cause. `fit` counts events of that cause only."""

    cause: str
    fit: CoxFit
    method: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]

    def hazard_ratio(self, name: str = EXPOSURE) -> HazardRatio:
        """The hazard ratio of one unit of `name`; see `CoxFit.hazard_ratio`."""
        return self.fit.hazard_ratio(name)


@dataclass(frozen=True)
class SubdistributionRows:
    """Rows of the weighted model: `data` with a weight for each row."""

    data: CountingProcess
    weight: FloatArray


def cause_specific_cox(
    rows: CompetingRows,
    cause: str,
    *,
    stratify_by_site: bool = False,
    ties: Ties = "efron",
    robust: bool = False,
    level: float = 0.95,
) -> CompetingFit:
    """Events of other causes censor. Exposure may change over time. Raises as `fit_cox`.

    Where a patient is in several trials (`start_day_split`) the variance is always the robust one.
    """
    data = rows.of_cause(cause)
    robust = robust or data.trial is not None
    fit = exposure_cox(data, stratify_by_site=stratify_by_site, ties=ties, robust=robust, level=level)
    return CompetingFit(
        cause=cause,
        fit=fit,
        method=CAUSE_SPECIFIC,
        assumptions=(
            "Proportional cause-specific hazards.",
            "Censoring is independent of prognosis, given the covariates; nothing is assumed of how causes "
            "depend on each other.",
        ),
        warnings=fit.warnings,
    )


def fine_gray(
    rows: CompetingRows,
    cause: str,
    *,
    stratify_by_site: bool = False,
    censoring_by: CensoringBy = "all",
    ties: Ties = "efron",
    level: float = 0.95,
) -> CompetingFit:
    """Subdistribution hazard ratios, with the sandwich variance by patient.

    Raises NotEstimableError as `fit_cox`, and as `subdistribution_rows` for changing groups or covariates.
    """
    weighted = subdistribution_rows(rows, cause, censoring_by=censoring_by)
    model = exposure_data(weighted.data, stratify_by_site=stratify_by_site)
    fit = fit_cox(replace(model, weight=weighted.weight), ties=ties, robust=True, level=level)
    return CompetingFit(
        cause=cause,
        fit=fit,
        method=SUBDISTRIBUTION,
        assumptions=(
            "Proportional subdistribution hazards.",
            "Censoring is independent of all kinds of event"
            + ("." if censoring_by == "all" else f" within each {_GROUP_WORD[censoring_by]}."),
        ),
        warnings=fit.warnings,
    )


_GROUP_WORD = {"exposure": "exposure group", "site": "site"}


def subdistribution_rows(
    rows: CompetingRows, cause: str, *, censoring_by: CensoringBy = "all"
) -> SubdistributionRows:
    """Each patient's row; after a competing event more rows of falling weight to the last event of `cause`.

    Raises NotEstimableError where a patient has several rows: exposure and covariates must be fixed, for
    nobody has covariates after a competing death; and where late entry leaves the weights undefined.
    """
    data = rows.data
    code = rows.code(cause)
    require_fixed_groups(data, "a subdistribution hazard")
    if len(np.unique(data.patient)) < len(data):
        raise NotEstimableError("a subdistribution hazard needs covariates fixed at time zero")
    group = _groups(data, censoring_by)
    is_event = rows.cause == code
    competing = np.flatnonzero((rows.cause > 0) & ~is_event)
    times = np.unique(data.stop[is_event])
    extra_row, extra_from, extra_to, extra_weight = _tails(rows, group, competing, times)
    row = np.concatenate([np.arange(len(data)), extra_row])
    start = np.concatenate([data.start, extra_from])
    stop = np.concatenate([data.stop, extra_to])
    n = len(data)
    expanded = replace(
        data,
        start=frozen_floats(start),
        stop=frozen_floats(stop),
        event=frozen_flags(is_event[row] & (np.arange(len(row)) < n)),
        exposed=frozen_flags(data.exposed[row]),
        X=frozen_floats(data.X[row]),
        patient=frozen_ints(data.patient[row]),
        site=data.site[row],
    )
    return SubdistributionRows(expanded, frozen_floats(np.concatenate([np.ones(n), extra_weight])))


def _groups(data: CountingProcess, censoring_by: CensoringBy) -> IntArray:
    if censoring_by == "exposure":
        return data.exposed.astype(np.int64)
    if censoring_by == "site":
        return np.unique(data.site.astype(str), return_inverse=True)[1].astype(np.int64)
    return np.zeros(len(data), dtype=np.int64)


_Tails = tuple[IntArray, FloatArray, FloatArray, FloatArray]


def _tails(rows: CompetingRows, group: IntArray, competing: IntArray, times: FloatArray) -> _Tails:
    """Rows after competing events: whose, from, to, weight. Neighbouring times of one weight share a row."""
    data = rows.data
    whose, begins, ends, weights = [], [], [], []
    for g in np.unique(group[competing]):
        mine = group == g
        observed = _Observed(data.start[mine], data.stop[mine], rows.cause[mine] > 0)
        at_times = observed.chance(times)
        for i in competing[group[competing] == g]:
            later = times > data.stop[i]
            if not later.any():
                continue
            base = observed.chance(data.stop[i : i + 1])[0]
            if not base > 0:
                raise NotEstimableError(
                    "patients enter so late that the weights after a competing event are not defined"
                )
            weight, until = at_times[later] / base, times[later]
            last = np.append(weight[1:] != weight[:-1], True)
            stops = until[last]
            starts = np.concatenate([data.stop[i : i + 1], stops[:-1]])
            used = weight[last] > 0
            whose.append(np.full(int(used.sum()), i, dtype=np.int64))
            begins.append(starts[used])
            ends.append(stops[used])
            weights.append(weight[last][used])
    if not whose:
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros(0)
    return np.concatenate(whose), np.concatenate(begins), np.concatenate(ends), np.concatenate(weights)


class _Observed:
    """G(t-) H(t-): the chance to be under observation at t, up to a constant."""

    def __init__(self, start: FloatArray, stop: FloatArray, is_event: np.typing.NDArray[np.bool_]) -> None:
        starts, stops = np.sort(start), np.sort(stop)
        # Censorings come after the events of their day.
        self._censored, left = np.unique(stop[~is_event], return_counts=True)
        events = np.sort(stop[is_event])
        at_risk = np.searchsorted(starts, self._censored, "left") - np.searchsorted(
            stops, self._censored, "left"
        )
        at_risk -= np.searchsorted(events, self._censored, "right") - np.searchsorted(
            events, self._censored, "left"
        )
        self._stay = np.concatenate([[1.0], np.cumprod(1 - left / at_risk)])
        # In reversed time entering is the event: those at risk just after an entry are starts <= t < stops.
        self._entered, entering = np.unique(start, return_counts=True)
        inside = np.searchsorted(starts, self._entered, "right") - np.searchsorted(
            stops, self._entered, "right"
        )
        is_late = self._entered > 0
        factor = np.where(is_late, 1 - entering / inside, 1.0)
        self._have_entered = np.concatenate([np.cumprod(factor[::-1])[::-1], [1.0]])

    def chance(self, time: FloatArray) -> FloatArray:
        stay = self._stay[np.searchsorted(self._censored, time, "left")]
        entered = self._have_entered[np.searchsorted(self._entered, time, "left")]
        return np.asarray(stay * entered)
