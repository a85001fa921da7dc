"""The calibration harness: naive is wrong, adjusted is right, and the same seed says the same."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwe.cli import main
from rwe.sandbox.truth import Regime, Truth, latent_table, simulate_patients
from rwe.simulate import ESTIMATORS, simulate
from rwe.simulate.page import figure, markdown, write
from rwe.simulate.scenarios import scenario
from rwe.simulate.truths import estimand


def test_the_same_seed_gives_the_same_numbers_whatever_the_workers() -> None:
    chosen = [scenario("tiny")]
    names = [e for e in ESTIMATORS if e.name in {"naive", "time_dependent"}]
    one = simulate(chosen, replicates=20, seed=3, estimators=names, workers=1)
    two = simulate(chosen, replicates=20, seed=3, estimators=names, workers=2)
    assert one == two
    assert simulate(chosen, replicates=20, seed=4, estimators=names) != one


def test_where_maintenance_does_nothing_the_naive_analysis_sees_a_cure_and_the_adjusted_one_nothing() -> None:
    names = [e for e in ESTIMATORS if e.name in {"naive", "time_dependent_adjusted"}]
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


def test_a_marginal_estimand_lies_between_none_and_the_conditional_one() -> None:
    """Without confounding a marginal ratio is drawn towards 1 by frailty and by those who start late."""
    strategies = next((e for e in ESTIMATORS if e.estimand == "strategies"), None)
    if strategies is None:
        pytest.skip("no estimator compares strategies")
    truth = estimand(scenario("unconfounded"), strategies, 1)
    assert truth is not None
    assert math.log(0.60) < truth < 0


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    names = [e for e in ESTIMATORS if e.name == "naive"]
    found = simulate([scenario("tiny")], replicates=10, estimators=names)
    assert "| naive | conditional |" in markdown(found)
    ET.fromstring(figure(found))
    paths = write(found, tmp_path / "out")
    assert json.loads(paths[2].read_text(encoding="utf-8"))["performances"][0]["replicates"] == 10
    assert [p.read_bytes() for p in write(found, tmp_path / "again")] == [p.read_bytes() for p in paths]


def test_an_unknown_scenario_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["simulate", "--scenario", "nothing"])
    assert stop.value.code == 2
    assert "there are: null, confounded" in " ".join(capsys.readouterr().err.split())
