"""Gray's test against cmprsk of R, its bond with the log-rank test, its size, and edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rwe.survival.data import NotEstimableError, SurvivalDataError, exposure_split, landmark_split
from rwe.survival.first_events import competing_rows, first_events
from rwe.survival.gray import exposure_gray, gray_test
from rwe.survival.logrank import logrank
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_data import NEVER, table
from tests.unit.test_survival_fine_gray import simulated

DAYS = [3, 5, 5, 8, 9, 12, 12, 15, 20, 22, 4, 5, 7, 9, 9, 14, 18, 21, 25, 30]
KIND = [1, 2, 1, 0, 1, 2, 1, 0, 1, 0, 2, 2, 0, 1, 2, 0, 1, 0, 2, 0]
GROUP = [0] * 10 + [1] * 10


@pytest.mark.parametrize(
    ("strata", "cause", "chi_square", "p_value"),
    [
        (None, 1, 2.36763410979826316, 0.12387466185579710),
        (None, 2, 0.33528379334353975, 0.56256423913983122),
        (["a", "b"] * 10, 1, 3.19496982712093569, 0.073865133249317982),
        (["a", "b"] * 10, 2, 0.25370829750789664, 0.614475970532120552),
    ],
)
def test_the_numbers_of_cmprsk_with_ties_and_strata(strata, cause, chi_square, p_value):
    # cmprsk 2.2-11, cuminc(ftime, fstatus, group, strata)$Tests.
    kind = [0 if k == 0 else 1 if k == cause else 2 for k in KIND]
    found = gray_test(DAYS, kind, GROUP, strata=strata)
    assert found.chi_square == pytest.approx(chi_square, abs=1e-10)
    assert found.p_value == pytest.approx(p_value, abs=1e-10)
    assert found.observed == (kind[:10].count(1), kind[10:].count(1))
    # The groups' names do not matter.
    swapped = gray_test(DAYS, kind, [1 - g for g in GROUP], strata=strata)
    assert swapped.chi_square == pytest.approx(chi_square, abs=1e-10)


def test_a_group_that_dies_out_in_a_tie_has_the_variance_of_cmprsk():
    # (day, kind, group), three deaths of the last at risk on day 5; cmprsk 2.2-11 as above.
    rows = (
        "120 100 121 120 121 101 110 120 220 201 210 200 211 210 211 321 321 320 411 400 400 401 401 401 520 "
        "520 521"
    )
    days, cause, group = ([int(row[k]) for row in rows.split()] for k in range(3))
    of = {1: (3.3726916687853265e-05, 0.99536632104690648), 2: (0.16355839160405555, 0.68590130014407491)}
    for kind, (chi_square, p_value) in of.items():
        found = gray_test(days, [0 if c == 0 else 1 if c == kind else 2 for c in cause], group)
        assert found.chi_square == pytest.approx(chi_square, abs=1e-10)
        assert found.p_value == pytest.approx(p_value, abs=1e-10)


def test_agrees_with_cmprsk_on_simulated_studies(tmp_path):
    frame = simulated(21)
    r = in_r(
        "t <- cuminc(d$stop, d$cause, d$g, strata = d$site)$Tests; list(chisq = t[, 1], p = t[, 2])",
        frame,
        tmp_path,
        libraries=("cmprsk",),
    )
    kinds = [np.where(frame["cause"] == c, 1, np.where(frame["cause"] > 0, 2, 0)) for c in (1, 2)]
    found = [gray_test(frame["stop"], k, frame["g"], strata=frame["site"]) for k in kinds]
    assert [t.chi_square for t in found] == pytest.approx(r["chisq"], abs=1e-8)
    assert [t.p_value for t in found] == pytest.approx(r["p"], abs=1e-8)


def test_without_competing_events_observed_less_expected_is_the_log_rank_s():
    kind = [min(k, 1) for k in KIND]
    entry = [0, 0, 2, 3, 0, 6, 0, 0, 10, 0] * 2
    found, plain = (
        gray_test(DAYS, kind, GROUP, entry=entry),
        logrank(DAYS, kind, GROUP, entry=entry),
    )
    assert found.difference == pytest.approx(plain.observed[1] - plain.expected[1], abs=1e-12)
    assert found.chi_square == pytest.approx(plain.chi_square, rel=0.15)


def test_it_rejects_as_often_as_it_should_with_delayed_entry():
    rng = np.random.default_rng(17)
    n, rejected = 160, 0
    for _ in range(300):
        entry = np.where(rng.random(n) < 0.5, rng.uniform(0, 0.5, n), 0.0)
        # Equal incidences of the cause, however often the groups die of something else later.
        first = rng.exponential(1.0, n)
        kind = np.where(rng.random(n) < 0.6, 1, 2)
        lost = rng.uniform(0.5, 2.5, n)
        stop = np.minimum(first, lost)
        kept = stop > entry
        group = (rng.random(n) < 0.5)[kept]
        kinds = np.where(first <= lost, kind, 0)[kept]
        rejected += gray_test(stop[kept], kinds, group, entry=entry[kept]).p_value < 0.05
    assert rejected / 300 == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 300))


def events():
    rows = [(f"e{i}", 60 + 7 * i, i % 2 == 0, 5.0) for i in range(8)]
    rows += [(f"u{i}", 40 + 6 * i, i % 3 > 0, NEVER) for i in range(8)]
    return first_events(table(rows), {"relapse": [30 + i if i % 4 == 1 else math.nan for i in range(16)]})


def test_landmark_groups_are_compared_and_changing_ones_refused():
    found = exposure_gray(competing_rows(events(), landmark_split(events().table, 10)), "death")
    assert found.n == (8, 8)
    assert 0 < found.p_value < 1
    with pytest.raises(NotEstimableError, match="groups fixed at time zero"):
        exposure_gray(competing_rows(events(), exposure_split(events().table)), "death")


def test_refusals_have_a_sentence():
    with pytest.raises(NotEstimableError, match="there is no event"):
        gray_test([5, 6, 7], [2, 0, 2], [0, 1, 0])
    with pytest.raises(NotEstimableError, match="both groups at risk"):
        gray_test([5, 6, 17], [0, 0, 1], [0, 0, 1])
    with pytest.raises(SurvivalDataError, match="neither 0, 1 nor 2"):
        gray_test([5], [3], [1])
    with pytest.raises(SurvivalDataError, match="strata"):
        gray_test([5, 6], [1, 1], [0, 1], strata=["a"])
