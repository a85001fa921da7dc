"""Multiple imputation: what it keeps, what it recovers from values missing at random, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import (
    CohortTable,
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    naive_split,
    no_changes,
)
from rwe.survival.imputation import _donors, impute_baseline
from rwe.survival.rubin import pool_hazard_ratios
from tests.golden.test_estimators import SITES
from tests.golden.test_estimators import cohort as case
from tests.unit.r_oracle import in_r


def simulated(seed: int, n: int = 500) -> pd.DataFrame:
    """Fitter patients start more often and live longer; the true log hazard ratio of starting is -0.5."""
    rng = np.random.default_rng(seed)
    frailty = rng.normal(0, 1, n)
    marker = (0.6 * frailty + 0.8 * rng.normal(0, 1, n)).round(1)
    starts = rng.random(n) < 1 / (1 + np.exp(0.9 * frailty))
    hazard = np.exp(0.8 * frailty - 0.5 * starts) / 400
    days = np.ceil(rng.exponential(1 / hazard))
    lost = rng.integers(300, 1500, n)
    return pd.DataFrame(
        {
            "patient_id": [f"p{i:04d}" for i in range(n)],
            "site": rng.choice(["a", "b"], n),
            "time_days": np.minimum(days, lost).astype(int),
            "is_event": days <= lost,
            "start_day": np.where(starts, 0.0, np.nan),
            "frailty": frailty.round(2),
            "marker": marker,
        }
    )


def with_gaps(frame: pd.DataFrame, seed: int) -> CohortTable:
    """Frailty is missing the more often the higher the marker, which is always known: missing at random."""
    rng = np.random.default_rng(seed)
    gap = rng.random(len(frame)) < 1 / (1 + np.exp(-1.5 * frame["marker"]))
    return CohortTable(frame.assign(frailty=frame["frailty"].mask(gap)), no_changes())


def test_what_is_known_stays_and_what_is_imputed_occurs_in_the_data():
    table = with_gaps(simulated(1), 2)
    found = impute_baseline(table, ["frailty", "marker"], m=3, iterations=2)
    known = table.patients["frailty"].notna()
    assert found.missing == (("frailty", int((~known).sum())),)
    assert found.incomplete == int((~known).sum())
    for completed in found.tables:
        assert completed.patients["frailty"].notna().all()
        pd.testing.assert_frame_equal(completed.patients[known], table.patients[known])
        assert set(completed.patients["frailty"]) <= set(table.patients["frailty"][known])
        pd.testing.assert_series_equal(completed.patients["marker"], table.patients["marker"])
    one, two, _ = (t.patients["frailty"] for t in found.tables)
    assert not one.equals(two)


def test_the_adjusted_hazard_ratio_of_the_whole_data_comes_back():
    gaps, whole, pooled = [], [], []
    for seed in range(6):
        frame = simulated(10 + seed)
        table = with_gaps(frame, 20 + seed)
        imputed = impute_baseline(table, ["frailty", "marker"], m=5, iterations=4, seed=seed)
        fits = [exposure_cox(naive_split(t, ["frailty"])) for t in imputed.tables]
        pooled.append(pool_hazard_ratios(fits).log)
        whole.append(exposure_cox(naive_split(CohortTable(frame, no_changes()), ["frailty"])))
        gaps.append(exposure_cox(naive_split(table, ["frailty"])))
    shift = np.array([p.estimate - w.coefficients[0] for p, w in zip(pooled, whole, strict=True)])
    assert abs(shift.mean()) < 0.06
    # Imputation gives back some of what the incomplete patients know of the effect, not more than all of it.
    for p, w, g in zip(pooled, whole, gaps, strict=True):
        assert w.se[0] < p.se < g.se[0]
    assert np.mean([p.fraction_missing for p in pooled]) > 0.02


def test_the_outcome_is_in_the_model_so_the_covariate_keeps_its_effect():
    frame = simulated(31, n=1500)
    table = with_gaps(frame, 32)
    imputed = impute_baseline(table, ["frailty", "marker"], m=5, iterations=4)
    fits = [exposure_cox(naive_split(t, ["frailty"])) for t in imputed.tables]
    frailty = pool_hazard_ratios(fits, "frailty").log
    whole = exposure_cox(naive_split(CohortTable(frame, no_changes()), ["frailty"])).coefficients[1]
    # An effect this strong shrinks a little, in mice too (below): the outcome is in the model as linear.
    assert 0.8 * whole < frailty.estimate < 1.05 * whole
    # Values drawn from the observed ones at random would halve it.
    rng = np.random.default_rng(5)
    gap = table.patients["frailty"].isna()
    drawn = table.patients["frailty"].mask(gap, rng.choice(table.patients["frailty"].dropna(), len(table)))
    careless = CohortTable(table.patients.assign(frailty=drawn), no_changes())
    assert exposure_cox(naive_split(careless, ["frailty"])).coefficients[1] < 0.65 * whole


def test_agrees_with_mice_within_the_error_of_a_few_imputations(tmp_path):
    table = with_gaps(simulated(41, n=300), 42)
    imputed = impute_baseline(table, ["frailty", "marker"], m=30, iterations=2)
    fits = [exposure_cox(naive_split(t, ["frailty"])) for t in imputed.tables]
    start, frailty = (pool_hazard_ratios(fits, name).log for name in ("exposed", "frailty"))
    patients = table.patients
    frame = patients[["frailty", "marker", "time_days"]].assign(
        event=patients["is_event"].astype(int),
        start=patients["start_day"].notna().astype(int),
        site=(patients["site"] == "b").astype(int),
    )
    r = in_r(
        """d$hazard <- nelsonaalen(d, time_days, event)
           use <- make.predictorMatrix(d); use[, "time_days"] <- 0
           i <- mice(d, m = 30, method = "pmm", predictorMatrix = use, maxit = 2, printFlag = FALSE, seed = 1)
           p <- summary(pool(with(i, coxph(Surv(time_days, event) ~ start + frailty))))
           list(estimate = p$estimate, se = p$std.error)""",
        frame,
        tmp_path,
        libraries=("mice", "survival"),
    )
    # Between imputations estimates scatter by about their standard error; means of 30 by a fifth of it.
    assert [start.estimate, frailty.estimate] == pytest.approx(r["estimate"], abs=0.5 * start.se)
    assert [start.se, frailty.se] == pytest.approx(r["se"], rel=0.25)


def test_the_order_of_the_patients_and_the_run_do_not_matter_and_the_seed_does():
    table = with_gaps(simulated(3, n=120), 4)
    shuffled = CohortTable(table.patients.sample(frac=1, random_state=1), no_changes())
    one = impute_baseline(table, ["frailty", "marker"], m=2, iterations=2, seed=9)
    two = impute_baseline(shuffled, ["frailty", "marker"], m=2, iterations=2, seed=9)
    for a, b in zip(one.tables, two.tables, strict=True):
        pd.testing.assert_frame_equal(a.patients, b.patients.sort_index())
    other = impute_baseline(table, ["frailty", "marker"], m=2, iterations=2, seed=10)
    assert not one.tables[0].patients.equals(other.tables[0].patients)


def test_several_covariates_with_gaps_are_all_filled():
    table = case(SITES)
    rng = np.random.default_rng(8)
    patients = table.patients.assign(
        age=table.patients["age"].mask(rng.random(len(table)) < 0.3),
        ecog=table.patients["ecog"].mask(rng.random(len(table)) < 0.2),
    )
    found = impute_baseline(CohortTable(patients, no_changes()), ["age", "ecog"], m=2, iterations=3)
    for completed in found.tables:
        assert set(completed.patients["ecog"]) == {0.0, 1.0, 2.0}
        fit = exposure_cox(exposure_split(completed, ["age", "ecog"]), stratify_by_site=True)
        assert fit.n_patients == len(table)
    assert any("imputations are fewer" in w for w in found.warnings)


def test_a_donor_is_one_of_the_five_nearest():
    predicted = np.array([0.0, 1, 2, 3, 10, 11, 12, 50, 51, 52])
    y = np.arange(10.0)
    rng = np.random.default_rng(1)
    for wanted, nearest in ((0.1, {0, 1, 2, 3, 4}), (11.2, {3, 4, 5, 6, 2}), (99.0, {5, 6, 7, 8, 9})):
        drawn = _donors(predicted, np.full(400, wanted), y, rng)
        assert set(drawn.astype(int)) == nearest
    assert set(_donors(np.zeros(3), np.zeros(50), np.arange(3.0), rng)) == {0.0, 1.0, 2.0}


def test_without_gaps_the_table_is_returned_as_it_is():
    table = case(SITES)
    found = impute_baseline(table, ["age", "ecog"])
    assert found.tables == (table,)
    assert found.missing == ()
    assert "nothing was imputed" in found.warnings[0]


def test_constant_collinear_and_tiny_data_are_imputed_all_the_same():
    rows = {
        "patient_id": list("abcdef"),
        "site": ["s"] * 6,
        "time_days": [10, 20, 30, 40, 50, 60],
        "is_event": [True, False, True, False, True, False],
        "start_day": [math.nan, 3.0] * 3,
    }
    flat = pd.DataFrame({**rows, "x": [2.0, 2, 2, 2, 2, math.nan], "y": [1.0, 2, 3, 4, 5, 6]})
    found = impute_baseline(CohortTable(flat, no_changes()), ["x", "y"], m=2)
    assert (found.tables[0].patients["x"] == 2).all()
    twin = flat.assign(x=[2.0, 4, 6, 8, 10, math.nan])
    found = impute_baseline(CohortTable(twin, no_changes()), ["x", "y"], m=2)
    assert found.tables[1].patients["x"].notna().all()


def test_refusals_have_a_sentence():
    table = case(SITES)
    empty = CohortTable(table.patients.assign(age=math.nan), no_changes())
    with pytest.raises(NotEstimableError, match="age is missing in all patients"):
        impute_baseline(empty, ["age", "ecog"])
    with pytest.raises(SurvivalDataError, match="no baseline covariate weight"):
        impute_baseline(table, ["weight"])
    with pytest.raises(SurvivalDataError, match="two tables"):
        impute_baseline(table, ["age"], m=1)
    endless = CohortTable(table.patients.assign(age=math.inf), no_changes())
    with pytest.raises(SurvivalDataError, match="infinite"):
        impute_baseline(endless, ["age"])
