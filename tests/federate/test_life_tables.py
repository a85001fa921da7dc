"""Rounded counts and the curve that they give, on patients drawn by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwe.federate.life_tables import cumulative_counts, life_table
from rwe.federate.plan import ARMS, MOVES
from rwe.small_cells import midpoint_6
from rwe.survival.data import CohortTable, exposure_split, no_changes


@pytest.mark.parametrize(
    ("count", "shown"), [(0, 0), (1, 3), (2, 3), (6, 3), (7, 9), (12, 9), (13, 15), (180, 177)]
)
def test_counts_are_the_midpoints_of_bins_of_six(count: int, shown: int) -> None:
    assert midpoint_6(count) == shown


def test_a_count_below_zero_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="not negative"):
        midpoint_6(-1)


def cohort(*patients: tuple[int, bool, float]) -> CohortTable:
    """Patients as (days of follow-up, died, start day or NaN)."""
    return CohortTable(
        pd.DataFrame(
            {
                "patient_id": [f"p{i}" for i in range(len(patients))],
                "site": "one",
                "time_days": [p[0] for p in patients],
                "is_event": [p[1] for p in patients],
                "start_day": [p[2] for p in patients],
            }
        ),
        no_changes(),
    )


def test_who_starts_leaves_one_arm_and_enters_the_other() -> None:
    never = float("nan")
    rows = exposure_split(
        cohort((50, True, never), (200, False, never), (150, True, 30), (95, False, 60), (180, True, 90))
    )
    found = cumulative_counts(rows, (90, 180))
    table = {arm: {d: [found[f"{m}[{arm},{d}]"] for m in MOVES] for d in (0, 90, 180)} for arm in ARMS}
    # entered, left without an event, events
    assert table["unexposed"] == {0: [5, 0, 0], 90: [5, 3, 1], 180: [5, 3, 1]}
    assert table["exposed"] == {0: [0, 0, 0], 90: [3, 0, 0], 180: [3, 1, 2]}


def test_a_change_of_a_covariate_is_neither_exit_nor_entry() -> None:
    table = cohort((100, True, float("nan")), (120, False, float("nan")))
    changes = pd.DataFrame({"patient_id": ["p0"], "covariate": ["worse"], "day": [40], "value": [1.0]})
    rows = exposure_split(CohortTable(table.patients, changes), time_varying=["worse"])
    assert len(rows) == 3
    found = cumulative_counts(rows, (90, 180))
    assert [found[f"{m}[unexposed,180]"] for m in MOVES] == [2, 1, 1]


def test_without_censoring_the_curve_is_the_share_of_the_living() -> None:
    rng = np.random.default_rng(5)
    stops = rng.integers(1, 400, 300)
    rows = exposure_split(cohort(*((int(s), True, float("nan")) for s in stops)))
    days = (90, 180, 270, 360)
    curve = life_table(cumulative_counts(rows, days), days)
    assert [r.survival for r in curve if r.arm == "unexposed"] == pytest.approx(
        [float(np.mean(stops > d)) for d in days]
    )
    assert all(r.survival == 1.0 or r.survival is None for r in curve if r.arm == "exposed")


def test_half_of_those_who_leave_within_an_interval_count_as_at_risk() -> None:
    """Cutler and Ederer: ten at the start, four leave, two die: eight at risk."""
    totals = {f"{m}[{arm},{d}]": 0.0 for arm in ARMS for d in (0, 90) for m in MOVES}
    totals |= {"entered[unexposed,0]": 10.0, "entered[unexposed,90]": 10.0}
    totals |= {"left[unexposed,90]": 4.0, "events[unexposed,90]": 2.0, "entered[exposed,90]": 6.0}
    unexposed, exposed = life_table(totals, (90,))
    assert (unexposed.at_risk, unexposed.survival) == (8.0, pytest.approx(0.75))
    assert (exposed.at_risk, exposed.survival) == (3.0, 1.0)  # of those who enter within it, half
