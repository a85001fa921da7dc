"""Measured covariates over time in the rows of the estimators: as at index, as known at a landmark, as they
change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import (
    CohortTable,
    SurvivalDataError,
    exposure_split,
    landmark_split,
    naive_split,
    start_day_split,
)
from rwe.survival.landmark import landmark_cox
from rwe.survival.msm import marginal_structural_cox
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_data import NEVER, drawn, table

PEOPLE = [(name, 100, True, NEVER) for name in ("a", "b", "c", "d", "e", "f")] + [("gone", 20, True, NEVER)]
LATER = [
    ("a", "ldh", 30, 5.0),  # on the landmark
    ("b", "ldh", 31, 6.0),  # a day late
    ("c", "ldh", 10, 7.0),
    ("c", "ldh", 29, 8.0),
    ("d", "ldh", 30, 9.0),  # unknown before
    ("e", "ldh", 31, 9.0),  # known too late
]
AT_INDEX = [1.0, 2.0, 3.0, NEVER, NEVER, 4.0, NEVER]


def test_from_a_landmark_on_a_covariate_is_the_last_value_on_or_before_it_else_that_at_index() -> None:
    rows = landmark_split(table(PEOPLE, LATER, ldh=AT_INDEX), 30, [], ["ldh"])
    assert dict(zip("abcdf", rows.X[:, 0], strict=True)) == {"a": 5, "b": 2, "c": 8, "d": 9, "f": 4}
    assert (rows.n_dropped, rows.missing) == (1, (("ldh", 1),))  # e; whoever is gone is not counted


def test_before_its_first_change_a_covariate_is_as_at_index_and_who_has_none_there_is_left_out() -> None:
    rows = exposure_split(table(PEOPLE, LATER, ldh=AT_INDEX), [], ["ldh"])
    of_c = rows.patient == 2
    assert [(b, x) for b, x in zip(rows.start[of_c], rows.X[of_c, 0], strict=True)] == [
        (0, 3),
        (10, 7),
        (29, 8),
    ]
    assert (rows.n_patients, rows.n_dropped, rows.missing) == (4, 3, (("ldh", 3),))


def test_at_a_start_both_groups_have_the_value_of_that_day() -> None:
    people = [("a", 100, True, 30), ("b", 100, True, NEVER), ("c", 100, True, NEVER)]
    rows = start_day_split(table(people, LATER[:4], ldh=AT_INDEX[:3]), [], ["ldh"])
    assert rows.X[:, 0].tolist() == [5, 2, 8]


def test_ever_against_never_takes_the_value_at_index() -> None:
    people = [("a", 100, True, 30), ("b", 100, True, NEVER), ("c", 100, True, NEVER)]
    assert naive_split(table(people, LATER[:4], ldh=AT_INDEX[:3]), [], ["ldh"]).X[:, 0].tolist() == [1, 2, 3]


def test_an_infinite_value_at_index_is_refused_of_what_changes_as_of_what_does_not() -> None:
    with pytest.raises(SurvivalDataError, match="infinite"):
        exposure_split(table(PEOPLE, LATER, ldh=[float("inf"), *AT_INDEX[1:]]), [], ["ldh"])


def followed(n: int = 400, seed: int = 7) -> CohortTable:
    """Patients whose marker wanders every 20 days: it decides who starts and who dies until the next."""
    random = np.random.default_rng(seed)
    people, changes, at_index = [], [], []
    for i in range(n):
        marker, start, died, day = float(random.normal()), NEVER, False, 0
        at_index.append(round(marker, 3))
        while day < 400 and not died:
            if np.isnan(start) and day and random.random() < 0.06 * np.exp(0.9 * marker):
                start = day + 3  # what is measured on a day is known on the next
            hazard = 0.05 * np.exp(0.9 * marker)
            died = bool(random.random() < hazard)
            day += 20
            if not died:
                marker = 0.8 * marker + 0.6 * float(random.normal())
                changes.append((f"p{i}", "marker", day, round(marker, 3)))
        # Deaths lie between two measurements, so none falls on the day of a change.
        people.append((f"p{i}", day - 7 if died else day, died, start))
    kept = {name: end for name, end, *_ in people}
    return table(people, [c for c in changes if c[2] < kept[c[0]]], marker=at_index)


def test_a_landmark_model_agrees_with_r_on_values_carried_forward(tmp_path: Path) -> None:
    cohort = followed()
    long = cohort.changes[cohort.changes["day"] <= 90].sort_values("day")
    last = cohort.patients["patient_id"].map(long.groupby("patient_id")["value"].last())
    d = cohort.patients.assign(then=last.fillna(cohort.patients["marker"]))
    expected = in_r(
        "d <- d[d$time_days > 90, ]; d$x <- as.numeric(!is.na(d$start_day) & d$start_day <= 90);"
        "f <- coxph(Surv(time_days - 90, is_event == 'True') ~ x + then, d);"
        "list(b = coef(f), se = sqrt(diag(vcov(f))))",
        d,
        tmp_path,
    )
    fit = landmark_cox(cohort, 90, [], ["marker"])
    assert list(fit.coefficients) == pytest.approx(expected["b"], abs=1e-6)
    assert list(fit.se) == pytest.approx(expected["se"], abs=1e-6)
    at_index = landmark_cox(cohort, 90, ["marker"])
    assert abs(at_index.coefficients[1] - expected["b"][1]) > 0.1


def test_a_time_dependent_model_agrees_with_rs_tmerge(tmp_path: Path) -> None:
    cohort = followed()
    rows = pd.concat(
        [
            cohort.patients.assign(day=0, value=cohort.patients["marker"]),
            cohort.changes.merge(cohort.patients, on="patient_id"),
        ]
    )
    expected = in_r(
        "p <- d[d$day == 0, ]; p$died <- as.numeric(p$is_event == 'True');"
        "m <- tmerge(p[, c('patient_id', 'time_days')], p, id = patient_id, death = event(time_days, died),"
        "  x = tdc(start_day));"
        "m <- tmerge(m, d, id = patient_id, marker = tdc(day, value));"
        "f <- coxph(Surv(tstart, tstop, death) ~ x + marker, m);"
        "list(b = coef(f), se = sqrt(diag(vcov(f))))",
        rows,
        tmp_path,
    )
    fit = exposure_cox(exposure_split(cohort, [], ["marker"]))
    assert list(fit.coefficients) == pytest.approx(expected["b"], abs=1e-6)
    assert list(fit.se) == pytest.approx(expected["se"], abs=1e-6)


def test_a_structural_model_weighs_for_what_changes_where_nothing_has_an_effect() -> None:
    """The marker draws starts and deaths alike. Crude, the start looks harmful; weighted, it does nothing."""
    cohort = followed(3000, seed=11)
    crude = marginal_structural_cox(cohort).hazard_ratio
    weighted = marginal_structural_cox(cohort, [], ["marker"]).hazard_ratio
    at_index = marginal_structural_cox(cohort, ["marker"]).hazard_ratio
    lowest = [effect.ci_low or 0.0 for effect in (crude, at_index, weighted)]
    assert lowest[0] > 1.2
    assert lowest[1] > 1.05
    assert lowest[2] < 1 < (weighted.ci_high or 0.0)


def test_a_value_at_index_says_the_same_as_a_change_on_day_0() -> None:
    cohort = followed()
    at_index = pd.DataFrame(
        {
            "patient_id": cohort.patients["patient_id"],
            "covariate": "marker",
            "day": 0,
            "value": cohort.patients["marker"],
        }
    )
    as_change = CohortTable(
        cohort.patients.drop(columns="marker"), pd.concat([cohort.changes, at_index], ignore_index=True)
    )
    for split in (exposure_split, start_day_split):
        assert drawn(split(cohort, [], ["marker"])) == drawn(split(as_change, [], ["marker"]))
    assert drawn(landmark_split(cohort, 90, [], ["marker"])) == drawn(
        landmark_split(as_change, 90, [], ["marker"])
    )
