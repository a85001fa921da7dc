"""Hazard ratios corrected by chart review: simulated records with known mistakes, and edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rwe.survival.data import NotEstimableError, SurvivalDataError
from rwe.survival.misclassification import ChartReview, misclassified_deaths, misclassified_exposure

SURE = 10_000_000
"""Charts reviewed where nothing is left to chance."""


def recorded(seed: int, ppv: float, npv: float, ratio: float) -> tuple[float, float]:
    """Log ratio of the recorded groups' death rates and its error, where a share of labels is wrong."""
    rng = np.random.default_rng(seed)
    n = 1_000_000
    deaths = [
        rng.binomial(round(n * share), 0.1 * ratio) + rng.binomial(n - round(n * share), 0.1)
        for share in (ppv, 1 - npv)  # truly exposed, among those recorded as exposed and as unexposed
    ]
    return math.log(deaths[0] / deaths[1]), math.sqrt(sum(1 / d for d in deaths))


@pytest.mark.parametrize(("ppv", "npv"), [(0.8, 1.0), (0.9, 0.85)])
def test_the_true_hazard_ratio_comes_back_from_wrong_labels(ppv, npv):
    log_ratio, se = recorded(3, ppv, npv, 0.5)
    found = misclassified_exposure(
        log_ratio,
        se,
        ChartReview(round(ppv * SURE), SURE),
        non_starts=ChartReview(round(npv * SURE), SURE),
        draws=20_000,
    )
    # The record draws the ratio towards 1; the truth lies in the corrected interval.
    assert math.exp(log_ratio) > 0.55
    assert found.ci_low < 0.5 < found.ci_high
    assert found.point == pytest.approx(0.5, abs=0.02)


def test_the_correction_by_hand():
    # Seven of ten starts are real; recorded ratio 0.65: 0.65 = 0.7 x + 0.3 has x = 0.5.
    found = misclassified_exposure(math.log(0.65), 0.1, ChartReview(7, 10))
    assert found.point == pytest.approx(0.5, abs=1e-12)
    assert found.ci_low < found.median < found.ci_high


def test_a_perfect_review_changes_nothing_but_adds_its_uncertainty():
    perfect = misclassified_exposure(math.log(0.6), 0.2, ChartReview(SURE, SURE))
    assert perfect.point == pytest.approx(0.6, abs=1e-12)
    assert perfect.ci_low == pytest.approx(0.6 * math.exp(-1.96 * 0.2), rel=0.02)
    assert perfect.ci_high == pytest.approx(0.6 * math.exp(1.96 * 0.2), rel=0.02)
    small = misclassified_exposure(math.log(0.6), 0.2, ChartReview(20, 20))
    assert small.ci_low < perfect.ci_low


def test_a_review_that_contradicts_the_ratio_is_said_so():
    # With half of the starts false, no ratio below 0.5 can be recorded.
    found = misclassified_exposure(math.log(0.45), 0.3, ChartReview(50, 100))
    assert found.point is None
    assert 0.1 < found.impossible < 0.9
    assert "contradict" in found.warnings[0]
    with pytest.raises(NotEstimableError, match="contradict"):
        misclassified_exposure(math.log(0.1), 0.05, ChartReview(5_000, 10_000))


def test_deaths_confirmed_less_often_on_treatment_lower_its_hazard_ratio():
    found = misclassified_deaths(
        math.log(0.8), 0.1, exposed=ChartReview(45, 50), unexposed=ChartReview(99, 100)
    )
    assert found.point == pytest.approx(0.8 * 0.9 / 0.99, abs=1e-12)
    missed = misclassified_deaths(
        math.log(0.8),
        0.1,
        exposed=ChartReview(50, 50),
        unexposed=ChartReview(50, 50),
        found_exposed=ChartReview(80, 100),
    )
    # A fifth of the deaths on treatment is not recorded: the true ratio is higher by a quarter.
    assert missed.point == pytest.approx(1.0, abs=1e-12)
    assert missed.ci_low < 1 < missed.ci_high


def test_deaths_wrong_alike_in_both_groups_change_nothing_but_the_width():
    review = ChartReview(80, 100)
    found = misclassified_deaths(math.log(0.7), 0.1, exposed=review, unexposed=review)
    assert found.point == pytest.approx(0.7, abs=1e-12)
    assert found.median == pytest.approx(0.7, rel=0.01)
    assert found.ci_high / found.ci_low > math.exp(2 * 1.96 * 0.1)


def test_the_same_seed_gives_the_same_interval():
    one, two = (misclassified_exposure(math.log(0.7), 0.1, ChartReview(8, 10), seed=4) for _ in range(2))
    assert one == two
    assert one != misclassified_exposure(math.log(0.7), 0.1, ChartReview(8, 10), seed=5)


def test_refusals_have_a_sentence():
    with pytest.raises(SurvivalDataError, match="chart review"):
        ChartReview(5, 4)
    with pytest.raises(SurvivalDataError, match="chart review"):
        ChartReview(0, 0)
    with pytest.raises(SurvivalDataError, match="standard error"):
        misclassified_exposure(0.1, 0.0, ChartReview(8, 10))
    with pytest.raises(SurvivalDataError, match="level"):
        misclassified_exposure(0.1, 0.1, ChartReview(8, 10), level=1.0)
