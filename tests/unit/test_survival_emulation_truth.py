"""Simulated patients of whom it is known how they would have fared under each strategy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, naive_split, no_changes
from rwe.survival.emulation import clone_censor_weight

G = 60
DAYS = (60, 120, 200)


def death_after(g: np.random.Generator, x: np.ndarray, start: np.ndarray, ratio: float) -> np.ndarray:
    """Days of death: hazard 0.0015 a day, 3 times that for x = 1, `ratio` of it from the start on."""
    hazard = 0.0015 * np.where(x == 1, 3.0, 1.0)
    need = g.exponential(size=len(x))
    before = hazard * start
    return np.where(need < before, need / hazard, start + (need - before) / (hazard * ratio))


def starts(g: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """The sicker (x = 1) start later: that is the confounding."""
    return g.exponential(np.where(x == 1, 220.0, 70.0))


def simulate(n: int, seed: int, ratio: float) -> CohortTable:
    g = np.random.default_rng(seed)
    x = (g.random(n) < 0.5).astype(float)
    start = starts(g, x)
    death = death_after(g, x, start, ratio)
    left = g.uniform(300, 900, n)
    time = np.ceil(np.minimum(death, left))
    start = np.ceil(start)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": "a",
            "time_days": time.astype(int),
            "is_event": death <= left,
            "start_day": np.where(start <= time, start, np.nan),
            "x": x,
        }
    )
    return CohortTable(patients, no_changes())


def truth(ratio: float, n: int = 400_000) -> tuple[np.ndarray, np.ndarray]:
    """Survival on DAYS under "never" and under "start by G", from uncensored lives, within each x.

    Under "start by G" nothing is asked of anybody before G; who lives then and has not started by G would
    have fared as those of the same x who had.
    """
    g = np.random.default_rng(99)
    never, treated = np.zeros(len(DAYS)), np.zeros(len(DAYS))
    for level in (0.0, 1.0):
        x = np.full(n, level)
        dead = death_after(g, x, np.full(n, 1e9), ratio)
        never += 0.5 * np.array([(dead > d).mean() for d in DAYS])
        start = starts(g, x)
        death = death_after(g, x, start, ratio)
        alive = (death > G).mean()
        by_grace = death[(death > G) & (start <= G)]
        treated += 0.5 * np.array(
            [(death > d).mean() if d <= G else alive * (by_grace > d).mean() for d in DAYS]
        )
    return never, treated


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("model", ["cox", "logistic"])
def test_survival_under_each_strategy_is_found(ratio: float, model: str) -> None:
    table = simulate(5000, seed=1, ratio=ratio)
    found = clone_censor_weight(
        table,
        G,
        ["x"],
        horizon_days=200,
        times=DAYS,
        control="never",
        treated_model=model,  # type: ignore[arg-type]
        replicates=60,
        seed=3,
        workers=1,
    )
    never, treated = truth(ratio)
    for i, contrast in enumerate(found.contrasts.survival):
        for arm, expected in ((contrast.control, never[i]), (contrast.treated, treated[i])):
            assert arm.estimate == pytest.approx(expected, abs=4 * arm.se)
            assert arm.se < 0.02


def test_a_drug_that_does_nothing_looks_like_a_cure_in_the_naive_analysis_alone() -> None:
    table = simulate(4000, seed=2, ratio=1.0)
    naive = exposure_cox(naive_split(table)).hazard_ratio()
    assert naive.estimate < 0.6
    weighted = clone_censor_weight(table, G, ["x"], horizon_days=200, replicates=60, seed=1, workers=1)
    ratio = weighted.contrasts.hazard_ratio
    assert ratio.ci_low < 1 < ratio.ci_high
    unweighted = clone_censor_weight(table, G, [], horizon_days=200, replicates=0)
    assert abs(np.log(unweighted.contrasts.hazard_ratio.estimate)) > 2 * abs(np.log(ratio.estimate))


def simulate_status(n: int, seed: int) -> tuple[CohortTable, np.ndarray]:
    """A status that comes with time, hastens death and keeps from starting. The drug halves the hazard.

    Returns the cohort, and survival on DAYS had nobody ever started, from the same patients' other lives.
    """
    g = np.random.default_rng(seed)
    bad = np.ceil(g.exponential(150, n))
    start = np.zeros(n)
    early = np.ceil(g.exponential(80, n))
    start = np.where(early <= bad, early, bad + np.ceil(g.exponential(1200, n)))
    need = g.exponential(size=n)

    def death(start: np.ndarray) -> np.ndarray:
        used, at = need.copy(), np.zeros(n)
        cuts = np.sort(np.stack([bad, start]), axis=0)
        done = np.zeros(n, dtype=bool)
        for low, high in ((np.zeros(n), cuts[0]), (cuts[0], cuts[1]), (cuts[1], np.full(n, 1e9))):
            hazard = 0.001 * np.where(low >= bad, 8.0, 1.0) * np.where(low >= start, 0.5, 1.0)
            ends = ~done & (used <= hazard * (high - low))
            at = np.where(ends, low + used / hazard, at)
            done |= ends
            used = used - hazard * (high - low)
        return at

    died, never = death(start), death(np.full(n, 1e9))
    left = g.uniform(250, 900, n)
    time = np.ceil(np.minimum(died, left))
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": "a",
            "time_days": time.astype(int),
            "is_event": died <= left,
            "start_day": np.where(start <= time, start, np.nan),
        }
    )
    changes = pd.DataFrame(
        {"patient_id": patients["patient_id"], "covariate": "bad", "day": bad.astype(int), "value": 1.0}
    )
    return CohortTable(patients, changes), np.array([(never > d).mean() for d in DAYS])


def test_weights_follow_a_status_that_decides_who_starts() -> None:
    table, never = simulate_status(5000, seed=8)
    options = {"horizon_days": 200, "times": DAYS, "control": "never", "seed": 2, "workers": 1}
    followed = clone_censor_weight(table, G, [], ["bad"], replicates=50, **options)
    ignored = clone_censor_weight(table, G, [], [], replicates=0, **options)
    last, wrong = followed.contrasts.survival[-1].control, ignored.contrasts.survival[-1].control
    assert last.estimate == pytest.approx(never[-1], abs=3.5 * last.se)
    # Those left unstarted are the sicker: without weights for it the arm looks worse than it is.
    assert wrong.estimate < never[-1] - 3 * last.se


def test_loss_that_informs_is_undone_by_its_weights() -> None:
    g = np.random.default_rng(6)
    n = 6000
    table = simulate(n, seed=4, ratio=1.0)
    patients = table.patients.copy()
    # Most of the sick go elsewhere early, alive.
    leaves = (patients["x"] == 1) & (g.random(n) < 0.8)
    day = np.ceil(g.exponential(70, n))
    cut = leaves & (day < patients["time_days"])
    patients.loc[cut, "is_event"] = False
    patients.loc[cut, "time_days"] = day[cut].astype(int)
    late = patients["start_day"] > patients["time_days"]
    patients.loc[late, "start_day"] = np.nan
    lost = CohortTable(patients, no_changes())
    never, _ = truth(1.0)
    options = {"horizon_days": 200, "times": DAYS, "control": "never", "replicates": 50, "workers": 1}
    plain = clone_censor_weight(lost, G, ["x"], **options).contrasts.survival[-1].control
    weighted = clone_censor_weight(lost, G, ["x"], loss_weights=True, **options)
    found = weighted.contrasts.survival[-1].control
    assert found.estimate == pytest.approx(never[-1], abs=3.5 * found.se)
    assert plain.estimate > never[-1] + 2 * plain.se
    assert "loss to follow-up" in weighted.method
