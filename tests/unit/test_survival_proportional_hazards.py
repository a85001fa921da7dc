"""Proportional hazards: the score test from its definition, R's cox.zph on start-stop rows, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rwe.survival.cox import cox_data, exposure_data, fit_cox
from rwe.survival.data import (
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    naive_split,
    start_day_split,
)
from rwe.survival.kaplan_meier import kaplan_meier, survival_at
from rwe.survival.proportional_hazards import exposure_proportional_hazards, proportional_hazards
from tests.golden.test_estimators import SITES
from tests.golden.test_estimators import cohort as case
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_cox import TIES, cox, well_mixed_rows
from tests.unit.test_survival_cox_edges import cohort


def larger_model(rows: list[tuple], beta: np.ndarray, ties: str) -> tuple[np.ndarray, np.ndarray]:
    """Score and information of (x, x g(t)) at (beta, 0), one event term after the other."""
    entry, stop, event = ([r[i] for r in rows] for i in range(3))
    curve = kaplan_meier(stop, event, entry=entry)
    score, information = np.zeros(4), np.zeros((4, 4))
    for stratum in "ab":
        here = [r for r in rows if r[6] == stratum]
        for t in sorted({r[1] for r in here if r[2]}):
            g = 1 - survival_at(curve, [t - 0.5])[0].survival  # days are whole: just before t
            at_risk = [
                (r[5] * math.exp(np.dot(r[3:5], beta)), np.array(r[3:5], float))
                for r in here
                if r[0] < t <= r[1]
            ]
            events = [(r[5], np.array(r[3:5], float)) for r in here if r[2] and r[1] == t]
            d, weight = len(events), np.mean([w for w, _ in events])
            for w, x in events:
                score += w * np.concatenate([x, g * x])
            for k in range(d):
                a = k / d if ties == "efron" else 0.0
                terms = at_risk + [(-a * w * math.exp(x @ beta), x) for w, x in events]
                s0 = sum(w for w, _ in terms)
                mean = sum(w * x for w, x in terms) / s0
                second = sum(w * np.outer(x, x) for w, x in terms) / s0 - np.outer(mean, mean)
                score -= weight * np.concatenate([mean, g * mean])
                information += weight * np.kron([[1, g], [g, g * g]], second)
    return score, information


@settings(max_examples=30, deadline=None)
@given(well_mixed_rows(), st.sampled_from(TIES))
def test_the_tests_are_score_tests_of_a_coefficient_that_changes_with_time(rows, ties):
    data = cox(rows)
    try:
        found = proportional_hazards(data, ties=ties)
    except NotEstimableError:
        assume(False)
    beta = fit_cox(data, ties=ties).coefficients
    score, information = larger_model(rows, beta, ties)
    for test, added in ((found.test("x1"), [2]), (found.test("x2"), [3]), (found.together, [2, 3])):
        index = [0, 1, *added]
        u = np.where(np.array(index) < 2, 0, score[index])
        chi_square = u @ np.linalg.solve(information[np.ix_(index, index)], u)
        assert test.df == len(added)
        assert test.chi_square == pytest.approx(chi_square, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("ties", TIES)
def test_agrees_with_r_on_start_stop_rows_with_strata_and_ties(ties, tmp_path):
    rows = exposure_split(case(SITES), ["age", "ecog"])
    found = exposure_proportional_hazards(rows, stratify_by_site=True, ties=ties)
    frame = pd.DataFrame(rows.X, columns=["age", "ecog"]).assign(
        start=rows.start,
        stop=rows.stop,
        event=rows.event.astype(int),
        trt=rows.exposed.astype(int),
        site=rows.site,
    )
    r = in_r(
        f"""m <- coxph(Surv(start, stop, event) ~ trt + age + ecog + strata(site), d, ties = "{ties}",
                  control = coxph.control(eps = 1e-14, iter.max = 100))
            z <- cox.zph(m, transform = "km")
            list(chisq = z$table[, "chisq"], p = z$table[, "p"], x = sort(z$x))""",
        frame,
        tmp_path,
    )
    tests = [*found.tests, found.together]
    assert [t.name for t in tests] == ["exposed", "age", "ecog", "all"]
    assert [t.chi_square for t in tests] == pytest.approx(r["chisq"], abs=1e-6)
    assert [t.p_value for t in tests] == pytest.approx(r["p"], abs=1e-6)
    assert sorted(found.residuals.transformed_time) == pytest.approx(r["x"], abs=1e-9)


def test_scaled_residuals_are_those_of_r_without_strata(tmp_path):
    rows = exposure_split(case("a_stanford_heart"), ["age"])
    found = exposure_proportional_hazards(rows).residuals
    frame = pd.DataFrame(
        {
            "start": rows.start,
            "stop": rows.stop,
            "event": rows.event.astype(int),
            "trt": rows.exposed.astype(int),
            "age": rows.X[:, 0],
        }
    )
    r = in_r(
        """z <- cox.zph(coxph(Surv(start, stop, event) ~ trt + age, d), transform = "km")
           o <- order(z$time, z$y[, 1], z$y[, 2])
           list(time = z$time[o], trt = z$y[o, 1], age = z$y[o, 2])""",
        frame,
        tmp_path,
    )
    order = np.lexsort((found.scaled[:, 1], found.scaled[:, 0], found.time))
    assert found.time[order] == pytest.approx(r["time"])
    assert found.scaled[order, 0] == pytest.approx(r["trt"], abs=1e-5)
    assert found.scaled[order, 1] == pytest.approx(r["age"], abs=1e-6)


def test_scaled_residuals_average_to_the_coefficients():
    # The Schoenfeld residuals add up to the score, which is 0 at the estimate.
    data = exposure_data(exposure_split(case(SITES), ["age", "ecog"]), stratify_by_site=True)
    found, fit = proportional_hazards(data), fit_cox(data)
    assert len(found.residuals.time) == fit.events
    assert (np.diff(found.residuals.time) >= 0).all()
    np.testing.assert_allclose(found.residuals.scaled.mean(axis=0), fit.coefficients, atol=1e-8)


def test_hazards_that_cross_are_found_and_proportional_ones_pass():
    rng = np.random.default_rng(6)
    x = np.repeat([0.0, 1.0], 400)
    same = np.ceil(rng.exponential(np.where(x == 1, 600, 300)))
    found = proportional_hazards(cox_data(x, np.minimum(same, 900), same <= 900, names=("x",)))
    assert found.test("x").p_value > 0.05
    crossing = np.ceil(300 * rng.weibull(np.where(x == 1, 3.0, 0.7)) + 0.01)
    found = proportional_hazards(cox_data(x, np.minimum(crossing, 900), crossing <= 900, names=("x",)))
    assert found.test("x").p_value < 1e-6


def test_patients_in_several_trials_are_warned_about():
    found = exposure_proportional_hazards(start_day_split(cohort(2, 3)))
    assert "rejects too easily" in found.warnings[-1]


def test_refusals_have_a_sentence():
    with pytest.raises(NotEstimableError, match="runs to minus infinity"):
        exposure_proportional_hazards(exposure_split(cohort(0, 4)))
    with pytest.raises(NotEstimableError, match="there is no event"):
        exposure_proportional_hazards(naive_split(cohort(0, 0)))
    with pytest.raises(NotEstimableError, match="all events happen at one time"):
        proportional_hazards(cox_data([0, 1, 0, 1], [5, 5, 5, 5], [1, 1, 1, 0], names=("x",)))
    with pytest.raises(SurvivalDataError, match="no covariate age"):
        exposure_proportional_hazards(naive_split(cohort(2, 3))).test("age")
