"""Empirical calibration: closed forms, the likelihood from its definition, and what calibration restores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from rwe.survival.data import NotEstimableError, SurvivalDataError
from rwe.survival.negative_controls import NegativeControl, calibrate, systematic_error


def controls(logs, errors) -> list[NegativeControl]:
    return [NegativeControl(f"control {i}", b, s) for i, (b, s) in enumerate(zip(logs, errors, strict=True))]


def test_with_equal_errors_the_fit_is_the_mean_and_the_variance_left_over():
    logs = np.array([0.1, 0.5, -0.2, 0.4, 0.3])
    found = systematic_error(controls(logs, [0.1] * 5))
    assert found.mean == pytest.approx(logs.mean(), abs=1e-9)
    assert found.sd == pytest.approx(math.sqrt(logs.var() - 0.01), abs=1e-6)


def test_controls_that_scatter_no_more_than_their_errors_have_no_systematic_spread():
    found = systematic_error(controls([0.01, -0.02, 0.03, 0.0], [0.2] * 4))
    assert found.sd == 0
    assert found.mean == pytest.approx(0.005)
    assert found.share_excluding_null == 0


def test_the_fit_is_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(2)
    errors = rng.uniform(0.05, 0.5, 30)
    logs = rng.normal(0.2, np.hypot(0.25, errors))

    def minus_loglik(at: np.ndarray) -> float:
        return -norm.logpdf(logs, at[0], np.hypot(np.exp(at[1]), errors)).sum()

    best = minimize(minus_loglik, [0, -1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    found = systematic_error(controls(logs, errors))
    assert found.mean == pytest.approx(best[0], abs=1e-6)
    assert found.sd == pytest.approx(math.exp(best[1]), abs=1e-6)
    assert found.share_excluding_null == np.mean(np.abs(logs) > norm.ppf(0.975) * errors)


def test_calibration_takes_the_bias_off_and_widens_the_interval():
    error = systematic_error(controls([0.1, 0.5, -0.2, 0.4, 0.3], [0.1] * 5))
    found = calibrate(-0.4, 0.15, error)
    assert found.log_estimate == pytest.approx(-0.4 - error.mean)
    assert found.se == pytest.approx(math.hypot(0.15, error.sd))
    assert found.ci_low == pytest.approx(math.exp(found.log_estimate - norm.ppf(0.975) * found.se))
    assert found.p_value == pytest.approx(2 * norm.sf(abs(found.log_estimate) / found.se))
    assert "Only 5 negative controls" in found.warnings[0]


def test_calibrated_intervals_hold_the_truth_as_often_as_they_say_where_plain_ones_do_not():
    rng = np.random.default_rng(7)
    n, truth = 400, math.log(0.7)
    errors = rng.uniform(0.05, 0.2, n)
    error = systematic_error(controls(rng.normal(0.15, np.hypot(0.2, errors)), errors))
    logs = rng.normal(truth + 0.15, np.hypot(0.2, errors))
    held = [(f := calibrate(b, s, error)).ci_low < 0.7 < f.ci_high for b, s in zip(logs, errors, strict=True)]
    plain = np.abs(logs - truth) < norm.ppf(0.975) * errors
    assert np.mean(plain) < 0.7
    assert np.mean(held) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / n))


def test_refusals_have_a_sentence():
    with pytest.raises(NotEstimableError, match="2 negative controls"):
        systematic_error(controls([0.1, 0.2], [0.1, 0.1]))
    with pytest.raises(SurvivalDataError, match="standard error above 0"):
        systematic_error(controls([0.1, 0.2, 0.3], [0.1, 0.0, 0.1]))
    error = systematic_error(controls([0.1, 0.2, 0.3], [0.1, 0.1, 0.1]))
    with pytest.raises(SurvivalDataError, match="standard error above 0"):
        calibrate(0.1, math.nan, error)
