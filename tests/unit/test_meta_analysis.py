"""Meta-analysis of site estimates against R's metafor, and what zero events and few sites do to it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from rwe.survival.data import NotEstimableError, SurvivalDataError
from rwe.survival.meta_analysis import (
    Interval,
    MetaEstimate,
    Model,
    leave_one_out,
    mantel_haenszel_rates,
    meta_analysis,
    peto,
)
from tests.support import ROOT

TOLERANCE = 1e-5
R: dict[str, Any] = json.loads((ROOT / "tests/cases/e_three_sites/expected.json").read_text())
MODELS: dict[str, Model] = {"FE": "common", "DL": "dl", "REML": "reml", "PM": "pm"}
INTERVALS: dict[str, Interval] = {"": "wald", "HKSJ": "hksj", "HKSJ_adhoc": "hksj_adhoc"}


def figures(case: str) -> list[tuple[str, Model, Interval]]:
    found = []
    for key in R[case]:
        model, _, interval = key.partition("_")
        if model in MODELS and interval in INTERVALS:
            found.append((key, MODELS[model], INTERVALS[interval]))
    return found


def inputs(case: str) -> tuple[list[float], list[float]]:
    r = R[case]
    if case == "meta_bcg":
        return r["yi"], [math.sqrt(v) for v in r["vi"]]
    return r["input"]["log_hr"], r["input"]["se"]


#: metafor looks for Paule and Mandel's root to eps^0.25 only. Its empirical Bayes estimator ("EB") solves the
#: same equation (Viechtbauer et al. 2015, Psychol Methods 20:360), here to 1e-10: that is the known answer.
EXACT = {"PM": "EB", "PM_HKSJ": "EB_HKSJ", "PM_HKSJ_adhoc": "EB_HKSJ_adhoc"}
ROOT_OF_PM = np.finfo(float).eps ** 0.25


def same_as_metafor(found: MetaEstimate, r: dict[str, Any]) -> None:
    assert (found.log_estimate, found.se, found.p_value) == pytest.approx(
        (r["log_hr"], r["se"], r["p"]), abs=TOLERANCE
    )
    assert (found.estimate, found.ci_low, found.ci_high) == pytest.approx(
        (r["hr"], r["lo"], r["hi"]), rel=TOLERANCE
    )
    h = found.heterogeneity
    assert (h.tau2, h.h2, h.q, h.p_value) == pytest.approx((r["tau2"], r["H2"], r["Q"], r["Q_p"]), abs=1e-5)
    assert h.i2 == pytest.approx(r["I2"], abs=1e-3)  # in percent
    if r["pi_lo"] == {}:  # metafor has none for a common effect
        assert found.prediction_low is found.prediction_high is None
    else:
        assert (found.prediction_low, found.prediction_high) == pytest.approx(
            (r["pi_lo"], r["pi_hi"]), rel=TOLERANCE
        )


def test_every_golden_figure_is_asked_for() -> None:
    assert len(figures("meta_ABC")) == 1 + 3 * 3
    assert [key for key, *_ in figures("meta_homogeneous")] == [
        "FE",
        "DL",
        "REML",
        "DL_HKSJ",
        "DL_HKSJ_adhoc",
    ]
    assert [key for key, *_ in figures("meta_bcg")] == ["DL", "REML", "REML_HKSJ"]


@pytest.mark.parametrize(
    ("case", "key", "model", "interval"),
    [(case, *f) for case in ("meta_ABC", "meta_homogeneous", "meta_bcg") for f in figures(case)],
)
def test_a_figure_is_metafors(case: str, key: str, model: Model, interval: Interval) -> None:
    found = meta_analysis(*inputs(case), model=model, interval=interval)
    same_as_metafor(found, R[case][EXACT.get(key, key)])
    if key in EXACT:
        r = R[case][key]
        assert (found.log_estimate, found.se) == pytest.approx((r["log_hr"], r["se"]), abs=TOLERANCE)
        assert found.heterogeneity.tau2 == pytest.approx(r["tau2"], abs=ROOT_OF_PM)
        assert (found.ci_low, found.ci_high) == pytest.approx((r["lo"], r["hi"]), rel=ROOT_OF_PM)


def test_hksj_can_be_narrower_than_wald_and_its_ad_hoc_version_never_is() -> None:
    y, se = inputs("meta_homogeneous")
    wald, plain, adhoc = (meta_analysis(y, se, interval=i) for i in ("wald", "hksj", "hksj_adhoc"))
    assert plain.se < wald.se
    assert adhoc.se == wald.se
    assert adhoc.ci_high > wald.ci_high  # the t quantile of two degrees of freedom


def test_leaving_one_site_out_is_the_meta_analysis_of_the_others() -> None:
    y, se = inputs("meta_ABC")
    found = leave_one_out(y, se, model="reml", interval="hksj")
    assert [left.position for left in found] == [0, 1, 2]
    without_b = meta_analysis([y[0], y[2]], [se[0], se[2]], model="reml", interval="hksj")
    assert found[1].without.log_estimate == without_b.log_estimate
    assert found[1].without.heterogeneity.tau2 == 0.0  # A and C agree; B is what they disagree with
    assert found[0].without.heterogeneity.tau2 > 0
    assert leave_one_out(y[:2], se[:2]) == ()


def test_the_weights_are_those_of_inverse_variances() -> None:
    y, se = inputs("meta_ABC")
    w = 1 / np.square(se)
    assert meta_analysis(y, se, model="common").weights == pytest.approx(w / w.sum())
    assert np.ptp(meta_analysis(y, se, model="pm").weights) < np.ptp(w / w.sum())


def test_one_site_is_its_own_estimate_and_has_no_hksj_interval() -> None:
    alone = meta_analysis([-0.4], [0.2])
    assert (alone.log_estimate, alone.se) == pytest.approx((-0.4, 0.2))
    assert alone.heterogeneity.p_value is None
    assert alone.prediction_low is None
    with pytest.raises(NotEstimableError, match="at least two"):
        meta_analysis([-0.4], [0.2], interval="hksj")
    with pytest.raises(NotEstimableError, match="no site"):
        meta_analysis([], [])


@pytest.mark.parametrize(
    ("y", "se"), [([0.1, np.nan], [1, 1]), ([0.1, 0.2], [1, 0]), ([0.1], [1, 1]), ([0.1, 0.2], [1, np.inf])]
)
def test_what_is_no_estimate_is_refused(y: list[float], se: list[float]) -> None:
    with pytest.raises(SurvivalDataError):
        meta_analysis(y, se)


def test_of_several_maxima_of_the_restricted_likelihood_the_highest_is_taken() -> None:
    """Bounded by brute force: on a fine grid no tau² has a higher restricted likelihood."""
    rng = np.random.default_rng(7)
    for _ in range(40):
        k = int(rng.integers(2, 7))
        y, v = rng.normal(0, 1, k), rng.uniform(0.01, 1.5, k) ** 2

        def loglik(t: np.ndarray, y: np.ndarray = y, v: np.ndarray = v) -> np.ndarray:
            w = 1 / (v + np.atleast_1d(t)[:, None])
            mean = (w @ y) / w.sum(axis=1)
            q = (w * (y - mean[:, None]) ** 2).sum(axis=1)
            return np.asarray(0.5 * (np.log(w).sum(axis=1) - np.log(w.sum(axis=1)) - q))

        found = meta_analysis(y, np.sqrt(v), model="reml").heterogeneity.tau2
        assert loglik(np.array(found))[0] >= loglik(np.linspace(0, 30, 20_001)).max() - 1e-9


def test_paule_mandel_makes_the_generalised_q_its_expectation() -> None:
    y, se = inputs("meta_bcg")
    tau2 = meta_analysis(y, se, model="pm").heterogeneity.tau2
    w = 1 / (np.square(se) + tau2)
    mean = (w @ np.array(y)) / w.sum()
    assert w @ (np.array(y) - mean) ** 2 == pytest.approx(len(y) - 1, abs=1e-9)


def test_mantel_haenszel_of_one_site_is_its_rate_ratio_with_the_usual_variance() -> None:
    found = mantel_haenszel_rates([(40, 30)], [(4000.0, 6000.0)])
    assert found.estimate == pytest.approx((30 / 6000) / (40 / 4000))
    assert found.se == pytest.approx(math.sqrt(70 * 4000 * 6000 / 10_000**2 / (30 * 0.4 * 40 * 0.6)))


def test_mantel_haenszel_weighs_sites_by_hand() -> None:
    """(15*200/500 + 0*70/100) / (10*300/500 + 4*30/100): the second site has no exposed event and counts."""
    both = mantel_haenszel_rates([(10, 15), (4, 0)], [(200.0, 300.0), (70.0, 30.0)])
    assert both.estimate == pytest.approx(6.0 / 7.2)
    alone = mantel_haenszel_rates([(10, 15)], [(200.0, 300.0)])
    assert alone.estimate == pytest.approx(1.0)
    assert mantel_haenszel_rates([(4, 0)], [(70.0, 30.0)]).estimate is None


def test_peto_is_the_sum_of_scores_over_the_sum_of_variances() -> None:
    found = peto([-12.0, 2.0, -5.0], [12.0, 18.0, 5.0])
    assert found.log_estimate == pytest.approx(-15 / 35)
    assert found.se == pytest.approx(1 / math.sqrt(35))
    assert peto([0.0], [0.0]).estimate is None


def test_a_site_that_says_nothing_is_not_among_the_sites() -> None:
    """The second has no exposed time; the third has no event; the fourth two strata that both count."""
    events, days = [(5, 3), (4, 0), (0, 0), (2, 1), (1, 1)], [(100, 50), (80, 0), (30, 40), (30, 30), (9, 9)]
    rates = mantel_haenszel_rates(events, days, sites=["a", "b", "c", "d", "d"])
    assert rates.sites == 2
    assert mantel_haenszel_rates(events[:3], days[:3]).sites == 1
    assert peto([-1.0, 0.0], [2.0, 0.0]).sites == 1
    assert peto([0.0], [0.0]).sites == 0
    with pytest.raises(SurvivalDataError):
        mantel_haenszel_rates(events, days[:4])
