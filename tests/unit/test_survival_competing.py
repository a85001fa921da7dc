"""Cumulative incidence against its definition and R, with ties and delayed entry, and at its edges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.survival.competing import cumulative_incidence, exposure_incidence, incidence_at
from rwe.survival.data import NotEstimableError, SurvivalDataError, exposure_split, landmark_split
from rwe.survival.first_events import competing_rows, first_events
from rwe.survival.kaplan_meier import kaplan_meier
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_data import NEVER, table

CAUSES = ("relapse", "death")
observation = st.tuples(st.integers(0, 6), st.integers(1, 8), st.integers(0, 2)).filter(lambda r: r[0] < r[1])
observations = st.lists(observation, min_size=1, max_size=14)


def curves(rows: list[tuple]):
    entry, stop, cause = zip(*rows, strict=True)
    return cumulative_incidence(stop, cause, CAUSES, entry=entry)


def by_definition(rows: list[tuple], t: float) -> list[float]:
    """S(u-) d_k / n at each event time, with the risk set counted anew each time."""
    survival, incidence = 1.0, [0.0, 0.0]
    for u in sorted({r[1] for r in rows if r[2] and r[1] <= t}):
        n = sum(r[0] < u <= r[1] for r in rows)
        deaths = [sum(r[1] == u and r[2] == k for r in rows) for k in (1, 2)]
        incidence = [f + survival * d / n for f, d in zip(incidence, deaths, strict=True)]
        survival *= 1 - sum(deaths) / n
    return incidence


@settings(max_examples=100, deadline=None)
@given(observations)
def test_incidences_are_those_of_the_definition_and_add_up_to_one_with_survival(rows):
    found = curves(rows)
    for t in (0, 1, 3.5, 5, 8):
        at = [incidence_at(curve, [t])[0].incidence for curve in found]
        assert at == pytest.approx(by_definition(rows, t), abs=1e-12)
    np.testing.assert_allclose(found[0].incidence + found[1].incidence + found[0].event_free, 1, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(observations)
def test_with_one_cause_it_is_one_minus_kaplan_meier_with_greenwood_s_variance(rows):
    entry, stop, cause = zip(*((a, b, c > 0) for a, b, c in rows), strict=True)
    (found,) = cumulative_incidence(stop, cause, ("any",), entry=entry)
    curve = kaplan_meier(stop, cause, entry=entry)
    np.testing.assert_allclose(found.incidence, 1 - curve.survival, atol=1e-12)
    known = ~np.isnan(curve.se)
    assert (np.isnan(found.se) == ~known).all()
    np.testing.assert_allclose(found.se[known], curve.se[known], atol=1e-10)


def simulated(seed: int, late: bool) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = 160
    entry = np.where(rng.random(n) < 0.5, rng.integers(1, 60, n), 0) if late else np.zeros(n, dtype=int)
    first, second, lost = rng.exponential(200, n), rng.exponential(300, n), rng.integers(50, 600, n)
    stop = np.ceil(np.minimum(np.minimum(first, second), lost) / 5) * 5  # many ties
    cause = np.where(first <= np.minimum(second, lost), 1, np.where(second <= lost, 2, 0))
    frame = pd.DataFrame({"entry": entry, "stop": stop, "cause": cause, "id": np.arange(n)})
    return frame[frame["stop"] > frame["entry"]]


def test_agrees_with_r_on_incidence_and_standard_error(tmp_path):
    frame = simulated(3, late=False)
    r = in_r(
        """s <- summary(survfit(Surv(stop, factor(cause, 0:2)) ~ 1, d), times = c(20, 100, 300))
           list(p = s$pstate[, 2:3], se = s$std.err[, 2:3])""",
        frame,
        tmp_path,
    )
    found = [
        incidence_at(c, [20, 100, 300]) for c in cumulative_incidence(frame["stop"], frame["cause"], CAUSES)
    ]
    assert [p.incidence for at in found for p in at] == pytest.approx(r["p"], abs=1e-10)
    assert [p.se for at in found for p in at] == pytest.approx(r["se"], abs=1e-9)


def test_agrees_with_r_on_incidence_with_delayed_entry(tmp_path):
    frame = simulated(4, late=True)
    r = in_r(
        """f <- survfit(Surv(entry, stop, factor(cause, 0:2)) ~ 1, d, id = id)
           s <- summary(f, times = c(20, 100, 300))
           list(p = s$pstate[, 2:3], se = s$std.err[, 2:3])""",
        frame,
        tmp_path,
    )
    curves = cumulative_incidence(frame["stop"], frame["cause"], CAUSES, entry=frame["entry"])
    found = [p for c in curves for p in incidence_at(c, [20, 100, 300])]
    assert [p.incidence for p in found] == pytest.approx(r["p"], abs=1e-10)
    # R's is the infinitesimal jackknife, which is another estimator once entry is late.
    assert [p.se for p in found] == pytest.approx(r["se"], rel=0.02)


def test_agrees_with_cmprsk_on_incidence(tmp_path):
    frame = simulated(5, late=False)
    r = in_r(
        "list(p = t(timepoints(cuminc(d$stop, d$cause), c(20, 100, 300))$est))",
        frame,
        tmp_path,
        libraries=("cmprsk",),
    )
    curves = cumulative_incidence(frame["stop"], frame["cause"], CAUSES)
    assert [p.incidence for c in curves for p in incidence_at(c, [20, 100, 300])] == pytest.approx(r["p"])


def test_limits_stay_between_nothing_and_all_and_hold_the_estimate():
    frame = simulated(6, late=False)
    curve = cumulative_incidence(frame["stop"], frame["cause"], CAUSES)[0]
    inside = (curve.incidence > 0) & (curve.incidence < 1)
    assert ((curve.ci_low > 0) & (curve.ci_low < curve.incidence))[inside].all()
    assert ((curve.ci_high < 1) & (curve.ci_high > curve.incidence))[inside].all()
    # The formula, at one day: F to the power exp(z se / (F log F)).
    i = int(np.searchsorted(curve.time, 100))
    f, se = curve.incidence[i], curve.se[i]
    assert curve.ci_low[i] == pytest.approx(f ** np.exp(-1.959963984540054 * se / (f * np.log(f))), abs=1e-12)


def events():
    rows = [("a", 90, True, 10), ("b", 60, True, 20), ("c", 70, False, NEVER), ("d", 80, True, NEVER)]
    return first_events(table(rows), {"relapse": [40, float("nan"), 50, float("nan")]})


def test_groups_fixed_at_a_landmark_have_an_incidence_each():
    found = exposure_incidence(competing_rows(events(), landmark_split(events().table, 25)))
    relapse, death = found.exposed
    assert (relapse.cause, death.cause) == ("relapse", "death")
    assert (relapse.n_patients, relapse.n_events, death.n_events) == (2, 1, 1)
    assert incidence_at(relapse, [15])[0].incidence == 0.5  # day 40
    assert incidence_at(death, [35])[0].incidence == 0.5  # day 60
    assert found.unexposed[0].n_events == 1


def test_days_beyond_follow_up_are_marked_unless_all_had_an_event():
    relapse, _ = curves([(0, 5, 1), (0, 8, 0)])
    assert incidence_at(relapse, [9])[0].is_beyond_follow_up
    relapse, _ = curves([(0, 5, 1), (0, 8, 2)])
    assert not incidence_at(relapse, [9])[0].is_beyond_follow_up


def test_an_empty_group_no_event_and_a_single_event_are_defined():
    (nobody,) = cumulative_incidence([], [], ("any",))
    assert nobody.last_time is None
    assert "Nobody is at risk" in nobody.warnings[0]
    assert incidence_at(nobody, [3])[0].incidence is None
    (censored,) = cumulative_incidence([5, 6], [0, 0], ("any",))
    assert censored.incidence.tolist() == [0, 0, 0]
    assert incidence_at(censored, [6])[0].ci_low is None
    (all_at_once,) = cumulative_incidence([5, 5, 5], [1, 1, 1], ("any",))
    assert all_at_once.incidence[-1] == 1
    assert np.isnan(all_at_once.se[-1])  # not 0: three patients do not make it certain


def test_an_early_risk_set_that_dies_out_carries_a_warning():
    (found,) = cumulative_incidence([5, 20], [1, 1], ("any",), entry=[0, 10])
    assert found.incidence[-1] == 1
    assert "others enter later" in found.warnings[0]


def test_refusals_have_a_sentence():
    with pytest.raises(NotEstimableError, match="cumulative incidence needs groups fixed"):
        exposure_incidence(competing_rows(events(), exposure_split(events().table)))
    with pytest.raises(SurvivalDataError, match="number of a cause"):
        cumulative_incidence([5], [2], ("any",))
    with pytest.raises(SurvivalDataError, match="enter on or after"):
        cumulative_incidence([5], [1], ("any",), entry=[5])
    with pytest.raises(SurvivalDataError, match="before the curve's origin"):
        incidence_at(curves([(0, 5, 1)])[0], [-1])
