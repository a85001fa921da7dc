"""Restricted mean survival: the area by hand, R's variance, and arms that have none."""

from __future__ import annotations

import lifelines
import numpy as np
import pandas as pd
import pytest
from lifelines.utils import restricted_mean_survival_time

from rwe.survival.data import (
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    landmark_split,
    naive_split,
)
from rwe.survival.rmst import exposure_rmst, largest_horizon, restricted_means
from tests.golden.test_estimators import HEART
from tests.golden.test_estimators import cohort as case
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_data import NEVER, table


def test_the_area_and_its_variance_by_hand():
    # Exposed: deaths on 4 and 10, one censored on 12. To day 8: 4 + 4 x 2/3 days.
    # Variance: after day 4 the area to come is 8/3; (8/3)^2 x 1 / (3 x 2).
    found = restricted_means([4, 10, 12, 8, 3, 9], [1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], 8)
    assert found.exposed.estimate == pytest.approx(4 + 8 / 3, abs=1e-12)
    assert found.exposed.se == pytest.approx(8 / 3 / np.sqrt(6), abs=1e-12)
    assert found.exposed.events == 1
    # Unexposed: deaths on 3, 8 and 9; the one on the horizon takes nothing away.
    assert found.unexposed.estimate == pytest.approx(3 + 5 * 2 / 3, abs=1e-12)
    assert found.difference == pytest.approx(1 / 3, abs=1e-12)
    assert found.se == pytest.approx(np.hypot(found.exposed.se, found.unexposed.se), abs=1e-12)
    assert found.ci_low == pytest.approx(found.difference - 1.959963984540054 * found.se, abs=1e-9)


def test_agrees_with_lifelines_on_the_area():
    rows = landmark_split(case(HEART), 30)
    found = exposure_rmst(rows, 400)
    for arm, mask in ((found.exposed, rows.exposed), (found.unexposed, ~rows.exposed)):
        curve = lifelines.KaplanMeierFitter().fit(rows.stop[mask], rows.event[mask])
        assert arm.estimate == pytest.approx(restricted_mean_survival_time(curve, t=400), abs=1e-9)


def test_agrees_with_r_on_estimates_and_standard_errors_with_delayed_entry(tmp_path):
    rng = np.random.default_rng(11)
    n = 80
    entry = np.where(rng.random(n) < 0.4, rng.integers(1, 40, n), 0)
    stop = entry + rng.integers(1, 200, n)
    group = np.arange(n) % 2
    event = rng.random(n) < 0.6
    frame = pd.DataFrame({"entry": entry, "stop": stop, "event": event.astype(int), "g": group})
    r = in_r(
        """t <- summary(survfit(Surv(entry, stop, event) ~ g, d), rmean = 90)$table
           list(mean = t[, "rmean"], se = t[, "se(rmean)"])""",
        frame,
        tmp_path,
    )
    found = restricted_means(stop, event, group, 90, entry=entry)
    assert [found.unexposed.estimate, found.exposed.estimate] == pytest.approx(r["mean"], abs=1e-9)
    assert [found.unexposed.se, found.exposed.se] == pytest.approx(r["se"], abs=1e-9)


def arms(exposed: list[tuple[int, bool]], unexposed: list[tuple[int, bool]]):
    rows = [(f"e{i}", t, died, 0.0) for i, (t, died) in enumerate(exposed)]
    return naive_split(table(rows + [(f"u{i}", t, died, NEVER) for i, (t, died) in enumerate(unexposed)]))


def test_an_arm_without_events_has_a_bound_and_no_standard_error():
    found = exposure_rmst(arms([(50, False), (40, False), (10, False)], [(20, True), (60, False)]), 30)
    assert found.exposed.estimate == 30
    assert (found.exposed.se, found.exposed.ci_low, found.exposed.ci_high) == (None, None, None)
    # Two were followed to the horizon; the third left on day 10 and says nothing about day 30.
    assert found.exposed.followed_to_horizon == 2
    assert found.exposed.lower_bound == pytest.approx(30 * 0.05**0.5, abs=1e-12)
    assert (found.se, found.p_value) == (None, None)
    assert found.unexposed.se > 0
    assert any("No event among the exposed" in w for w in found.warnings)
    assert exposure_rmst(
        arms([(50, False)] * 2, [(20, True), (60, False)]), 30, level=0.9
    ).exposed.lower_bound == (pytest.approx(30 * 0.1**0.5, abs=1e-12))


def test_the_bound_has_the_confidence_it_claims():
    # At a survival equal to the bound's, n patients live on with probability exactly alpha.
    found = exposure_rmst(arms([(50, False)] * 5, [(20, True), (60, False)]), 30)
    assert (found.exposed.lower_bound / 30) ** 5 == pytest.approx(0.05, abs=1e-12)


def test_late_entry_hides_deaths_so_no_bound_rests_on_those_who_enter_late():
    found = restricted_means([50, 50, 20, 60], [0, 0, 1, 0], [1, 1, 0, 0], 30, entry=[5, 0, 0, 0])
    assert found.exposed.followed_to_horizon == 1
    late = restricted_means([50, 50, 20, 60], [0, 0, 1, 0], [1, 1, 0, 0], 30, entry=[5, 9, 0, 0])
    assert late.exposed.lower_bound is None
    assert any("before day 5" in w for w in late.warnings)


def test_all_deaths_of_an_arm_on_one_day_have_no_standard_error():
    found = exposure_rmst(arms([(10, True), (10, True)], [(20, True), (60, False)]), 30)
    assert found.exposed.estimate == 10
    assert found.exposed.se is None
    assert found.exposed.lower_bound is None
    assert any("on one day" in w for w in found.warnings)


def test_zero_follow_up_lives_half_a_day():
    found = exposure_rmst(arms([(0, True), (40, False)], [(20, True), (60, False)]), 30)
    assert found.exposed.estimate == pytest.approx(0.5 + 29.5 / 2, abs=1e-12)


def test_a_curve_at_zero_is_known_for_ever_and_one_that_ends_above_it_is_not():
    died_out = arms([(10, True), (25, True)], [(20, True), (60, False)])
    assert largest_horizon(died_out) == 60
    assert exposure_rmst(died_out, 60).exposed.estimate == pytest.approx(17.5, abs=1e-12)
    lost = arms([(10, True), (25, False)], [(20, True), (60, False)])
    assert largest_horizon(lost) == 25
    with pytest.raises(
        NotEstimableError, match="nobody exposed was followed for 30 days; use a horizon up to 25"
    ):
        exposure_rmst(lost, 30)


def test_refusals_have_a_sentence():
    with pytest.raises(NotEstimableError, match="nobody started"):
        exposure_rmst(arms([], [(20, True), (60, False)]), 30)
    rows = exposure_split(table([("a", 40, True, 5.0), ("b", 50, False, NEVER)]))
    with pytest.raises(NotEstimableError, match="groups fixed"):
        exposure_rmst(rows, 30)
    with pytest.raises(SurvivalDataError, match="horizon"):
        exposure_rmst(arms([(50, False)], [(60, False)]), 0)
    with pytest.raises(SurvivalDataError, match="level"):
        exposure_rmst(arms([(50, False)], [(60, False)]), 30, level=1)
