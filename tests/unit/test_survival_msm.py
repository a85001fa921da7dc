"""The marginal structural model against R, against slow loops, and where adjusting goes wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.data import CohortTable, NotEstimableError, SurvivalDataError, exposure_split, no_changes
from rwe.survival.hazard_model import hazard_model
from rwe.survival.histories import HistoryRows, histories, last_start2, starting_rows
from rwe.survival.msm import marginal_structural_cox, weighted_histories
from tests.unit.emulation_cohorts import mixed_cohort
from tests.unit.emulation_reference import people, starting_hazard
from tests.unit.r_oracle import in_r


@pytest.mark.parametrize("unless", [None, "progression_day"])
def test_weights_are_what_slow_loops_give(unless: str | None) -> None:
    table = mixed_cohort(50, seed=21)
    full = histories(table, ["x"], ["status"], unless=unless)
    rows = starting_rows(full, last_start2(full))
    narrow = HistoryRows(rows.start2, rows.stop2, rows.event, rows.X[:, :1], ("x",), rows.patient)
    found = weighted_histories(full, [0], hazard_model(rows, "starting"), hazard_model(narrow, "starting"))

    models = []
    for varying in (["status"], []):
        group = people(table, ["x"], varying, unless)
        beta, hazard = starting_hazard(group, lambda p: p.excused - 0.5)
        models.append((group, beta, hazard))

    def log_chance(i: int, t: float, exposed: bool) -> float:
        """Log probability of the history of starting up to t: denominator less numerator."""
        total = 0.0
        for sign, (group, beta, hazard) in zip((1, -1), models, strict=True):
            p = group[i]
            last = min(t, p.start) if exposed else t
            steps = {u: h * np.exp(p.covariates(u) @ beta) for u, h in hazard.items()}
            total += sign * sum(h for u, h in steps.items() if u < last and u < p.excused)
            if exposed:
                total -= sign * np.log(1 - np.exp(-steps[p.start]))
        return total

    checked = 0
    for start2, stop2, exposed, i, w in zip(
        found.start2, found.stop2, found.exposed, found.patient, found.weight, strict=True
    ):
        # Rows are cut at the steps before a death; the weight of a death on the row is that of its end.
        deaths = [p.time for p in models[0][0] if p.event and start2 / 2 < p.time <= stop2 / 2]
        for t in deaths:
            assert np.log(w) == pytest.approx(log_chance(int(i), t, bool(exposed)), abs=1e-7)
            checked += 1
    assert checked > 300


R_CODE = """
  long <- tmerge(d[, c("id", "x")], d, id = id, go = event(risk, started), status = tdc(change, value))
  long$status[is.na(long$status)] <- 0
  den <- coxph(Surv(tstart, tstop, go) ~ x + status, long, ties = "efron")
  num <- coxph(Surv(tstart, tstop, go) ~ x, long, ties = "efron")
  steps <- function(f) { b <- basehaz(f, centered = FALSE); h <- diff(c(0, b$hazard)); keep <- h > 0
    data.frame(time = b$time[keep], h = h[keep]) }
  a <- steps(den); b <- steps(num)
  cut <- survSplit(Surv(tstart, tstop, go) ~ ., long, cut = a$time, start = "tstart", end = "tstop")
  cut <- cut[order(cut$id, cut$tstart), ]
  ha <- a$h[match(cut$tstop, a$time)] * exp(coef(den)[1] * cut$x + coef(den)[2] * cut$status)
  hb <- b$h[match(cut$tstop, b$time)] * exp(coef(num)[1] * cut$x)
  ha[is.na(ha)] <- 0; hb[is.na(hb)] <- 0
  before <- ave(ha - hb, cut$id, FUN = cumsum) - (ha - hb)
  cut$w <- exp(before)
  unexposed <- data.frame(id = cut$id, x = cut$x, t0 = cut$tstart, t1 = cut$tstop, trt = 0, w = cut$w,
    ev = as.integer(cut$tstop == d$time[cut$id + 1] & d$event[cut$id + 1] == 1 & d$started[cut$id + 1] == 0))
  s <- cut$go == 1
  ws <- cut$w[s] * (1 - exp(-hb[s])) / (1 - exp(-ha[s])); who <- cut$id[s]
  exposed <- data.frame(id = who, x = d$x[who + 1], t0 = d$risk[who + 1], t1 = d$time[who + 1], trt = 1,
    w = ws, ev = d$event[who + 1])
  all <- rbind(unexposed, exposed)
  f <- coxph(Surv(t0, t1, ev) ~ trt + x, all, weights = w, cluster = id, ties = "efron")
  list(b = coef(f), se = sqrt(diag(vcov(f))), den = coef(den), range = range(all$w))
"""


def test_the_whole_model_is_r_s(tmp_path: Path) -> None:
    base = mixed_cohort(200, seed=31)
    patients = base.patients.copy()
    # R's plain data: no zero follow-up, no start on day 0 or the last day, one change of status after day 0.
    patients["time_days"] = patients["time_days"].clip(lower=2)
    clash = (patients["start_day"] >= patients["time_days"]) | (patients["start_day"] == 0)
    patients.loc[clash, "start_day"] = np.nan
    g = np.random.default_rng(4)
    change, value = g.integers(1, 40, 200), g.integers(0, 2, 200).astype(float)
    changes = pd.DataFrame(
        {"patient_id": patients["patient_id"], "covariate": "status", "day": change, "value": value}
    )
    started = patients["start_day"].notna()
    d = pd.DataFrame(
        {
            "id": np.arange(200),
            "x": patients["x"],
            "time": patients["time_days"],
            "event": patients["is_event"].astype(int),
            "started": started.astype(int),
            "risk": np.where(started, patients["start_day"], patients["time_days"]),
            "change": change,
            "value": value,
        }
    )
    gold = in_r(R_CODE, d, tmp_path)
    found = marginal_structural_cox(CohortTable(patients, changes), ["x"], ["status"])
    assert found.fit.coefficients == pytest.approx(gold["b"], abs=1e-6)
    assert found.fit.se == pytest.approx(gold["se"], abs=1e-6)
    assert found.weights.maximum == pytest.approx(gold["range"][1], abs=1e-6)


def simulate(
    seed: int, *, n: int = 4000, on_status: float = 1.0, on_death: float = 1.0, randomised: bool = False
) -> CohortTable:
    """Day by day: a bad status comes (`on_status` as often once started), keeps from starting unless starts
    are randomised, and multiplies the hazard of death by 6; the drug multiplies that by `on_death`."""
    g = np.random.default_rng(seed)
    days = 300
    bad, start = np.full(n, np.inf), np.full(n, np.inf)
    died = np.full(n, np.inf)
    alive = np.ones(n, dtype=bool)
    for day in range(1, days + 1):
        is_bad, on_drug = bad < day, start < day
        rate = 0.006 * np.where(on_drug, on_status, 1.0)
        bad = np.where(alive & ~is_bad & (g.random(n) < rate), day, bad)
        go = 0.008 if randomised else np.where(is_bad, 0.003, 0.012)
        start = np.where(alive & ~on_drug & (g.random(n) < go), day, start)
        hazard = 0.001 * np.where(is_bad, 6.0, 1.0) * np.where(on_drug, on_death, 1.0)
        dies = alive & (g.random(n) < hazard)
        died = np.where(dies, day, died)
        alive &= ~dies
    time = np.minimum(died, days)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": "a",
            "time_days": time.astype(int),
            "is_event": died <= days,
            "start_day": np.where(start <= time, start, np.nan),
        }
    )
    seen = bad < time
    changes = pd.DataFrame(
        {
            "patient_id": patients["patient_id"][seen],
            "covariate": "bad",
            "day": bad[seen].astype(int),
            "value": 1.0,
        }
    )
    return CohortTable(patients, changes if seen.any() else no_changes())


def ratio(fit: CoxFit) -> float:
    found = fit.hazard_ratio().estimate
    assert found is not None
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_a_drug_that_does_nothing_has_a_ratio_of_1(seed: int) -> None:
    table = simulate(seed)
    found = marginal_structural_cox(table, [], ["bad"])
    assert found.hazard_ratio.ci_low < 1 < found.hazard_ratio.ci_high
    assert ratio(exposure_cox(exposure_split(table))) < 0.8, "without weights it looks useful"
    assert found.effect_type == "marginal"
    assert found.weights.mean == pytest.approx(1, abs=0.1)


def test_an_effect_through_the_status_is_kept_where_adjusting_loses_it() -> None:
    table = simulate(3, on_status=0.25)
    trial = ratio(exposure_cox(exposure_split(simulate(4, n=12_000, on_status=0.25, randomised=True))))
    found = marginal_structural_cox(table, [], ["bad"])
    adjusted = exposure_cox(exposure_split(table, [], ["bad"])).hazard_ratio()
    assert found.hazard_ratio.log_estimate == pytest.approx(np.log(trial), abs=2.5 * found.hazard_ratio.se)
    assert trial < 0.85
    assert found.hazard_ratio.ci_high < 1
    assert adjusted.ci_low < 1 < adjusted.ci_high


def test_sites_and_truncation() -> None:
    table = mixed_cohort(150, seed=8, sites=3)
    plain = marginal_structural_cox(table, ["x"], ["status"], stratify_by_site=True)
    assert plain.fit.strata == ("s0", "s1", "s2")
    assert plain.effect_type == "conditional"
    cut = marginal_structural_cox(table, ["x"], ["status"], stratify_by_site=True, truncate_percentile=90)
    assert cut.weights.maximum == cut.weights.capped_at < plain.weights.maximum


def test_nobody_started_or_nonsense() -> None:
    table = mixed_cohort(30, seed=1)
    nobody = CohortTable(table.patients.assign(start_day=np.nan), table.changes)
    with pytest.raises(NotEstimableError, match="nobody started"):
        marginal_structural_cox(nobody, ["x"], ["status"])
    with pytest.raises(SurvivalDataError, match="percentile"):
        marginal_structural_cox(table, ["x"], truncate_percentile=10)
    everybody = CohortTable(table.patients.assign(start_day=0.0), table.changes)
    with pytest.raises(NotEstimableError):
        marginal_structural_cox(everybody, ["x"], ["status"])
