"""Looking repeatedly: a confidence sequence for the log hazard ratio from the stratified score of a test.

An ordinary interval holds for one look. Who looks after every night, and would stop or speak when it excludes
1, is wrong far more often than its level says (Armitage, McPherson and Rowe 1969). A confidence sequence
holds at all looks together.

The score of the log-rank (Mantel-Byar) test, as information grows with calendar time, is asymptotically a
Brownian motion in its information (Sellke and Siegmund 1983). For a mean-zero process S with variance v,
Robbins' normal mixture (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021, Annals of Statistics
49:1055, two-sided normal mixture) gives

    P(some v: |S(v)| >= sqrt((v + r) log((v + r) / (r a^2)))) <= a

for any r > 0 fixed beforehand. r decides where the boundary is tightest; it is tuned to a planned
information. The sequence is the set of log hazard ratios whose score stays within the boundary. It is
approximate: the score is Gaussian in large samples only, and corrections of old records are no increments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import lambertw, ndtri

from rwe.survival.data import CountingProcess, FloatArray

PLANNED_INFORMATION = float((ndtri(0.975) + ndtri(0.8)) / math.log(2)) ** 2
"""The information that shows a hazard ratio of one half (or two) with 80 % power at the two-sided 5 % level:
16.3, some 65 events if both groups are of one size. It is the same at every look, for one that followed the
data would void the guarantee."""

_REACH = 8.0
_GRID = np.linspace(-_REACH, _REACH, 641)


@dataclass(frozen=True)
class ScoreProcess:
    """What the score of one exposure needs: for each event time of each stratum the events, those among the
    exposed, and who is at risk, exposed and not."""

    events: FloatArray
    events_exposed: FloatArray
    at_risk_exposed: FloatArray
    at_risk_unexposed: FloatArray

    def at(self, log_hazard_ratio: float) -> tuple[float, float]:
        """Score and information at a log hazard ratio. At 0 they are observed minus expected events of the
        log-rank test and its hypergeometric variance; elsewhere tied events share that correction."""
        weighted = self.at_risk_exposed * math.exp(log_hazard_ratio)
        share = weighted / (weighted + self.at_risk_unexposed)
        n = self.at_risk_exposed + self.at_risk_unexposed
        ties = (n - self.events) / np.maximum(n - 1, 1)
        score = float((self.events_exposed - self.events * share).sum())
        return score, float((self.events * share * (1 - share) * ties).sum())


@dataclass(frozen=True)
class ConfidenceSequence:
    """Hazard ratios. `low` and `high` are None where the boundary is not reached: no limit on that side.

    `estimate` solves score = 0; None where all events are of one group. `pointwise` is the interval of one
    look from the same score. `score` and `information` are at a hazard ratio of 1.
    """

    estimate: float | None
    low: float | None
    high: float | None
    pointwise: tuple[float | None, float | None]
    level: float
    score: float
    information: float
    planned_information: float


def score_process(rows: CountingProcess, *, stratify_by_site: bool = True) -> ScoreProcess:
    """The score process of exposed against unexposed on the rows of `exposure_split`, unadjusted."""
    strata = rows.site.astype(str) if stratify_by_site else np.zeros(len(rows), dtype=np.int64)
    parts: list[tuple[FloatArray, ...]] = []
    for stratum in np.unique(strata):
        inside = strata == stratum
        start, stop = rows.start[inside], rows.stop[inside]
        event, exposed = rows.event[inside], rows.exposed[inside]
        times, d = np.unique(stop[event], return_counts=True)
        parts.append(
            (
                d.astype(float),
                _at(stop[event & exposed], times),
                _at_risk(times, start[exposed], stop[exposed]),
                _at_risk(times, start[~exposed], stop[~exposed]),
            )
        )
    columns = [np.concatenate([p[k] for p in parts]) if parts else np.zeros(0) for k in range(4)]
    return ScoreProcess(*columns)


def _at(values: FloatArray, times: FloatArray) -> FloatArray:
    """How many of the values equal each time."""
    ordered = np.sort(values)
    found = np.searchsorted(ordered, times, "right") - np.searchsorted(ordered, times, "left")
    return found.astype(float)


def _at_risk(times: FloatArray, start: FloatArray, stop: FloatArray) -> FloatArray:
    inside = np.searchsorted(np.sort(start), times, "left") - np.searchsorted(np.sort(stop), times, "left")
    return inside.astype(float)


def mixture_parameter(planned_information: float, alpha: float = 0.05) -> float:
    """The r whose boundary is tightest at this information: v / (-W(-a^2/e) - 1) with the lower branch of
    Lambert's W (Howard et al. 2021, section 3.5). Raises ValueError outside 0 < a < 1, v > 0."""
    if not 0 < alpha < 1 or planned_information <= 0:
        raise ValueError("alpha must lie between 0 and 1, the planned information above 0")
    branch = float(-lambertw(-(alpha**2) / math.e, -1).real)
    return planned_information / (branch - 1)


def boundary(information: float, parameter: float, alpha: float = 0.05) -> float:
    """How far the score may be from 0 at this information, at all looks together: Robbins' normal mixture."""
    total = information + parameter
    return math.sqrt(total * math.log(total / (parameter * alpha**2)))


def confidence_sequence(
    process: ScoreProcess,
    *,
    level: float = 0.95,
    planned_information: float = PLANNED_INFORMATION,
) -> ConfidenceSequence:
    """The confidence sequence at this look. Hazard ratios beyond e^-8 and e^8 are taken for no limit."""
    alpha = 1 - level
    r, z = mixture_parameter(planned_information, alpha), float(ndtri(1 - alpha / 2))

    def sequence(theta: float) -> float:
        score, information = process.at(theta)
        return abs(score) - boundary(information, r, alpha)

    def one_look(theta: float) -> float:
        score, information = process.at(theta)
        return abs(score) - z * math.sqrt(information)

    low, high = _hull(sequence)
    score, information = process.at(0.0)
    return ConfidenceSequence(
        estimate=_estimate(process),
        low=low,
        high=high,
        pointwise=_hull(one_look),
        level=level,
        score=score,
        information=information,
        planned_information=planned_information,
    )


def _estimate(process: ScoreProcess) -> float | None:
    if process.at(-_REACH)[0] <= 0 or process.at(_REACH)[0] >= 0:
        return None
    return math.exp(float(brentq(lambda theta: process.at(theta)[0], -_REACH, _REACH, xtol=1e-12)))


def _hull(outside: Callable[[float], float]) -> tuple[float | None, float | None]:
    """The outermost log hazard ratios that are not outside, as hazard ratios."""
    kept = [theta for theta in _GRID if outside(theta) <= 0]
    if not kept:
        return None, None
    low = high = None
    step = float(_GRID[1] - _GRID[0])
    if kept[0] > _GRID[0]:
        low = math.exp(float(brentq(outside, kept[0] - step, kept[0], xtol=1e-10)))
    if kept[-1] < _GRID[-1]:
        high = math.exp(float(brentq(outside, kept[-1], kept[-1] + step, xtol=1e-10)))
    return low, high
