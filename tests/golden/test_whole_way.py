"""Known answers through the whole way: handed-over FHIR files, import, build, analyse, evidence.json.

The figures come from R (survival 3.5-3), the data from tests/cases; tests/cases_studies says what is asked.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rwe.analyse import analyse
from rwe.config import init_workspace
from rwe.evidence.contract import Estimate, Evidence, read_evidence
from rwe.intake import import_folder
from rwe.study import find_study, load_studies
from rwe.warehouse.build import build
from tests.support import ROOT

CASES = ROOT / "tests" / "cases"
STUDIES = ROOT / "tests" / "cases_studies"
LOG_RANK, COX, FIRTH = 1e-8, 1e-6, 1e-4  # absolute tolerances, hazard ratios on the log scale


def whole_way(folder: Path, case: Path, study: str, sites: list[str]) -> Evidence:
    workspace = init_workspace(folder / "workspace", key_file=folder / "key")
    shutil.copytree(STUDIES / "codelists", workspace.studies / "codelists", dirs_exist_ok=True)
    shutil.copy(STUDIES / f"{study}.yaml", workspace.studies)
    for site in sites:
        source = case / "fhir" / site if len(sites) > 1 else case / "fhir"
        import_folder(workspace, source, site)
    build(workspace, load_studies(workspace.studies))
    return read_evidence(analyse(workspace, find_study(study, workspace.studies)).path)


def expected(case: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CASES / case / "expected.json").read_text())
    return loaded


def find(
    evidence: Evidence,
    analysis: str,
    *,
    landmark: int | None = None,
    adjusted: tuple[str, ...] = (),
    ties: str = "efron",
    robust: bool = False,
    site: str | None = None,
    stratified: bool = False,
) -> Estimate:
    found = [
        e
        for e in evidence.estimates
        if e.analysis == analysis
        and e.estimand in {"hazard_ratio", "chi_square"}
        and e.parameters.landmark_day == landmark
        and tuple(e.parameters.adjusted_for) == adjusted
        and e.parameters.ties in {None, ties}
        and ("robust" in (e.variance_method or "")) == robust
        and e.site == site
        and bool(e.parameters.stratified_by) == stratified
    ]
    assert len(found) == 1
    return found[0]


def same_cox(e: Estimate, r: dict[str, Any]) -> None:
    assert e.log_estimate == pytest.approx(r["log_hr"], abs=COX)
    assert e.se == pytest.approx(r["se"], abs=COX)
    assert e.p_value == pytest.approx(r["p_wald"], abs=COX)
    assert (e.estimate, e.ci_low, e.ci_high) == pytest.approx((r["hr"], r["lo"], r["hi"]), rel=1e-5)
    assert e.events == r["events"]


def same_test(e: Estimate, r: dict[str, Any], strategies: tuple[str, str]) -> None:
    assert e.estimate == pytest.approx(r["chisq"], abs=LOG_RANK)
    assert e.p_value == pytest.approx(r["p"], abs=LOG_RANK)
    if "obs" in r:
        assert [e.events_by_strategy[s] for s in strategies] == r["obs"]
        assert e.expected_by_strategy is not None
        assert [e.expected_by_strategy[s] for s in strategies] == pytest.approx(r["exp"], abs=LOG_RANK)
    else:
        assert e.events_by_strategy[strategies[1]] == r["observed"]
        assert e.variance == pytest.approx(r["variance"], abs=LOG_RANK)


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return whole_way(tmp_path_factory.mktemp("a"), CASES / "a_stanford_heart", "stanford_heart", ["stanford"])


@pytest.fixture(scope="module")
def r_heart() -> dict[str, Any]:
    return expected("a_stanford_heart")


ADJUSTED = {
    "unadjusted": (),
    "age_adjusted": ("age",),
    "age_surgery_year": ("age", "prior_surgery", "year"),
}


def test_the_heart_cohort_is_counted_as_in_r(heart: Evidence, r_heart: dict[str, Any]) -> None:
    r, c = r_heart["convention_A_all103"], heart.cohort
    assert c.n == r["n_patients"]
    assert c.person_days_by_strategy == {
        "transplant": r["person_days_treated"],
        "no_transplant": r["person_days_untreated"],
    }
    assert c.deaths_by_strategy == {"transplant": r["deaths_treated"], "no_transplant": r["deaths_untreated"]}
    assert c.n_by_strategy["transplant"] == r_heart["counts"]["ever_treated"]


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("key", ["unadjusted", "age_adjusted"])
def test_the_naive_cox_looks_like_a_cure(
    heart: Evidence, r_heart: dict[str, Any], key: str, ties: str
) -> None:
    e = find(heart, "naive_cox", adjusted=ADJUSTED[key], ties=ties)
    same_cox(e, r_heart["convention_A_all103"][f"naive_{key}_{ties}"])
    assert e.is_biased
    assert e.n == 103


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("key", ["unadjusted", "age_adjusted", "age_surgery_year"])
def test_the_time_dependent_cox_shows_none(
    heart: Evidence, r_heart: dict[str, Any], key: str, ties: str
) -> None:
    e = find(heart, "time_dependent_cox", adjusted=ADJUSTED[key], ties=ties)
    same_cox(e, r_heart["convention_A_all103"][f"td_{key}_{ties}"])
    assert e.n == 103  # patients; R counts 170 rows
    assert not e.is_biased


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_the_robust_variance_respects_entry_times(
    heart: Evidence, r_heart: dict[str, Any], ties: str
) -> None:
    e = find(heart, "time_dependent_cox", adjusted=("age",), ties=ties, robust=True)
    same_cox(e, r_heart["convention_A_all103"][f"td_age_adjusted_robust_{ties}"])


def test_the_other_coefficients_too(heart: Evidence, r_heart: dict[str, Any]) -> None:
    e = find(heart, "time_dependent_cox", adjusted=ADJUSTED["age_surgery_year"])
    r = r_heart["convention_A_all103"]["td_age_surgery_year_efron"]["coef"]
    names = {"exposed": "trt", "age": "age", "prior_surgery": "surgery", "year": "year"}
    assert {names[c.name]: c.estimate for c in e.coefficients} == pytest.approx(r, abs=COX)
    e = find(heart, "time_dependent_cox", adjusted=ADJUSTED["age_surgery_year"], ties="breslow")
    r = r_heart["convention_A_all103"]["td_age_surgery_year_breslow"]["coef"]
    assert {names[c.name]: c.estimate for c in e.coefficients} == pytest.approx(r, abs=COX)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_the_coefficient_of_age_too(heart: Evidence, r_heart: dict[str, Any], ties: str) -> None:
    r = r_heart["convention_A_all103"]
    e = find(heart, "time_dependent_cox", adjusted=("age",), ties=ties)
    (age,) = [c.estimate for c in e.coefficients if c.name == "age"]
    assert age == pytest.approx(r[f"td_age_adjusted_{ties}"]["age_log_hr"], abs=COX)


def test_proportional_hazards_of_the_primary_model(heart: Evidence, r_heart: dict[str, Any]) -> None:
    assert heart.diagnostics is not None
    r = r_heart["convention_A_all103"]["ph_test_td_age_km"]
    names = {"exposure": "trt", "age": "age", "all": "GLOBAL"}
    found = {names[t.covariate]: t for t in heart.diagnostics.proportional_hazards}
    assert {n: t.chi_square for n, t in found.items()} == pytest.approx(r["chisq"], abs=COX)
    assert {n: t.p_value for n, t in found.items()} == pytest.approx(r["p"], abs=COX)


def test_log_rank_and_mantel_byar(heart: Evidence, r_heart: dict[str, Any]) -> None:
    r = r_heart["convention_A_all103"]
    same_test(find(heart, "naive_logrank"), r["naive_logrank"], ("no_transplant", "transplant"))
    same_test(find(heart, "mantel_byar"), r["mantel_byar"], ("no_transplant", "transplant"))


@pytest.mark.parametrize("day", [30, 60, 90])
def test_landmarks(heart: Evidence, r_heart: dict[str, Any], day: int) -> None:
    r = r_heart["landmark"][f"day{day}_all103"]
    crude = find(heart, "landmark_cox", landmark=day)
    same_cox(crude, r["cox"])
    assert crude.n == r["n"]
    assert crude.n_by_strategy == {"transplant": r["n_treated"], "no_transplant": r["n_control"]}
    same_cox(find(heart, "landmark_cox", landmark=day, adjusted=("age",)), r["cox_age"])
    test = find(heart, "landmark_logrank", landmark=day)
    same_test(test, r["logrank"], ("no_transplant", "transplant"))


def survival_of(evidence: Evidence, analysis: str, day: int, strategy: str, landmark: int | None) -> Estimate:
    return next(
        e
        for e in evidence.estimates
        if (e.analysis, e.estimand, e.parameters.time_days) == (analysis, "survival", day)
        and e.contrast.strategy == strategy
        and e.parameters.landmark_day == landmark
    )


def median_of(evidence: Evidence, analysis: str, strategy: str, landmark: int | None = None) -> Estimate:
    return next(
        e
        for e in evidence.estimates
        if (e.analysis, e.estimand, e.contrast.strategy) == (analysis, "median_days", strategy)
        and e.parameters.landmark_day == landmark
    )


STRATEGY = {0: "no_transplant", 1: "transplant"}


@pytest.mark.parametrize("day", [30, 60, 90])
def test_landmark_curves_and_medians(heart: Evidence, r_heart: dict[str, Any], day: int) -> None:
    r = r_heart["landmark"][f"day{day}_all103"]
    for point in r["km"]:
        e = survival_of(
            heart, "landmark_kaplan_meier", point["time_from_landmark"], STRATEGY[point["g"]], day
        )
        assert e.estimate == pytest.approx(point["surv"], abs=LOG_RANK)
    for g, strategy in STRATEGY.items():
        e, m = median_of(heart, "landmark_kaplan_meier", strategy, day), r["median"][f"g={g}"]
        assert (e.estimate, e.ci_low, e.ci_high) == (m.get("median"), m.get("lo"), m.get("hi"))


def test_simon_makuch_curves(heart: Evidence, r_heart: dict[str, Any]) -> None:
    for point in r_heart["convention_A_all103"]["simon_makuch"]:
        e = survival_of(heart, "simon_makuch", point["time"], STRATEGY[point["trt"]], None)
        assert e.estimate == pytest.approx(point["surv"], abs=LOG_RANK)
        assert e.se == pytest.approx(point["se"], abs=LOG_RANK)


def test_naive_medians(heart: Evidence, r_heart: dict[str, Any]) -> None:
    for g, strategy in STRATEGY.items():
        m = r_heart["convention_A_all103"]["naive_median"][f"ever={g}"]
        e = median_of(heart, "naive_kaplan_meier", strategy)
        assert (e.estimate, e.ci_low, e.ci_high) == (m["median"], m["lo"], m["hi"])


@pytest.mark.parametrize(("version", "folder"), [("v1", "d_tiny_7v9"), ("v2", "d_tiny_7v9/v2")])
def test_seven_against_nine(version: str, folder: str, tmp_path: Path) -> None:
    evidence = whole_way(tmp_path, CASES / folder, "tiny_7v9", ["site1"])
    r = expected("d_tiny_7v9")[version]
    strategies = ("no_maintenance", "maintenance")
    same_test(find(evidence, "naive_logrank"), r["naive_logrank"], strategies)
    same_test(find(evidence, "mantel_byar"), r["mantel_byar"], strategies)
    for day in (30, 60, 90):
        same_test(
            find(evidence, "landmark_logrank", landmark=day), r[f"landmark{day}"]["logrank"], strategies
        )
    for g, strategy in enumerate(strategies):
        e, m = median_of(evidence, "naive_kaplan_meier", strategy), r["naive_median"][f"g={g}"]
        assert (e.estimate, e.ci_low, e.ci_high) == (m["median"], m["lo"], m["hi"])
    assert_firth_stands_in(evidence, version)
    naive = find(evidence, "naive_cox")
    if version == "v1":  # nobody on maintenance died: the likelihood has no maximum
        assert naive.status == "did_not_converge"
        assert naive.estimate is None
        assert naive.ci_high is None
        assert len(naive.warnings) > 1
    else:
        assert naive.log_estimate == pytest.approx(r["plain_cox"]["log_hr"], abs=COX)
        assert naive.se == pytest.approx(r["plain_cox"]["se"], abs=COX)


def assert_firth_stands_in(evidence: Evidence, version: str) -> None:
    """The Cox model that the study names carries no answer: the one of Firth that it asks for, too, does."""
    (answer,) = [e for e in evidence.estimates if e.role == "primary"]
    assert (answer.analysis, answer.downgraded_from) == ("time_dependent_firth", "time_dependent_cox")
    few = {"v1": "no death", "v2": "only 1 death"}[version]
    assert few in answer.warnings[0]
    assert [r.analysis for r in evidence.refused if few in r.reason] == ["time_dependent_cox"]


@pytest.fixture(scope="module")
def sites_abcd(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("e")
    return whole_way(folder, CASES / "e_three_sites", "three_sites", ["siteA", "siteB", "siteC", "siteD"])


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_four_sites_stratified(sites_abcd: Evidence, ties: str) -> None:
    r = expected("e_three_sites")[ties]
    options = {"adjusted": ("age", "ecog"), "ties": ties}
    same_cox(find(sites_abcd, "time_dependent_cox", stratified=True, **options), r["stratified_ABCD"])
    for site, own in r["per_site"].items():
        same_cox(find(sites_abcd, "time_dependent_cox", site=site, **options), own)
    pooled = find(sites_abcd, "time_dependent_cox", stratified=True, **options)
    names = {"exposed": "trt", "age": "age", "ecog": "ecog"}
    assert {names[c.name]: c.estimate for c in pooled.coefficients} == pytest.approx(
        r["stratified_ABCD_coef"], abs=COX
    )


def test_each_site_is_counted_and_the_one_without_events_has_firths_ratio(sites_abcd: Evidence) -> None:
    r = expected("e_three_sites")
    for site, counts in r["counts"].items():
        e = find(sites_abcd, "time_dependent_firth", site=site, ties="breslow")
        assert (e.n, e.n_by_strategy["maintenance"]) == (counts["n"], counts["started"])
        assert (e.events, e.events_by_strategy["maintenance"]) == (
            counts["deaths"],
            counts["deaths_after_start"],
        )
    e = find(sites_abcd, "time_dependent_firth", site="siteD", ties="breslow")
    d = r["siteD"]
    assert (e.estimate, e.ci_low, e.ci_high) == pytest.approx(
        (d["firth_hr"], d["firth_lo"], d["firth_hi"]), rel=FIRTH
    )
    assert e.p_value == pytest.approx(d["firth_p"], abs=FIRTH)


def test_three_sites_stratified_and_not(tmp_path: Path) -> None:
    evidence = whole_way(tmp_path, CASES / "e_three_sites", "three_sites", ["siteA", "siteB", "siteC"])
    for ties in ("efron", "breslow"):
        r = expected("e_three_sites")[ties]
        options = {"adjusted": ("age", "ecog"), "ties": ties}
        same_cox(find(evidence, "time_dependent_cox", stratified=True, **options), r["stratified_ABC"])
        same_cox(find(evidence, "time_dependent_cox", **options), r["unstratified_ABC"])


_META = {"FE": "common", "DL": "dl", "REML": "reml"}
_INTERVAL = {"": "wald", "HKSJ": "hksj", "HKSJ_adhoc": "hksj_adhoc"}


@pytest.mark.parametrize(
    "key", ["FE", *(m + i for m in ("DL", "REML") for i in ("", "_HKSJ", "_HKSJ_adhoc"))]
)
def test_the_sites_are_put_together_as_metafor_does(sites_abcd: Evidence, key: str) -> None:
    """Of sites A, B and C: D has no estimate, and counts otherwise."""
    r = expected("e_three_sites")["meta_ABC"][key]
    found = sites_abcd.synthesis
    assert found is not None
    model, _, interval = key.partition("_")
    (m,) = [m for m in found.meta if (m.model, m.interval) == (_META[model], _INTERVAL[interval])]
    assert (m.log_estimate, m.se, m.tau2) == pytest.approx((r["log_hr"], r["se"], r["tau2"]), abs=1e-5)
    assert (m.ci_low, m.ci_high, m.p_value) == pytest.approx((r["lo"], r["hi"], r["p"]), rel=1e-5)
    assert [s.counted for s in found.sites] == ["inverse_variance"] * 3 + ["likelihood"]
