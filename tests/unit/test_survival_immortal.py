"""Immortal days are counted as drawn by hand, and as the heart data's published split has them."""

from __future__ import annotations

import pandas as pd

from rwe.survival.data import CohortTable, exposure_split, no_changes
from rwe.survival.immortal import immortal_time, without_immortal_days
from tests.support import shared


def table(*rows: tuple[str, int, bool, float | None]) -> CohortTable:
    names = ["site", "time_days", "is_event", "start_day"]
    patients = pd.DataFrame(rows, columns=names)
    patients["start_day"] = patients["start_day"].astype(float)
    patients.insert(0, "patient_id", [f"p{i}" for i in range(len(rows))])
    return CohortTable(patients=patients, changes=no_changes())


def test_days_before_the_start_of_those_who_start_are_immortal() -> None:
    drawn = table(
        ("north", 100, True, 40),  # 40 immortal days
        ("north", 200, False, 10),  # 10
        ("south", 50, True, None),  # never started: none
        ("south", 30, True, 30),  # a start on the last day moves to 29.5
        ("south", 80, False, 0),  # started at index: none
    )
    found = immortal_time(drawn)
    assert (found.patients, found.days) == (4, 40 + 10 + 29.5)
    assert found.days_by_site == {"north": 50.0, "south": 29.5}
    assert found.patients_by_site == {"north": 2, "south": 2}
    assert found.share == (40 + 10 + 29.5) / (100 + 200 + 30 + 80)
    assert (found.q1, found.median, found.q3) == (7.5, 19.75, 32.125)


def test_where_nobody_starts_nothing_is_immortal() -> None:
    found = immortal_time(table(("north", 100, True, None)))
    assert (found.patients, found.days, found.share, found.median) == (0, 0.0, None, None)


def test_dropping_them_leaves_starters_at_risk_from_their_start_and_keeps_every_event() -> None:
    drawn = table(("n", 100, True, 40), ("n", 50, True, None), ("n", 80, False, 0))
    rows = without_immortal_days(exposure_split(drawn))
    assert list(zip(rows.start, rows.stop, rows.exposed, strict=True)) == [
        (40.0, 100.0, True),
        (0.0, 50.0, False),
        (0.0, 80.0, True),
    ]
    assert (rows.event.sum(), rows.n_patients) == (2, 3)


def test_heart_transplants_waited_for() -> None:
    cohort = pd.read_csv(shared("cases/a_stanford_heart/cohort.csv"))
    waits = cohort[cohort["maint_day"].notna()]
    moved = (waits["maint_day"] == waits["time_days"]).sum() * 0.5
    drawn = table(
        *zip(
            ["stanford"] * len(cohort),
            cohort["time_days"],
            cohort["event"].astype(bool),
            cohort["maint_day"],
            strict=True,
        )
    )
    found = immortal_time(drawn)
    assert found.patients == len(waits) == 69  # the transplants of Crowley and Hu 1977
    assert found.days == waits["maint_day"].sum() - moved
