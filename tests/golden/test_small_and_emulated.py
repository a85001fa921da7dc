"""Known answers of clone-censor-weight and of the methods for tiny cohorts, through the whole way.

The figures come from R (survival, survivalCCW, coxphf, coin, survRM2); see ../shared/cases/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rwe.evidence.contract import Estimate, Evidence
from tests.golden.test_whole_way import CASES, expected, same_cox, whole_way
from tests.support import shared

SURVIVAL, CCW_LOG_HR, FIRTH, RMST, ESTIMATED_WEIGHTS_SE = 1e-6, 1e-5, 1e-4, 1e-6, 1e-3
COVARIATES = ("age", "sex", "perf", "stage", "deprivation", "charlson", "emergency")


def only(evidence: Evidence, analysis: str, estimand: str, **asked: Any) -> Estimate:
    """The one estimate with these parameters; `strategy` None: the contrast."""
    strategy = asked.pop("strategy", None)
    found = [
        e
        for e in evidence.estimates
        if (e.analysis, e.estimand, e.site) == (analysis, estimand, None)
        and all(getattr(e.parameters, name) == value for name, value in asked.items())
        and (e.contrast.reference is not None if strategy is None else e.contrast.strategy == strategy)
    ]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def toy_registry(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    case = shared("cases/f_maringe_ccw")
    return whole_way(tmp_path_factory.mktemp("f"), case, "maringe_ccw", ["site1"])


@pytest.fixture(scope="module")
def r_toy() -> dict[str, Any]:
    text = (shared("cases/f_maringe_ccw") / "expected_wholeday.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@pytest.mark.parametrize("model", ["cox", "logistic"])
def test_clone_censor_weight(toy_registry: Evidence, r_toy: dict[str, Any], model: str) -> None:
    r = r_toy["own_ccw_cox" if model == "cox" else "own_ccw_logit"]
    asked = {"weight_model": model}
    for day, s0, s1, diff in zip(r["times"], r["S0"], r["S1"], r["diff"], strict=True):
        at = asked | {"time_days": day}
        find = lambda estimand, strategy=None, at=at: only(  # noqa: E731
            toy_registry, "clone_censor_weight", estimand, strategy=strategy, **at
        )
        assert find("survival", "no_surgery").estimate == pytest.approx(s0, abs=SURVIVAL)
        assert find("survival", "surgery").estimate == pytest.approx(s1, abs=SURVIVAL)
        assert find("survival_difference").estimate == pytest.approx(diff, abs=SURVIVAL)
    mean = only(toy_registry, "clone_censor_weight", "rmst_difference_days", **asked)
    assert mean.estimate == pytest.approx(r["rmst_diff"], abs=1e-4)
    for strategy, key in (("no_surgery", "rmst0"), ("surgery", "rmst1")):
        arm = only(toy_registry, "clone_censor_weight", "rmst_days", strategy=strategy, **asked)
        assert arm.estimate == pytest.approx(r[key], abs=1e-4)
    hr = only(toy_registry, "clone_censor_weight", "hazard_ratio", **asked)
    assert hr.log_estimate == pytest.approx(r["log_hr"], abs=CCW_LOG_HR)
    assert hr.se == pytest.approx(r["robust_se"], abs=ESTIMATED_WEIGHTS_SE)
    assert hr.n == r_toy["n"]  # patients, not clones
    assert hr.effect_type == "marginal"
    assert not hr.is_biased


def test_the_weights_of_the_primary_analysis(toy_registry: Evidence, r_toy: dict[str, Any]) -> None:
    assert toy_registry.diagnostics is not None
    weights = {w.strategy: w for w in toy_registry.diagnostics.weights}
    r = r_toy["own_ccw_cox"]
    assert max(w.maximum or 0 for w in weights.values()) == pytest.approx(r["max_weight"], abs=CCW_LOG_HR)
    means = [weights[s].mean for s in ("no_surgery", "surgery")]
    assert means == pytest.approx(r["mean_weight"], abs=SURVIVAL)


def test_the_toy_registry_without_weights(toy_registry: Evidence, r_toy: dict[str, Any]) -> None:
    same_cox(only(toy_registry, "naive_cox", "hazard_ratio"), r_toy["naive"])
    same_cox(
        only(toy_registry, "time_dependent_cox", "hazard_ratio", adjusted_for=[]), r_toy["td_unadjusted"]
    )
    adjusted = only(toy_registry, "time_dependent_cox", "hazard_ratio", adjusted_for=list(COVARIATES))
    same_cox(adjusted, r_toy["td_adjusted"])


@pytest.fixture(scope="module", params=[("v1", "d_tiny_7v9"), ("v2", "d_tiny_7v9/v2")], ids=["v1", "v2"])
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evidence, dict[str, Any], str]:
    version, folder = request.param
    evidence = whole_way(tmp_path_factory.mktemp(version), Path(CASES / folder), "tiny_7v9", ["site1"])
    return evidence, expected("d_tiny_7v9")[version], version


def same_firth(e: Estimate, r: dict[str, Any]) -> None:
    assert e.log_estimate == pytest.approx(r["log_hr"], abs=FIRTH)
    assert e.se == pytest.approx(r["se"], abs=FIRTH)
    assert e.ci_low == pytest.approx(r["pl_lo"], rel=FIRTH)
    assert e.ci_high == pytest.approx(r["pl_hi"], rel=FIRTH)
    assert e.p_value == pytest.approx(r["plr_p"], abs=FIRTH)
    assert e.ci_method == "profile penalised likelihood"


def test_firth(tiny: tuple[Evidence, dict[str, Any], str]) -> None:
    evidence, r, _ = tiny
    same_firth(only(evidence, "naive_firth", "hazard_ratio", adjusted_for=[]), r["firth_naive_coxphf"])
    same_firth(
        only(evidence, "naive_firth", "hazard_ratio", adjusted_for=["age"]), r["firth_naive_age_coxphf"]
    )
    same_firth(only(evidence, "time_dependent_firth", "hazard_ratio"), r["firth_td_coxphf"])
    for day in (30, 60, 90):
        same_firth(
            only(evidence, "landmark_firth", "hazard_ratio", landmark_day=day),
            r[f"landmark{day}"]["firth_coxphf"],
        )


def test_exact_permutation(tiny: tuple[Evidence, dict[str, Any], str]) -> None:
    evidence, r, _ = tiny
    naive = only(evidence, "naive_permutation", "p_value")
    assert naive.p_value == pytest.approx(r["permutation_naive"]["p_two_sided_absU"], rel=1e-12)
    assert naive.is_biased  # ever against never looks ahead
    assert "exact" in naive.method
    for day in (30, 60, 90):
        e = only(evidence, "landmark_permutation", "p_value", landmark_day=day)
        assert e.p_value == pytest.approx(r[f"landmark{day}"]["permutation"]["p_two_sided_absU"], rel=1e-12)
        assert not e.is_biased


def test_restricted_means(tiny: tuple[Evidence, dict[str, Any], str]) -> None:
    evidence, r, version = tiny
    found = r["rmst395_naive"]
    treated = only(evidence, "naive_rmst", "rmst_days", strategy="maintenance")
    control = only(evidence, "naive_rmst", "rmst_days", strategy="no_maintenance")
    difference = only(evidence, "naive_rmst", "rmst_difference_days")
    assert control.estimate == pytest.approx(found["rmst0"], abs=RMST)
    assert control.se == pytest.approx(found["se0"], abs=RMST)
    assert treated.estimate == pytest.approx(found["rmst1"], abs=RMST)
    assert difference.estimate == pytest.approx(found["diff"], abs=RMST)
    if version == "v1":  # nobody died on maintenance: no standard error, and never zero
        assert treated.se is None
        assert difference.se is None
        assert treated.ci_low is not None
        assert treated.ci_low < 395
    else:  # the maintenance arm's one death comes after the horizon
        assert (difference.ci_low, difference.ci_high) == pytest.approx((found["lo"], found["hi"]), abs=RMST)
        assert any("too narrow" in w for w in difference.warnings)
    for e in (treated, control, difference):
        assert e.is_biased
