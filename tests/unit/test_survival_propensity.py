"""Landmark weights against R and written-out bootstrap replicates; balance; edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.survival.bootstrap import draw_counts
from rwe.survival.data import CohortTable, NotEstimableError, SurvivalDataError, landmark_split
from rwe.survival.kaplan_meier import survival_at
from rwe.survival.landmark import landmark_curves
from rwe.survival.propensity import LandmarkWeighted, landmark_weighted
from tests.unit.emulation_cohorts import drawn, mixed_cohort
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_emulation_truth import simulate, truth

DAY = 20

R_CODE = """
  m <- glm(g ~ x + z + status, binomial, d, control = list(epsilon = 1e-14))
  e <- fitted(m)
  one <- function(w) {
    d$w <- w
    f <- coxph(Surv(stop, event) ~ g, d, weights = w, robust = TRUE, ties = "efron")
    q <- summary(survfit(Surv(stop, event) ~ g, d, weights = w), times = c(10, 40), extend = TRUE)$surv
    smd <- sapply(c("x", "z", "status"), function(v) {
      u <- sqrt((var(d[d$g == 1, v]) + var(d[d$g == 0, v])) / 2)
      (weighted.mean(d[d$g == 1, v], w[d$g == 1]) - weighted.mean(d[d$g == 0, v], w[d$g == 0])) / u })
    ess <- sapply(0:1, function(a) sum(w[d$g == a])^2 / sum(w[d$g == a]^2))
    c(coef(f), sqrt(vcov(f)), q, smd, ess)
  }
  list(none = one(rep(1, nrow(d))), iptw = one(ifelse(d$g == 1, 1 / e, 1 / (1 - e))),
    overlap = one(ifelse(d$g == 1, 1 - e, e)))
"""


def weighted(table: CohortTable, **options: Any) -> LandmarkWeighted:
    return landmark_weighted(
        table,
        DAY,
        ["x", "z"],
        ["status"],
        **{"horizon_days": 50, "times": (10, 40), "replicates": 0, "workers": 1, **options},
    )


def test_weights_balance_and_estimates_are_r_s(tmp_path: Path) -> None:
    table = mixed_cohort(250, seed=17)
    rows = landmark_split(table, DAY, ["x", "z"], ["status"])
    d = pd.DataFrame(rows.X, columns=["x", "z", "status"]).assign(
        stop=rows.stop, event=rows.event.astype(int), g=rows.exposed.astype(int)
    )
    gold = in_r(R_CODE, d, tmp_path)
    for kind in ("iptw", "overlap"):
        found, expected = weighted(table, kind=kind), gold[kind]
        ratio = found.contrasts.hazard_ratio
        assert ratio.log_estimate == pytest.approx(expected[0], abs=1e-6)
        assert found.robust_se == pytest.approx(expected[1], abs=1e-6)
        early, late = found.contrasts.survival
        survival = [s.estimate for s in (early.control, late.control, early.treated, late.treated)]
        assert survival == pytest.approx(expected[2:6], abs=1e-8)
        assert [b.after for b in found.balance] == pytest.approx(expected[6:9], abs=1e-8)
        assert [b.before for b in found.balance] == pytest.approx(gold["none"][6:9], abs=1e-8)
        assert [w.effective_sample_size for w in found.weights] == pytest.approx(expected[9:], rel=1e-8)
        if kind == "overlap":
            # Exact by construction: the model's score equations.
            assert [b.after for b in found.balance] == pytest.approx([0, 0, 0], abs=1e-10)


@pytest.mark.parametrize("kind", ["iptw", "overlap"])
def test_a_replicate_is_the_estimate_of_the_patients_drawn_written_out(kind: str) -> None:
    table = mixed_cohort(90, seed=5)
    boot = weighted(table, kind=kind, replicates=3, seed=7)
    assert boot.draws is not None
    # Only who is at the landmark is drawn, longest followed first: that is the order of the counts.
    rows = landmark_split(table, DAY, ["x", "z"], ["status"])
    order = rows.patient[np.argsort(-rows.stop, kind="stable")]
    for b in range(3):
        counts = np.zeros(90)
        counts[order] = draw_counts(np.zeros(len(order), dtype=np.int64), 7, b)
        again = weighted(drawn(table, counts), kind=kind)
        expected = [
            again.contrasts.hazard_ratio.log_estimate,
            *(s.control.estimate for s in again.contrasts.survival),
            *(s.treated.estimate for s in again.contrasts.survival),
            again.contrasts.rmst_control.estimate,
            again.contrasts.rmst_treated.estimate,
        ]
        assert boot.draws.values[b] == pytest.approx(expected, abs=1e-8)


def test_without_covariates_the_curves_are_those_of_the_landmark() -> None:
    table = mixed_cohort(120, seed=3)
    found = landmark_weighted(table, DAY, horizon_days=50, times=(30,), replicates=0)
    curves = landmark_curves(table, DAY)
    at = found.contrasts.survival[0]
    assert at.control.estimate == pytest.approx(survival_at(curves.unexposed, [30])[0].survival, abs=1e-12)
    assert at.treated.estimate == pytest.approx(survival_at(curves.exposed, [30])[0].survival, abs=1e-12)


def test_survival_of_all_who_reach_the_landmark_is_found() -> None:
    # The drug does nothing: either arm's survival is that of everybody, from day 60 to day 200.
    table = simulate(6000, seed=12, ratio=1.0)
    never, _ = truth(1.0)
    found = landmark_weighted(table, 60, ["x"], horizon_days=140, times=(140,), replicates=60, workers=1)
    expected = never[2] / never[0]
    at = found.contrasts.survival[0]
    assert at.control.estimate == pytest.approx(expected, abs=3.5 * at.control.se)
    assert at.treated.estimate == pytest.approx(expected, abs=3.5 * at.treated.se)
    crude = landmark_weighted(table, 60, horizon_days=140, times=(140,), replicates=0).contrasts.survival[0]
    assert crude.difference.estimate > 3 * at.difference.se
    assert found.balance[0].before < -0.3
    assert abs(found.balance[0].after) < 1e-3


def test_sites_may_enter_the_propensity() -> None:
    table = mixed_cohort(150, seed=4, sites=3)
    found = weighted(table, site_indicators=True, kind="overlap")
    assert [b.covariate for b in found.balance] == ["x", "z", "status", "site s1", "site s2"]
    assert [b.after for b in found.balance] == pytest.approx([0.0] * 5, abs=1e-9)


def test_a_covariate_that_tells_the_groups_apart_is_said() -> None:
    table = mixed_cohort(100, seed=6)
    told = table.patients["start_day"].le(DAY).astype(float)
    patients = table.patients.assign(told=told, same=1.0)
    found = landmark_weighted(
        CohortTable(patients, table.changes), DAY, ["told", "same"], horizon_days=50, replicates=0
    )
    assert any("without error" in w for w in found.warnings)
    assert any("same has one value only at the landmark" in w for w in found.warnings)
    assert all(s.is_empty_cell for s in found.positivity)
    assert found.propensity[0].n_outside == found.n[0]


def test_empty_groups_and_nonsense() -> None:
    table = mixed_cohort(40, seed=1)
    nobody = CohortTable(table.patients.assign(start_day=np.nan), table.changes)
    with pytest.raises(NotEstimableError, match="nobody started"):
        weighted(nobody)
    with pytest.raises(SurvivalDataError, match="not after the landmark"):
        weighted(table, horizon_days=0)


def test_an_arm_without_events() -> None:
    table = mixed_cohort(80, seed=2)
    exposed = table.patients["start_day"] <= DAY
    patients = table.patients.assign(is_event=table.patients["is_event"] & ~exposed)
    found = weighted(CohortTable(patients, table.changes), replicates=20)
    assert found.contrasts.hazard_ratio.estimate is None
    assert found.robust_se is None
    assert found.contrasts.survival[1].treated.estimate == 1.0
    assert found.contrasts.survival[1].treated.ci_low is None
