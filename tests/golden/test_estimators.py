"""The estimators against R: Stanford heart transplants (a), seven against nine (d), three sites (e).

What each case is and which of its keys are golden: ../shared/cases/README.md. Tolerances are absolute, those
of ../shared/STATISTICS.md. Nothing here goes through FHIR: the tables are the cases' cohort.csv.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import CoxFit, exposure_cox, exposure_data, fit_cox, stratum_scores
from rwe.survival.data import CohortTable, exposure_split, landmark_split, naive_split, no_changes
from rwe.survival.kaplan_meier import (
    Median,
    SurvivalCurve,
    exposure_curves,
    median,
    survival_at,
)
from rwe.survival.landmark import landmark_cox, landmark_curves, landmark_logrank
from rwe.survival.logrank import LogRank, exposure_logrank, mantel_byar

CASES = Path(__file__).resolve().parents[1] / "cases"
EXACT = 1e-8  # Kaplan-Meier, log-rank, Mantel-Byar
LOG_HR = 1e-6
TIES = ("efron", "breslow")


@cache
def expected(case: str) -> Any:
    return json.loads((CASES / case / "expected.json").read_text(encoding="utf-8"))


@cache
def cohort(case: str, sites: tuple[str, ...] = ()) -> CohortTable:
    raw = pd.read_csv(CASES / case / "cohort.csv", parse_dates=["birth_date", "index_date"])
    patients = pd.DataFrame(
        {
            "patient_id": raw["patient_id"],
            "site": raw["site"],
            "time_days": raw["time_days"],
            "is_event": raw["event"] == 1,
            "start_day": raw["maint_day"].astype(float),
            "age": (raw["index_date"] - raw["birth_date"]).dt.days / 365.25,
            "year": (raw["index_date"] - pd.Timestamp("1967-10-01")).dt.days / 365.25,
        }
    )
    for name in ("prior_surgery", "ecog"):
        if f"cov_{name}" in raw:
            patients[name] = raw[f"cov_{name}"].astype(float)
    if sites:
        patients = patients[patients["site"].isin(sites)].reset_index(drop=True)
    return CohortTable(patients, no_changes())


def assert_hazard_ratio(fit: CoxFit, gold: dict[str, Any]) -> None:
    found = fit.hazard_ratio()
    assert found.log_estimate == pytest.approx(gold["log_hr"], abs=LOG_HR)
    assert found.se == pytest.approx(gold["se"], abs=LOG_HR)
    assert found.estimate == pytest.approx(gold["hr"], abs=LOG_HR)
    assert found.ci_low == pytest.approx(gold["lo"], abs=1e-5)
    assert found.ci_high == pytest.approx(gold["hi"], abs=1e-5)
    assert found.p_value == pytest.approx(gold["p_wald"], abs=1e-6, rel=1e-4)
    assert fit.events == gold["events"]
    assert fit.n_rows == gold["n"]  # R's n counts rows
    assert fit.converged


def assert_logrank(found: LogRank, gold: dict[str, Any]) -> None:
    assert found.chi_square == pytest.approx(gold["chisq"], abs=EXACT)
    assert found.p_value == pytest.approx(gold["p"], abs=EXACT)
    assert list(found.n) == gold["n"]
    assert list(found.observed) == gold["obs"]
    assert list(found.expected) == pytest.approx(gold["exp"], abs=EXACT)


def assert_mantel_byar(found: LogRank, gold: dict[str, Any]) -> None:
    assert found.observed[1] == gold["observed"]
    assert found.expected[1] == pytest.approx(gold["expected"], abs=EXACT)
    assert found.variance == pytest.approx(gold["variance"], abs=EXACT)
    assert found.chi_square == pytest.approx(gold["chisq"], abs=EXACT)
    assert found.p_value == pytest.approx(gold["p"], abs=EXACT)


def assert_median(curve: SurvivalCurve, gold: dict[str, Any]) -> None:
    assert median(curve) == Median(gold["median"], gold["lo"], gold["hi"])
    assert (curve.n_patients, curve.n_events) == (gold["n"], gold["events"])


# a: Stanford heart transplants --------------------------------------------------------------------------

HEART = "a_stanford_heart"


@cache
def heart() -> Any:
    return expected(HEART)["convention_A_all103"]


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("key", "covariates"), [("unadjusted", ()), ("age_adjusted", ("age",))])
def test_heart_naive_cox_makes_transplantation_look_like_a_cure(key, covariates, ties):
    fit = exposure_cox(naive_split(cohort(HEART), covariates), ties=ties)
    assert_hazard_ratio(fit, heart()[f"naive_{key}_{ties}"])


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(
    ("key", "covariates"),
    [
        ("unadjusted", ()),
        ("age_adjusted", ("age",)),
        ("age_surgery_year", ("age", "prior_surgery", "year")),
    ],
)
def test_heart_time_dependent_cox_finds_no_effect(key, covariates, ties):
    gold = heart()[f"td_{key}_{ties}"]
    fit = exposure_cox(exposure_split(cohort(HEART), covariates), ties=ties)
    assert_hazard_ratio(fit, gold)
    assert fit.n_patients == 103
    assert (fit.events_exposed, fit.events_unexposed) == (45, 30)
    if "age_log_hr" in gold:
        assert fit.coefficients[1] == pytest.approx(gold["age_log_hr"], abs=LOG_HR)
    if "coef" in gold:
        assert list(fit.coefficients) == pytest.approx(list(gold["coef"].values()), abs=LOG_HR)


@pytest.mark.parametrize("ties", TIES)
def test_heart_sandwich_variance_respects_entry_times(ties):
    fit = exposure_cox(exposure_split(cohort(HEART), ["age"]), ties=ties, robust=True)
    assert fit.is_robust
    assert_hazard_ratio(fit, heart()[f"td_age_adjusted_robust_{ties}"])
    assert fit.model_se[0] == pytest.approx(heart()[f"td_age_adjusted_{ties}"]["se"], abs=LOG_HR)


def test_heart_counts_and_person_days_by_exposure():
    rows = exposure_split(cohort(HEART))
    counts, gold = rows.counts(), heart()
    assert (rows.n_patients, len(rows)) == (gold["n_patients"], gold["n_rows"])
    assert counts.person_days_exposed == gold["person_days_treated"]
    assert counts.person_days_unexposed == gold["person_days_untreated"]
    assert counts.events_exposed == gold["deaths_treated"]
    assert counts.events_unexposed == gold["deaths_untreated"]
    overall = expected(HEART)["counts"]
    assert counts.patients_exposed == overall["ever_treated"]
    assert int(rows.event.sum()) == overall["deaths"]
    naive = naive_split(cohort(HEART)).counts()
    assert naive.events_exposed == overall["deaths_in_treated"]


def test_heart_naive_logrank():
    assert_logrank(exposure_logrank(naive_split(cohort(HEART))), heart()["naive_logrank"])


def test_heart_mantel_byar():
    assert_mantel_byar(mantel_byar(exposure_split(cohort(HEART))), heart()["mantel_byar"])


def test_heart_score_test_of_the_time_dependent_model():
    fit = exposure_cox(exposure_split(cohort(HEART)), ties="breslow")
    assert fit.score_test.chi_square == pytest.approx(heart()["td_score_test_breslow"], abs=LOG_HR)


def test_heart_naive_medians():
    curves = exposure_curves(naive_split(cohort(HEART)))
    assert_median(curves.unexposed, heart()["naive_median"]["ever=0"])
    assert_median(curves.exposed, heart()["naive_median"]["ever=1"])


@pytest.mark.parametrize(("start_time", "key"), [(0, "simon_makuch"), (60, "simon_makuch_from_day60")])
def test_heart_simon_makuch_curves(start_time, key):
    rows = exposure_split(cohort(HEART))
    curves = exposure_curves(rows, start_time=start_time)
    for gold in heart()[key]:
        is_exposed = gold["trt"] == 1
        curve = curves.exposed if is_exposed else curves.unexposed
        found = survival_at(curve, [gold["time"]])[0]
        assert found.survival == pytest.approx(gold["surv"], abs=EXACT)
        if "se" in gold:
            assert found.se == pytest.approx(gold["se"], abs=EXACT)
        # Between two times R prints the number at risk when someone next leaves; ours is that of the day.
        leaving = rows.stop[(rows.exposed == is_exposed) & (rows.stop >= gold["time"])].min()
        assert survival_at(curve, [leaving])[0].at_risk == gold["at_risk"]


@pytest.mark.parametrize("day", [30, 60, 90])
def test_heart_landmarks(day):
    table, gold = cohort(HEART), expected(HEART)["landmark"][f"day{day}_all103"]
    rows = landmark_split(table, day)
    counts = rows.counts()
    assert (rows.n_patients, counts.patients_exposed) == (gold["n"], gold["n_treated"])
    assert counts.patients_unexposed == gold["n_control"]
    assert_hazard_ratio(landmark_cox(table, day), gold["cox"])
    assert_hazard_ratio(landmark_cox(table, day, ["age"]), gold["cox_age"])
    assert_logrank(landmark_logrank(table, day), gold["logrank"])
    curves = landmark_curves(table, day)
    assert_median(curves.unexposed, gold["median"]["g=0"])
    assert_median(curves.exposed, gold["median"]["g=1"])
    for point in gold["km"]:
        curve = curves.exposed if point["g"] == 1 else curves.unexposed
        found = survival_at(curve, [point["time_from_landmark"]])[0]
        assert found.survival == pytest.approx(point["surv"], abs=EXACT)
        assert found.at_risk == point["at_risk"]


# d: seven against nine ----------------------------------------------------------------------------------


def tiny(version: str) -> CohortTable:
    return cohort("d_tiny_7v9" if version == "v1" else "d_tiny_7v9/v2")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_tiny_logranks_medians_and_mantel_byar(version):
    table, gold = tiny(version), expected("d_tiny_7v9")[version]
    naive = naive_split(table)
    counts = naive.counts()
    assert (naive.n_patients, counts.patients_exposed) == (gold["n"], gold["n_maintenance"])
    assert counts.events_exposed == gold["deaths_maintenance"]
    assert counts.events_unexposed == gold["deaths_control"]
    assert_logrank(exposure_logrank(naive), gold["naive_logrank"])
    curves = exposure_curves(naive)
    assert_median(curves.unexposed, gold["naive_median"]["g=0"])
    assert_median(curves.exposed, gold["naive_median"]["g=1"])
    rows = exposure_split(table)
    assert len(rows) == gold["td_rows"]
    assert_mantel_byar(mantel_byar(rows), gold["mantel_byar"])


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("day", [30, 60, 90])
def test_tiny_landmark_logranks(version, day):
    gold = expected("d_tiny_7v9")[version][f"landmark{day}"]
    rows = landmark_split(tiny(version), day)
    assert (rows.n_patients, rows.counts().patients_exposed) == (gold["n"], gold["treated"])
    assert int(rows.event.sum()) == gold["deaths"]
    assert_logrank(landmark_logrank(tiny(version), day), gold["logrank"])


@pytest.mark.parametrize("split", [naive_split, exposure_split], ids=["naive", "time_dependent"])
def test_tiny_without_a_death_on_maintenance_the_plain_cox_model_has_no_estimate(split):
    fit = exposure_cox(split(tiny("v1")))
    found = fit.hazard_ratio()
    assert found.estimate is None
    assert found.se is None
    assert found.p_value is None
    assert (found.ci_low, found.ci_high) == (None, None)
    assert not fit.converged
    assert fit.diverged == ("exposed",)
    assert fit.events_exposed == 0
    assert "no event among the exposed" in fit.warnings[0]


def test_tiny_score_test_of_the_diverging_model_is_the_logrank_test():
    gold = expected("d_tiny_7v9")["v1"]["plain_cox"]
    assert exposure_cox(naive_split(tiny("v1"))).score_test.p_value == pytest.approx(
        gold["score_p"], abs=EXACT
    )


def test_tiny_one_death_on_maintenance_is_enough_for_an_estimate():
    gold = expected("d_tiny_7v9")["v2"]["plain_cox"]
    found = exposure_cox(naive_split(tiny("v2"))).hazard_ratio()
    assert found.log_estimate == pytest.approx(gold["log_hr"], abs=LOG_HR)
    assert found.se == pytest.approx(gold["se"], abs=LOG_HR)


# e: three sites that disagree, and a fourth without events on maintenance --------------------------------

SITES = "e_three_sites"
ABC = ("siteA", "siteB", "siteC")
ADJUSTED = ("age", "ecog")


@pytest.mark.parametrize("site", [*ABC, "siteD"])
def test_sites_counts(site):
    gold = expected(SITES)["counts"][site]
    counts = exposure_split(cohort(SITES, (site,))).counts()
    assert counts.patients_exposed == gold["started"]
    assert counts.patients_exposed + counts.patients_unexposed == gold["n"]
    assert counts.events_exposed == gold["deaths_after_start"]
    assert counts.events_exposed + counts.events_unexposed == gold["deaths"]


@pytest.mark.parametrize("ties", TIES)
def test_sites_stratified_by_site(ties):
    gold = expected(SITES)[ties]
    fit = exposure_cox(exposure_split(cohort(SITES, ABC), ADJUSTED), stratify_by_site=True, ties=ties)
    assert_hazard_ratio(fit, gold["stratified_ABC"])
    assert list(fit.coefficients) == pytest.approx(list(gold["stratified_ABC_coef"].values()), abs=LOG_HR)
    assert [fit.loglik_null, fit.loglik] == pytest.approx(gold["stratified_ABC_loglik"], abs=1e-7)
    assert fit.strata == ABC
    with_d = exposure_cox(exposure_split(cohort(SITES), ADJUSTED), stratify_by_site=True, ties=ties)
    assert_hazard_ratio(with_d, gold["stratified_ABCD"])
    assert list(with_d.coefficients) == pytest.approx(list(gold["stratified_ABCD_coef"].values()), abs=LOG_HR)


@pytest.mark.parametrize("ties", TIES)
def test_sites_with_one_baseline_hazard_for_all(ties):
    fit = exposure_cox(exposure_split(cohort(SITES, ABC), ADJUSTED), ties=ties)
    assert_hazard_ratio(fit, expected(SITES)[ties]["unstratified_ABC"])


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("site", ABC)
def test_sites_each_alone(site, ties):
    fit = exposure_cox(exposure_split(cohort(SITES).restrict(site), ADJUSTED), ties=ties)
    assert_hazard_ratio(fit, expected(SITES)[ties]["per_site"][site])


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("where", ["zero", "optimum"])
def test_sites_score_and_information_of_each(where, ties):
    gold = expected(SITES)[ties]
    beta = np.zeros(3) if where == "zero" else np.array(list(gold["stratified_ABCD_coef"].values()))
    data = exposure_data(exposure_split(cohort(SITES), ADJUSTED), stratify_by_site=True)
    pieces = stratum_scores(data, beta, ties=ties)
    assert [p.stratum for p in pieces] == [*ABC, "siteD"]
    for piece in pieces:
        site = gold[f"federated_at_{where}"][piece.stratum]
        assert piece.loglik == pytest.approx(site["loglik"], abs=1e-8)
        np.testing.assert_allclose(piece.score, site["score"], atol=1e-7)
        np.testing.assert_allclose(piece.information, site["information"], atol=1e-7, rtol=1e-10)


def test_sites_sums_of_strata_are_the_pooled_model():
    data = exposure_data(exposure_split(cohort(SITES), ADJUSTED), stratify_by_site=True)
    pooled = fit_cox(data)
    pieces = stratum_scores(data, pooled.coefficients)
    np.testing.assert_allclose(sum(p.score for p in pieces), 0, atol=1e-9)
    np.testing.assert_allclose(
        np.linalg.inv(sum(p.information for p in pieces)), pooled.model_variance, rtol=1e-9
    )
    assert sum(p.loglik for p in pieces) == pytest.approx(pooled.loglik, abs=1e-9)


def test_sites_site_d_has_no_plain_estimate():
    fit = exposure_cox(exposure_split(cohort(SITES).restrict("siteD")))
    assert fit.hazard_ratio().estimate is None
    assert not fit.converged
    assert "no event among the exposed" in fit.warnings[0]
