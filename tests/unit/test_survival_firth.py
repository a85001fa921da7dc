"""Firth's penalty: its likelihood from the definition, sums over sites, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import chi2

from rwe.survival.cox import CoxData, cox_data, exposure_data, fit_cox, stratum_scores
from rwe.survival.cox_derivatives import penalised_score, stratum_derivatives
from rwe.survival.data import (
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    landmark_split,
    naive_split,
    start_day_split,
)
from rwe.survival.firth import exposure_firth, fit_firth
from tests.golden.test_estimators import cohort as case
from tests.unit.test_survival_cox import betas, cox, partial_likelihood, well_mixed_rows
from tests.unit.test_survival_cox_edges import cohort
from tests.unit.test_survival_data import NEVER, table

WEIGHT = 5


def unweighted(rows: list[tuple]) -> list[tuple]:
    return [(*r[:WEIGHT], 1.0, r[6]) for r in rows]


def penalised(rows: list[tuple], beta: tuple[float, float], ties: str = "breslow") -> float:
    """The definition: partial likelihood plus half the log determinant of its information."""
    loglik, _, information = partial_likelihood(rows, beta, ties)
    sign, log_det = np.linalg.slogdet(information)
    return loglik + 0.5 * log_det if sign > 0 else -np.inf


@settings(max_examples=25, deadline=None)
@given(well_mixed_rows(), betas, st.sampled_from(["efron", "breslow"]))
def test_the_derivative_of_the_information_is_that_of_its_differences(rows, beta, ties):
    data = cox(rows)
    for piece in stratum_derivatives(data, beta, ties=ties):
        for which in range(2):
            width = 1e-5
            ahead, behind = (
                next(s for s in stratum_scores(data, b, ties=ties) if s.stratum == piece.stratum)
                for b in (
                    np.array(beta) + width * np.eye(2)[which],
                    np.array(beta) - width * np.eye(2)[which],
                )
            )
            slope = (ahead.information - behind.information) / (2 * width)
            np.testing.assert_allclose(piece.information_derivative[:, :, which], slope, atol=1e-6, rtol=1e-6)


@settings(max_examples=4, deadline=None)
@given(well_mixed_rows(), st.sampled_from(["efron", "breslow"]))
def test_estimate_interval_and_p_value_are_those_of_the_penalised_likelihood(rows, ties):
    rows = unweighted(rows)
    try:
        fit = fit_firth(cox(rows), ties=ties)
    except NotEstimableError:
        assume(False)
    best = minimize(
        lambda b: -penalised(rows, b, ties),
        [0, 0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )
    np.testing.assert_allclose(fit.coefficients, best.x, atol=2e-5)
    assert fit.loglik == pytest.approx(-best.fun, abs=1e-8)
    assert fit.loglik_null == pytest.approx(penalised(rows, (0, 0), ties), abs=1e-10)

    def profile(value: float) -> float:
        return -minimize_scalar(lambda other: -penalised(rows, (value, other), ties), bracket=(-1, 1)).fun

    for limit in (fit.ci_low[0], fit.ci_high[0]):
        assert 2 * (fit.loglik - profile(limit)) == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    assert fit.chi_square[0] == pytest.approx(2 * (fit.loglik - profile(0.0)), abs=1e-7)
    assert fit.p_value[0] == pytest.approx(chi2.sf(fit.chi_square[0], 1), abs=1e-12)


def test_units_of_a_covariate_change_nothing_but_the_units():
    rows = exposure_split(case("e_three_sites", ("siteD",)), ["age"])
    data = exposure_data(rows)
    fit, other = (
        fit_firth(data),
        fit_firth(
            cox_data(
                data.X * [1, 12] + [0, 700],
                data.stop,
                data.event,
                names=data.names,
                start=data.start,
                cluster=data.cluster,
            )
        ),
    )
    np.testing.assert_allclose(other.coefficients * [1, 12], fit.coefficients, atol=1e-8)
    np.testing.assert_allclose(other.ci_low * [1, 12], fit.ci_low, atol=1e-7)
    np.testing.assert_allclose(other.p_value, fit.p_value, atol=1e-10)


def test_sums_of_sites_are_the_pooled_penalised_model():
    data = exposure_data(exposure_split(case("e_three_sites"), ["age", "ecog"]), stratify_by_site=True)
    fit = fit_firth(data, profile=())
    pieces = stratum_derivatives(data, fit.coefficients)
    assert len(pieces) == 4
    score = penalised_score(
        sum(p.score for p in pieces),
        sum(p.information for p in pieces),
        sum(p.information_derivative for p in pieces),
    )
    spread = np.sqrt(np.diag(sum(p.information for p in pieces)))
    np.testing.assert_allclose(score / spread, 0, atol=1e-8)
    np.testing.assert_allclose(
        fit.variance, np.linalg.inv(sum(p.information for p in pieces)), rtol=1e-7, atol=1e-12
    )


@pytest.mark.parametrize(("exposed", "unexposed", "sign"), [(0, 4, -1), (4, 0, 1)])
def test_an_arm_without_events_has_a_finite_estimate_and_interval(exposed, unexposed, sign):
    found = exposure_firth(exposure_split(cohort(exposed, unexposed))).hazard_ratio()
    assert sign * found.log_estimate > 0
    assert 0 < found.ci_low < found.estimate < found.ci_high < math.inf
    assert 0 < found.p_value < 1


def test_one_patient_in_an_arm_has_a_finite_estimate():
    rows = [(f"u{i}", 20 + i, i < 3, NEVER) for i in range(6)]
    found = exposure_firth(naive_split(table([("e", 40, False, 5.0), *rows]))).hazard_ratio()
    assert found.ci_low < found.estimate < found.ci_high


def test_all_events_on_one_day_have_a_finite_estimate():
    rows = [(f"e{i}", 30, i < 1, 0.0) for i in range(4)] + [(f"u{i}", 30, i < 3, NEVER) for i in range(4)]
    found = exposure_firth(naive_split(table(rows))).hazard_ratio()
    # Breslow: one risk set of eight, four events. l* = b - 4 log(e^b + 1) + log(4 p q)/2 with p = e^b/(1+e^b)
    # (p the exposed share of the risk set) has its top at p = (1 + 1/2) / (4 + 1).
    assert found.log_estimate == pytest.approx(math.log(0.3 / 0.7), abs=1e-9)


def test_zero_follow_up_is_half_a_day_and_counts():
    rows = [("a", 0, True, NEVER), ("b", 0, True, 0.0), ("c", 20, False, 3.0), ("d", 9, True, NEVER)]
    found = exposure_firth(exposure_split(table(rows))).hazard_ratio()
    assert math.isfinite(found.log_estimate)


def test_all_censored_is_refused_with_a_sentence():
    with pytest.raises(NotEstimableError, match="there is no event"):
        exposure_firth(exposure_split(cohort(0, 0)))


def test_a_constant_covariate_is_left_out_and_a_collinear_one_refused():
    ages = [50.0, 61, 47, 58, 66, 39, 55, 63]
    fit = exposure_firth(naive_split(cohort(0, 4, age=[60.0] * 8), ["age"]))
    assert fit.names == ("exposed",)
    assert "one value only" in fit.warnings[0]
    with pytest.raises(NotEstimableError, match="collinear with age"):
        exposure_firth(naive_split(cohort(2, 4, age=ages, months=[12 * a for a in ages]), ["age", "months"]))


def test_a_covariate_missing_for_all_is_refused_with_a_sentence():
    with pytest.raises(NotEstimableError, match="age missing in 8"):
        exposure_firth(naive_split(cohort(2, 4, age=[math.nan] * 8), ["age"]))


def test_nobody_in_an_arm_is_refused_with_a_sentence():
    with pytest.raises(NotEstimableError, match="nobody started"):
        exposure_firth(landmark_split(cohort(2, 4), 1))


def test_weights_are_refused_because_the_penalty_depends_on_their_scale():
    data = cox_data([[0], [1], [0]], [1, 2, 3], [1, 1, 1], names=("x",), weights=[1, 2, 1])
    with pytest.raises(SurvivalDataError, match="weighted"):
        fit_firth(data)


def test_patients_in_several_trials_are_refused_because_the_variance_would_be_wrong():
    with pytest.raises(NotEstimableError, match="no robust variance"):
        exposure_firth(start_day_split(cohort(2, 4)))


def test_coefficients_not_profiled_have_no_interval():
    fit = fit_firth(
        exposure_data(naive_split(cohort(0, 4, age=[50.0, 61, 47, 58, 66, 39, 55, 63]), ["age"])),
        profile=("exposed",),
    )
    age = fit.hazard_ratio("age")
    assert (age.ci_low, age.ci_high, age.chi_square, age.p_value) == (None, None, None, None)
    assert age.wald_low < age.estimate < age.wald_high
    with pytest.raises(SurvivalDataError, match="no covariate weight"):
        fit.hazard_ratio("weight")


def test_a_large_cohort_is_hardly_penalised():
    rng = np.random.default_rng(4)
    n = 2000
    x = rng.integers(0, 2, n).astype(float)
    days = np.ceil(rng.exponential(300 * np.exp(-0.5 * x), n))
    data: CoxData = cox_data(x, days, days < 700, names=("exposed",))
    plain, firth = fit_cox(data, ties="breslow"), fit_firth(data)
    assert firth.coefficients[0] == pytest.approx(plain.coefficients[0], abs=2e-3)
    assert firth.ci_low[0] == pytest.approx(plain.ci_low[0], abs=3e-3)
