"""What each estimator answers in a cohort: an estimate with its interval, or the p value of a test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

from rwe.simulate.cohorts import OTHER_DEATH, RELAPSE, Cohort
from rwe.simulate.scenarios import BASELINE
from rwe.survival.aiptw import aiptw_survival
from rwe.survival.competing import exposure_incidence, incidence_at
from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.data import NotEstimableError, start_day_split
from rwe.survival.effects import Effect
from rwe.survival.fine_gray import cause_specific_cox, fine_gray
from rwe.survival.firth import FirthFit, exposure_firth
from rwe.survival.gray import exposure_gray
from rwe.survival.kaplan_meier import exposure_curves, median, survival_at
from rwe.survival.logrank import exposure_logrank
from rwe.survival.msm import marginal_structural_cox
from rwe.survival.permutation import permutation_logrank
from rwe.survival.proportional_hazards import exposure_proportional_hazards
from rwe.survival.rmst import exposure_rmst
from rwe.survival.subgroups import subgroup_effects

RELABELLINGS = 1_000
"""Of the permutation test here, where there are too many to count; the product draws 100,000."""
_MOST_COUNTED = 20_000


@dataclass(frozen=True)
class Answer:
    """An estimate with its 95 % limits (NaN: none; ratios as logarithms), and its `se` where there is one."""

    estimate: float
    low: float
    high: float
    se: float | None = None


@dataclass(frozen=True)
class PValue:
    """What a test says of its null hypothesis."""

    p_value: float


def _of_cox(fit: CoxFit) -> Answer:
    return Answer(float(fit.coefficients[0]), float(fit.ci_low[0]), float(fit.ci_high[0]), float(fit.se[0]))


def _of_firth(fit: FirthFit) -> Answer:
    return Answer(float(fit.coefficients[0]), float(fit.ci_low[0]), float(fit.ci_high[0]), float(fit.se[0]))


def _of_effect(effect: Effect) -> Answer:
    """On the log scale where the effect is a ratio. Without an interval its limits are NaN."""
    if effect.estimate is None:
        raise NotEstimableError("there is no estimate")
    low = math.nan if effect.ci_low is None else effect.ci_low
    high = math.nan if effect.ci_high is None else effect.ci_high
    if effect.log_estimate is None:
        return Answer(effect.estimate, low, high, effect.se)
    return Answer(effect.log_estimate, _log(low), _log(high), effect.se)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _limits(estimate: float | None, low: float | None, high: float | None, se: float | None = None) -> Answer:
    if estimate is None:
        raise NotEstimableError("there is no estimate")
    return Answer(estimate, math.nan if low is None else low, math.nan if high is None else high, se)


def _tested(p_value: float | None) -> PValue:
    if p_value is None:
        raise NotEstimableError("there is no test")
    return PValue(p_value)


def naive(c: Cohort) -> Answer:
    return _of_cox(exposure_cox(c.naive))


def naive_logrank(c: Cohort) -> PValue:
    return _tested(exposure_logrank(c.naive).p_value)


def time_dependent(c: Cohort) -> Answer:
    return _of_cox(exposure_cox(c.over_time))


def time_dependent_adjusted(c: Cohort) -> Answer:
    """The model's own variance stands beside the robust one in the fit: one fit serves both."""
    fit = c.adjusted_fit
    estimate, se = float(fit.coefficients[0]), float(fit.model_se[0])
    half = float(ndtri(0.975)) * se
    return Answer(estimate, estimate - half, estimate + half, se)


def time_dependent_robust(c: Cohort) -> Answer:
    return _of_cox(c.adjusted_fit)


def time_dependent_firth(c: Cohort) -> Answer:
    return _of_firth(exposure_firth(c.over_time))


def start_day_strata(c: Cohort) -> Answer:
    rows = start_day_split(c.table, BASELINE, c.scenario.time_varying)
    return _of_cox(exposure_cox(rows, stratify_by_site=c.by_site, robust=True))


def sequential(c: Cohort) -> Answer:
    return _of_effect(c.sequential.hazard_ratio)


def marginal_structural(c: Cohort) -> Answer:
    found = marginal_structural_cox(c.table, BASELINE, c.still_varying, stratify_by_site=c.by_site)
    return _of_effect(found.hazard_ratio)


def landmark_cox(c: Cohort) -> Answer:
    return _of_cox(exposure_cox(c.landmark))


def landmark_adjusted(c: Cohort) -> Answer:
    return _of_cox(exposure_cox(c.landmark_adjusted, stratify_by_site=c.by_site))


def landmark_firth(c: Cohort) -> Answer:
    return _of_firth(exposure_firth(c.landmark))


def landmark_rmst(c: Cohort) -> Answer:
    found = exposure_rmst(c.landmark, c.scenario.after_landmark)
    return _limits(found.difference, found.ci_low, found.ci_high, found.se)


def rmst_started(c: Cohort) -> Answer:
    arm = exposure_rmst(c.landmark, c.scenario.after_landmark).exposed
    return _limits(arm.estimate, arm.ci_low, arm.ci_high, arm.se)


def survival_started(c: Cohort) -> Answer:
    return _survival(c, exposed=True)


def survival_not_started(c: Cohort) -> Answer:
    return _survival(c, exposed=False)


def _survival(c: Cohort, *, exposed: bool) -> Answer:
    curves = exposure_curves(c.landmark)
    curve = curves.exposed if exposed else curves.unexposed
    at = survival_at(curve, [c.scenario.after_landmark])[0]
    if at.is_beyond_follow_up:
        raise NotEstimableError("nobody was followed that long")
    return _limits(at.survival, at.ci_low, at.ci_high, at.se)


def median_not_started(c: Cohort) -> Answer:
    """An open upper limit holds whatever is above the lower one."""
    m = median(exposure_curves(c.landmark).unexposed)
    if m.estimate is None or m.ci_low is None:
        raise NotEstimableError("the curve does not fall to a half")
    return Answer(m.estimate, m.ci_low, math.inf if m.ci_high is None else m.ci_high)


def landmark_iptw(c: Cohort) -> Answer:
    return _of_effect(c.iptw.contrasts.hazard_ratio)


def landmark_overlap(c: Cohort) -> Answer:
    return _of_effect(c.overlap.contrasts.hazard_ratio)


def landmark_iptw_bootstrap(c: Cohort) -> Answer:
    return _of_effect(c.iptw_bootstrap.contrasts.hazard_ratio)


def landmark_overlap_bootstrap(c: Cohort) -> Answer:
    return _of_effect(c.overlap_bootstrap.contrasts.hazard_ratio)


def landmark_iptw_survival(c: Cohort) -> Answer:
    return _of_effect(c.iptw_bootstrap.contrasts.survival[0].difference)


def landmark_overlap_survival(c: Cohort) -> Answer:
    return _of_effect(c.overlap_bootstrap.contrasts.survival[0].difference)


def landmark_aiptw(c: Cohort) -> Answer:
    return _augmented(c, 0)


def landmark_aiptw_bootstrap(c: Cohort) -> Answer:
    return _augmented(c, c.replicates)


def _augmented(c: Cohort, replicates: int) -> Answer:
    s = c.scenario
    found = aiptw_survival(
        c.could_choose,
        s.landmark,
        BASELINE,
        c.still_varying,
        horizons=[s.after_landmark],
        replicates=replicates,
        seed=c.seed,
        workers=1,
    )
    return _of_effect(found[0].difference)


def cloned_cox_sandwich(c: Cohort) -> Answer:
    return _of_effect(c.cloned_cox.contrasts.hazard_ratio)


def cloned_sandwich(c: Cohort) -> Answer:
    return _of_effect(c.cloned_logistic.contrasts.hazard_ratio)


def cloned_bootstrap(c: Cohort) -> Answer:
    return _of_effect(c.cloned_logistic_bootstrap.contrasts.hazard_ratio)


def cloned_survival(c: Cohort) -> Answer:
    return _of_effect(c.cloned_logistic_bootstrap.contrasts.survival[0].difference)


def cloned_rmst(c: Cohort) -> Answer:
    return _of_effect(c.cloned_logistic_bootstrap.contrasts.rmst_difference)


def relapse_cause_specific(c: Cohort) -> Answer:
    return _of_cox(cause_specific_cox(c.relapses, OTHER_DEATH).fit)


def relapse_fine_gray(c: Cohort) -> Answer:
    return _of_cox(fine_gray(c.relapses, RELAPSE).fit)


def relapse_incidence_started(c: Cohort) -> Answer:
    return _incidence(c, exposed=True)


def relapse_incidence_not_started(c: Cohort) -> Answer:
    return _incidence(c, exposed=False)


def _incidence(c: Cohort, *, exposed: bool) -> Answer:
    c.relapses.data.require_both_groups()
    groups = exposure_incidence(c.relapses)
    curve = next(x for x in (groups.exposed if exposed else groups.unexposed) if x.cause == RELAPSE)
    at = incidence_at(curve, [c.scenario.after_landmark])[0]
    if at.is_beyond_follow_up:
        raise NotEstimableError("nobody was followed that long")
    return _limits(at.incidence, at.ci_low, at.ci_high, at.se)


def relapse_gray(c: Cohort) -> PValue:
    return _tested(exposure_gray(c.relapses, RELAPSE).p_value)


def landmark_logrank(c: Cohort) -> PValue:
    return _tested(exposure_logrank(c.landmark).p_value)


def mantel_byar(c: Cohort) -> PValue:
    return _tested(exposure_logrank(c.over_time).p_value)


def permutation(c: Cohort) -> PValue:
    c.landmark.require_both_groups()
    found = permutation_logrank(
        c.landmark.stop,
        c.landmark.event,
        c.landmark.exposed,
        most_enumerated=_MOST_COUNTED,
        draws=RELABELLINGS,
        seed=c.seed,
    )
    return _tested(found.p_value)


def proportional(c: Cohort) -> PValue:
    return _tested(
        exposure_proportional_hazards(c.over_time_adjusted, stratify_by_site=c.by_site).test().p_value
    )


def interaction(c: Cohort) -> PValue:
    found = subgroup_effects(c.over_time_adjusted, c.older.tolist(), name="age", stratify_by_site=c.by_site)
    return _tested(found.interaction.p_value)
