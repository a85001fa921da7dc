"""Cox models at their edges: no event in an arm, nobody in it, constant, collinear, missing, broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from rwe.survival.cox import cox_data, exposure_cox, fit_cox, stratum_scores
from rwe.survival.cox_newton import refuse_collinear
from rwe.survival.data import (
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    landmark_split,
    naive_split,
)
from rwe.survival.landmark import landmark_cox
from tests.unit.test_survival_cox import TIES, cox, rows_of
from tests.unit.test_survival_data import NEVER, table


def cohort(deaths_exposed: int, deaths_unexposed: int, **covariates: list[float]):
    """Eight patients, four of whom start on day 5; the last of each group to live long are censored."""
    rows = [(f"e{i}", 20 + 3 * i, i < deaths_exposed, 5.0) for i in range(4)]
    rows += [(f"u{i}", 21 + 3 * i, i < deaths_unexposed, NEVER) for i in range(4)]
    return table(rows, **covariates)


def test_no_death_among_the_unexposed_sends_the_log_hazard_ratio_to_infinity():
    fit = exposure_cox(exposure_split(cohort(3, 0)))
    assert fit.hazard_ratio().estimate is None
    assert fit.diverged == ("exposed",)
    assert "runs to infinity because there is no event among the unexposed" in fit.warnings[0]


def test_when_exposure_runs_away_the_other_coefficients_are_those_of_the_limit():
    # In the limit the exposed leave all risk sets: age is estimated among the unexposed alone.
    ages = [60.0, 52, 71, 44, 63, 50, 47, 66]
    fit = exposure_cox(exposure_split(cohort(0, 4, age=ages), ["age"]), robust=True)
    assert fit.diverged == ("exposed",)
    assert not fit.converged
    alone = fit_cox(cox_data(ages[4:], [21, 24, 27, 30], [1] * 4, names=("age",)))
    assert fit.coefficients[1] == pytest.approx(alone.coefficients[0], abs=1e-6)
    assert fit.model_se[1] == pytest.approx(alone.model_se[0], abs=1e-6)
    assert math.isnan(fit.coefficients[0])
    assert math.isnan(fit.se[0])
    assert fit.hazard_ratio("age").estimate is not None


def rises_for_ever(rows: list[tuple]) -> bool:
    """Is there a direction in which no one at risk ever passes an event, and someone falls behind?

    Then the likelihood has no maximum (Jacobsen 1989). A linear programme answers it.
    """
    gaps = [
        np.subtract(event[3:5], other[3:5])
        for event in rows
        if event[2]
        for other in rows
        if other[6] == event[6] and other[0] < event[1] <= other[1]
    ]
    gain = np.sum(gaps, axis=0)
    found = linprog(-gain, A_ub=-np.array(gaps), b_ub=np.zeros(len(gaps)), bounds=[(-1, 1)] * 2)
    return bool(-found.fun > 1e-9)


@settings(max_examples=150, deadline=None)
@given(rows_of, st.sampled_from(TIES))
def test_exactly_the_likelihoods_without_a_maximum_are_said_to_have_none(rows, ties):
    try:
        fit = fit_cox(cox(rows), ties=ties)
    except NotEstimableError:
        return
    assert fit.converged == (not rises_for_ever(rows))
    assert fit.converged == (fit.diverged == ())
    assert bool(fit.warnings) == (not fit.converged)
    assert all(math.isnan(fit.coefficients[fit.names.index(name)]) for name in fit.diverged)
    assert np.isnan(fit.coefficients).tolist() == np.isnan(fit.se).tolist()


def test_a_covariate_that_orders_the_deaths_runs_away_and_is_named():
    fit = fit_cox(cox_data([9.0, 7, 4, 2], [1, 2, 3, 4], [1, 1, 1, 1], names=("marker",)))
    assert fit.diverged == ("marker",)
    assert "marker runs to infinity because it separates" in fit.warnings[0]


def test_a_strong_but_finite_effect_is_no_runaway():
    # One death among 2000 exposed, at the very end: log hazard ratio near -7, still finite.
    rng = np.random.default_rng(5)
    x = np.repeat([1.0, 0.0], 2000)
    stop = np.concatenate([np.full(2000, 400.0), rng.integers(1, 390, 2000)])
    event = np.concatenate([np.arange(2000) == 0, np.ones(2000)]).astype(int)
    stop[0] = 200
    fit = fit_cox(cox_data(x, stop, event, names=("x",)))
    assert fit.converged
    assert -10 < fit.coefficients[0] < -5
    assert fit.model_se[0] == pytest.approx(1, abs=0.05)


def test_one_patient_in_an_arm_has_an_estimate():
    fit = fit_cox(cox_data([1.0, 0, 0, 0], [2, 1, 3, 4], [1, 1, 1, 0], names=("exposed",)))
    assert fit.converged
    assert (fit.events_exposed, fit.events_unexposed) == (1, 2)


def test_all_deaths_on_one_day_show_no_difference():
    fit = fit_cox(cox_data([1.0, 0, 1, 0], [7] * 4, [1] * 4, names=("exposed",)))
    assert fit.coefficients[0] == pytest.approx(0, abs=1e-9)
    assert fit.converged


def test_zero_follow_up_counts_as_a_death_on_the_first_half_day():
    rows = [
        ("p", 0, True, NEVER),
        ("q", 0, True, 0.0),
        ("r", 9, True, 2.0),
        ("s", 8, True, NEVER),
        ("t", 3, True, 1.0),
    ]
    rows.append(("u", 12, False, NEVER))
    fit = exposure_cox(exposure_split(table(rows)))
    assert (fit.events_exposed, fit.events_unexposed) == (3, 2)
    assert fit.converged


def test_without_events_nothing_is_estimable():
    with pytest.raises(NotEstimableError, match="no event"):
        exposure_cox(naive_split(cohort(0, 0)))


def test_a_landmark_by_which_nobody_started_is_not_estimable():
    with pytest.raises(NotEstimableError, match=r"nobody started \(0 of 8\)"):
        landmark_cox(cohort(3, 3), 4)
    assert landmark_split(cohort(3, 3), 4).counts().patients_exposed == 0
    assert landmark_cox(cohort(3, 3), 5).converged


def test_a_landmark_after_all_follow_up_is_not_estimable():
    with pytest.raises(NotEstimableError, match="nobody is at risk"):
        landmark_cox(cohort(3, 3), 500)


def test_a_constant_adjuster_cancels_so_it_is_left_out_with_a_warning():
    crude = exposure_cox(naive_split(cohort(3, 3)))
    found = exposure_cox(naive_split(cohort(3, 3, ecog=[1.0] * 8), ["ecog"]))
    assert found.hazard_ratio() == crude.hazard_ratio()
    assert found.names == ("exposed",)
    assert found.warnings == ("ecog has one value only: it cancels, and was left out of the model.",)


def test_an_adjuster_constant_at_each_site_cancels_only_if_stratified_by_site():
    rows = cohort(3, 3, ecog=[1.0, 1, 0, 0, 1, 1, 0, 0])
    rows.patients["site"] = ["a", "a", "b", "b", "a", "a", "b", "b"]
    data = naive_split(rows, ["ecog"])
    assert exposure_cox(data).names == ("exposed", "ecog")
    stratified = exposure_cox(data, stratify_by_site=True)
    assert stratified.names == ("exposed",)
    assert "at each site" in stratified.warnings[0]
    with pytest.raises(NotEstimableError, match="no event"):
        exposure_cox(naive_split(cohort(0, 0)))


def test_a_covariate_constant_within_each_stratum_is_named():
    data = cox_data(
        [1.0, 1, 0, 0], [1, 2, 3, 4], [1, 1, 1, 1], names=("site_a",), strata=["a", "a", "b", "b"]
    )
    with pytest.raises(NotEstimableError, match="site_a does not vary among those at risk"):
        fit_cox(data)


def test_collinear_covariates_are_named_whatever_their_units():
    ages = [60.0, 52, 71, 44, 63, 50, 47, 66]
    sex = [1.0, 0, 0, 1, 0, 1, 1, 0]
    covariates = {
        "age": ages,
        "sex": sex,
        "age_days": [365.25 * a + 3 * s for a, s in zip(ages, sex, strict=True)],
    }
    with pytest.raises(NotEstimableError, match="age_days is collinear with age, sex"):
        exposure_cox(naive_split(cohort(3, 3, **covariates), list(covariates)))


def test_a_missing_covariate_drops_the_patient_and_the_fit_says_so():
    ages = [60.0, 52, 71, NEVER, 63, 50, 47, 66]
    fit = exposure_cox(naive_split(cohort(3, 3, age=ages), ["age"]))
    assert fit.n_patients == 7
    assert "1 patient was left out because a covariate is missing (age)." in fit.warnings


def test_confidence_level_and_robust_variance_decide_the_interval():
    data = cox([(0, t, t % 3 > 0, t % 2, t % 4, 1.0, "a") for t in range(1, 15)])
    wide, narrow = fit_cox(data, level=0.99), fit_cox(data, level=0.9)
    assert wide.ci_low[0] < narrow.ci_low[0] < narrow.coefficients[0] < narrow.ci_high[0] < wide.ci_high[0]
    robust = fit_cox(data, robust=True)
    found = robust.hazard_ratio("x1")
    assert found.ci_low == pytest.approx(math.exp(found.log_estimate - 1.959963984540054 * robust.se[0]))
    assert robust.se[0] != pytest.approx(robust.model_se[0], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"X": [[float("nan")], [1.0]]}, "x has missing or infinite values"),
        ({"start": [0.0, 2.0]}, "1 rows start on or after"),
        ({"stop": [1.0, float("inf")]}, "a time or a weight"),
        ({"weights": [1.0, -1.0]}, "1 weights are negative"),
        ({"event": [0, 3]}, "event is neither"),
        ({"strata": ["a"]}, "not one length"),
    ],
)
def test_broken_rows_are_refused(change, sentence):
    valid = {"X": [[0.0], [1.0]], "stop": [1.0, 2.0], "event": [1, 1], "names": ("x",)}
    with pytest.raises(SurvivalDataError, match=sentence):
        cox_data(**valid | change)


def test_wrong_requests_are_refused():
    data = cox_data([0.0, 1.0], [1.0, 2.0], [1, 1], names=("x",))
    with pytest.raises(SurvivalDataError, match="confidence level"):
        fit_cox(data, level=95)
    with pytest.raises(SurvivalDataError, match="beta must be 1 finite"):
        stratum_scores(data, [0.0, 1.0])
    with pytest.raises(SurvivalDataError, match="needs a covariate"):
        fit_cox(cox_data(np.empty((2, 0)), [1.0, 2.0], [1, 1], names=()))
    with pytest.raises(SurvivalDataError, match="no covariate dose"):
        exposure_cox(naive_split(cohort(2, 3))).hazard_ratio("dose")


@pytest.mark.filterwarnings("error")
def test_weights_that_drown_all_others_are_a_refusal_and_no_traceback() -> None:
    """One row weighs more than all doubles can hold beside the rest."""
    g = np.random.default_rng(4)
    weights = np.where(np.arange(30) == 3, 1e200, 1.0)
    data = cox_data(
        g.normal(size=(30, 3)), np.arange(1.0, 31), np.ones(30), names=("a", "b", "c"), weights=weights
    )
    with pytest.raises(NotEstimableError, match=r"collinear|rounding|does not vary|singular"):
        fit_cox(data, robust=True)


def test_sums_that_are_no_numbers_are_refused() -> None:
    information = np.array([[np.inf, 1.0], [1.0, 2.0]])
    with pytest.raises(NotEstimableError, match="lost in rounding"):
        refuse_collinear(("a", "b"), information, 5.0)


def test_a_singular_block_names_its_covariates() -> None:
    information = np.ones((3, 3))
    with pytest.raises(NotEstimableError, match="collinear"):
        refuse_collinear(("a", "b", "c"), information, 5.0)
