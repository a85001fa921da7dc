"""A drug that acts through progression alone: what adjusting for progression after the start takes away.

Simulated patients: progression multiplies the hazard of death by 6, starts are more frequent in responders,
nobody starts after progression. The drug divides the hazard of progression, or of death, or does nothing.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.data import CohortTable, exposure_split, start_day_split

STATUS = ["progressed", "responding"]
N = 1500


def simulate(seed: int, *, on_progression: float = 1.0, on_death: float = 1.0) -> CohortTable:
    """Patients whose start multiplies the hazard of progression and of death by these factors."""
    g = np.random.default_rng(seed)
    responding = g.random(N) < 0.5
    start = np.ceil(g.exponential(np.where(responding, 150, 500))) + 20
    progression = g.exponential(1 / np.where(responding, 0.003, 0.006))
    progression = np.where(progression > start, start + (progression - start) / on_progression, progression)
    starts = start < progression
    # Death: hazard 0.0006 a day, times 6 once progressed, times on_death once started.
    needed = g.exponential(size=N)
    death = np.zeros(N)
    for i in range(N):
        s = start[i] if starts[i] else np.inf
        cuts = [0.0, *sorted(t for t in (s, progression[i]) if t < np.inf), np.inf]
        left = needed[i]
        for a, b in pairwise(cuts):
            hazard = 0.0006 * (6 if a >= progression[i] else 1) * (on_death if a >= s else 1)
            if hazard * (b - a) >= left:
                death[i] = a + left / hazard
                break
            left -= hazard * (b - a)
    censored = g.uniform(500, 1200, N)
    days = np.ceil(np.minimum(death, censored)).astype(int)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(N)],
            "site": "a",
            "time_days": days,
            "is_event": death <= censored,
            "start_day": np.where(starts & (start <= days), start, np.nan),
        }
    )
    seen = np.flatnonzero(progression < days)
    changes = pd.DataFrame(
        {
            "patient_id": patients["patient_id"].to_numpy()[np.r_[np.flatnonzero(responding), seen]],
            "covariate": ["responding"] * int(responding.sum()) + ["progressed"] * len(seen),
            "day": np.r_[np.zeros(responding.sum()), np.ceil(progression[seen])].astype(int),
            "value": 1.0,
        }
    )
    return CohortTable(patients, changes)


def follow(cohort: CohortTable) -> CoxFit:
    return exposure_cox(exposure_split(cohort, [], STATUS))


def freeze(cohort: CohortTable) -> CoxFit:
    return exposure_cox(start_day_split(cohort, [], STATUS), robust=True)


def limits(fit: CoxFit) -> tuple[float, float]:
    found = fit.hazard_ratio()
    assert found.ci_low is not None
    assert found.ci_high is not None
    return found.ci_low, found.ci_high


def test_an_effect_through_progression_is_lost_by_following_and_kept_by_freezing() -> None:
    cohort = simulate(1, on_progression=0.3)
    low, high = limits(follow(cohort))
    assert low < 1 < high, "given the current status the drug does nothing"
    assert limits(freeze(cohort))[1] < 0.9, "and yet those who start live longer"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_drug_that_does_nothing_has_a_ratio_of_one_both_ways(seed: int) -> None:
    # Freezing the status of the exposed alone would give about 2 here: they progress too, unseen.
    cohort = simulate(seed)
    for fit in (follow(cohort), freeze(cohort)):
        low, high = limits(fit)
        assert low < 1 < high
        assert high / low < 1.6


def test_a_direct_effect_is_found_both_ways_nearer_to_one_where_later_starters_stay_unexposed() -> None:
    cohort = simulate(3, on_death=0.5)
    low, high = limits(follow(cohort))
    assert low < 0.5 < high
    frozen = freeze(cohort).hazard_ratio().estimate
    assert frozen is not None
    assert 0.5 < frozen < 0.85


def test_with_one_start_day_it_is_the_landmark_analysis_of_that_day() -> None:
    from rwe.survival.landmark import landmark_cox

    cohort = simulate(4, on_death=0.5)
    patients = cohort.patients.copy()
    late = patients["start_day"].isna() | (patients["start_day"] <= 100) | (patients["time_days"] == 100)
    patients["start_day"] = np.where(late | (patients["time_days"] <= 100), np.nan, 100.0)
    one_day = CohortTable(patients, cohort.changes)
    ours = freeze(one_day)
    landmark = landmark_cox(one_day, 100, [], STATUS, robust=True)
    assert ours.coefficients == pytest.approx(landmark.coefficients, abs=1e-9)
    assert ours.se == pytest.approx(landmark.se, abs=1e-9)
