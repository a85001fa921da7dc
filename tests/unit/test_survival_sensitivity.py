"""E-values, bias arrays and tipping points: published values, simulated truth, and edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from rwe.survival.cox import cox_data, fit_cox
from rwe.survival.data import (
    NotEstimableError,
    SurvivalDataError,
    landmark_split,
    naive_split,
    start_day_split,
)
from rwe.survival.logrank import exposure_logrank
from rwe.survival.sensitivity import (
    bias_factor,
    confounding_array,
    confounding_tipping_point,
    e_value,
    lost_deaths_tipping_point,
)
from tests.unit.test_survival_cox_edges import cohort
from tests.unit.test_survival_data import NEVER, table


def test_e_value_of_a_hazard_ratio_of_a_common_outcome():
    # ../shared/STATISTICS.md: 0.56 gives 2.35. The formula, written out.
    ratio = (1 - 0.5 ** math.sqrt(0.56)) / (1 - 0.5 ** math.sqrt(1 / 0.56))
    found = e_value(0.56, 0.46, 0.69)
    assert found.estimate == pytest.approx(2.35, abs=0.005)
    assert found.estimate == pytest.approx(1 / ratio + math.sqrt(1 / ratio * (1 / ratio - 1)), abs=1e-12)
    # The limit nearer to 1 is the upper one.
    assert found.limit == pytest.approx(e_value(0.69).estimate)
    assert found.limit < found.estimate


def test_e_value_of_a_rare_outcome_takes_the_ratio_as_it_is():
    # VanderWeele & Ding 2017: a risk ratio of 3.9 (limits 1.8 and 8.7) has E-values 7.26 and 3.0.
    found = e_value(3.9, 1.8, 8.7, is_common_outcome=False)
    assert found.estimate == pytest.approx(7.26, abs=0.005)
    assert found.limit == pytest.approx(3.0, abs=0.005)


def test_e_values_of_a_ratio_and_its_inverse_are_one():
    assert e_value(0.4, 0.2, 0.8).estimate == pytest.approx(e_value(2.5, 1.25, 5).estimate)
    assert e_value(0.4, 0.2, 0.8).limit == pytest.approx(e_value(2.5, 1.25, 5).limit)


def test_e_value_is_one_where_nothing_is_to_be_explained_away():
    assert e_value(1.0).estimate == 1
    assert e_value(0.7, 0.4, 1.2).limit == 1
    assert e_value(1.3, 0.9, 2.0).limit == 1
    assert e_value(0.7).limit is None
    assert e_value(0.7, 0.4, None).limit is None


def test_the_bias_factor_is_what_leaving_the_confounder_out_does_to_a_cox_model():
    # Events are rare, so that a marginal hazard ratio is the conditional one times the bias factor.
    rng = np.random.default_rng(12)
    n = 60_000
    exposed = rng.integers(0, 2, n)
    confounder = rng.random(n) < np.where(exposed == 1, 0.2, 0.5)
    days = rng.exponential(1 / (0.05 * 0.7**exposed * 3.0**confounder))
    data = cox_data(exposed.astype(float), np.minimum(days, 1), days < 1, names=("exposed",))
    expected = 0.7 * bias_factor(3.0, 0.2, 0.5)
    assert fit_cox(data).coefficients[0] == pytest.approx(math.log(expected), abs=4 * fit_cox(data).se[0])


def test_the_array_takes_the_bias_off_estimate_and_limits():
    cells = confounding_array(
        0.5, 0.3, 0.8, confounder_ratios=[2.0], prevalences_exposed=[0.1, 0.5], prevalences_unexposed=[0.4]
    )
    assert [(c.prevalence_exposed, c.prevalence_unexposed) for c in cells] == [(0.1, 0.4), (0.5, 0.4)]
    assert cells[0].bias_factor == pytest.approx(1.1 / 1.4)
    assert (cells[0].estimate, cells[0].ci_low, cells[0].ci_high) == pytest.approx(
        (0.5 * 1.4 / 1.1, 0.3 * 1.4 / 1.1, 0.8 * 1.4 / 1.1)
    )
    assert len(confounding_array(0.5)) == 5 * 3 * 3
    assert confounding_array(0.5)[0].ci_low is None


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.5, 0.3, 0.8), (2.0, 1.25, 3.0)])
@pytest.mark.parametrize(("p1", "p0"), [(0.1, 0.5), (0.6, 0.2)])
def test_at_the_tipping_point_nothing_is_left(ratio, low, high, p1, p0):
    found = confounding_tipping_point(ratio, low, high, prevalence_exposed=p1, prevalence_unexposed=p0)
    limit = high if ratio < 1 else low
    for strength, target in ((found.for_estimate, ratio), (found.for_limit, limit)):
        grid = np.geomspace(1e-6, 1e6, 400)
        gaps = [bias_factor(g, p1, p0) - target for g in grid]
        crossing = [i for i in range(399) if gaps[i] * gaps[i + 1] <= 0]
        if strength is None:
            assert not crossing
            continue
        root = brentq(
            lambda g, t=target: bias_factor(g, p1, p0) - t, grid[crossing[0]], grid[crossing[0] + 1]
        )
        assert strength == pytest.approx(root, rel=1e-6)


def test_no_confounder_of_these_prevalences_is_strong_enough():
    # Three of ten against four of ten can hardly explain a hazard ratio of a tenth.
    found = confounding_tipping_point(0.1, 0.05, 0.2, prevalence_exposed=0.3, prevalence_unexposed=0.4)
    assert found.for_estimate is None
    assert found.for_limit is None


def test_an_interval_that_holds_one_needs_no_confounder():
    found = confounding_tipping_point(0.7, 0.4, 1.3, prevalence_exposed=0.2, prevalence_unexposed=0.5)
    assert found.for_limit == 1
    assert found.for_estimate > 1
    none = confounding_tipping_point(0.7, None, None, prevalence_exposed=0.2, prevalence_unexposed=0.5)
    assert none.for_limit is None


LOST = list(range(11, 59, 4))


def arms(lost: list[int]):
    rows = [(f"e{i}", 200 + i, False, 0.0) for i in range(3)] + [(f"l{d}", d, False, 0.0) for d in lost]
    return table(rows + [(f"u{i}", 10 + 5 * i, True, NEVER) for i in range(12)])


def test_the_earliest_lost_die_until_the_difference_is_gone():
    data = naive_split(arms(LOST))
    found = lost_deaths_tipping_point(data)
    assert found.group == "exposed"
    assert found.censored == 3 + len(LOST)
    assert found.observed_p_value == exposure_logrank(data).p_value < 0.05

    def p_value(deaths: int) -> float:
        order = sorted(
            range(len(data)), key=lambda i: (not data.exposed[i] or bool(data.event[i]), data.stop[i])
        )
        event = data.event.copy()
        event[order[:deaths]] = True
        changed = naive_split(arms(LOST))
        return exposure_logrank(type(changed)(**{**changed.__dict__, "event": event})).p_value

    assert found.deaths > 1
    assert found.p_value == pytest.approx(p_value(found.deaths))
    assert found.p_value >= 0.05 > p_value(found.deaths - 1)


def test_a_difference_that_is_none_tips_at_no_death():
    found = lost_deaths_tipping_point(landmark_split(cohort(2, 3), 10))
    assert found.deaths == 0
    assert found.p_value == found.observed_p_value > 0.05


def test_a_difference_without_anyone_lost_cannot_be_overturned():
    rows = [(f"e{i}", 300 + i, True, 0.0) for i in range(15)] + [
        (f"u{i}", 10 + i, True, NEVER) for i in range(15)
    ]
    found = lost_deaths_tipping_point(naive_split(table(rows)))
    assert (found.deaths, found.censored, found.p_value) == (None, 0, None)


def test_refusals_have_a_sentence():
    with pytest.raises(SurvivalDataError, match="above 0"):
        e_value(0)
    with pytest.raises(SurvivalDataError, match="do not hold"):
        e_value(0.5, 0.6, 0.9)
    with pytest.raises(SurvivalDataError, match="prevalence"):
        bias_factor(2, 1.2, 0.5)
    with pytest.raises(SurvivalDataError, match="confounder"):
        bias_factor(0, 0.2, 0.5)
    with pytest.raises(NotEstimableError, match="There is no event"):
        lost_deaths_tipping_point(naive_split(cohort(0, 0)))
    with pytest.raises(NotEstimableError, match="each patient once"):
        lost_deaths_tipping_point(start_day_split(cohort(2, 3)))
