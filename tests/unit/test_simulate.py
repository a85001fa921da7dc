"""The calibration harness: naive is wrong, adjusted is right, and the same seed says the same."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from rwe.cli import main
from rwe.sandbox.truth import Regime, Truth, latent_table, simulate_patients
from rwe.simulate import coverage, page
from rwe.simulate.answers import Answer, PValue
from rwe.simulate.cohorts import Cohort
from rwe.simulate.coverage import FewEvents, few_events_warning
from rwe.simulate.definition import Estimator
from rwe.simulate.estimators import ESTIMATORS, estimator
from rwe.simulate.harness import Performance, Simulation, performance, simulate
from rwe.simulate.kept import Kept
from rwe.simulate.page import figure, markdown, verdict, write
from rwe.simulate.scenarios import SCENARIOS, Scenario, scenario
from rwe.simulate.truths import LargeCohort, estimands, found_in, known, large_cohorts
from rwe.simulate.truths import Truth as Found
from rwe.study.analyses import AnalysisName


def some(*names: str) -> list[Estimator]:
    return [estimator(name) for name in names]


def test_the_same_seed_gives_the_same_numbers_whatever_the_workers() -> None:
    names, chosen = some("naive", "time_dependent"), [scenario("tiny")]
    one = simulate(chosen, replicates=40, seed=3, estimators=names, workers=1)
    two = simulate(chosen, replicates=40, seed=3, estimators=names, workers=2)
    assert one == two
    assert simulate(chosen, replicates=40, seed=4, estimators=names) != one


def test_where_maintenance_does_nothing_the_naive_analysis_sees_a_cure_and_the_adjusted_one_nothing() -> None:
    names = some("naive", "time_dependent_adjusted")
    found = simulate([scenario("null")], replicates=30, estimators=names, workers=2).performances
    naive, adjusted = (next(p for p in found if p.estimator == e.name) for e in names)
    assert naive.truth == adjusted.truth == 0
    assert naive.bias is not None
    assert naive.bias < -1  # a hazard ratio under 0.37 from immortal time and confounding alone
    assert naive.coverage == 0
    assert adjusted.bias is not None
    assert adjusted.empirical_se is not None
    assert abs(adjusted.bias) < 3 * adjusted.empirical_se / math.sqrt(adjusted.answered)
    assert adjusted.coverage is not None
    assert adjusted.coverage >= 0.8  # 30 intervals at 95 %: fewer than 24 right once in 50,000 times
    assert adjusted.power is not None
    assert adjusted.power <= 0.2


def test_a_strategy_that_is_forced_is_followed_by_everybody_whom_it_concerns() -> None:
    truth = Truth()
    by = latent_table(simulate_patients(truth, site="s", n=2000, seed=1, regime=Regime(start_by=100)))
    late = by[(by["start_day"] > 100)]
    assert late.empty
    unstarted = by[by["start_day"].isna() & (by["time_days"] > 100)]
    assert (unstarted["progression_day"] <= 100).all()  # only progression excuses
    none = latent_table(simulate_patients(truth, site="s", n=2000, seed=1, regime=Regime(no_start_by=100)))
    assert (none["start_day"].dropna() > 100).all()
    assert none["start_day"].notna().any()


def test_what_nature_does_is_the_same_with_a_regime_that_asks_for_nothing() -> None:
    first, second = (
        latent_table(simulate_patients(Truth(), site="s", n=200, seed=5, **extra))
        for extra in ({}, {"regime": Regime()})
    )
    assert first.equals(second)


def test_a_waning_effect_is_worse_than_a_lasting_one() -> None:
    lasting = Truth(hazard_ratio=0.3)
    waning = replace(lasting, late_hazard_ratio=3.0, late_days=60)
    survivors = [
        latent_table(simulate_patients(t, site="s", n=4000, seed=2, regime=Regime(start_by=60)))["time_days"]
        for t in (lasting, waning)
    ]
    assert survivors[0].mean() > survivors[1].mean() + 30


def test_the_sicker_are_lost_earlier_where_censoring_informs() -> None:
    truth = Truth(loss_ldh_log_rate=2.0, loss_rate=0.002)
    table = latent_table(simulate_patients(truth, site="s", n=4000, seed=2))
    lost = table[~table["is_event"]]
    sick = lost["log_ldh"] > np.log(400)
    assert lost.loc[sick, "time_days"].median() < 0.7 * lost.loc[~sick, "time_days"].median()


@pytest.mark.parametrize(("late_ratio", "days"), [(0.0, 100), (1.0, 0)])
def test_an_impossible_late_effect_is_refused(late_ratio: float, days: int) -> None:
    with pytest.raises(ValueError, match="late_hazard_ratio"):
        Truth(late_hazard_ratio=late_ratio, late_days=days)


def test_sites_are_the_same_in_every_cohort_and_differ_as_they_are_said_to() -> None:
    s = replace(scenario("null"), site_factors=(0.25, 1.0, 4.0))
    table = s.draw(1, patients=1500).patients
    rates = [d["is_event"].sum() / d["time_days"].sum() for _, d in table.groupby("site")]
    assert rates[0] < 0.6 * rates[1]
    assert rates[1] < 0.6 * rates[2]


# ---------------------------------------------------------------- estimands


def found(s: Scenario, name: str, cohorts: int) -> Found:
    """The truth of one estimator from so many of its large cohorts: fewer than the harness takes."""
    work = large_cohorts(s, some(name))[:cohorts]
    return estimands(s, some(name), map(found_in, work))[name]


def test_a_marginal_estimand_lies_between_none_and_the_conditional_one() -> None:
    """Without confounding a marginal ratio is drawn towards 1 by frailty and by those who start late."""
    truth = found(scenario("confounded"), "clone_censor_weight_sandwich", 10)
    assert math.log(0.60) < truth.value - 3 * truth.error
    assert truth.value + 3 * truth.error < 0


def test_survival_after_the_landmark_of_those_who_had_started_is_exponential_where_nothing_else_acts() -> (
    None
):
    """Hazard 0.0014 a day times 0.60, for 365 days: a closed form for the limit of Kaplan-Meier."""
    s = scenario("plain")
    truth = found(s, "landmark_survival_started", 10)
    expected = math.exp(-s.truth.baseline_hazard * 0.60 * s.after_landmark)
    assert truth.value == pytest.approx(expected, abs=4 * truth.error)
    assert truth.error < 0.01
    days = s.after_landmark
    hazard = s.truth.baseline_hazard * 0.60
    mean = found(s, "landmark_rmst_started", 10)
    assert mean.value == pytest.approx((1 - math.exp(-hazard * days)) / hazard, abs=0.5 + 4 * mean.error)


def test_where_no_covariate_acts_a_weighted_ratio_is_the_one_that_the_simulation_was_given() -> None:
    for name in ("sequential_trials", "marginal_structural_model", "time_dependent"):
        assert known(scenario("plain"), estimator(name)) == Found(math.log(0.60), 0.0)
    assert known(scenario("confounded"), estimator("sequential_trials")) is None
    # Later starters draw a landmark's ratio towards 1, so it is known only where there is no effect.
    assert known(scenario("plain"), estimator("landmark_cox")) is None
    assert known(scenario("plain_null"), estimator("landmark_cox")) == Found(0.0, 0.0)
    assert known(scenario("waning"), estimator("time_dependent_adjusted")) is None


def test_weights_of_a_structural_model_take_the_confounding_away_where_nothing_has_an_effect() -> None:
    """Responders start six times as often and die less: a crude ratio sees a benefit, a weighted one none."""
    s, e = scenario("persistent_null"), estimator("marginal_structural_model")
    weighted = [e.run(Cohort(s.draw(k, patients=250), s, seed=0)) for k in range(8)]
    estimates = [a.estimate for a in weighted if isinstance(a, Answer)]
    crude = [_crude(s, k).estimate for k in range(8)]
    error = float(np.std(estimates, ddof=1)) / math.sqrt(8)
    assert np.mean(estimates) == pytest.approx(0.0, abs=4 * error)
    assert np.mean(crude) < -0.2
    assert np.mean(estimates) > np.mean(crude) + 0.2


def _crude(s: Scenario, k: int) -> Answer:
    answer = estimator("time_dependent").run(Cohort(s.draw(k, patients=250), s, seed=0))
    assert isinstance(answer, Answer)
    return answer


def test_a_large_cohort_says_which_estimators_refuse_by_leaving_them_out() -> None:
    s = replace(
        scenario("plain"),
        truth=replace(scenario("plain").truth, start_rate_responding=1e-12, start_rate_stable=1e-12),
    )
    assert found_in(LargeCohort(s, ("landmark_cox",), 0, 50, is_forced=False)) == {}


# ---------------------------------------------------------------- every estimator answers


@pytest.fixture(scope="module")
def plain_cohort() -> Cohort:
    s = scenario("plain_null")
    return Cohort(s.draw(3), s, seed=1, replicates=20)


@pytest.mark.parametrize("e", ESTIMATORS, ids=lambda e: e.name)
def test_every_estimator_answers_in_an_ordinary_cohort(e: Estimator, plain_cohort: Cohort) -> None:
    answer = e.run(plain_cohort)
    if e.estimand == "test":
        assert isinstance(answer, PValue)
        assert 0 < answer.p_value <= 1
        return
    assert isinstance(answer, Answer)
    assert answer.low <= answer.estimate <= answer.high
    assert math.isfinite(answer.low)
    if e.scale == "log":
        assert abs(answer.estimate) < 1.5


def test_events_are_those_on_which_an_estimate_rests(plain_cohort: Cohort) -> None:
    c, patients = plain_cohort, plain_cohort.table.patients
    assert c.events("everybody") == patients["is_event"].sum()
    assert c.events("landmark") == (patients["is_event"] & (patients["time_days"] > 180)).sum()
    assert c.events("started") + c.events("not_started") == c.events("landmark")
    assert c.events("relapse_started") + c.events("relapse_not_started") == c.events("relapse") > 0
    assert c.events("could_choose") < c.events("landmark") < c.events("trials") <= c.events("everybody")
    assert 0 < c.events("sequential_trials") < c.events("trials")


def test_every_estimator_not_marked_biased_is_judged_where_its_assumptions_hold() -> None:
    for e in ESTIMATORS:
        if e.is_biased:
            continue
        places = [s for s in SCENARIOS if s.asks(e.name) and not e.needs & s.broken and s.n >= 200]
        assert places, e.name


def test_every_estimator_belongs_to_an_analysis_that_a_protocol_may_ask_for() -> None:
    assert {e.analysis for e in ESTIMATORS} <= set(get_args(AnalysisName))
    quiet = {"simon_makuch", "naive_kaplan_meier", "naive_permutation", "naive_firth", "naive_rmst"}
    assert set(get_args(AnalysisName)) - {e.analysis for e in ESTIMATORS} <= quiet


# ---------------------------------------------------------------- performance, by hand


def judged(
    answers: Sequence[Answer | PValue | None],
    truth: Found | None,
    name: str = "time_dependent",
    where: str = "plain_null",
    events: float = 150.0,
) -> Performance:
    return performance(scenario(where), estimator(name), answers, truth, events)


def test_bias_coverage_and_power_of_four_answers_by_hand() -> None:
    answers = [Answer(0.1, -0.1, 0.3, 0.1), Answer(0.3, 0.1, 0.5, 0.1), Answer(-0.1, -0.3, 0.1, 0.3), None]
    p = judged(answers, Found(0.2, 0.0))
    assert (p.replicates, p.answered) == (4, 3)
    assert p.bias == pytest.approx(-0.1)
    assert p.coverage == pytest.approx(2 / 3)
    assert p.coverage_error == pytest.approx(math.sqrt(2 / 9 / 3))
    assert p.power == pytest.approx(1 / 3)
    assert p.mean_se == pytest.approx(0.5 / 3)
    assert p.empirical_se == pytest.approx(0.2)
    assert p.rmse == pytest.approx(math.sqrt((0.01 + 0.01 + 0.09) / 3))


def test_an_open_upper_limit_is_a_limit_and_a_missing_one_is_none() -> None:
    p = judged([Answer(5.0, 3.0, math.inf), Answer(5.0, 3.0, math.nan)], Found(9.0, 0.0))
    assert (p.answered, p.coverage) == (1, 1.0)


def test_a_test_is_judged_by_its_level_where_the_null_is_true_and_by_its_power_elsewhere() -> None:
    answers = [PValue(p) for p in (0.01, 0.5, 0.05, 0.6)]
    level = judged(answers, None, "mantel_byar")
    assert (level.power, level.coverage) == (0.5, 0.5)
    assert level.holds
    power = judged(answers, None, "mantel_byar", where="plain")
    assert (power.power, power.coverage) == (0.5, None)


def test_an_error_of_the_truth_that_is_not_small_is_part_of_the_error_of_the_coverage() -> None:
    answers = [Answer(x, x - 0.2, x + 0.2, 0.1) for x in np.linspace(-0.3, 0.3, 61)]
    sharp, blurred = judged(answers, Found(0.0, 0.001)), judged(answers, Found(0.0, 0.2))
    assert sharp.coverage_error is not None
    assert blurred.coverage_error is not None
    assert sharp.coverage_error == pytest.approx(math.sqrt(sharp.coverage * (1 - sharp.coverage) / 61))
    # A truth 0.2 off is held by 31 of the 61 intervals instead of 41.
    assert blurred.coverage_error == pytest.approx(math.hypot(sharp.coverage_error, 10 / 61), rel=0.1)


def _with(share: float, answered: int, *, name: str = "time_dependent", events: float = 150.0) -> Performance:
    held = round(share * answered)
    good, bad = Answer(0.0, -1.0, 1.0, 0.5), Answer(2.0, 1.0, 3.0, 0.5)
    return judged([good] * held + [bad] * (answered - held), Found(0.0, 0.0), name, events=events)


def test_the_bounds_are_sharp_with_two_thousand_replicates_and_give_for_fewer() -> None:
    assert verdict(_with(0.93, 2000)) == "well"
    assert verdict(_with(0.929, 2000)) == "too low"
    assert verdict(_with(0.971, 2000)) == "too high"
    assert verdict(_with(0.971, 2000, name="landmark_iptw")) == "conservative"
    assert verdict(_with(0.92, 400)) == "well"
    assert verdict(_with(0.90, 400)) == "too low"
    assert verdict(_with(0.85, 2000, events=40)) == "few events: too low"
    assert verdict(_with(0.92, 2000, name="landmark_aiptw")) == "not offered"
    assert verdict(_with(0.92, 2000, name="landmark_aiptw_bootstrap")) == "too low"


def test_what_is_biased_or_breaks_an_assumption_is_not_judged() -> None:
    assert verdict(judged([Answer(0, -1, 1)] * 50, Found(0.0, 0.0), "naive")) == "biased"
    broken = judged([Answer(0, -1, 1)] * 50, Found(0.0, 0.0), "time_dependent", where="confounded")
    assert verdict(broken) == "assumption broken"
    assert page.judged(Simulation(1, (broken,))) == ()


# ---------------------------------------------------------------- what is written, kept and read


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    result = simulate([scenario("tiny")], replicates=40, estimators=some("naive", "time_dependent_adjusted"))
    naive = result.performances[0]
    assert f"| naive | {naive.mean_events:.0f} | conditional | -0.511 |" in markdown(result)
    ET.fromstring(figure(result))
    paths = write(result, tmp_path / "out")
    assert json.loads(paths[2].read_text(encoding="utf-8"))["performances"][0]["replicates"] == 10
    rows = json.loads(paths[3].read_text(encoding="utf-8"))["few_events"]
    assert [(r["analysis"], r["options"]) for r in rows] == [("time_dependent_cox", ["adjusted"])]
    assert [p.read_bytes() for p in write(result, tmp_path / "again")] == [p.read_bytes() for p in paths]


def test_the_page_names_what_does_not_hold() -> None:
    result = Simulation(1, (_with(0.90, 2000), _with(0.95, 2000)))
    assert "**1 of 2** judgements hold" in markdown(result)
    assert "- does not hold: plain_null, time_dependent: 90.0" in markdown(result)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    names, s = some("naive"), scenario("tiny")
    kept = Kept(tmp_path, 1, 20, names)
    first = simulate([s], replicates=20, estimators=names, store=kept)
    marked = [replace(p, mean_events=99.5) for p in first.performances]
    kept.write(s, marked)
    again = simulate([s], replicates=20, estimators=names, store=kept)
    assert again.performances == tuple(marked)  # read, not done again
    other = Kept(tmp_path, 2, 20, names)
    assert other.read(s) is None  # another seed is another question
    assert kept.read(replace(s, landmark=90)) is None


def test_an_unknown_scenario_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["simulate", "--scenario", "nothing"])
    assert stop.value.code == 2
    assert "there are: plain, plain_landmark" in " ".join(capsys.readouterr().err.split())


# ---------------------------------------------------------------- few events


def test_the_packaged_figures_are_of_analyses_that_exist_and_of_few_deaths() -> None:
    for row in coverage.table():
        assert row.analysis in get_args(AnalysisName)
        assert 0 < row.events < coverage.ENOUGH_EVENTS
        assert 0 <= row.coverage <= 1


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        FewEvents("landmark_weighting", "hazard_ratio", ("iptw", "bootstrap"), 35.0, 1000, 0.90),
        FewEvents("landmark_weighting", "hazard_ratio", ("iptw",), 35.0, 1000, 0.95),
        FewEvents("landmark_weighting", "hazard_ratio", ("iptw",), 9.0, 400, 0.80),
        FewEvents("mantel_byar", "chi_square", (), 9.0, 500, 0.88, is_test=True),
    )
    monkeypatch.setattr(coverage, "table", lambda: rows)


@pytest.mark.usefixtures("told")
def test_an_estimate_with_few_events_says_what_simulations_of_its_method_held() -> None:
    said = few_events_warning("landmark_weighting", "hazard_ratio", 40, options={"iptw", "bootstrap"})
    assert said == (
        "Fewer than 100 events: in simulations with about 35 of them, 95 % intervals of this method held the "
        "truth in 90.0 % of 1,000 cohorts."
    )
    assert few_events_warning("landmark_weighting", "hazard_ratio", 40, options={"iptw"}) is None
    tiny = few_events_warning("landmark_weighting", "hazard_ratio", 8, options={"iptw"})
    assert tiny is not None
    assert "about 9 of them" in tiny
    assert "80.0 %" in tiny
    test = few_events_warning("mantel_byar", "chi_square", 12)
    assert test is not None
    assert "rejected a true null hypothesis in 12.0 % of 500 cohorts" in test


@pytest.mark.usefixtures("told")
def test_nothing_is_said_of_many_events_or_of_what_was_not_simulated() -> None:
    assert few_events_warning("landmark_weighting", "hazard_ratio", 100, options={"iptw"}) is None
    assert few_events_warning("landmark_cox", "hazard_ratio", 10) is None
