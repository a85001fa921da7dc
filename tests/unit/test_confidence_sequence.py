"""Looking repeatedly: the boundary's formula by hand, and whether the truth stays inside at all looks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rwe.survival.confidence_sequence import (
    PLANNED_INFORMATION,
    ScoreProcess,
    boundary,
    confidence_sequence,
    mixture_parameter,
    score_process,
)
from rwe.survival.data import CohortTable, exposure_split, no_changes
from rwe.survival.logrank import exposure_logrank


def table(n: int, seed: int, log_hr: float = 0.0, calendar: float = 900.0) -> tuple[pd.DataFrame, np.ndarray]:
    """Patients who enter over three years at two sites, a third of whom start; and the day each entered."""
    rng = np.random.default_rng(seed)
    site = np.where(rng.random(n) < 0.5, "north", "river")
    start = np.where(rng.random(n) < 0.35, rng.integers(1, 60, n), np.nan)
    hazard = np.where(site == "north", 0.004, 0.002)
    # Piecewise exponential: the hazard changes by exp(log_hr) on the start day.
    unit = rng.exponential(size=n)
    before = hazard * np.nan_to_num(start, nan=np.inf)
    late = np.nan_to_num(start, nan=0.0) + (unit - np.nan_to_num(before, posinf=0.0)) / (
        hazard * math.exp(log_hr)
    )
    died = np.ceil(np.where(unit <= before, unit / hazard, late))
    entered = np.floor(rng.uniform(0, calendar, n))
    return pd.DataFrame({"site": site, "start_day": start, "died": died}), entered


def at_look(whole: pd.DataFrame, entered: np.ndarray, day: float) -> ScoreProcess:
    """The score process as it is known on a day of the calendar."""
    followed = day - entered
    here = followed > 0
    died, started = whole["died"].to_numpy()[here], whole["start_day"].to_numpy()[here]
    time = np.minimum(died, followed[here])
    patients = pd.DataFrame(
        {
            "patient_id": [str(i) for i in np.flatnonzero(here)],
            "site": whole["site"].to_numpy()[here],
            "time_days": time.astype(int),
            "is_event": died <= followed[here],
            "start_day": np.where(started <= time, started, np.nan),
        }
    )
    return score_process(exposure_split(CohortTable(patients, no_changes())))


def test_the_boundary_by_hand() -> None:
    """Two-sided normal mixture: sqrt((v + r) log((v + r) / (r a^2))); v = 10, r = 2, a = 0.05:
    12 log(12 / (2 * 0.0025)) = 12 * 7.7832240... = 93.3986883."""
    assert boundary(10, 2) == pytest.approx(math.sqrt(93.39868834), abs=1e-6)
    # At no information it is what Ville's inequality leaves: sqrt(r log(1 / a^2)).
    assert boundary(0, 2, alpha=0.1) == pytest.approx(math.sqrt(2 * math.log(100)), abs=1e-12)


def test_its_parameter_makes_it_tightest_at_the_planned_information() -> None:
    """x - log x = 1 - log a^2 at x = (v + r) / r: for a = 0.05, x = 9.2306, so r = v / 8.2306."""
    r = mixture_parameter(PLANNED_INFORMATION)
    x = (PLANNED_INFORMATION + r) / r
    assert x - math.log(x) == pytest.approx(1 - math.log(0.0025), abs=1e-9)
    others = np.linspace(0.2, 5, 49) * r
    assert all(boundary(PLANNED_INFORMATION, o) >= boundary(PLANNED_INFORMATION, r) for o in others)
    # The price of looking at all times: 3.04 standard errors there in place of 1.96.
    assert boundary(PLANNED_INFORMATION, r) / math.sqrt(PLANNED_INFORMATION) == pytest.approx(
        3.0351, abs=1e-4
    )


def test_the_planned_information_shows_a_half_with_80_percent_power() -> None:
    assert pytest.approx(((1.959964 + 0.841621) / math.log(2)) ** 2, abs=1e-4) == PLANNED_INFORMATION


def test_the_score_at_no_effect_is_the_stratified_log_rank_test() -> None:
    whole, entered = table(300, 5)
    followed = 1500 - entered
    time = np.minimum(whole["died"], followed).astype(int)
    patients = pd.DataFrame(
        {
            "patient_id": [str(i) for i in range(300)],
            "site": whole["site"],
            "time_days": time,
            "is_event": whole["died"] <= followed,
            "start_day": whole["start_day"].where(whole["start_day"] <= time),
        }
    )
    rows = exposure_split(CohortTable(patients, no_changes()))
    test = exposure_logrank(rows, stratify_by_site=True)
    score, information = score_process(rows).at(0.0)
    assert score == pytest.approx(test.observed[1] - test.expected[1], abs=1e-9)
    assert information == pytest.approx(test.variance, abs=1e-9)


def test_the_limits_are_where_the_score_meets_the_boundary() -> None:
    whole, entered = table(400, 2, log_hr=-0.5)
    process = at_look(whole, entered, 1600)
    found = confidence_sequence(process)
    assert found.low is not None
    assert found.high is not None
    assert found.estimate is not None
    r = mixture_parameter(PLANNED_INFORMATION)
    for limit in (found.low, found.high):
        score, information = process.at(math.log(limit))
        assert abs(score) == pytest.approx(boundary(information, r), abs=1e-6)
    assert process.at(math.log(found.estimate))[0] == pytest.approx(0, abs=1e-6)
    low, high = found.pointwise
    assert low is not None
    assert high is not None
    assert found.low < low < found.estimate < high < found.high


def test_without_an_event_of_the_exposed_there_is_no_lower_limit() -> None:
    one = np.ones(8)
    process = ScoreProcess(one, 0 * one, np.full(8, 6.0), np.arange(12.0, 4.0, -1))
    found = confidence_sequence(process)
    assert found.estimate is None
    assert found.low is None
    assert found.high is not None


@pytest.mark.parametrize("bad", [(0.0, 0.05), (-1.0, 0.05), (10.0, 0.0), (10.0, 1.0)])
def test_a_parameter_that_cannot_be_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must lie"):
        mixture_parameter(*bad)


@pytest.mark.parametrize("log_hr", [0.0, math.log(0.6)])
def test_the_truth_stays_inside_at_all_looks_and_leaves_the_ordinary_interval(log_hr: float) -> None:
    """Fifteen looks a study, 120 studies: the sequence holds at all of them in 95 % of the studies and
    more; the interval of one look does not."""
    r, studies = mixture_parameter(PLANNED_INFORMATION), 120
    left_sequence = left_ordinary = 0
    for seed in range(studies):
        whole, entered = table(160, seed, log_hr)
        looks = [at_look(whole, entered, day).at(log_hr) for day in range(150, 1650, 100)]
        left_sequence += any(abs(u) > boundary(v, r) for u, v in looks)
        left_ordinary += any(abs(u) > 1.96 * math.sqrt(v) for u, v in looks if v > 0)
    assert left_sequence / studies <= 0.05
    assert left_ordinary / studies > 0.10
