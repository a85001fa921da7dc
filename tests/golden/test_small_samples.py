"""Small samples and proportional hazards against R: cases d (seven against nine), e (site D), a (heart).

What each case is and which of its keys are golden: ../shared/cases/README.md. Tolerances are absolute, those
of ../shared/STATISTICS.md. The log-ranks, medians and Mantel-Byar tests of case d are in test_estimators.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from rwe.survival.data import CountingProcess, exposure_split, landmark_split, naive_split
from rwe.survival.firth import FirthFit, exposure_firth
from rwe.survival.permutation import (
    PermutationLogRank,
    landmark_permutation,
    naive_permutation,
)
from rwe.survival.proportional_hazards import exposure_proportional_hazards
from rwe.survival.rmst import exposure_rmst
from tests.golden.test_estimators import HEART, SITES, cohort, expected, heart, tiny

FIRTH = 1e-4
RMST = 1e-6
VERSIONS = ("v1", "v2")
LANDMARKS = (30, 60, 90)


def gold_of(version: str) -> Any:
    return expected("d_tiny_7v9")[version]


def assert_firth(fit: FirthFit, gold: dict[str, Any]) -> None:
    found = fit.hazard_ratio()
    assert found.log_estimate == pytest.approx(gold["log_hr"], abs=FIRTH)
    assert found.estimate == pytest.approx(gold["hr"], abs=FIRTH)
    assert found.se == pytest.approx(gold["se"], abs=FIRTH)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert math.log(found.ci_low) == pytest.approx(math.log(gold["pl_lo"]), abs=FIRTH)
    assert math.log(found.ci_high) == pytest.approx(math.log(gold["pl_hi"]), abs=FIRTH)
    assert found.p_value == pytest.approx(gold["plr_p"], abs=FIRTH)
    assert math.log(found.wald_low) == pytest.approx(math.log(gold["wald_lo"]), abs=FIRTH)
    assert math.log(found.wald_high) == pytest.approx(math.log(gold["wald_hi"]), abs=FIRTH)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("key", "split", "covariates"),
    [
        ("naive", naive_split, ()),
        ("naive_age", naive_split, ("age",)),
        ("td", exposure_split, ()),
    ],
)
def test_firth_agrees_with_coxphf(version, key, split, covariates):
    gold = gold_of(version)
    fit = exposure_firth(split(tiny(version), covariates))
    assert_firth(fit, gold[f"firth_{key}_coxphf"])
    assert fit.events_exposed == gold["deaths_maintenance"]
    # R's own optimisation of the same likelihood; its age is in decades, which moves log|I|/2 by log 10.
    own = gold[f"firth_{key}_own"]
    assert fit.loglik == pytest.approx(own["penalised_loglik"] + len(covariates) * math.log(10), abs=1e-9)
    if covariates:
        assert 10 * fit.coefficients[1] == pytest.approx(own["all_log_hr"][1], abs=FIRTH)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("day", LANDMARKS)
def test_firth_at_landmarks_agrees_with_coxphf(version, day):
    gold = gold_of(version)[f"landmark{day}"]
    fit = exposure_firth(landmark_split(tiny(version), day))
    assert_firth(fit, gold["firth_coxphf"])
    assert (fit.n_patients, fit.events) == (gold["n"], gold["deaths"])


def test_firth_at_site_d_without_an_event_on_maintenance():
    gold = expected(SITES)["siteD"]
    found = exposure_firth(exposure_split(cohort(SITES, ("siteD",)))).hazard_ratio()
    assert found.log_estimate == pytest.approx(math.log(gold["firth_hr"]), abs=FIRTH)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert math.log(found.ci_low) == pytest.approx(math.log(gold["firth_lo"]), abs=FIRTH)
    assert math.log(found.ci_high) == pytest.approx(math.log(gold["firth_hi"]), abs=FIRTH)
    assert found.p_value == pytest.approx(gold["firth_p"], abs=FIRTH)


def assert_permutation(found: PermutationLogRank, gold: dict[str, Any]) -> None:
    assert found.is_exact
    assert found.n_relabellings == gold["n_permutations"]
    # Exact: the same whole number of relabellings.
    far = found.p_value * found.n_relabellings
    assert far == pytest.approx(round(far), abs=1e-9)
    assert round(far) == round(gold["p_two_sided_absU"] * gold["n_permutations"])
    assert found.observed - found.expected == pytest.approx(gold["U"], abs=1e-9)


@pytest.mark.parametrize("version", VERSIONS)
def test_exact_permutation_of_ever_against_never_counts_the_same_relabellings_and_is_biased(version):
    found = naive_permutation(tiny(version))
    assert_permutation(found, gold_of(version)["permutation_naive"])
    assert found.p_value == pytest.approx(gold_of(version)["coin_logrank_exact_p"], abs=1e-12)
    assert found.is_biased
    assert "looks ahead" in found.warnings[0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("day", LANDMARKS)
def test_exact_permutation_at_landmarks_counts_the_same_relabellings(version, day):
    found = landmark_permutation(tiny(version), day)
    assert_permutation(found, gold_of(version)[f"landmark{day}"]["permutation"])
    assert not found.is_biased


@pytest.mark.parametrize("version", VERSIONS)
def test_restricted_means_and_the_arm_without_events_has_no_standard_error(version):
    gold = gold_of(version)["rmst395_naive"]
    found = exposure_rmst(naive_split(tiny(version)), 395)
    assert found.exposed.estimate == pytest.approx(gold["rmst1"], abs=RMST)
    assert found.unexposed.estimate == pytest.approx(gold["rmst0"], abs=RMST)
    assert found.unexposed.se == pytest.approx(gold["se0"], abs=RMST)
    assert found.difference == pytest.approx(gold["diff"], abs=RMST)
    # Nobody on maintenance dies within 395 days, in v2 neither (day 540).
    assert found.exposed.se is None
    if version == "v1":  # nobody on maintenance ever dies
        assert (found.se, found.ci_low, found.ci_high, found.p_value) == (None, None, None, None)
    else:  # as survRM2: the other arm's error alone, and it is said that this is too little
        assert (found.ci_low, found.ci_high) == pytest.approx((gold["lo"], gold["hi"]), abs=RMST)
        assert found.p_value == pytest.approx(gold["p"], abs=RMST)
        assert "too narrow" in found.warnings[-1]
    # Seven were followed so long: 0 of 7 is compatible with a survival of 0.05^(1/7), no less.
    assert found.exposed.lower_bound == pytest.approx(395 * 0.05 ** (1 / 7), abs=1e-9)


@pytest.mark.parametrize(
    ("key", "split", "name"),
    [("td", exposure_split, "trt"), ("naive", naive_split, "ever")],
)
def test_proportional_hazards_agree_with_cox_zph(key, split, name):
    gold = heart()[f"ph_test_{key}_age_km"]
    rows: CountingProcess = split(cohort(HEART), ("age",))
    found = exposure_proportional_hazards(rows)
    for test, which in ((found.test(), name), (found.test("age"), "age"), (found.together, "GLOBAL")):
        assert test.chi_square == pytest.approx(gold["chisq"][which], abs=1e-6)
        assert test.p_value == pytest.approx(gold["p"][which], abs=1e-6)
