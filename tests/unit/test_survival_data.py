"""Cohort tables become rows at risk: the half-day rules, the cuts, and who is exposed when."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.survival.data import (
    CohortTable,
    CountingProcess,
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    follow_up_days,
    landmark_split,
    naive_split,
    no_changes,
    start_day_split,
)

NEVER = float("nan")


def table(rows: list[tuple], changes: list[tuple] = (), **covariates: list[float]) -> CohortTable:
    """Rows are (patient, days, died, start); changes are (patient, covariate, day, value)."""
    patients = pd.DataFrame(rows, columns=["patient_id", "time_days", "is_event", "start_day"])
    patients.insert(1, "site", "a")
    patients = patients.astype({"start_day": float}).assign(**covariates)
    frame = pd.DataFrame(changes, columns=["patient_id", "covariate", "day", "value"]) if changes else None
    return CohortTable(patients, no_changes() if frame is None else frame)


def drawn(rows: CountingProcess) -> list[tuple]:
    """(start, stop, event, exposed, *covariates) of each row."""
    return [
        (float(a), float(b), bool(e), bool(x), *map(float, z))
        for a, b, e, x, z in zip(rows.start, rows.stop, rows.event, rows.exposed, rows.X, strict=True)
    ]


@pytest.mark.parametrize(
    ("rule", "days", "died", "start", "expected"),
    [
        ("never started", 100, True, NEVER, [(0, 100, True, False)]),
        (
            "unexposed until the end of the start day",
            100,
            True,
            40,
            [(0, 40, False, False), (40, 100, True, True)],
        ),
        ("a start on day 0 exposes all follow-up", 44, True, 0, [(0, 44, True, True)]),
        ("zero follow-up is half a day, dead", 0, True, NEVER, [(0, 0.5, True, False)]),
        ("zero follow-up is half a day, censored", 0, False, NEVER, [(0, 0.5, False, False)]),
        ("start on the day of death", 4, True, 4, [(0, 3.5, False, False), (3.5, 4, True, True)]),
        ("start on the day of censoring", 4, False, 4, [(0, 3.5, False, False), (3.5, 4, False, True)]),
        ("start and death on day 0", 0, True, 0, [(0, 0.5, True, True)]),
        ("start and death on day 1", 1, True, 1, [(0, 0.5, False, False), (0.5, 1, True, True)]),
    ],
)
def test_half_day_rules(rule, days, died, start, expected):
    assert drawn(exposure_split(table([("p", days, died, start)]))) == expected


def test_rows_are_cut_at_changes_and_hold_the_value_known_at_their_start():
    cohort = table(
        [("p", 100, True, 40)],
        [
            ("p", "response", 30, 1),
            ("p", "response", 60, 0),
            ("p", "response", 100, 1),  # on the last day: never at risk with it
            ("p", "response", 120, 1),  # after follow-up
            ("p", "ldh", 10, 5),  # not asked for: no cut
        ],
    )
    assert drawn(exposure_split(cohort, time_varying=["response"])) == [
        (0, 30, False, False, 0),
        (30, 40, False, False, 1),
        (40, 60, False, True, 1),
        (60, 100, True, True, 0),
    ]


def test_values_recorded_on_or_before_index_hold_from_index():
    cohort = table(
        [("p", 10, False, NEVER), ("q", 10, False, NEVER), ("r", 0, True, NEVER)],
        [
            ("p", "response", -20, 0),
            ("p", "response", -3, 1),
            ("q", "response", 0, 1),
            ("r", "response", 0, 1),
        ],
    )
    assert drawn(exposure_split(cohort, time_varying=["response"])) == [
        (0, 10, False, False, 1),
        (0, 10, False, False, 1),
        (0, 0.5, True, False, 1),
    ]


def test_a_change_on_the_start_day_cuts_once():
    cohort = table([("p", 100, True, 40)], [("p", "response", 40, 1)])
    assert drawn(exposure_split(cohort, time_varying=["response"])) == [
        (0, 40, False, False, 0),
        (40, 100, True, True, 1),
    ]


def test_landmark_keeps_those_followed_longer_and_restarts_the_clock():
    cohort = table(
        [
            ("early death", 30, True, NEVER),
            ("at risk", 31, True, NEVER),
            ("started before", 90, False, 10),
            ("started on it", 90, True, 30),
            ("later starter", 90, True, 31),
        ],
        [("at risk", "response", 30, 1), ("later starter", "response", 31, 1)],
    )
    assert drawn(landmark_split(cohort, 30, time_varying=["response"])) == [
        (0, 1, True, False, 1),
        (0, 60, False, True, 0),
        (0, 60, True, True, 0),
        (0, 60, True, False, 0),
    ]


def test_each_start_is_compared_with_those_not_yet_started_and_the_status_of_that_day_stays():
    cohort = table(
        [
            ("early", 90, True, 10),
            ("late", 80, False, 40),
            ("dead before", 9, True, NEVER),
            ("never", 60, True, NEVER),
            ("last day", 50, True, 50),
        ],
        [
            ("early", "progressed", 30, 1),  # after his start: not adjusted for
            ("late", "progressed", 20, 1),
            ("never", "progressed", 10, 1),  # on the day of the first start: known then
        ],
    )
    rows = start_day_split(cohort, time_varying=["progressed"])
    assert [
        (int(t), cohort.patients["patient_id"][i], *row)
        for t, i, row in zip(rows.trial, rows.patient, drawn(rows), strict=True)
    ] == [
        (0, "early", 10, 90, True, True, 0),
        (0, "late", 10, 80, False, False, 0),
        (0, "never", 10, 60, True, False, 1),
        (0, "last day", 10, 50, True, False, 0),
        (1, "late", 40, 80, False, True, 1),
        (1, "never", 40, 60, True, False, 1),
        (1, "last day", 40, 50, True, False, 0),
        (2, "never", 49.5, 60, True, False, 1),
        (2, "last day", 49.5, 50, True, True, 0),
    ]


def test_a_patient_of_several_comparisons_is_one_patient_and_one_event():
    cohort = table([("p", 90, True, 10), ("q", 80, True, 40), ("r", 70, True, NEVER)])
    counts = start_day_split(cohort).counts()
    assert (counts.patients_exposed, counts.patients_unexposed) == (2, 1)
    assert (counts.events_exposed, counts.events_unexposed) == (2, 1)


def test_where_nobody_has_all_covariates_the_covariates_are_named_and_counted():
    ages, ecogs = [50.0, NEVER, NEVER], [NEVER, 1.0, NEVER]
    cohort = table([("p", 5, True, 2), ("q", 9, True, 3), ("r", 40, False, NEVER)], age=ages, ecog=ecogs)
    with pytest.raises(NotEstimableError, match=r"age missing in 2, ecog missing in 2, of 3"):
        exposure_split(cohort, ["age", "ecog"]).require_patients()
    with pytest.raises(NotEstimableError, match="nobody is at risk"):
        landmark_split(cohort, 50).require_patients()


def test_a_group_nobody_is_in_is_told_with_its_count():
    nobody = table([("p", 5, True, NEVER), ("q", 9, True, NEVER)])
    with pytest.raises(NotEstimableError, match=r"nobody started \(0 of 2\)"):
        exposure_split(nobody).require_both_groups()
    everybody = table([("p", 5, True, 0), ("q", 9, True, 0)])
    with pytest.raises(NotEstimableError, match=r"everybody had started \(2 of 2\)"):
        exposure_split(everybody).require_both_groups()


def test_naive_groups_count_the_time_before_the_start_as_exposed():
    cohort = table([("p", 100, True, 40), ("q", 0, True, NEVER)])
    assert drawn(naive_split(cohort)) == [(0, 100, True, True), (0, 0.5, True, False)]
    assert naive_split(cohort).counts().person_days_exposed == 100
    assert exposure_split(cohort).counts().person_days_exposed == 60


def test_patients_without_a_covariate_are_left_out_and_counted():
    cohort = table(
        [("p", 5, True, 2), ("q", 9, True, 3), ("r", 40, False, NEVER)],
        age=[50.0, NEVER, 61.0],
        ecog=[1.0, 1.0, 2.0],
    )
    rows = exposure_split(cohort, ["age", "ecog"])
    assert (rows.n_patients, rows.n_dropped, rows.missing) == (2, 1, (("age", 1),))
    assert rows.warnings() == ("1 patient was left out because a covariate is missing (age).",)
    assert exposure_split(cohort, ["ecog"]).n_dropped == 0
    # At the landmark the incomplete patient is gone already.
    assert landmark_split(cohort, 30, ["age"]).n_dropped == 0


def test_restricting_to_a_site_takes_its_changes_along():
    patients = pd.DataFrame(
        {
            "patient_id": ["p", "q"],
            "site": ["a", "b"],
            "time_days": [9, 9],
            "is_event": [True, False],
            "start_day": [NEVER, NEVER],
        }
    )
    changes = pd.DataFrame(
        {"patient_id": ["p", "q"], "covariate": ["r", "r"], "day": [3, 5], "value": [1.0, 1.0]}
    )
    only = CohortTable(patients, changes).restrict("b")
    assert len(only) == 1
    assert drawn(exposure_split(only, time_varying=["r"])) == [
        (0, 5, False, False, 0),
        (5, 9, False, False, 1),
    ]


def test_a_cohort_without_patients_gives_no_rows():
    empty = table([("p", 1, True, NEVER)]).restrict("elsewhere")
    for rows in (exposure_split(empty, time_varying=["r"]), naive_split(empty), landmark_split(empty, 30)):
        assert (len(rows), rows.n_patients) == (0, 0)


patient = st.tuples(
    st.integers(0, 12),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 1)),
    st.dictionaries(st.integers(-3, 14), st.sampled_from([0.0, 1.0, 2.0]), max_size=4),
)


@settings(deadline=None)
@given(st.lists(patient, min_size=1, max_size=6))
def test_splitting_loses_no_day_and_no_event_and_every_row_has_the_value_of_its_time(drawn_patients):
    rows, changes = [], []
    for i, (days, died, share, history) in enumerate(drawn_patients):
        start = NEVER if share is None else float(round(share * days))
        rows.append((f"p{i}", days, died, start))
        changes += [(f"p{i}", "x", day, value) for day, value in history.items()]
    cohort = table(rows, changes)
    split = exposure_split(cohort, time_varying=["x"])
    assert np.bincount(split.patient, split.stop - split.start).tolist() == follow_up_days(cohort).tolist()
    assert np.bincount(split.patient, split.event).tolist() == [float(r[2]) for r in rows]
    for start, stop, event, exposed, i, x in zip(
        split.start, split.stop, split.event, split.exposed, split.patient, split.X[:, 0], strict=True
    ):
        _, days, _, began = rows[i]
        history = drawn_patients[i][3]
        known = [day for day in history if day <= start]
        assert x == (history[max(known)] if known else 0)
        assert not any(start < day < stop for day in history)
        assert not event or stop == max(days, 0.5)
        moved = max(began - 0.5, 0) if began == days else began
        assert exposed == (start >= moved)  # NaN: never
        assert not start < moved < stop


def valid() -> pd.DataFrame:
    return table([("p", 10, True, 3.0), ("q", 5, False, NEVER)]).patients


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("time_days", -1, "time_days is not a whole day"),
        ("time_days", 2.5, "time_days is not a whole day"),
        ("time_days", NEVER, "time_days is missing"),
        ("time_days", 1, "start_day is after the end of follow-up"),
        ("start_day", -2, "start_day is before index"),
        ("start_day", 1.5, "start_day is not a whole day"),
        ("patient_id", "q", "patient_id repeats"),
        ("site", None, "site is missing"),
        ("is_event", 2, "is_event is neither true nor false"),
    ],
)
def test_a_broken_patient_row_is_refused_without_naming_the_patient(column, value, sentence):
    broken = valid().astype({column: object})
    broken.loc[0, column] = value
    with pytest.raises(SurvivalDataError, match=sentence) as refusal:
        CohortTable(broken, no_changes())
    assert "1 of the rows" in str(refusal.value)


def test_a_missing_column_is_named():
    with pytest.raises(SurvivalDataError, match="start_day is missing"):
        CohortTable(valid().drop(columns="start_day"), no_changes())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("stranger", "x", 1, 1.0), "not in the cohort"),
        (("p", "x", 1.5, 1.0), "day is not a whole day"),
        (("p", "x", 1, NEVER), "value is missing"),
    ],
)
def test_a_broken_change_is_refused(change, sentence):
    with pytest.raises(SurvivalDataError, match=sentence):
        table([("p", 10, True, 3.0)], [change])


def test_two_values_on_one_day_are_refused():
    with pytest.raises(SurvivalDataError, match="two values on one day"):
        table([("p", 10, True, 3.0)], [("p", "x", 1, 0.0), ("p", "x", 1, 1.0)])


def test_unknown_infinite_repeated_and_textual_covariates_are_named():
    cohort = table([("p", 10, True, 3.0)], age=[float("inf")], group=["old"])
    with pytest.raises(SurvivalDataError, match="no baseline covariate weight"):
        exposure_split(cohort, ["weight"])
    with pytest.raises(SurvivalDataError, match="age holds 1 infinite"):
        exposure_split(cohort, ["age"])
    with pytest.raises(SurvivalDataError, match="asked for twice"):
        exposure_split(cohort, ["age"], ["age"])
    with pytest.raises(SurvivalDataError, match="not numeric"):
        exposure_split(cohort, ["group"])
    with pytest.raises(SurvivalDataError, match="landmark day -1"):
        landmark_split(cohort, -1)


def test_nullable_integers_and_decimals_as_a_database_gives_them_are_read():
    patients = table([("p", 10, True, 3.0), ("q", 5, False, NEVER)]).patients
    patients = patients.astype({"start_day": "Int64", "time_days": "Int32"})
    patients["age"] = [Decimal("61.5"), None]
    rows = exposure_split(CohortTable(patients, no_changes()), ["age"])
    assert drawn(rows) == [(0, 3, False, False, 61.5), (3, 10, True, True, 61.5)]
    assert rows.n_dropped == 1
    assert naive_split(CohortTable(patients, no_changes())).counts().patients_exposed == 1
