"""Clone-censor-weight against R: the toy registry of Maringe et al. 2020 (case f, whole days).

What the case is and which of its keys are golden: ../shared/cases/README.md. Tolerances are absolute, those
of ../shared/STATISTICS.md: survival 1e-6, log hazard ratio 1e-5, robust standard error with weights taken as
known 1e-3. Nothing here goes through FHIR: the table is the case's cohort.csv.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.survival.clone_plan import TreatedModel
from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.data import CohortTable, exposure_split, naive_split, no_changes
from rwe.survival.emulation import CloneCensorWeight, clone_censor_weight
from tests.support import shared
from tests.unit.emulation_cohorts import mixed_cohort
from tests.unit.r_oracle import in_r

CASE = "cases/f_maringe_ccw"
COVARIATES = ("age", "sex", "perf", "stage", "deprivation", "charlson", "emergency")
TIMES = (90, 182, 365)
MODELS: list[tuple[TreatedModel, str]] = [("cox", "own_ccw_cox"), ("logistic", "own_ccw_logit")]
SURVIVAL, LOG_HR = 1e-6, 1e-5


@cache
def gold() -> Any:
    return json.loads((shared(CASE) / "expected_wholeday.json").read_text(encoding="utf-8"))


@cache
def cohort() -> CohortTable:
    raw = pd.read_csv(shared(CASE) / "cohort.csv", parse_dates=["birth_date", "index_date"])
    patients = pd.DataFrame(
        {
            "patient_id": raw["patient_id"],
            "site": raw["site"],
            "time_days": raw["time_days"],
            "is_event": raw["event"] == 1,
            "start_day": raw["maint_day"].astype(float),
            "age": (raw["index_date"] - raw["birth_date"]).dt.days / 365.25,
            "sex": raw["sex"].map({"female": 2.0, "male": 1.0}),
        }
    )
    for name in COVARIATES[2:]:
        patients[name] = raw[f"cov_{name}"].astype(float)
    return CohortTable(patients, no_changes())


@cache
def emulated(model: TreatedModel) -> CloneCensorWeight:
    return clone_censor_weight(
        cohort(), 182, COVARIATES, horizon_days=365, times=TIMES, treated_model=model, replicates=0
    )


@pytest.mark.parametrize(("model", "key"), MODELS)
def test_survival_of_both_strategies(model, key):
    expected = gold()[key]
    assert expected["times"] == list(TIMES)
    for i, found in enumerate(emulated(model).contrasts.survival):
        assert found.control.estimate == pytest.approx(expected["S0"][i], abs=SURVIVAL)
        assert found.treated.estimate == pytest.approx(expected["S1"][i], abs=SURVIVAL)
        assert found.difference.estimate == pytest.approx(expected["diff"][i], abs=SURVIVAL)
        assert found.ratio.estimate == pytest.approx(expected["S1"][i] / expected["S0"][i], abs=2e-6)


@pytest.mark.parametrize(("model", "key"), MODELS)
def test_restricted_means(model, key):
    found, expected = emulated(model).contrasts, gold()[key]
    # Area over 365 days of curves that agree to 1e-8: ages come from whole dates, R's from fractions.
    assert found.rmst_control.estimate == pytest.approx(expected["rmst0"], abs=SURVIVAL)
    assert found.rmst_treated.estimate == pytest.approx(expected["rmst1"], abs=SURVIVAL)
    assert found.rmst_difference.estimate == pytest.approx(expected["rmst_diff"], abs=SURVIVAL)


@pytest.mark.parametrize(("model", "key"), MODELS)
def test_hazard_ratio_and_its_sandwich(model, key):
    found, expected = emulated(model), gold()[key]
    ratio = found.contrasts.hazard_ratio
    assert ratio.log_estimate == pytest.approx(expected["log_hr"], abs=LOG_HR)
    assert ratio.estimate == pytest.approx(expected["hr"], abs=LOG_HR)
    assert found.robust_se == pytest.approx(expected["robust_se"], abs=1e-3)
    assert ratio.se == found.robust_se  # without a bootstrap
    assert found.n == gold()["n"]
    assert found.effect_type == "marginal"


@pytest.mark.parametrize(("model", "key"), MODELS)
def test_weights(model, key):
    control, treated = emulated(model).weights
    expected = gold()[key]
    assert max(control.maximum, treated.maximum) == pytest.approx(expected["max_weight"], abs=LOG_HR)
    assert [control.mean, treated.mean] == pytest.approx(expected["mean_weight"], abs=SURVIVAL)


def test_the_weighted_arms_keep_to_what_the_published_method_gives():
    expected, found = gold()["survivalCCW_weighted"], emulated("cox").contrasts
    assert found.hazard_ratio.estimate == pytest.approx(expected["hr"], abs=LOG_HR)
    assert [c.survival[-1] for c in found.curves] == pytest.approx(expected["S_last"], abs=SURVIVAL)
    assert found.rmst_difference.estimate == pytest.approx(expected["rmst365_diff"], abs=SURVIVAL)


def assert_cox(fit: CoxFit, expected: dict[str, Any]) -> None:
    found = fit.hazard_ratio()
    assert found.log_estimate == pytest.approx(expected["log_hr"], abs=1e-6)
    assert found.se == pytest.approx(expected["se"], abs=1e-6)
    assert found.p_value == pytest.approx(expected["p_wald"], abs=1e-6)
    assert (fit.n_rows, fit.events) == (expected["n"], expected["events"])


def test_naive_and_time_dependent_cox():
    assert_cox(exposure_cox(naive_split(cohort())), gold()["naive"])
    assert_cox(exposure_cox(exposure_split(cohort())), gold()["td_unadjusted"])
    assert_cox(exposure_cox(exposure_split(cohort(), COVARIATES)), gold()["td_adjusted"])


def test_the_bootstrap_lies_where_the_published_method_s_does():
    # R's band of 100 replicates, fractional days: (0.4, 0.98) for the ratio; ours must be of that width.
    band = json.loads((shared(CASE) / "expected.json").read_text(encoding="utf-8"))
    low, high = band["survivalCCW_bootstrap"]["hr_ci"]
    found = clone_censor_weight(
        cohort(), 182, COVARIATES, horizon_days=365, times=TIMES, replicates=200, seed=1, workers=1
    ).contrasts.hazard_ratio
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert np.log(found.ci_low) == pytest.approx(np.log(low), abs=0.25)
    assert np.log(found.ci_high) == pytest.approx(np.log(high), abs=0.25)


@pytest.mark.parametrize(
    ("covariates", "model", "seed"),
    [((), "logistic", 1), (("x", "z"), "logistic", 2), (("x", "z"), "cox", 3)],
    ids=["no covariates", "logistic", "cox"],
)
def test_other_cohorts_by_the_reference_implementation(tmp_path, seed, covariates, model):
    # Ties of starts, deaths and losses, starts on day 0 and on the last day of grace.
    patients = mixed_cohort(150, seed=seed).patients
    clash = patients["start_day"] >= patients["time_days"]  # half days are not in the reference
    patients = patients.assign(start_day=patients["start_day"].where(~clash))
    d = pd.DataFrame(
        {
            "id": np.arange(150),
            "time": patients["time_days"],
            "event": patients["is_event"].astype(int),
            "s": patients["start_day"],
            "x": patients["x"],
            "z": patients["z"],
        }
    )
    formula = f'"{" + ".join(covariates)}"' if covariates else "NULL"
    code = f"""
      source("{shared("cases/_common/ccw.R")}")
      L <- ccw_long(d, 30, {formula}, "{"logit" if model == "logistic" else "cox"}")
      e <- ccw_est(L, c(10, 30, 31, 50), 50)
      list(S0 = e$S0, S1 = e$S1, rmst = c(e$rmst0, e$rmst1), hr = c(e$log_hr, e$robust_se),
        w = c(e$max_weight, e$mean_weight))
    """
    expected = in_r(code, d, tmp_path)
    found = clone_censor_weight(
        CohortTable(patients, no_changes()),
        30,
        covariates,
        horizon_days=50,
        times=(10, 30, 31, 50),
        treated_model=model,
        replicates=0,
    )
    survival = found.contrasts.survival
    assert [s.control.estimate for s in survival] == pytest.approx(expected["S0"], abs=SURVIVAL)
    assert [s.treated.estimate for s in survival] == pytest.approx(expected["S1"], abs=SURVIVAL)
    means = (found.contrasts.rmst_control, found.contrasts.rmst_treated)
    assert [m.estimate for m in means] == pytest.approx(expected["rmst"], abs=SURVIVAL)
    assert found.contrasts.hazard_ratio.log_estimate == pytest.approx(expected["hr"][0], abs=LOG_HR)
    assert found.robust_se == pytest.approx(expected["hr"][1], abs=1e-6)
    control, treated = found.weights
    assert max(control.maximum, treated.maximum) == pytest.approx(expected["w"][0], abs=LOG_HR)
    assert [control.mean, treated.mean] == pytest.approx(expected["w"][1:], abs=SURVIVAL)
