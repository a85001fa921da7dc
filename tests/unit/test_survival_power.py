"""The minimum detectable hazard ratio: published examples and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rwe.survival.data import NotEstimableError, SurvivalDataError, exposure_split
from rwe.survival.logrank import logrank
from rwe.survival.power import events_needed, minimum_detectable_effect, share_at_deaths
from tests.unit.test_survival_data import NEVER, table


@pytest.mark.parametrize(
    ("ratio", "power", "events"),
    [
        # Collett 2015, Modelling Survival Data, sample size: (1.96 + 1.28)^2 = 10.51, log HR = -0.5621, equal
        # groups: 4 x 10.51 / 0.316 = 133.05, here rounded up.
        (0.57, 0.9, 134),
        # The common rule: 4 (1.96 + 0.84)^2 / log(2)^2 = 66 deaths find a hazard ratio of 2, or a half.
        (2.0, 0.8, 66),
        (0.5, 0.8, 66),
    ],
)
def test_events_needed_in_published_examples(ratio, power, events):
    assert events_needed(ratio, 0.5, power=power) == events


def test_the_detectable_effect_is_the_one_that_needs_these_events():
    found = minimum_detectable_effect(90, 0.3, power=0.9)
    assert events_needed(found.protective, 0.3, power=0.9) == 90
    assert found.harmful == pytest.approx(1 / found.protective)
    # A covariate that explains half of exposure doubles the events needed.
    assert events_needed(found.protective, 0.3, power=0.9, r_squared=0.5) == 180


def test_the_log_rank_test_finds_it_as_often_as_said():
    rng = np.random.default_rng(5)
    group = np.repeat([0, 1], 150)
    ratio = minimum_detectable_effect(300, 0.5).protective
    hits = 0
    for _ in range(400):
        days = rng.exponential(np.where(group == 1, 1 / ratio, 1.0))
        p_value = logrank(days, np.ones(300), group).p_value
        hits += p_value is not None and p_value < 0.05
    assert hits / 400 == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 400))


def test_few_events_are_warned_about():
    assert "too optimistic" in minimum_detectable_effect(6, 7 / 16).warnings[0]
    assert minimum_detectable_effect(200, 0.5).warnings == ()


def test_refusals_have_a_sentence():
    with pytest.raises(NotEstimableError, match="no event"):
        minimum_detectable_effect(0, 0.5)
    with pytest.raises(NotEstimableError, match="one group"):
        minimum_detectable_effect(10, 0.0)
    with pytest.raises(SurvivalDataError, match="between 0 and 1"):
        minimum_detectable_effect(10, 0.5, power=1.0)
    with pytest.raises(SurvivalDataError, match="not 1"):
        events_needed(1.0, 0.5)


def test_the_share_exposed_is_that_of_the_risk_sets_at_deaths() -> None:
    """Three deaths with 0 of 4, 1 of 3 and 1 of 2 at risk exposed: the mean of p (1 - p) is 17/108."""
    cohort = table(
        [("a", 10, True, NEVER), ("b", 30, True, NEVER), ("c", 50, True, 20.0), ("d", 60, False, NEVER)]
    )
    share = share_at_deaths(exposure_split(cohort))
    assert share * (1 - share) == pytest.approx((0 + 2 / 9 + 1 / 4) / 3)
