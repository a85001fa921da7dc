"""`stratify_by: [site]`: sites enter the models of weights and of AIPTW; what has no model refuses it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from pydantic import ValidationError

from rwe.report.names import WEIGHTED as IN_THE_REPORT
from rwe.study import AnalysisName
from rwe.study_words import WEIGHTED, explain
from rwe.survival.aiptw import aiptw_survival
from rwe.survival.data import CohortTable, no_changes
from tests.unit.test_plan import AGE, protocol_with, run
from tests.unit.test_study_words import study_with

HORIZON = 365


def two_sites(n: int = 400, seed: int = 3) -> CohortTable:
    """Site a starts often and lives long, site b neither; starting itself changes nothing."""
    g = np.random.default_rng(seed)
    is_a = np.arange(n) % 3 > 0
    starts = g.random(n) < np.where(is_a, 0.7, 0.25)
    death = g.exponential(np.where(is_a, 900, 250)).astype(int) + 31
    left = g.uniform(200, 1500, n).astype(int)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": np.where(is_a, "a", "b"),
            "time_days": np.minimum(death, left),
            "is_event": death <= left,
            "start_day": np.where(starts, 10.0, np.nan),
            "age": g.normal(60, 8, n),
        }
    )
    return CohortTable(patients, no_changes())


def standardised(table: CohortTable, day: int) -> float:
    """The difference of Kaplan-Meier curves within sites, averaged over all patients, by lifelines."""
    p = table.patients
    total = 0.0
    for site in ("a", "b"):
        at = {}
        for started in (True, False):
            mine = p[(p["site"] == site) & (p["start_day"].notna() == started)]
            curve = KaplanMeierFitter().fit(mine["time_days"] - day, mine["is_event"])
            at[started] = float(curve.predict(HORIZON))
        total += (p["site"] == site).mean() * (at[True] - at[False])
    return total


def test_aiptw_with_sites_is_the_difference_within_sites() -> None:
    table = two_sites()
    within = standardised(table, 30)
    assert abs(within) < 0.1
    crude = aiptw_survival(table, 30, horizons=[HORIZON])[0].difference.estimate
    found = aiptw_survival(table, 30, horizons=[HORIZON], site_indicators=True)[0]
    assert crude is not None
    assert crude > 0.15
    assert found.difference.estimate == pytest.approx(within, abs=0.01)
    assert any("too narrow" in w for w in found.warnings)  # models are fitted, if of sites alone


def test_subsets_of_covariates_keep_the_sites() -> None:
    table = two_sites()
    for which in ("outcome_covariates", "propensity_covariates"):
        found = aiptw_survival(table, 30, ["age"], horizons=[HORIZON], site_indicators=True, **{which: []})
        assert found[0].difference.estimate == pytest.approx(standardised(table, 30), abs=0.03)


def test_a_study_that_asks_for_sites_in_aiptw_gets_them() -> None:
    table = two_sites()
    found = {}
    for sites in ([], ["site"]):
        asked = {
            "analysis": "landmark_aiptw",
            "adjusted_for": ["age"],
            "stratify_by": sites,
            "replicates": 10,
        }
        estimates = run(table, asked, covariates=[AGE], horizons=[HORIZON]).estimates
        (found[bool(sites)],) = [e for e in estimates if e.estimand == "survival_difference"]
    assert found[True].estimate == pytest.approx(standardised(table, 30), abs=0.03)
    assert found[False].estimate is not None
    assert found[False].estimate > 0.15
    assert found[True].parameters.stratified_by == ["site"]


def test_sites_that_tell_who_started_are_seen_by_aiptw() -> None:
    table = two_sites()
    starts = np.where(table.patients["site"] == "a", 10.0, np.nan)
    table = CohortTable(table.patients.assign(start_day=starts), table.changes)
    asked = {"analysis": "landmark_aiptw", "adjusted_for": ["age"], "stratify_by": ["site"], "replicates": 10}
    (refusal,) = run(table, asked, covariates=[AGE], horizons=[HORIZON]).refused
    assert "nobody is left in an arm to be compared" in refusal.reason


@pytest.mark.parametrize("kind", get_args(AnalysisName))
def test_curves_and_restricted_means_take_no_sites(kind: str) -> None:
    """They have no model, so they were the same with sites and said to be stratified."""
    role = "contrast" if kind.startswith("naive_") else "sensitivity"
    asked = {"analysis": kind, "role": role, "stratify_by": ["site"]}
    if kind.endswith(("kaplan_meier", "rmst")) or kind == "simon_makuch":
        with pytest.raises(ValidationError, match=f"{kind} takes no stratify_by: only clone_censor_weight, "):
            protocol_with(asked)
    else:
        assert protocol_with(asked).analyses[0].stratify_by == ["site"]


def test_aiptw_is_weighted_in_the_words_of_a_study_as_in_its_report() -> None:
    assert WEIGHTED is IN_THE_REPORT
    asked = {"analysis": "landmark_aiptw", "adjusted_for": ["age"], "stratify_by": ["site"]}
    said = explain(study_with(asked))["Analyses"][0]
    assert "weighted for age, with site in the weights" in said
