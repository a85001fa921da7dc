"""Every estimator of a study as the harness judges it: what it estimates, and what must hold for that."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from rwe.simulate import answers as of
from rwe.simulate.definition import Estimator
from rwe.simulate.scenarios import Assumption


def _all(*assumptions: Assumption) -> frozenset[Assumption]:
    return frozenset(assumptions)


_FREE = _all("independent_censoring")
_RATIO = _FREE | _all("one_hazard_ratio")
_CRUDE = _FREE | _all("no_confounding")
_NULL = _all("no_effect", "no_covariate_effects")
_BOOTSTRAP_SHARE = 0.2
_KNOWN = "the sandwich takes estimated weights as known"
_JACKKNIFE = (
    "a jackknife of patients mostly errs towards too large a variance, and takes estimated weights as known"
)

_NAIVE = (
    Estimator("naive", "ever against never started", "conditional", of.naive, "naive_cox", is_biased=True),
    Estimator(
        "naive_logrank",
        "log-rank test of ever against never started",
        "test",
        of.naive_logrank,
        "naive_logrank",
        "chi_square",
        needs=_CRUDE | _all("no_effect"),
        is_biased=True,
    ),
)
_OVER_TIME = (
    Estimator(
        "time_dependent",
        "time-dependent Cox, not adjusted",
        "conditional",
        of.time_dependent,
        "time_dependent_cox",
        needs=_RATIO | _CRUDE,
    ),
    Estimator(
        "time_dependent_adjusted",
        "time-dependent Cox, adjusted for all confounders, stratified by site",
        "conditional",
        of.time_dependent_adjusted,
        "time_dependent_cox",
        needs=_RATIO,
        option="adjusted",
    ),
    Estimator(
        "time_dependent_robust",
        "the same with the variance clustered by patient",
        "conditional",
        of.time_dependent_robust,
        "time_dependent_cox",
        needs=_RATIO,
        option="adjusted, robust",
    ),
    Estimator(
        "time_dependent_firth",
        "time-dependent Cox with Firth's penalty, not adjusted",
        "conditional",
        of.time_dependent_firth,
        "time_dependent_firth",
        needs=_RATIO | _CRUDE,
    ),
    Estimator(
        "start_day_strata",
        "each start against those not yet started, stratified by start day, adjusted",
        "limit",
        of.start_day_strata,
        "time_dependent_cox",
        needs=_RATIO,
        exact_when=_NULL,
        counted="trials",
        largest=1_050,
        option="adjusted, freeze",
    ),
    Estimator(
        "sequential_trials",
        "sequential trials, per protocol, adjusted, weighted for what changes; jackknife of patients",
        "limit",
        of.sequential,
        "sequential_trials",
        needs=_RATIO,
        exact_when=_all("one_hazard_ratio", "no_covariate_effects"),
        counted="sequential_trials",
        largest=1_050,
        may_exceed=_JACKKNIFE,
    ),
    Estimator(
        "marginal_structural_model",
        "marginal structural Cox model, stabilised weights; jackknife of patients",
        "randomised",
        of.marginal_structural,
        "marginal_structural_model",
        needs=_RATIO | _all("anybody_may_start"),
        exact_when=_all("one_hazard_ratio", "no_covariate_effects"),
        may_exceed=_JACKKNIFE,
    ),
)
_SURVIVAL = Estimator(
    "landmark_survival_started",
    "Kaplan-Meier survival after the landmark of those who had started",
    "limit",
    of.survival_started,
    "landmark_kaplan_meier",
    "survival",
    scale="share",
    needs=_FREE,
    is_contrast=False,
    counted="started",
)
_LANDMARK = (
    Estimator(
        "landmark_cox",
        "landmark Cox, not adjusted",
        "limit",
        of.landmark_cox,
        "landmark_cox",
        needs=_CRUDE,
        exact_when=_NULL,
        counted="landmark",
    ),
    Estimator(
        "landmark_adjusted",
        "landmark Cox, adjusted",
        "limit",
        of.landmark_adjusted,
        "landmark_cox",
        needs=_FREE,
        exact_when=_NULL,
        option="adjusted",
        counted="landmark",
    ),
    Estimator(
        "landmark_firth",
        "landmark Cox with Firth's penalty, not adjusted",
        "limit",
        of.landmark_firth,
        "landmark_firth",
        needs=_CRUDE,
        exact_when=_NULL,
        largest=1_050,
        counted="landmark",
    ),
    Estimator(
        "landmark_rmst",
        "difference of restricted means from the landmark on, not adjusted",
        "limit",
        of.landmark_rmst,
        "landmark_rmst",
        "rmst_difference_days",
        scale="days",
        needs=_CRUDE,
        exact_when=_NULL,
        counted="landmark",
    ),
    Estimator(
        "landmark_rmst_started",
        "restricted mean from the landmark on of those who had started",
        "limit",
        of.rmst_started,
        "landmark_rmst",
        "rmst_days",
        scale="days",
        needs=_FREE,
        is_contrast=False,
        counted="started",
    ),
    _SURVIVAL,
    replace(
        _SURVIVAL,
        name="landmark_survival_not_started",
        words="Kaplan-Meier survival after the landmark of those who had not",
        run=of.survival_not_started,
        counted="not_started",
    ),
    Estimator(
        "landmark_median_not_started",
        "median survival after the landmark of those who had not",
        "limit",
        of.median_not_started,
        "landmark_kaplan_meier",
        "median_days",
        scale="days",
        needs=_FREE,
        is_contrast=False,
        counted="not_started",
    ),
)


def _weighted(kind: Literal["iptw", "overlap"], words: str) -> tuple[Estimator, ...]:
    hr = (of.landmark_iptw, of.landmark_iptw_bootstrap, of.landmark_iptw_survival)
    if kind == "overlap":
        hr = (of.landmark_overlap, of.landmark_overlap_bootstrap, of.landmark_overlap_survival)
    return (
        Estimator(
            f"landmark_{kind}",
            f"landmark, {words}; sandwich variance",
            "limit",
            hr[0],
            "landmark_weighting",
            needs=_FREE,
            counted="could_choose",
            exact_when=_all("no_effect"),
            option=kind,
            may_exceed=_KNOWN,
        ),
        Estimator(
            f"landmark_{kind}_bootstrap",
            f"landmark, {words}; bootstrap of patients",
            "limit",
            hr[1],
            "landmark_weighting",
            needs=_FREE,
            counted="could_choose",
            exact_when=_all("no_effect"),
            share=_BOOTSTRAP_SHARE,
            option=f"{kind}, bootstrap",
        ),
        Estimator(
            f"landmark_{kind}_survival",
            "the same, difference of survival after the landmark",
            "limit",
            hr[2],
            "landmark_weighting",
            "survival_difference",
            scale="share",
            needs=_FREE,
            counted="could_choose",
            exact_when=_all("no_effect"),
            share=_BOOTSTRAP_SHARE,
            option=f"{kind}, bootstrap",
        ),
    )


_AUGMENTED = Estimator(
    "landmark_aiptw",
    "difference of survival after the landmark, augmented weights; influence function",
    "limit",
    of.landmark_aiptw,
    "landmark_aiptw",
    "survival_difference",
    scale="share",
    needs=_FREE,
    exact_when=_all("no_effect"),
    counted="could_choose",
    not_offered="its intervals are too narrow: the influence function takes its models as known",
)
_WEIGHTED = (
    *_weighted("overlap", "overlap weights"),
    *_weighted("iptw", "inverse-probability weights"),
    _AUGMENTED,
    replace(
        _AUGMENTED,
        name="landmark_aiptw_bootstrap",
        words="the same, bootstrap of patients",
        run=of.landmark_aiptw_bootstrap,
        option="bootstrap",
        not_offered="",
    ),
)
_CLONED = (
    Estimator(
        "clone_censor_weight_sandwich",
        "clone-censor-weight, logistic model, sandwich variance",
        "strategies",
        of.cloned_sandwich,
        "clone_censor_weight",
        needs=_FREE,
        option="logistic",
        may_exceed=_KNOWN,
    ),
    Estimator(
        "clone_censor_weight",
        "clone-censor-weight, logistic model, bootstrap of patients",
        "strategies",
        of.cloned_bootstrap,
        "clone_censor_weight",
        needs=_FREE,
        share=_BOOTSTRAP_SHARE,
        option="logistic, bootstrap",
    ),
    Estimator(
        "clone_censor_weight_survival",
        "the same, difference of survival",
        "strategies",
        of.cloned_survival,
        "clone_censor_weight",
        "survival_difference",
        scale="share",
        needs=_FREE,
        share=_BOOTSTRAP_SHARE,
        option="logistic, bootstrap",
    ),
    Estimator(
        "clone_censor_weight_rmst",
        "the same, difference of restricted means",
        "strategies",
        of.cloned_rmst,
        "clone_censor_weight",
        "rmst_difference_days",
        scale="days",
        needs=_FREE,
        share=_BOOTSTRAP_SHARE,
        option="logistic, bootstrap",
    ),
    Estimator(
        "clone_censor_weight_cox_sandwich",
        "clone-censor-weight, Cox model of the treated arm's weights, sandwich variance",
        "strategies",
        of.cloned_cox_sandwich,
        "clone_censor_weight",
        needs=_FREE,
        option="cox",
        may_exceed=_KNOWN,
    ),
)
_INCIDENCE = Estimator(
    "relapse_incidence_started",
    "Aalen-Johansen incidence of relapse after the landmark of those who had started",
    "limit",
    of.relapse_incidence_started,
    "landmark_competing_risks",
    "cumulative_incidence",
    scale="share",
    needs=_FREE,
    is_contrast=False,
    counted="relapse_started",
)
_COMPETING = (
    Estimator(
        "relapse_cause_specific",
        "cause-specific Cox of death without relapse, from the landmark on, not adjusted",
        "limit",
        of.relapse_cause_specific,
        "landmark_competing_risks",
        "cause_specific_hazard_ratio",
        needs=_CRUDE,
        exact_when=_NULL,
        counted="non_relapse_death",
    ),
    Estimator(
        "relapse_fine_gray",
        "Fine-Gray model of relapse, from the landmark on, not adjusted",
        "limit",
        of.relapse_fine_gray,
        "landmark_competing_risks",
        "subdistribution_hazard_ratio",
        needs=_CRUDE,
        exact_when=_NULL,
        counted="relapse",
    ),
    _INCIDENCE,
    replace(
        _INCIDENCE,
        name="relapse_incidence_not_started",
        words="Aalen-Johansen incidence of relapse after the landmark of those who had not",
        run=of.relapse_incidence_not_started,
        counted="relapse_not_started",
    ),
)
_TESTED_NULL = _CRUDE | _all("no_effect")
_TESTS = (
    Estimator(
        "relapse_gray",
        "Gray's test of relapse, from the landmark on",
        "test",
        of.relapse_gray,
        "landmark_competing_risks",
        "p_value",
        needs=_TESTED_NULL,
        counted="relapse",
    ),
    Estimator(
        "landmark_logrank",
        "log-rank test from the landmark on",
        "test",
        of.landmark_logrank,
        "landmark_logrank",
        "chi_square",
        needs=_TESTED_NULL,
        counted="landmark",
    ),
    Estimator(
        "mantel_byar",
        "Mantel-Byar test",
        "test",
        of.mantel_byar,
        "mantel_byar",
        "chi_square",
        needs=_TESTED_NULL,
    ),
    Estimator(
        "permutation_logrank",
        f"permutation log-rank test from the landmark on, {of.RELABELLINGS:,} relabellings",
        "test",
        of.permutation,
        "landmark_permutation",
        "p_value",
        needs=_TESTED_NULL,
        may_exceed="a permutation test is exact, and few relabellings make its p value coarse",
        counted="landmark",
    ),
    Estimator(
        "proportional_hazards",
        "test that the adjusted hazard ratio is the same at all times",
        "test",
        of.proportional,
        "time_dependent_cox",
        "proportional_hazards",
        needs=_RATIO,
    ),
    Estimator(
        "interaction",
        "test that the adjusted hazard ratio is the same in two age groups",
        "test",
        of.interaction,
        "time_dependent_cox",
        "interaction",
        needs=_RATIO,
    ),
)

ESTIMATORS: tuple[Estimator, ...] = (
    *_NAIVE,
    *_OVER_TIME,
    *_LANDMARK,
    *_WEIGHTED,
    *_CLONED,
    *_COMPETING,
    *_TESTS,
)


def estimator(name: str) -> Estimator:
    """The estimator of that name; KeyError where there is none."""
    return {e.name: e for e in ESTIMATORS}[name]
