"""Kaplan-Meier against its definition, against lifelines, and at its edges."""

from __future__ import annotations

import math

import lifelines
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rwe.survival.data import SurvivalDataError
from rwe.survival.kaplan_meier import Median, kaplan_meier, median, median_follow_up, survival_at
from tests.unit.test_survival_data import NEVER, table

observation = st.tuples(st.integers(0, 9), st.integers(1, 10), st.booleans()).filter(lambda r: r[0] < r[1])
observations = st.lists(observation, min_size=1, max_size=14)


def product_limit(rows: list[tuple], t: float) -> tuple[float, float]:
    """Survival at t and Greenwood's sum, straight from the definition."""
    survival, greenwood = 1.0, 0.0
    for u in sorted({stop for _, stop, died in rows if died and stop <= t}):
        at_risk = sum(entry < u <= stop for entry, stop, _ in rows)
        deaths = sum(stop == u and died for _, stop, died in rows)
        survival *= 1 - deaths / at_risk
        greenwood += deaths / (at_risk * (at_risk - deaths)) if at_risk > deaths else math.inf
    return survival, greenwood


@settings(deadline=None)
@given(observations)
def test_curve_is_the_product_limit_over_risk_sets_with_delayed_entry(rows):
    entry, stop, died = (list(column) for column in zip(*rows, strict=True))
    curve = kaplan_meier(stop, died, entry=entry)
    for found in survival_at(curve, [0, *range(1, 11), 2.5]):
        survival, greenwood = product_limit(rows, found.time)
        assert found.survival == pytest.approx(survival, abs=1e-12)
        if survival > 1e-12:
            assert found.se == pytest.approx(survival * math.sqrt(greenwood), abs=1e-12)
            z = 1.959963984540054
            high = min(1, survival * math.exp(z * math.sqrt(greenwood)))
            assert found.ci_high == pytest.approx(high, abs=1e-12)
        else:
            assert (found.se, found.ci_low, found.ci_high) == (None, None, None)
        if found.time > 0:
            assert found.at_risk == sum(e < found.time <= s for e, s, _ in rows)
        assert found.is_beyond_follow_up == (found.time > max(stop) and survival > 0)


@settings(deadline=None)
@given(observations)
def test_curve_agrees_with_lifelines_without_entry(rows):
    stop, died = [r[1] for r in rows], [r[2] for r in rows]
    fitted = lifelines.KaplanMeierFitter().fit(stop, died)
    curve = kaplan_meier(stop, died, conf_type="log-log")
    expected = fitted.survival_function_at_times(curve.time).to_numpy()
    np.testing.assert_allclose(curve.survival, expected, atol=1e-12)
    limits = fitted.confidence_interval_.reindex(curve.time).to_numpy()
    inside = (curve.survival > 0) & (curve.survival < 1)
    np.testing.assert_allclose(curve.ci_low[inside], limits[inside, 0], atol=1e-9)
    np.testing.assert_allclose(curve.ci_high[inside], limits[inside, 1], atol=1e-9)


@settings(deadline=None)
@given(observations, st.randoms())
def test_neither_order_nor_splitting_of_rows_changes_the_curve(rows, random):
    pieces = []
    for entry, stop, died in rows:
        cut = random.uniform(entry, stop)
        whole = not entry < cut < stop
        pieces += [(entry, stop, died)] if whole else [(entry, cut, False), (cut, stop, died)]
    random.shuffle(pieces)
    curves = []
    for kind in (rows, pieces):
        entry, stop, died = zip(*kind, strict=True)
        curves.append(survival_at(kaplan_meier(stop, died, entry=entry), range(11)))
    for one, other in zip(*curves, strict=True):
        assert one.survival == pytest.approx(other.survival, abs=1e-12)
        assert one.at_risk == other.at_risk


def test_an_early_empty_risk_set_leaves_the_curve_at_one():
    # Seven start treatment, none before day 28; lifelines raises here.
    entry = [35, 42, 28, 61, 90, 49, 33]
    stop = [720, 655, 540, 910, 480, 830, 395]
    curve = kaplan_meier(stop, [s == 540 for s in stop], entry=entry)
    early = survival_at(curve, [10, 28, 400, 600])
    assert [p.at_risk for p in early] == [0, 0, 6, 4]
    assert [p.survival for p in early] == [1, 1, 1, pytest.approx(0.8)]
    assert curve.warnings == ()


def test_a_curve_that_reaches_zero_before_others_enter_says_so():
    curve = kaplan_meier([5, 20], [True, False], entry=[0, 10])
    assert survival_at(curve, [15])[0].survival == 0
    assert "others enter later" in curve.warnings[0]


def test_an_event_on_the_day_the_curve_starts_counts():
    curve = kaplan_meier([10, 60, 60, 90], [True, True, False, True], start_time=60)
    assert [p.survival for p in survival_at(curve, [60, 90])] == [pytest.approx(2 / 3), 0]
    assert [p.at_risk for p in survival_at(curve, [60, 90])] == [3, 1]


def test_an_arm_in_which_nobody_ever_is_has_no_survival():
    curve = kaplan_meier([], [])
    assert survival_at(curve, [10])[0].survival is None
    assert curve.last_time is None
    assert median(curve) == Median(None, None, None)
    assert "Nobody is at risk" in curve.warnings[0]


def test_median_is_null_when_not_reached_and_when_all_are_censored():
    assert median(kaplan_meier([1, 2, 3], [True, False, False])).estimate is None
    assert median(kaplan_meier([1, 2, 3], [False] * 3)) == Median(None, None, None)


def test_median_is_the_middle_of_a_step_at_exactly_a_half():
    assert median(kaplan_meier([1, 2, 3, 4], [True] * 4)).estimate == 2.5
    # Six equal factors do not multiply to exactly a half; it is still a half.
    assert median(kaplan_meier(range(1, 13), [True] * 12)).estimate == 6.5
    # No later event: the first time, as R's survfit prints it.
    assert median(kaplan_meier([1, 2, 3, 4], [True, True, False, False])).estimate == 2


def test_all_tied_deaths_end_the_curve_in_one_step():
    curve = kaplan_meier([5, 5, 5], [True] * 3)
    assert survival_at(curve, [4, 5])[0].survival == 1
    assert survival_at(curve, [5])[0].survival == 0
    assert median(curve).estimate == 5


def test_survival_beyond_follow_up_is_flagged_only_while_above_zero():
    assert survival_at(kaplan_meier([5, 8], [True, False]), [9])[0].is_beyond_follow_up
    assert not survival_at(kaplan_meier([5, 8], [True, True]), [9])[0].is_beyond_follow_up


def test_log_log_limits_do_not_exist_while_survival_is_one():
    curve = kaplan_meier([5, 8, 9], [False, True, True], conf_type="log-log")
    assert survival_at(curve, [6])[0].ci_low is None
    assert survival_at(curve, [8])[0].ci_low is not None


def test_a_higher_level_widens_the_interval():
    narrow, wide = (
        survival_at(kaplan_meier(range(1, 9), [True] * 8, level=level), [4])[0] for level in (0.9, 0.99)
    )
    assert wide.ci_low < narrow.ci_low < narrow.survival < narrow.ci_high < wide.ci_high


def test_median_follow_up_counts_leaving_alive_as_the_event():
    cohort = table([("p", 10, True, NEVER), ("q", 20, False, NEVER), ("r", 30, False, NEVER)])
    assert median_follow_up(cohort).estimate == 25


@settings(deadline=None)
@given(observations)
def test_median_lies_between_its_limits(rows):
    curve = kaplan_meier([r[1] for r in rows], [r[2] for r in rows])
    found = median(curve)
    assume(found.estimate is not None)
    # Where survival falls to 0 at once there is no limit to fall below a half.
    assert found.ci_low is None or found.ci_low <= found.estimate
    assert found.ci_high is None or found.estimate <= found.ci_high
    assert found.ci_low is not None or curve.survival.min() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"stop": [1.0, float("nan")], "event": [True, True]}, "missing or infinite"),
        ({"stop": [1.0], "event": [True, True]}, "not one length"),
        ({"stop": [1.0], "event": [True], "entry": [1.0]}, "1 rows enter on or after"),
        ({"stop": [1.0], "event": [True], "level": 95}, "confidence level"),
    ],
)
def test_broken_input_is_refused(arguments, sentence):
    with pytest.raises(SurvivalDataError, match=sentence):
        kaplan_meier(**arguments)
    with pytest.raises(SurvivalDataError, match="before the curve's origin"):
        survival_at(kaplan_meier([3.0], [True]), [-1])


@pytest.mark.parametrize("unknown", [float("nan"), 2])
def test_an_event_that_is_neither_0_nor_1_is_no_death(unknown):
    event = [unknown, 0, 1, 0]
    with pytest.raises(SurvivalDataError, match="event is neither 0 nor 1"):
        kaplan_meier([1, 2, 3, 4], event)
