"""How strong would what we did not measure have to be? E-value, bias array, tipping points.

E-value (VanderWeele & Ding 2017, Ann Intern Med 167:268): the least strength, on the risk ratio scale, that
an unmeasured confounder would need with both exposure and outcome to explain the estimate away. A hazard
ratio of a common outcome is first turned into a risk ratio, (1 - 0.5^sqrt(HR)) / (1 - 0.5^sqrt(1/HR)).

Bias array (Schneeweiss 2006, Pharmacoepidemiol Drug Saf 15:291): a binary confounder that multiplies the
hazard by g and has prevalence p1 among the exposed, p0 among the others distorts the hazard ratio by
(1 + p1 (g - 1)) / (1 + p0 (g - 1)); the corrected ratio is the observed one divided by that.

Tipping points: the g at which nothing is left of the effect, and how many of the censored exposed patients
would have to have died when they were lost.

For the planner: `e_value`, `confounding_array` and `confounding_tipping_point` take the primary estimate's
ratio and limits; `lost_deaths_tipping_point` takes the rows of a landmark (or time-dependent) comparison.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rwe.survival.data import CountingProcess, NotEstimableError, SurvivalDataError, frozen_flags
from rwe.survival.logrank import LogRank, exposure_logrank


@dataclass(frozen=True)
class EValue:
    """E-values of an estimate and of its confidence limit nearer to 1 (1 if the interval holds 1).

    `limit` is None without an interval or with an open one on the side towards 1. `risk_ratio` is what the
    hazard ratio was turned into.
    """

    estimate: float
    limit: float | None
    risk_ratio: float
    is_common_outcome: bool
    method: str
    assumptions: tuple[str, ...] = (
        "The bound holds for any number of unmeasured confounders together, given the measured covariates.",
        "It says nothing about selection, measurement error or immortal time.",
    )


@dataclass(frozen=True)
class CorrectedRatio:
    """The hazard ratio (with its limits) as it would be without one unmeasured confounder.

    `confounder_ratio` is the confounder's own hazard ratio; prevalences among exposed and unexposed.
    """

    confounder_ratio: float
    prevalence_exposed: float
    prevalence_unexposed: float
    bias_factor: float
    estimate: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class ConfoundingTippingPoint:
    """The confounder's hazard ratio at which the estimate, and its limit nearer to 1, would be 1.

    None: no strength suffices at these prevalences. 1: nothing has to be explained away.
    """

    prevalence_exposed: float
    prevalence_unexposed: float
    for_estimate: float | None
    for_limit: float | None


@dataclass(frozen=True)
class LostDeathsTippingPoint:
    """How many of the censored patients who look better off would have to have died at their last contact.

    `deaths` is the smallest number, those lost first dying first, at which the log-rank test no more finds
    `group` better off at level 1 - `ci_level`; 0 if it is so already, None if not even all of `censored`
    suffice. `p_value` is that of the test after so many deaths.
    """

    group: str
    deaths: int | None
    censored: int
    p_value: float | None
    observed_p_value: float | None
    ci_level: float
    method: str = "log-rank test, earliest-lost patients counted as dead when lost"


def e_value(
    hazard_ratio: float,
    ci_low: float | None = None,
    ci_high: float | None = None,
    *,
    is_common_outcome: bool = True,
) -> EValue:
    """E-values of a hazard ratio. A common outcome is one that more than some 15 % have by the end.

    Raises SurvivalDataError for a ratio that is not above 0, or limits that do not hold it.
    """
    _check_interval(hazard_ratio, ci_low, ci_high)
    turn = _risk_ratio if is_common_outcome else float
    limit = ci_high if hazard_ratio < 1 else ci_low
    crosses = limit is not None and (limit >= 1 if hazard_ratio < 1 else limit <= 1)
    return EValue(
        estimate=_e_value(turn(hazard_ratio)),
        limit=None if limit is None else 1.0 if crosses else _e_value(turn(limit)),
        risk_ratio=turn(hazard_ratio),
        is_common_outcome=is_common_outcome,
        method="E-value" + (" by the risk ratio of a common outcome" if is_common_outcome else ""),
    )


def confounding_array(
    hazard_ratio: float,
    ci_low: float | None = None,
    ci_high: float | None = None,
    *,
    confounder_ratios: Sequence[float] = (0.5, 1.5, 2.0, 3.0, 5.0),
    prevalences_exposed: Sequence[float] = (0.1, 0.3, 0.5),
    prevalences_unexposed: Sequence[float] = (0.1, 0.3, 0.5),
) -> tuple[CorrectedRatio, ...]:
    """The ratio corrected for each combination of a confounder's strength and prevalences.

    Raises SurvivalDataError for ratios not above 0 or prevalences outside [0, 1].
    """
    _check_interval(hazard_ratio, ci_low, ci_high)
    cells = []
    for g in confounder_ratios:
        for p1 in prevalences_exposed:
            for p0 in prevalences_unexposed:
                factor = bias_factor(g, p1, p0)
                low, high = (None if limit is None else limit / factor for limit in (ci_low, ci_high))
                cells.append(CorrectedRatio(g, p1, p0, factor, hazard_ratio / factor, low, high))
    return tuple(cells)


def bias_factor(confounder_ratio: float, prevalence_exposed: float, prevalence_unexposed: float) -> float:
    """By how much a binary confounder multiplies the hazard ratio. Raises SurvivalDataError as the array."""
    if not confounder_ratio > 0:
        raise SurvivalDataError("the hazard ratio of a confounder is not above 0")
    if not (0 <= prevalence_exposed <= 1 and 0 <= prevalence_unexposed <= 1):
        raise SurvivalDataError("a prevalence is not between 0 and 1")
    g = confounder_ratio - 1
    return (1 + prevalence_exposed * g) / (1 + prevalence_unexposed * g)


def confounding_tipping_point(
    hazard_ratio: float,
    ci_low: float | None,
    ci_high: float | None,
    *,
    prevalence_exposed: float,
    prevalence_unexposed: float,
) -> ConfoundingTippingPoint:
    """How strong a confounder of these prevalences explains the estimate, and its interval, away.

    Raises SurvivalDataError for ratios not above 0 or prevalences outside [0, 1].
    """
    _check_interval(hazard_ratio, ci_low, ci_high)
    bias_factor(1.0, prevalence_exposed, prevalence_unexposed)
    limit = ci_high if hazard_ratio < 1 else ci_low
    is_explained = limit is not None and (limit - 1) * (hazard_ratio - 1) <= 0
    return ConfoundingTippingPoint(
        prevalence_exposed=prevalence_exposed,
        prevalence_unexposed=prevalence_unexposed,
        for_estimate=_strength(hazard_ratio, prevalence_exposed, prevalence_unexposed),
        for_limit=1.0
        if is_explained
        else None
        if limit is None
        else _strength(limit, prevalence_exposed, prevalence_unexposed),
    )


def lost_deaths_tipping_point(
    data: CountingProcess, *, stratify_by_site: bool = False, level: float = 0.95
) -> LostDeathsTippingPoint:
    """Turn censored patients of the better-off group into deaths, the earliest lost first, until p >= alpha.

    Who was lost may have died: a test that a handful of such deaths overturns is fragile. Patients followed
    to the end of the data cannot have died unseen, yet count here too, so the answer errs towards robust.

    Raises NotEstimableError where a group is empty or the log-rank test is not defined.
    """
    data.require_both_groups()
    if data.trial is not None:
        raise NotEstimableError("a tipping point needs each patient once", advice="use a landmark")
    observed = exposure_logrank(data, stratify_by_site=stratify_by_site)
    if observed.p_value is None:
        raise NotEstimableError(f"there is no log-rank test to overturn: {observed.warnings[0].rstrip('.')}")
    better = observed.observed[1] < observed.expected[1]
    last = _last_rows(data)
    lost = last[(data.exposed[last] == better) & ~data.event[last]]
    lost = lost[np.lexsort((data.patient[lost], data.stop[lost]))]

    def test(deaths: int) -> LogRank:
        event = data.event.copy()
        event[lost[:deaths]] = True
        return exposure_logrank(replace(data, event=frozen_flags(event)), stratify_by_site=stratify_by_site)

    result = LostDeathsTippingPoint(
        group="exposed" if better else "unexposed",
        deaths=None,
        censored=len(lost),
        p_value=None,
        observed_p_value=observed.p_value,
        ci_level=level,
    )

    def is_overturned(deaths: int) -> bool:
        # Each death moves O - E of its group up and leaves the risk sets alone: once overturned, for good.
        found, j = test(deaths), int(better)
        return (found.p_value or 0.0) >= 1 - level or found.observed[j] >= found.expected[j]

    if not is_overturned(len(lost)):
        return result
    deaths = bisect_left(range(len(lost) + 1), True, key=is_overturned)
    return replace(result, deaths=deaths, p_value=test(deaths).p_value)


def _last_rows(data: CountingProcess) -> np.typing.NDArray[np.intp]:
    order = np.lexsort((data.stop, data.patient))
    last = np.append(data.patient[order][1:] != data.patient[order][:-1], True)
    return np.asarray(order[last])


def _check_interval(estimate: float, low: float | None, high: float | None) -> None:
    if not (estimate > 0 and math.isfinite(estimate)):
        raise SurvivalDataError("the hazard ratio is not a finite number above 0")
    if (low is not None and not 0 <= low <= estimate) or (high is not None and not high >= estimate):
        raise SurvivalDataError("the confidence limits do not hold the hazard ratio")


def _risk_ratio(hazard_ratio: float) -> float:
    if hazard_ratio == 0:
        return 0.0
    # 1 - 0.5^x without losing digits for small x.
    root = math.sqrt(hazard_ratio)
    return math.expm1(-math.log(2) * root) / math.expm1(-math.log(2) / root)


def _e_value(risk_ratio: float) -> float:
    if risk_ratio == 0:
        return math.inf
    ratio = 1 / risk_ratio if risk_ratio < 1 else risk_ratio
    return ratio + math.sqrt(ratio * (ratio - 1))


def _strength(ratio: float, p1: float, p0: float) -> float | None:
    """g with bias_factor(g, p1, p0) = ratio; None if no g above 0 has it."""
    if ratio == 1:
        return 1.0
    denominator = p1 - ratio * p0
    if denominator == 0:
        return None
    g = 1 + (ratio - 1) / denominator
    return g if g > 0 and math.isfinite(g) else None
