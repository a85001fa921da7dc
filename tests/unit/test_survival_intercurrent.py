"""Weights for intercurrent events: against R, by hand, and where going without them goes wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, NotEstimableError, SurvivalDataError, exposure_split, no_changes
from rwe.survival.emulation import clone_censor_weight
from rwe.survival.histories import histories
from rwe.survival.intercurrent import (
    CensoringEvent,
    event_weighted_cox,
    event_weights,
    is_censored_by,
    require_adjusted,
)
from rwe.survival.msm import marginal_structural_cox
from tests.unit.r_oracle import in_r

SICK = CensoringEvent("transplant", ("x",), ("worse",))


def cohort(
    n: int, seed: int, *, log_effect: float = -0.5, log_pull: float = 1.2, log_exposed: float = 0.0
) -> CohortTable:
    """Patients who worsen, whether they have the event or not; the sick (x) and the worse have it sooner.

    Death: exposure (log_effect), x and worse. The event ends follow-up and does nothing else; `log_pull` is
    how much sooner the sick and the worse have it, `log_exposed` the exposed.
    """
    g = np.random.default_rng(seed)
    x = (g.random(n) < 0.5).astype(float)
    start = np.where(g.random(n) < 0.5, np.floor(g.exponential(60, n)), np.nan)
    worse = np.ceil(g.exponential(150, n)) + 1
    death, event = np.full(n, np.inf), np.full(n, np.inf)
    for i in range(n):
        death[i] = _first(g, 0.0025, x[i] * 0.7, worse[i], 0.9, start[i], log_effect)
        event[i] = _first(g, 0.0006, x[i] * log_pull, worse[i], log_pull, start[i], log_exposed)
    lost = np.ceil(g.exponential(900, n))
    end = np.minimum(np.minimum(np.ceil(death), np.ceil(event)), np.minimum(lost, 700))
    died = np.ceil(death) == end
    reason = np.where(died, "death", np.where(np.ceil(event) == end, "censored:transplant", "last_activity"))
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i:05d}" for i in range(n)],
            "site": "a",
            "time_days": end.astype(int),
            "is_event": died,
            "start_day": np.where(start <= end, start, np.nan),
            "end_reason": reason,
            "x": x,
        }
    )
    seen = worse < end
    changes = pd.DataFrame(
        {
            "patient_id": patients["patient_id"][seen],
            "covariate": "worse",
            "day": worse[seen].astype(int),
            "value": 1.0,
        }
    )
    return CohortTable(patients, changes.reset_index(drop=True))


def _first(
    g: np.random.Generator,
    rate: float,
    at_base: float,
    worse: float,
    harm: float,
    start: float,
    effect: float,
) -> float:
    """The time of an event whose log hazard rises by `harm` at `worse` and by `effect` at `start`."""
    left, t = g.exponential(1.0), 0.0
    cuts = sorted(c for c in (worse, start) if np.isfinite(c))
    for cut in [*cuts, np.inf]:
        hazard = rate * np.exp(at_base + harm * (t >= worse) + (effect if t >= start else 0.0))
        if left <= hazard * (cut - t):
            return t + left / hazard
        left, t = left - hazard * (cut - t), cut
    raise AssertionError


def long_rows(table: CohortTable) -> pd.DataFrame:
    """Half-day rows of the counting process, for R: the project's own split, tested elsewhere."""
    rows = exposure_split(table, ["x"], ["worse"])
    frame = pd.DataFrame({"id": rows.patient, "start": rows.start, "stop": rows.stop, "died": rows.event})
    frame = frame.assign(exposed=rows.exposed.astype(int), x=rows.X[:, 0], worse=rows.X[:, 1])
    last = frame["stop"] == frame.groupby("id")["stop"].transform("max")
    frame["gone"] = (last & is_censored_by(table, "transplant")[rows.patient]).astype(int)
    return frame.astype({"died": int})


R_CODE = """
  den <- coxph(Surv(start, stop, gone) ~ exposed + x + worse, d, ties = "efron")
  num <- coxph(Surv(start, stop, gone) ~ exposed + x, d, ties = "efron")
  steps <- function(m) { b <- basehaz(m, centered = FALSE); data.frame(t = b$time, h = diff(c(0, b$hazard))) }
  hd <- steps(den); hn <- steps(num)
  cuts <- sort(unique(d$stop[d$gone == 1]))
  d$row <- seq_len(nrow(d))
  s <- survSplit(Surv(start, stop, died) ~ ., d, cut = cuts, start = "begin", end = "end", event = "dead")
  s <- s[order(s$id, s$begin), ]
  jump <- function(h, lp) {
    at <- match(s$end, h$t); ifelse(is.na(at), 0, h$h[at]) * exp(lp)
  }
  eta <- function(m) as.vector(as.matrix(s[, names(coef(m))]) %*% coef(m))
  step <- jump(hd, eta(den)) - jump(hn, eta(num))
  before <- ave(step, s$id, FUN = function(v) cumsum(v) - v)
  s$w <- exp(before)
  fit <- coxph(Surv(begin, end, dead) ~ exposed + x, s, weights = w, cluster = id, ties = "efron")
  list(beta = coef(fit), se = sqrt(diag(vcov(fit))), den = coef(den), mean_weight = mean(s$w))
"""


def test_the_weighted_model_is_that_of_r(tmp_path: Path) -> None:
    table = cohort(250, seed=3)
    oracle = in_r(R_CODE, long_rows(table), tmp_path)
    found = event_weighted_cox(table, [SICK], ["x"])
    assert found.fit.names == ("exposed", "x")
    assert found.fit.coefficients == pytest.approx(oracle["beta"], abs=1e-6)
    assert found.fit.se == pytest.approx(oracle["se"], abs=1e-6)
    history = histories(table, ["x"], ["worse"])
    (model, _), *_ = event_weights(history, table, [SICK]).denominators
    assert model.names == ("exposed", "x", "worse")
    assert model.coefficients == pytest.approx(oracle["den"], abs=1e-6)


def test_unweighted_the_estimate_is_wrong_and_weighted_it_is_right() -> None:
    """The truth is what patients give who cannot have it. Mostly the exposed have it, the sick first."""
    plain, weighted, free = [], [], []
    for seed in range(6):
        table = cohort(4000, seed=seed, log_pull=1.6, log_exposed=2.0)
        never = cohort(4000, seed=100 + seed, log_pull=-40.0)
        plain.append(exposure_cox(exposure_split(table)).hazard_ratio().log_estimate)
        weighted.append(event_weighted_cox(table, [SICK]).fit.hazard_ratio().log_estimate)
        free.append(exposure_cox(exposure_split(never)).hazard_ratio().log_estimate)

    def off(found: list[float]) -> float:
        """Its distance from the truth in Monte Carlo standard errors."""
        noise = np.sqrt(np.var(found, ddof=1) / 6 + np.var(free, ddof=1) / 6)
        return float((np.mean(found) - np.mean(free)) / noise)

    assert abs(off(weighted)) < 2.5
    # The sick among the exposed are gone, so those who stay look as if the exposure helped them more.
    assert off(plain) < -4


@pytest.mark.parametrize("weigh", [True, False])
def test_emulated_survival_without_the_event_is_right_only_with_its_weights(weigh: bool) -> None:
    """Both arms, no effect: survival is that of patients who cannot have the event, known by simulation."""
    table = cohort(4000, seed=11, log_effect=0.0, log_pull=1.6)
    never = cohort(20_000, seed=12, log_effect=0.0, log_pull=-40.0).patients
    truth = _kaplan_meier(never, 300.0)
    events = [CensoringEvent("transplant", ("x",), ("worse",))] if weigh else []
    found = clone_censor_weight(
        table, 60, ["x"], ["worse"], horizon_days=400, times=[300.0], censoring_events=events,
        replicates=40, workers=1, seed=5,
    )  # fmt: skip
    control = found.contrasts.survival[0].control
    assert control.se is not None
    assert control.estimate is not None
    off = (control.estimate - truth) / control.se
    # The sick and the worse leave, so whoever stays looks healthier than all would have been.
    assert abs(off) < 3 if weigh else off > 4
    assert ("transplant" in found.method) == weigh


def _kaplan_meier(patients: pd.DataFrame, day: float) -> float:
    """The product over days of 1 - deaths / at risk."""
    time, died = patients["time_days"].to_numpy(), patients["is_event"].to_numpy()
    days, deaths = np.unique(time[died & (time <= day)], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), days)
    return float(np.prod(1 - deaths / at_risk))


def test_where_nobody_leaves_but_by_the_event_its_weights_are_those_of_loss() -> None:
    """Weights for loss are checked against slow loops and R elsewhere; here both must be the same."""
    table = cohort(400, seed=8)
    patients = table.patients
    alive = ~patients["is_event"]
    patients = patients.assign(end_reason=patients["end_reason"].mask(alive, "censored:transplant"))
    only = CohortTable(patients, table.changes)
    options = {"horizon_days": 900, "times": [100.0, 300.0], "replicates": 0}
    event = clone_censor_weight(only, 60, ["x"], ["worse"], censoring_events=[SICK], **options)
    loss = clone_censor_weight(only, 60, ["x"], ["worse"], loss_weights=True, **options)
    both = clone_censor_weight(
        only, 60, ["x"], ["worse"], censoring_events=[SICK], loss_weights=True, **options
    )
    for found in (event, both):  # with an event of its own nobody is left to be lost
        assert found.contrasts.hazard_ratio.log_estimate == loss.contrasts.hazard_ratio.log_estimate
        assert [s.control.estimate for s in found.contrasts.survival] == [
            s.control.estimate for s in loss.contrasts.survival
        ]
    assert [c.model for c in event.coefficients if c.name == "exposed"] == ["transplant"]


def test_the_structural_model_weighs_for_the_event_too() -> None:
    """Nothing decides on starting here, so the structural model is the weighted Cox model up to noise."""
    table = cohort(3000, seed=21)
    found = marginal_structural_cox(table, ["x"], ["worse"], censoring_events=[SICK])
    ignored = marginal_structural_cox(table, ["x"], ["worse"])
    cox = event_weighted_cox(table, [SICK], ["x"]).fit.hazard_ratio()
    ours, without = found.hazard_ratio.log_estimate, ignored.hazard_ratio.log_estimate
    assert ours == pytest.approx(cox.log_estimate, abs=0.25 * cox.se)
    assert ours != pytest.approx(without, abs=1e-6)
    assert (found.n, found.events) == (ignored.n, ignored.events)


def test_who_has_the_event_last_of_all_weighs_nobody() -> None:
    """One event after the last death: every weight at a death is 1, the estimate is the unweighted one."""
    table = cohort(120, seed=4)
    patients = table.patients.copy()
    gone = patients["end_reason"] == "censored:transplant"
    patients.loc[gone, "end_reason"] = "last_activity"
    alive = patients.index[~patients["is_event"]][0]
    patients.loc[alive, ["time_days", "end_reason"]] = [5000, "censored:transplant"]
    late = CohortTable(patients, table.changes)
    found = event_weighted_cox(late, [CensoringEvent("transplant", ("x",))], ["x"])
    plain = exposure_cox(exposure_split(late, ["x"]), robust=True)
    assert found.n_censored == (("transplant", 1),)
    assert found.fit.coefficients == pytest.approx(plain.coefficients, abs=1e-10)
    assert found.fit.se == pytest.approx(plain.se, abs=1e-10)


def test_weights_by_hand() -> None:
    """Ten at risk, nothing tells them apart, one has the event on day 10: the others then weigh 10/9."""
    table = CohortTable(
        pd.DataFrame(
            {
                "patient_id": [f"p{i}" for i in range(10)],
                "site": "a",
                "time_days": [10, *range(20, 29)],
                "is_event": [False, *[True] * 9],
                "start_day": np.nan,
                "end_reason": ["censored:transplant", *["death"] * 9],
                "x": 1.0,
            }
        ),
        no_changes(),
    )
    weights = event_weights(histories(table, ["x"]), table, [CensoringEvent("transplant", ("x",))])
    assert weights.times2().tolist() == [20]
    patients = np.arange(1, 10)
    on_day_10, later = (np.exp(weights.log_weight(patients, np.full(9, half))) for half in (19, 20))
    assert on_day_10.tolist() == [1.0] * 9
    assert later == pytest.approx(np.full(9, 10 / 9), abs=1e-12)


def test_what_weights_need_is_asked_for() -> None:
    table = cohort(60, seed=1)
    with pytest.raises(SurvivalDataError, match="why follow-up ended"):
        is_censored_by(CohortTable(table.patients.drop(columns="end_reason"), table.changes), "transplant")
    with pytest.raises(NotEstimableError, match="transplant is weighted for worse"):
        require_adjusted([SICK], ["x"])
    with pytest.raises(NotEstimableError, match="weights of starting leave out"):
        clone_censor_weight(table, 30, ["x"], horizon_days=100, censoring_events=[SICK], replicates=0)
    with pytest.raises(NotEstimableError, match="weights of starting leave out"):
        marginal_structural_cox(table, ["x"], censoring_events=[SICK])
    nobody = event_weighted_cox(table, [CensoringEvent("second_car_t", ("x",))], ["x"])
    assert "Nobody's follow-up ended at second_car_t: it has no weights." in nobody.warnings


def test_a_death_on_the_day_is_a_death_and_no_event() -> None:
    table = cohort(60, seed=2)
    patients = table.patients.assign(end_reason="censored:transplant")
    flags = is_censored_by(CohortTable(patients, table.changes), "transplant")
    assert (flags == ~patients["is_event"].to_numpy()).all()
