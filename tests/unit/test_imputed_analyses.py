"""Analyses on imputed tables: the answer of Rubin's rules written out, and what a reader is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from rwe.analyse.diagnose import diagnose
from rwe.analyse.plan import run_analyses
from rwe.analyse.run_imputed import _pooled
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


def tables_of(estimand: str, values: list[float], se: float, **fields: Any) -> list[Estimate]:
    """What clone-censor-weight would give on each imputed table: 20 deaths in 60 patients."""
    is_ratio = estimand == "hazard_ratio"
    is_one_arm = not is_ratio and not estimand.endswith("_days") and "difference" not in estimand
    base: dict[str, Any] = {
        "analysis": "clone_censor_weight", "estimand": estimand, "effect_type": None, "role": "sensitivity",
        "contrast": {
            "strategy": "on", "reference": None if is_one_arm else "off", "groups": "follows_strategy"
        },
        "site": None, "method": "m", "parameters": {"horizon_days": 100}, "se": se,
        "se_scale": "log" if is_ratio else "natural", "variance_method": "bootstrap", "ci_level": 0.95,
        "ci_low": None, "ci_high": None, "ci_method": "percentiles", "df": None, "p_value": None, "n": 60,
        "events": 20, "n_by_strategy": {}, "events_by_strategy": {}, "status": "ok", "is_biased": False,
        "warnings": [],
    }  # fmt: skip
    log = {"log_estimate": None}
    return [
        Estimate.model_validate(
            base | log | ({"log_estimate": v} if is_ratio else {}) | fields
            | {"estimate": math.exp(v) if is_ratio else v}
        )
        for v in values
    ]  # fmt: skip


def degrees(values: list[float], se: float, complete: float) -> float:
    """Barnard & Rubin 1999, written out."""
    m, between = len(values), np.var(values, ddof=1)
    share = (1 + 1 / m) * between / (se**2 + (1 + 1 / m) * between)
    old, observed = (m - 1) / share**2, (complete + 1) / (complete + 3) * complete * (1 - share)
    return float(1 / (1 / old + 1 / observed))


def test_coefficients_of_the_weights_take_no_degrees_of_freedom() -> None:
    logs = [-0.5, -0.6, -0.4, -0.55]
    weights = [{"name": f"started: c{i}", "estimate": 0.1, "se": None} for i in range(18)]
    weighted = _pooled(tables_of("hazard_ratio", logs, 0.4, coefficients=weights), [])
    assert weighted.df == pytest.approx(degrees(logs, 0.4, 19), rel=1e-12)
    outcome = [{"name": f"c{i}", "estimate": 0.1, "se": 0.2} for i in range(4)]
    adjusted = _pooled(tables_of("hazard_ratio", logs, 0.4, coefficients=outcome), [])
    assert adjusted.df == pytest.approx(degrees(logs, 0.4, 16), rel=1e-12)


def test_the_weights_of_clone_censor_weight_are_such_coefficients() -> None:
    (e,) = [
        e for e in imputed(patchy(), "clone_censor_weight", m=3, replicates=0) if e.estimand == "hazard_ratio"
    ]
    assert e.coefficients
    assert all(c.se is None for c in e.coefficients)


def test_limits_of_a_survival_lie_between_nothing_and_all() -> None:
    values, se = [0.97, 0.975, 0.968, 0.972], 0.025
    alive = _pooled(tables_of("survival", values, se), [])
    mean = np.mean(values)
    total = math.sqrt(se**2 + 1.25 * np.var(values, ddof=1))
    reach = stats.t.ppf(0.975, degrees(values, se, 19)) * total / (mean * abs(math.log(mean)))
    assert mean + stats.norm.ppf(0.975) * total > 1  # what a symmetric interval would say
    assert alive.estimate == pytest.approx(mean, rel=1e-12)
    assert alive.se == pytest.approx(total, rel=1e-12)
    # S to the power exp(reach), as the limits of a Kaplan-Meier curve are written.
    assert alive.ci_low == pytest.approx(mean ** math.exp(reach), rel=1e-9)
    assert alive.ci_high == pytest.approx(mean ** math.exp(-reach), rel=1e-9)
    assert (alive.p_value, alive.df) == (None, None)
    dead = _pooled(tables_of("cumulative_incidence", [1 - v for v in values], se), [])
    assert (dead.ci_low, dead.ci_high) == pytest.approx((1 - alive.ci_high, 1 - alive.ci_low), rel=1e-9)


def test_limits_on_the_natural_scale_are_cut_where_nothing_can_lie() -> None:
    arm = {"contrast": {"strategy": "on", "reference": None, "groups": "follows_strategy"}}
    mean = _pooled(tables_of("rmst_days", [98.0, 99.0, 98.5], 2.0, **arm), [])
    assert mean.ci_high == 100
    assert (mean.p_value, mean.df) == (None, None)
    difference = _pooled(tables_of("survival_difference", [0.9, 0.92, 0.91], 0.2), [])
    assert difference.ci_high == 1
    assert difference.p_value is not None
    inside = _pooled(tables_of("rmst_difference_days", [5.0, 6.0, 5.5], 2.0), [])
    assert inside.ci_method == "t interval by Rubin's rules"
    beyond = _pooled(tables_of("survival", [1.01, 1.02, 1.03], 0.02), [])  # an augmented mean can
    assert beyond.ci_low < beyond.estimate <= beyond.ci_high


def test_what_no_imputed_value_moves_stays_as_it_is() -> None:
    """Gray's test and the incidences are not adjusted: they keep their p values and limits."""
    cohort = patchy()
    plain = run(cohort, {"analysis": "landmark_competing_risks"}, **WITH_STATUS).estimates
    found = imputed(cohort, "landmark_competing_risks", m=2)
    for estimand in ("chi_square", "cumulative_incidence"):
        ours, theirs = ([e for e in some if e.estimand == estimand] for some in (found, plain))
        assert [(e.estimate, e.ci_low, e.p_value) for e in ours] == [
            (e.estimate, e.ci_low, e.p_value) for e in theirs
        ]
        assert all(any("no imputed value moves it" in w for w in e.warnings) for e in ours)
    assert all(e.p_value is not None for e in found if e.estimand == "chi_square")


def test_firths_pooled_interval_is_said_to_be_walds() -> None:
    for analysis, is_warned in (("time_dependent_firth", True), ("time_dependent_cox", False)):
        (e,) = imputed(patchy(), analysis, m=2)
        assert any("(Wald), not by the profile" in w for w in e.warnings) is is_warned


def test_weights_and_balance_are_said_to_be_of_the_first_table() -> None:
    asked = {"analysis": "clone_censor_weight", "adjusted_for": PATCHY, "missing": "impute", "replicates": 0}
    protocol = protocol_with({**asked, "imputations": 3}, **WITH_STATUS)
    said = []
    for cohort in (patchy(), registry()):
        shown = diagnose(protocol, cohort, run_analyses(protocol, cohort))
        assert shown.weights
        told = [n for n in shown.notes if n.startswith("The weights") and "first of 3 imputed tables" in n]
        said.append((len(told), (shown.balance_by or "").endswith("the first of 3 imputed tables")))
    assert said == [(1, True), (0, False)]


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
