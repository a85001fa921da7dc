"""Tiny, tied, empty and one-sided cohorts: every estimator gives a defined result or a typed error.

A sentence instead of a traceback, and no infinite or undefined number where a result says there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.survival.competing import exposure_incidence, incidence_at
from rwe.survival.data import (
    CohortTable,
    NotEstimableError,
    exposure_split,
    landmark_split,
    naive_split,
)
from rwe.survival.fine_gray import fine_gray
from rwe.survival.first_events import competing_rows, first_events
from rwe.survival.firth import exposure_firth
from rwe.survival.gray import exposure_gray
from rwe.survival.imputation import impute_baseline
from rwe.survival.permutation import exposure_permutation
from rwe.survival.proportional_hazards import exposure_proportional_hazards
from rwe.survival.rmst import exposure_rmst
from rwe.survival.sensitivity import lost_deaths_tipping_point
from rwe.survival.subgroups import subgroup_effects
from tests.unit.test_survival_data import NEVER, table

patient = st.tuples(
    st.integers(0, 6),  # days, zero among them
    st.booleans(),  # died
    st.one_of(st.none(), st.integers(0, 6)),  # start
    st.one_of(st.none(), st.integers(0, 6)),  # relapse
    st.sampled_from([1.0, 2.0, math.nan]),  # a covariate, often constant or missing
)
cohorts = st.lists(patient, min_size=1, max_size=9)


def drawn(rows: list[tuple]) -> tuple[CohortTable, list[float]]:
    patients = [
        (f"p{i}", days, died, NEVER if start is None or start > days else float(start))
        for i, (days, died, start, _, _) in enumerate(rows)
    ]
    relapse = [math.nan if r[3] is None else float(r[3]) for r in rows]
    return table(patients, x=[r[4] for r in rows]), relapse


def firth(cohort: CohortTable) -> None:
    for split in (naive_split, exposure_split):
        found = exposure_firth(split(cohort, ["x"])).hazard_ratio()
        assert math.isfinite(found.log_estimate)
        assert found.se > 0
        assert found.ci_low is None or 0 <= found.ci_low <= found.estimate
        assert found.ci_high is None or found.estimate <= found.ci_high
        assert found.p_value is not None
        assert 0 <= found.p_value <= 1


def permutation(cohort: CohortTable) -> None:
    found = exposure_permutation(landmark_split(cohort, 1))
    assert 0 < found.p_value <= 1


def restricted_mean(cohort: CohortTable) -> None:
    found = exposure_rmst(naive_split(cohort), 3)
    for arm in (found.exposed, found.unexposed):
        assert 0 < arm.estimate <= 3
        assert arm.se is None or 0 < arm.se < 3
        assert arm.lower_bound is None or 0 < arm.lower_bound <= 3


def zph(cohort: CohortTable) -> None:
    found = exposure_proportional_hazards(exposure_split(cohort))
    assert found.test().chi_square >= 0
    assert np.isfinite(found.residuals.scaled).all()


def subgroups(cohort: CohortTable) -> None:
    found = subgroup_effects(naive_split(cohort), cohort.patients["x"], name="x")
    assert found.interaction.p_value is None or 0 <= found.interaction.p_value <= 1


def tipping(cohort: CohortTable) -> None:
    found = lost_deaths_tipping_point(naive_split(cohort))
    assert found.deaths is None or 0 <= found.deaths <= found.censored


def imputation(cohort: CohortTable) -> None:
    for completed in impute_baseline(cohort, ["x"], m=2, iterations=1).tables:
        assert completed.patients["x"].isin([1.0, 2.0]).all()


def refused_with_a_sentence(refusal: NotEstimableError) -> None:
    assert str(refusal).endswith(".")
    assert not str(refusal).endswith("..")
    assert "nan" not in str(refusal)


ESTIMATORS = (firth, permutation, restricted_mean, zph, subgroups, tipping, imputation)


@pytest.mark.filterwarnings("error")  # no 0/0 that numpy would whisper about
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda f: f.__name__)
@settings(max_examples=40, deadline=None)
@given(cohorts)
def test_a_defined_result_or_a_sentence(estimator: Callable[[CohortTable], None], rows: list[tuple]):
    try:
        estimator(drawn(rows)[0])
    except NotEstimableError as refusal:
        refused_with_a_sentence(refusal)


@pytest.mark.filterwarnings("error")
@settings(max_examples=40, deadline=None)
@given(cohorts)
def test_a_defined_incidence_or_a_sentence(rows: list[tuple]):
    cohort, relapse = drawn(rows)
    events = first_events(cohort, {"relapse": relapse})
    try:
        found = exposure_incidence(competing_rows(events, naive_split(events.table)))
    except NotEstimableError as refusal:
        refused_with_a_sentence(refusal)
        return
    for curve in (*found.exposed, *found.unexposed):
        at = incidence_at(curve, [3])[0]
        assert (at.incidence is None) == (curve.n_patients == 0)
        assert at.incidence is None or 0 <= at.incidence <= 1 + 1e-12


@pytest.mark.filterwarnings("error")
@settings(max_examples=40, deadline=None)
@given(cohorts)
def test_a_defined_gray_test_or_a_sentence(rows: list[tuple]):
    cohort, relapse = drawn(rows)
    events = first_events(cohort, {"relapse": relapse})
    try:
        found = exposure_gray(competing_rows(events, naive_split(events.table)), "relapse")
    except NotEstimableError as refusal:
        refused_with_a_sentence(refusal)
        return
    assert found.chi_square >= 0
    assert 0 <= found.p_value <= 1


@pytest.mark.filterwarnings("error")
@settings(max_examples=40, deadline=None)
@given(cohorts)
def test_a_defined_subdistribution_hazard_ratio_or_a_sentence(rows: list[tuple]):
    cohort, relapse = drawn(rows)
    events = first_events(cohort, {"relapse": relapse})
    try:
        found = fine_gray(competing_rows(events, naive_split(events.table)), "relapse").hazard_ratio()
    except NotEstimableError as refusal:
        refused_with_a_sentence(refusal)
        return
    assert found.estimate is None or (found.estimate > 0 and found.se is not None and found.se >= 0)
