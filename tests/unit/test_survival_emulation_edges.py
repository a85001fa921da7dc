"""What clone-censor-weight says where data are few, strange or hold no answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.survival.clones import clone
from rwe.survival.data import CohortTable, NotEstimableError, SurvivalDataError, no_changes
from rwe.survival.emulation import CloneCensorWeight, clone_censor_weight
from rwe.survival.histories import censored_at, event_days, with_salvage, without_salvage
from tests.unit.emulation_cohorts import mixed_cohort

G = 30


def cohort(rows: list[tuple[int, bool, float | None]], **columns: Any) -> CohortTable:
    """Patients as (time, event, start day or None)."""
    frame = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(len(rows))],
            "site": "a",
            "time_days": [t for t, _, _ in rows],
            "is_event": [e for _, e, _ in rows],
            "start_day": [np.nan if s is None else float(s) for _, _, s in rows],
            **columns,
        }
    )
    return CohortTable(frame, no_changes())


def emulate(table: CohortTable, covariates: tuple[str, ...] = (), **options: Any) -> CloneCensorWeight:
    return clone_censor_weight(
        table,
        G,
        covariates,
        **{"horizon_days": 90, "times": (90,), "replicates": 30, "workers": 1, "seed": 1, **options},
    )


WITHOUT = [(200, False, None), (100, True, None), (150, True, None), (160, False, None), (200, False, None)]
WITH = [(200, False, 5), (200, False, 12), (180, False, 20), (150, False, 25), (170, False, 30)]


def test_an_arm_without_events_has_survival_1_and_no_hazard_ratio() -> None:
    found = emulate(cohort(WITHOUT + WITH), times=(90, 140)).contrasts
    assert found.hazard_ratio.estimate is None
    assert "no event in the treated arm" in found.hazard_ratio.warnings[0]
    late = found.survival[1]
    assert late.treated.estimate == 1.0
    assert (late.treated.se, late.treated.ci_low) == (None, None)
    assert "same value" in late.treated.warnings[0]
    assert late.control.estimate < 1


def test_nobody_dies() -> None:
    table = cohort([(t, False, s) for t, _, s in WITHOUT + WITH])
    found = emulate(table)
    assert found.events == 0
    assert found.contrasts.hazard_ratio.estimate is None
    assert "control and the treated arm" in found.contrasts.hazard_ratio.warnings[0]
    assert found.contrasts.rmst_difference.estimate == 0.0
    assert found.contrasts.rmst_difference.se is None


@pytest.mark.parametrize("control", ["no_start_by_grace", "never"])
def test_nobody_starts_by_grace(control: str) -> None:
    with pytest.raises(NotEstimableError, match=r"nobody started within 30 days \(0 of 6\)"):
        emulate(cohort([*WITHOUT, (200, False, 31)]), control=control)


def test_everybody_starts() -> None:
    with pytest.raises(NotEstimableError, match="everybody followed beyond day 30 had started"):
        emulate(cohort([*WITH, (20, True, None)]))


def test_starters_who_are_not_followed_beyond_grace() -> None:
    with pytest.raises(NotEstimableError, match="followed any longer"):
        emulate(cohort([*WITHOUT, (25, True, 5), (30, False, 9)]))


def test_one_patient_starts() -> None:
    found = emulate(cohort([*WITHOUT, *WITHOUT, (200, False, 10)]))
    assert found.started_in_grace == 1
    treated = found.weights[1]
    assert treated.effective_sample_size == pytest.approx(1)
    assert any("weighs as much as 1.0 patients" in w for w in found.warnings)
    # Nobody of the arm is left after grace in more than a tenth of the replicates.
    assert found.contrasts.survival[0].treated.ci_low is None
    assert "bootstrap replicates gave no estimate" in found.contrasts.survival[0].treated.warnings[0]


def test_a_covariate_that_tells_starters_apart_is_named() -> None:
    x = [0.0] * 5 + [1.0] * 5
    found = emulate(cohort(WITHOUT + WITH, x=x), ("x",), replicates=0)
    assert any("log hazard ratio of x in the model of starting has no maximum" in w for w in found.warnings)
    assert any("all or none had started" in w for w in found.warnings)
    logistic = emulate(cohort(WITHOUT + WITH, x=x), ("x",), treated_model="logistic", replicates=0)
    assert any("without error" in w for w in logistic.warnings)


def test_extreme_weights_are_said_and_truncation_bounds_them() -> None:
    g = np.random.default_rng(2)
    n = 2000
    x = g.normal(size=n)
    start = np.where(g.random(n) < 1 / (1 + np.exp(-6 * x)), np.ceil(g.uniform(0, 30, n)), np.nan)
    time = 40 + np.ceil(g.exponential(200, n))
    table = cohort(
        [(int(t), True, None if np.isnan(s) else s) for t, s in zip(time, start, strict=True)], x=x
    )
    found = emulate(table, ("x",), replicates=0, treated_model="logistic")
    assert found.weights[1].maximum > 20
    assert any("see it with truncated weights" in w for w in found.warnings)
    cut = emulate(table, ("x",), replicates=0, treated_model="logistic", truncate_percentile=95.0)
    assert cut.weights[1].capped_at == cut.weights[1].maximum < found.weights[1].maximum
    assert cut.weights[1].n_capped > 0
    assert cut.weights[1].effective_sample_size > found.weights[1].effective_sample_size
    assert "truncated at percentile 95" in cut.method


def test_weights_beyond_all_bounds_stay_numbers() -> None:
    # Separated covariates with huge values: hazards of starting that no double holds if not held back.
    g = np.random.default_rng(1)
    n = 120
    x = g.normal(size=n) * 1e6
    start = np.where(x > 0, 3.0, np.nan)
    start[[0, 1]] = 20.0
    rows = [
        (int(t), True, None if np.isnan(s) else s)
        for t, s in zip(40 + g.integers(0, 99, n), start, strict=True)
    ]
    with np.errstate(all="raise", under="ignore"):
        found = emulate(cohort(rows, x=x), ("x",), horizon_days=60, times=(60,), replicates=10)
    for at in (found.contrasts.survival[0].control, found.contrasts.survival[0].treated):
        assert at.estimate is not None
        assert 0 <= at.estimate <= 1
    assert found.warnings


def test_a_constant_covariate_is_left_out_and_a_collinear_one_refused() -> None:
    table = mixed_cohort(60, seed=2)
    patients = table.patients.assign(same=4.0, twice=2 * table.patients["x"])
    wide = CohortTable(patients, table.changes)
    found = emulate(wide, ("x", "same"), replicates=0, horizon_days=50, times=())
    plain = emulate(wide, ("x",), replicates=0, horizon_days=50, times=())
    assert any("same has one value only" in w for w in found.warnings)
    assert found.contrasts.hazard_ratio == plain.contrasts.hazard_ratio
    with pytest.raises(NotEstimableError, match=r"twice.*collinear with x"):
        emulate(wide, ("x", "twice"), replicates=0)


def test_patients_without_a_covariate_are_left_out_and_counted() -> None:
    table = mixed_cohort(60, seed=2)
    patients = table.patients.copy()
    patients.loc[[3, 7], "x"] = np.nan
    found = emulate(CohortTable(patients, table.changes), ("x",), replicates=0, horizon_days=50, times=())
    kept = patients.drop(index=[3, 7]).reset_index(drop=True)
    changes = table.changes[table.changes["patient_id"].isin(kept["patient_id"])]
    fewer = emulate(CohortTable(kept, changes), ("x",), replicates=0, horizon_days=50, times=())
    assert found.n == 58
    assert found.contrasts.hazard_ratio == fewer.contrasts.hazard_ratio
    assert any("2 patients were left out because a covariate is missing (x)" in w for w in found.warnings)
    with pytest.raises(NotEstimableError, match="no patient has all covariates"):
        emulate(CohortTable(patients.assign(x=np.nan), table.changes), ("x",))


def test_beyond_follow_up_there_is_no_survival() -> None:
    found = emulate(cohort(WITHOUT + WITH), horizon_days=400, times=(190, 400), replicates=0).contrasts
    assert found.survival[0].control.estimate is not None
    assert found.survival[1].difference.estimate is None
    assert "followed until day 400" in found.survival[1].difference.warnings[0]
    assert found.rmst_control.estimate is None


def test_zero_follow_up_counts_half_a_day() -> None:
    found = emulate(cohort([*WITHOUT, *WITH, (0, True, None)]), times=(0, 1), replicates=0).contrasts
    assert found.survival[0].control.estimate == 1.0
    assert found.survival[1].control.estimate == pytest.approx(10 / 11)
    assert found.survival[1].treated.estimate == pytest.approx(10 / 11)


def test_a_start_on_day_0_with_a_grace_of_0_days() -> None:
    table = cohort([(100, True, 0), (120, False, 0), (90, True, None), (130, False, None), (80, True, 40)])
    found = clone_censor_weight(table, 0, horizon_days=95, times=(85, 95), replicates=0)
    late = found.contrasts.survival
    # Nobody is weighted but alike: the arms are those who started at once, and all others.
    assert [s.treated.estimate for s in late] == [1.0, 1.0]
    assert [s.control.estimate for s in late] == pytest.approx([2 / 3, 1 / 3])
    assert (found.clones[0].departed, found.clones[1].departed) == (2, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"horizon_days": 0},
        {"horizon_days": np.inf},
        {"times": (-1,)},
        {"truncate_percentile": 20.0},
        {"replicates": 1},
        {"level": 1.0},
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(SurvivalDataError):
        emulate(cohort(WITHOUT + WITH), **options)


@pytest.mark.parametrize("grace", [-1, 1.5])
def test_a_grace_period_is_whole_days(grace: Any) -> None:
    with pytest.raises(SurvivalDataError, match="whole number of days"):
        clone(cohort(WITHOUT + WITH), grace)


# salvage and excuses ------------------------------------------------------------------------------------


PROGRESSED = cohort(
    [
        (200, True, 40),  # progressed on day 10, lenalidomide on day 40: salvage
        (200, False, 10),  # starts on the day of progression: salvage
        (200, False, 5),  # starts, progresses later
        (200, True, None),  # never starts, progresses within grace: excused
        (200, False, None),  # never starts, progresses after grace: not excused
        (200, True, 8),
        (200, False, None),
    ],
    progression_day=[10, 10, 20, 30, 31, np.nan, np.nan],
)


def test_who_progressed_by_the_end_of_grace_need_not_start() -> None:
    clones = clone(PROGRESSED, G, unless="progression_day")
    assert clones.treated.deviates.tolist() == [False, False, False, False, True, False, True]
    assert clones.control.deviates.tolist() == [False, False, True, False, False, True, False]
    assert clones.started_by_grace.tolist() == [False, False, True, False, False, True, False]
    # The model of starting by g is of those not progressed by g, whether they started or not.
    assert clones.at_grace.tolist() == [4, 5, 6]


def test_without_the_excuse_everybody_has_to_start_and_salvage_is_a_start() -> None:
    clones = clone(PROGRESSED, G)
    assert clones.treated.deviates.tolist() == [True, False, False, True, True, False, True]
    assert clones.control.deviates.tolist() == [False, True, True, False, False, True, False]


def test_nobody_is_at_risk_of_starting_from_the_day_of_progression_on() -> None:
    starting = clone(PROGRESSED, G, unless="progression_day").starting
    last = {int(p): float(starting.stop2[starting.patient == p].max()) / 2 for p in set(starting.patient)}
    assert last == {0: 9.5, 1: 9.5, 2: 5, 3: 29.5, 4: 30, 5: 8, 6: 30}


def test_the_day_of_progression_may_be_a_change() -> None:
    changes = pd.DataFrame(
        {
            "patient_id": ["p0", "p0", "p3"],
            "covariate": "progressed",
            "day": [10, 50, 30],
            "value": [1.0, 1.0, 1.0],
        }
    )
    table = CohortTable(PROGRESSED.patients.drop(columns="progression_day"), changes)
    assert event_days(table, "progressed") == pytest.approx(
        [10, *[np.nan] * 2, 30, *[np.nan] * 3], nan_ok=True
    )
    assert without_salvage(table, "progressed").patients["start_day"].isna()[0]
    with pytest.raises(SurvivalDataError, match="neither a column nor a changing covariate"):
        event_days(table, "relapsed")


def test_salvage_counted_as_a_start_is_the_sensitivity() -> None:
    patients = PROGRESSED.patients.assign(
        start_day=[np.nan, np.nan, 5, np.nan, np.nan, 8, np.nan],
        salvage_start_day=[40, 10, np.nan, np.nan, np.nan, np.nan, np.nan],
    )
    counted = with_salvage(CohortTable(patients, no_changes()))
    assert counted.patients["start_day"].tolist()[:3] == [40, 10, 5]


def test_who_has_a_second_car_t_leaves_on_its_day() -> None:
    table = cohort(
        [(200, True, 40), (200, True, 90), (100, True, None), (0, False, None)],
        second_car_t_day=[60, 60, 100, np.nan],
    )
    left = censored_at(table, "second_car_t_day").patients
    assert left["time_days"].tolist() == [60, 60, 100, 0]
    assert left["is_event"].tolist() == [False, False, True, False]
    assert left["start_day"].tolist()[0] == 40
    assert left["start_day"].isna().tolist() == [False, True, True, True]
    early = CohortTable(table.patients.assign(second_car_t_day=-3.0), no_changes())
    with pytest.raises(SurvivalDataError, match="before index"):
        censored_at(early, "second_car_t_day")


def test_a_band_has_the_limits_of_each_day() -> None:
    table = mixed_cohort(80, seed=4)
    options = {"horizon_days": 60, "times": (20, 50), "seed": 3}
    plain = emulate(table, ("x",), **options).contrasts
    found = emulate(table, ("x",), band_days=(10, 20, 50), **options).contrasts
    assert plain.bands is None
    assert found.bands is not None
    assert found.survival == plain.survival
    assert (found.rmst_difference, found.hazard_ratio) == (plain.rmst_difference, plain.hazard_ratio)
    for band, arm in zip(found.bands, ("control", "treated"), strict=True):
        assert band.day.tolist() == [10, 20, 50]
        for i, at in enumerate(found.survival, start=1):
            effect = getattr(at, arm)
            assert (band.ci_low[i], band.ci_high[i]) == (effect.ci_low, effect.ci_high)


# progress -----------------------------------------------------------------------------------------------


class Watch:
    """Counts what a progress bar would show."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.done = 0

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Watch]:
        self.steps.append((label, total))
        yield self

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def total(self, total: int) -> None: ...


def test_the_bootstrap_reports_every_replicate() -> None:
    watch = Watch()
    emulate(cohort(WITHOUT + WITH), replicates=23, progress=watch)
    assert watch.steps == [("bootstrapping clone-censor-weight", 23)]
    assert watch.done == 23
