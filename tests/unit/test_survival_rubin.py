"""Rubin's rules against mice of R, by hand and at their edges."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy.stats import t

from rwe.survival.cox import exposure_cox
from rwe.survival.data import NotEstimableError, SurvivalDataError, exposure_split
from rwe.survival.rubin import pool, pool_hazard_ratios
from tests.golden.test_estimators import SITES
from tests.golden.test_estimators import cohort as case
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_cox_edges import cohort

ESTIMATES, VARIANCES = [0.1, 0.3, 0.25, 0.2, 0.4], [0.01, 0.012, 0.011, 0.009, 0.013]


def test_the_numbers_of_mice_pool_scalar():
    # mice 3.15.0, pool.scalar(Q, U, n = 40, k = 3), so 37 complete-data degrees of freedom.
    found = pool(ESTIMATES, VARIANCES, complete_df=37)
    assert found.estimate == pytest.approx(0.25, abs=1e-12)
    assert found.within == pytest.approx(0.011, abs=1e-12)
    assert found.between == pytest.approx(0.0125, abs=1e-12)
    assert found.se**2 == pytest.approx(0.026, abs=1e-12)
    assert found.df == pytest.approx(6.646534891076143, abs=1e-9)
    assert found.fraction_missing == pytest.approx(0.664638910194629, abs=1e-9)


def test_agrees_with_mice_where_it_is_installed(tmp_path):
    frame = pd.DataFrame({"q": [0.5, 0.61, 0.44, 0.7], "u": [0.04, 0.05, 0.03, 0.045]})
    r = in_r(
        """p <- pool.scalar(d$q, d$u, n = 120, k = 5); o <- pool.scalar(d$q, d$u)
           list(df = p$df, fmi = p$fmi, t = p$t, old = o$df, old_fmi = o$fmi)""",
        frame,
        tmp_path,
        libraries=("mice",),
    )
    found, large = (pool(list(frame["q"]), list(frame["u"]), complete_df=k) for k in (115, math.inf))
    assert (found.df, found.fraction_missing, found.se**2) == pytest.approx(
        (r["df"][0], r["fmi"][0], r["t"][0])
    )
    assert (large.df, large.fraction_missing) == pytest.approx((r["old"][0], r["old_fmi"][0]))


def test_the_interval_is_that_of_t_with_these_degrees_of_freedom():
    found = pool(ESTIMATES, VARIANCES, complete_df=37, level=0.9)
    half = t.ppf(0.95, found.df) * found.se
    assert (found.ci_low, found.ci_high) == pytest.approx((0.25 - half, 0.25 + half))
    assert found.p_value == pytest.approx(2 * t.sf(0.25 / found.se, found.df))


def test_equal_estimates_have_no_missing_information():
    found = pool([0.3, 0.3, 0.3], [0.04, 0.04, 0.04])
    assert (found.se, found.between, found.fraction_missing, found.df) == (pytest.approx(0.2), 0, 0, None)
    assert found.ci_high == pytest.approx(0.3 + 1.959963984540054 * 0.2, abs=1e-9)


def test_degrees_of_freedom_never_exceed_those_of_the_complete_data():
    assert pool([0.3, 0.3001], [0.04, 0.04], complete_df=12).df < 12


def test_hazard_ratios_pool_on_the_log_scale():
    table = case(SITES)
    one = exposure_cox(exposure_split(table, ["age", "ecog"]))
    other = exposure_cox(exposure_split(table, ["age"]))
    found = pool_hazard_ratios([one, other])
    assert math.log(found.estimate) == pytest.approx((one.coefficients[0] + other.coefficients[0]) / 2)
    assert found.log.within == pytest.approx((one.se[0] ** 2 + other.se[0] ** 2) / 2)
    assert found.ci_low < found.estimate < found.ci_high
    assert found.log.df < one.events - 3


def test_refusals_have_a_sentence():
    with pytest.raises(SurvivalDataError, match="two estimates"):
        pool([0.1], [0.1])
    with pytest.raises(SurvivalDataError, match="not finite"):
        pool([0.1, math.nan], [0.1, 0.1])
    with pytest.raises(SurvivalDataError, match="not above 0"):
        pool([0.1, 0.2], [0.1, 0.0])
    fit = exposure_cox(exposure_split(cohort(0, 4)))
    with pytest.raises(NotEstimableError, match="2 of 2 imputed tables give no estimate"):
        pool_hazard_ratios([fit, fit])
