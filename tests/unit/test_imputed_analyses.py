"""Analyses on imputed tables: the answer of Rubin's rules written out, and what a reader is told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from rwe.evidence.contract import Estimate
from rwe.study import Analysis
from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, exposure_split
from rwe.survival.imputation import impute_baseline
from tests.unit.test_plan import ADJUSTED, WITH_STATUS, protocol_with, registry, run

PATCHY = ADJUSTED[:3]


def patchy(share: float = 0.3) -> CohortTable:
    """The registry with the LDH of a share of the patients, and the ECOG of a few, unknown."""
    cohort = registry()
    g = np.random.default_rng(5)
    n = len(cohort)
    ldh = cohort.patients["log_ldh"].where(g.random(n) >= share)
    ecog = cohort.patients["ecog"].where(g.random(n) >= 0.05)
    return CohortTable(cohort.patients.assign(log_ldh=ldh, ecog=ecog), cohort.changes)


def imputed(cohort: CohortTable, analysis: str, m: int = 5, **asked: object) -> list[Estimate]:
    wanted = {"analysis": analysis, "adjusted_for": PATCHY, "missing": "impute", "imputations": m, **asked}
    found = run(cohort, wanted, **WITH_STATUS)
    assert not found.refused
    return found.estimates


def test_the_pooled_ratio_is_rubins() -> None:
    cohort = patchy()
    (e,) = imputed(cohort, "time_dependent_cox")
    # Written out: the mean of the log ratios, and the variances within and between them.
    tables = impute_baseline(cohort, PATCHY, m=5, seed=protocol_with({"analysis": "mantel_byar"}).seed).tables
    ratios = [exposure_cox(exposure_split(t, PATCHY)).hazard_ratio() for t in tables]
    logs, errors = [r.log_estimate for r in ratios], [r.se for r in ratios]
    within, between = np.mean(np.square(errors)), np.var(logs, ddof=1)
    assert between > 0
    assert e.log_estimate == pytest.approx(np.mean(logs), rel=1e-12)
    assert e.se == pytest.approx(math.sqrt(within + 1.2 * between), rel=1e-12)
    assert e.parameters.imputations == 5
    assert e.n == len(cohort)  # nobody was left out
    assert e.ci_low < e.estimate < e.ci_high


def test_it_says_how_many_values_were_imputed() -> None:
    cohort = patchy()
    ldh, ecog = (int(cohort.patients[name].isna().sum()) for name in ("log_ldh", "ecog"))
    (e,) = imputed(cohort, "time_dependent_cox")
    incomplete = int(cohort.patients[["log_ldh", "ecog"]].isna().any(axis=1).sum())
    which = f"(ecog {ecog}, log_ldh {ldh})"
    told = f"{ldh + ecog} missing values {which} of {incomplete} of {len(cohort)} patients"
    assert any(w.startswith(told) for w in e.warnings)
    assert any("5 imputations are fewer than that" in w for w in e.warnings)


def test_complete_cases_stay_the_default() -> None:
    cohort = patchy()
    found = run(cohort, {"analysis": "time_dependent_cox", "adjusted_for": PATCHY}, **WITH_STATUS)
    (e,) = found.estimates
    complete = int(cohort.patients[PATCHY].notna().all(axis=1).sum())
    assert (e.n, e.parameters.imputations) == (complete, None)


def test_the_same_seed_gives_the_same_numbers() -> None:
    cohort = patchy()
    one, two = (imputed(cohort, "time_dependent_cox", m=3) for _ in range(2))
    assert one == two


def test_where_nothing_is_missing_the_analysis_is_as_it_was() -> None:
    cohort = registry()
    (e,) = imputed(cohort, "time_dependent_cox")
    asked = {"analysis": "time_dependent_cox", "adjusted_for": PATCHY}
    (plain,) = run(cohort, asked, **WITH_STATUS).estimates
    assert (e.estimate, e.se, e.parameters.imputations) == (plain.estimate, plain.se, None)
    assert "No baseline covariate is missing, so nothing was imputed." in e.warnings


@pytest.mark.parametrize(
    ("analysis", "asked"),
    [
        ("clone_censor_weight", {"replicates": 10}),
        ("clone_censor_weight", {"replicates": 0}),
        ("landmark_weighting", {"replicates": 10}),
        ("landmark_aiptw", {"replicates": 10}),
        ("landmark_cox", {}),
        ("landmark_firth", {}),
        ("landmark_competing_risks", {}),
        ("sequential_trials", {}),
        ("time_dependent_firth", {}),
        ("marginal_structural_model", {"salvage": "counts_as_start"}),
    ],
)
def test_every_model_is_pooled(analysis: str, asked: dict[str, object]) -> None:
    found = imputed(patchy(), analysis, m=2, **asked)
    assert found
    for e in found:
        assert e.status == "ok"
        assert e.estimate is not None
        assert e.parameters.imputations == 2
        assert e.ci_low is None or e.ci_low <= e.estimate <= e.ci_high


def test_a_covariate_missing_in_all_is_refused_not_made_up() -> None:
    cohort = registry()
    empty = CohortTable(cohort.patients.assign(log_ldh=np.nan), cohort.changes)
    asked = {"analysis": "time_dependent_cox", "adjusted_for": PATCHY, "missing": "impute"}
    (refusal,) = run(empty, asked, **WITH_STATUS).refused
    assert "log_ldh is missing in all patients" in refusal.reason


def test_the_options_do_not_change_the_hash_of_a_protocol_without_them() -> None:
    plain = Analysis(analysis="time_dependent_cox", adjusted_for=["age"])
    assert {"missing", "imputations"} <= plain.later_options()
    with pytest.raises(ValidationError, match="takes no missing"):
        Analysis(analysis="mantel_byar", missing="impute")
    with pytest.raises(ValidationError, match="nothing to impute"):
        Analysis(analysis="time_dependent_cox", missing="impute")
