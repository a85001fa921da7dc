"""The first of several events: which counts, when follow-up ends, and what becomes of later starts."""

from __future__ import annotations

import numpy as np
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import SurvivalDataError, exposure_split, naive_split
from rwe.survival.first_events import competing_rows, first_events
from tests.unit.test_survival_data import NEVER, table

NONE = float("nan")


def one(days: int, died: bool, start: float = NEVER, **first: float):
    """One patient's end, cause and start after ending follow-up at the first event."""
    found = first_events(table([("p", days, died, start)]), {k: [v] for k, v in first.items()})
    row = found.table.patients.iloc[0]
    cause = found.causes[found.cause[0] - 1] if found.cause[0] else None
    return int(row["time_days"]), cause, float(row["start_day"])


@pytest.mark.parametrize(
    ("rule", "days", "died", "relapse", "expected"),
    [
        ("a relapse before death is the first event", 90, True, 40, (40, "relapse")),
        ("a death without relapse is a death", 90, True, NONE, (90, "death")),
        ("a relapse ends the follow-up of the living", 90, False, 40, (40, "relapse")),
        ("neither: censored at the end", 90, False, NONE, (90, None)),
        ("relapse and death on one day: relapse came first", 90, True, 90, (90, "relapse")),
        ("a relapse on the last day of the living counts", 90, False, 90, (90, "relapse")),
        ("a relapse after the end of follow-up is not seen", 90, False, 91, (90, None)),
        ("a relapse on day 0 ends follow-up there", 90, True, 0, (0, "relapse")),
    ],
)
def test_the_first_event(rule, days, died, relapse, expected):
    assert one(days, died, relapse=relapse)[:2] == expected


def test_of_two_kinds_the_earlier_counts_and_on_one_day_the_one_named_first():
    assert one(90, True, relapse=50, transplant=40)[:2] == (40, "transplant")
    assert one(90, True, relapse=40, transplant=50)[:2] == (40, "relapse")
    assert one(90, True, relapse=40, transplant=40)[:2] == (40, "relapse")
    assert one(90, True, relapse=NONE, transplant=90)[:2] == (90, "transplant")


def test_a_start_after_relapse_is_salvage_and_no_start():
    found = first_events(
        table([("a", 90, True, 60), ("b", 90, True, 40), ("c", 90, True, 30), ("d", 90, True, NEVER)]),
        {"relapse": [40, 40, 40, NONE]},
    )
    np.testing.assert_array_equal(found.table.patients["start_day"], [NONE, 40, 30, NONE])
    assert found.starts_dropped == 1
    assert found.warnings == ("1 patient who starts after the first event counts as never started.",)


def test_without_other_events_nothing_changes():
    rows = table([("a", 90, True, 60), ("b", 70, False, NEVER)])
    found = first_events(rows, {"relapse": [NONE, NONE]})
    assert found.table.patients[["time_days", "is_event"]].equals(rows.patients[["time_days", "is_event"]])
    assert found.warnings == ()


def test_progression_free_survival_is_an_ordinary_cohort_table():
    rows = [(f"p{i}", 50 + 10 * i, i % 2 == 0, 5.0 if i % 3 else NEVER) for i in range(12)]
    events = first_events(table(rows), {"relapse": [20 + i if i % 4 == 0 else NONE for i in range(12)]})
    fit = exposure_cox(exposure_split(events.table))
    assert fit.events == int((events.cause > 0).sum()) == 6


def test_rows_know_the_cause_of_the_event_that_ends_them():
    events = first_events(
        table([("a", 90, True, 30), ("b", 90, True, NEVER), ("c", 90, False, 10)]),
        {"relapse": [40, NONE, NONE]},
        death="non_relapse_death",
    )
    rows = competing_rows(events, exposure_split(events.table))
    # a: (0, 30] unexposed, (30, 40] exposed and relapsed; b died; c: two rows without an event.
    assert rows.cause.tolist() == [0, 1, 2, 0, 0]
    assert rows.of_cause("relapse").event.tolist() == [False, True, False, False, False]
    assert rows.of_cause("non_relapse_death").event.tolist() == [False, False, True, False, False]
    assert competing_rows(events, naive_split(events.table)).cause.tolist() == [1, 2, 0]
    with pytest.raises(SurvivalDataError, match="no cause progression"):
        rows.of_cause("progression")


def test_broken_days_are_refused_with_a_sentence():
    rows = table([("a", 90, True, 30)])
    with pytest.raises(SurvivalDataError, match="not one for each patient"):
        first_events(rows, {"relapse": [1, 2]})
    with pytest.raises(SurvivalDataError, match="not a whole day"):
        first_events(rows, {"relapse": [1.5]})
    with pytest.raises(SurvivalDataError, match="not a whole day"):
        first_events(rows, {"relapse": [-1]})
    with pytest.raises(SurvivalDataError, match="names both"):
        first_events(rows, {"death": [1]})
