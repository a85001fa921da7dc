"""Clone-censor-weight against slow loops, resampling written out, and R."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwe.survival.arm_contrasts import contrast_vector
from rwe.survival.bootstrap import draw_counts
from rwe.survival.clone_plan import clone_plan, estimate_once, fit_weights, weigh
from rwe.survival.clone_rows import arm_cox, weighted_rows
from rwe.survival.clones import clone
from rwe.survival.data import CohortTable
from rwe.survival.emulation import clone_censor_weight
from tests.unit.emulation_cohorts import drawn, mixed_cohort
from tests.unit.emulation_reference import ccw, people, weighted_log_hr, weighted_rmst, weighted_survival

G = 30
TIMES = (10.0, 30.0, 31.0, 60.0)
HORIZON = 60.0
BASE, VARYING = ["x", "z"], ["status"]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"treated": "logistic"},
    {"never": True},
    {"unless": "progression_day"},
    {"unless": "progression_day", "never": True, "treated": "logistic"},
    {"loss": True},
    {"loss": True, "unless": "progression_day"},
]


def estimated(table: CohortTable, counts: np.ndarray | None = None, **variant: Any) -> np.ndarray:
    clones = clone(
        table,
        G,
        BASE,
        VARYING,
        control="never" if variant.get("never") else "no_start_by_grace",
        unless=variant.get("unless"),
    )
    plan = clone_plan(
        clones,
        treated_model=variant.get("treated", "cox"),
        times=TIMES,
        horizon=HORIZON,
        loss_weights=variant.get("loss", False),
        truncate_percentile=variant.get("truncate"),
    )
    return estimate_once(plan, np.ones(clones.n) if counts is None else counts)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_is_what_slow_loops_give(variant: dict[str, Any]) -> None:
    table = mixed_cohort(45, seed=7)
    group = people(table, BASE, VARYING, variant.get("unless"))
    arms = ccw(
        group,
        G,
        never=variant.get("never", False),
        treated=variant.get("treated", "cox"),
        lost_before=HORIZON if variant.get("loss") else None,
    )
    found = estimated(table, **variant)
    k = len(TIMES)
    for a in (0, 1):
        expected = [weighted_survival(arms[a], t) for t in TIMES]
        assert found[1 + a * k : 1 + (a + 1) * k] == pytest.approx(expected, abs=1e-7)
        assert found[1 + 2 * k + a] == pytest.approx(weighted_rmst(arms[a], HORIZON), abs=1e-5)
    assert found[0] == pytest.approx(weighted_log_hr(arms), abs=1e-6)


@pytest.mark.parametrize("variant", [*VARIANTS, {"truncate": 90.0}], ids=str)
def test_a_replicate_is_the_estimate_of_the_patients_drawn_written_out(variant: dict[str, Any]) -> None:
    table = mixed_cohort(80, seed=3)
    counts = draw_counts(np.zeros(80, dtype=np.int64), 5, 2)
    assert counts.sum() == 80
    assert counts.max() > 1
    found = estimated(table, counts, **variant)
    expected = estimated(drawn(table, counts), **variant)
    assert found == pytest.approx(expected, abs=1e-8, nan_ok=True)


@pytest.mark.parametrize("variant", [*VARIANTS, {"truncate": 80.0}], ids=str)
def test_rows_written_out_give_the_same_hazard_ratio(variant: dict[str, Any]) -> None:
    table = mixed_cohort(90, seed=11)
    clones = clone(table, G, BASE, VARYING, unless=variant.get("unless"))
    plan = clone_plan(
        clones,
        treated_model="cox",
        times=TIMES,
        horizon=HORIZON,
        loss_weights=variant.get("loss", False),
        truncate_percentile=variant.get("truncate"),
    )
    everybody = np.ones(clones.n)
    fits = fit_weights(plan, everybody)
    arms = weigh(plan, fits, everybody)
    rows = weighted_rows(plan, fits, arms)
    assert arm_cox(rows).coefficients[0] == pytest.approx(arms.log_hazard_ratio, abs=1e-9)
    # Person-time is the clones', whatever the cuts.
    for a, own in enumerate((clones.control, clones.treated)):
        days = (rows.stop - rows.start)[rows.arm == a].sum()
        assert days == own.stop2.sum() / 2


def test_without_covariates_and_departures_the_curves_are_kaplan_meier() -> None:
    from rwe.survival.kaplan_meier import kaplan_meier, survival_at

    table = mixed_cohort(60, seed=1)
    late = table.patients.assign(start_day=np.where(table.patients["start_day"] > G, G + 1.0, np.nan))
    late.loc[late["time_days"] <= G + 1, "start_day"] = np.nan
    late.loc[0, ["start_day", "time_days", "is_event"]] = [5.0, 200, False]
    clones = clone(CohortTable(late, table.changes), G)
    plan = clone_plan(clones, treated_model="cox", times=TIMES, horizon=HORIZON)
    found = estimate_once(plan, np.ones(60))
    curve = kaplan_meier(late["time_days"], late["is_event"])
    # The control arm loses patient 0 on day 5 and nobody else; the others all take over as much of him.
    left = late["time_days"].where(late["start_day"] != 5.0, 5)
    assert found[1] == pytest.approx(
        survival_at(kaplan_meier(left, late["is_event"]), [10])[0].survival, abs=1e-12
    )
    # Up to the end of grace nobody is censored in the treated arm, and nobody weighted.
    assert found[5] == pytest.approx(survival_at(curve, [10])[0].survival, abs=1e-12)
    assert found[6] == pytest.approx(survival_at(curve, [30])[0].survival, abs=1e-12)


R_CODE = """
  g <- 30
  st <- !is.na(d$start) & d$start <= g
  # time-varying rows: one change of status a patient on day `change`
  long <- tmerge(d[, c("id", "x", "z")], d, id = id, out = event(time, event), status = tdc(change, value))
  long$status[is.na(long$status)] <- 0
  d0 <- d; d0$cf <- pmin(ifelse(st, d$start, d$time), g); d0$dep <- as.integer(st)
  risk <- tmerge(d0[, c("id", "x", "z")], d0, id = id, dep = event(cf, dep), status = tdc(change, value))
  risk$status[is.na(risk$status)] <- 0
  f <- coxph(Surv(tstart, tstop, dep) ~ x + z + status, risk, ties = "efron")
  bh <- basehaz(f, centered = FALSE); bh <- bh[diff(c(0, bh$hazard)) > 0, ]
  dH <- diff(c(0, bh$hazard))
  d0$cstop <- ifelse(st, d$start, d$time); d0$cev <- ifelse(st, 0, d$event)
  c0 <- tmerge(d0[, c("id", "x", "z")], d0, id = id, cev = event(cstop, cev), status = tdc(change, value))
  c0$status[is.na(c0$status)] <- 0
  c0 <- survSplit(Surv(tstart, tstop, cev) ~ ., c0, cut = bh$time, start = "tstart", end = "tstop")
  r <- exp(as.matrix(c0[, c("x", "z", "status")]) %*% coef(f))
  c0 <- c0[order(c0$id, c0$tstart), ]
  r <- exp(as.vector(as.matrix(c0[, c("x", "z", "status")]) %*% coef(f)))
  # hazard of the step at the end of a row, with that row's covariates, weighs the rows after it
  step <- dH[match(c0$tstop, bh$time)]; step[is.na(step)] <- 0
  grown <- ave(step * r, c0$id, FUN = cumsum) - step * r
  c0$w <- exp(grown)
  km <- survfit(Surv(tstart, tstop, cev) ~ 1, c0, weights = w)
  q <- summary(km, times = c(10, 30, 31, 60), extend = TRUE)$surv
  list(beta = coef(f), S0 = q, maxw = max(c0$w))
"""


def test_weights_with_a_covariate_that_changes_are_r_s(tmp_path: Any) -> None:
    import pandas as pd

    from tests.unit.r_oracle import in_r

    base = mixed_cohort(150, seed=23)
    patients = base.patients.copy()
    # R's plain data: no zero follow-up, no start on day 0 or the last day, one change of status after day 0.
    patients["time_days"] = patients["time_days"].clip(lower=2)
    clash = (patients["start_day"] >= patients["time_days"]) | (patients["start_day"] == 0)
    patients.loc[clash, "start_day"] = np.nan
    g = np.random.default_rng(4)
    change, value = g.integers(1, 40, 150), g.integers(0, 2, 150).astype(float)
    changes = pd.DataFrame(
        {"patient_id": patients["patient_id"], "covariate": "status", "day": change, "value": value}
    )
    table = CohortTable(patients, changes)
    d = pd.DataFrame(
        {
            "id": np.arange(150),
            "x": patients["x"],
            "z": patients["z"],
            "time": patients["time_days"],
            "event": patients["is_event"].astype(int),
            "start": patients["start_day"],
            "change": change,
            "value": value,
        }
    )
    gold = in_r(R_CODE, d, tmp_path)
    clones = clone(table, G, BASE, VARYING)
    plan = clone_plan(clones, treated_model="cox", times=TIMES, horizon=HORIZON)
    everybody = np.ones(clones.n)
    fits = fit_weights(plan, everybody)
    assert plan.starting.coefficients == pytest.approx(gold["beta"], abs=1e-6)
    arms = weigh(plan, fits, everybody)
    found = contrast_vector(arms.curves, arms.log_hazard_ratio, TIMES, HORIZON)
    assert found[1:5] == pytest.approx(gold["S0"], abs=1e-8)
    rows = weighted_rows(plan, fits, arms)
    assert rows.weight[rows.arm == 0].max() == pytest.approx(gold["maxw"][0], rel=1e-6)


def test_the_result_is_the_same_bytes_whatever_the_number_of_workers() -> None:
    table = mixed_cohort(60, seed=5, sites=2)

    def found(workers: int) -> bytes:
        result = clone_censor_weight(
            table,
            G,
            BASE,
            horizon_days=HORIZON,
            times=TIMES,
            site_indicators=True,
            replicates=12,
            seed=9,
            workers=workers,
        )
        assert result.draws is not None
        return result.draws.values.tobytes()

    assert found(1) == found(2)
