"""Augmented weighting against loops from its formula, and right when one of its models is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwe.survival.aiptw import AiptwPlan, AiptwSurvival, _history, aiptw_once, aiptw_survival
from rwe.survival.bootstrap import draw_counts
from rwe.survival.data import (
    CohortTable,
    CountingProcess,
    NotEstimableError,
    SurvivalDataError,
    landmark_split,
    no_changes,
)
from rwe.survival.hazard_model import hazard_model
from rwe.survival.kaplan_meier import survival_at
from rwe.survival.landmark import landmark_curves
from tests.unit.emulation_cohorts import mixed_cohort
from tests.unit.emulation_reference import logistic, slow_cox

DAY = 20


def slow_terms(rows, arm: bool, horizon: float) -> np.ndarray:
    """Each patient's term, by the formula of the module's head, one day after the other."""
    n = len(rows)
    chance = logistic(rows.X, rows.exposed.astype(float))
    chance = chance if arm else 1 - chance
    mine = np.flatnonzero(rows.exposed == arm)

    def model(flag: np.ndarray):
        times = sorted({rows.stop[i] for i in mine if flag[i]})
        return slow_cox(
            lambda t: [(rows.X[i], rows.stop[i] == t and flag[i]) for i in mine if rows.stop[i] >= t], times
        )

    beta, hazard = model(rows.event)
    left_beta, left_hazard = model(~rows.event)
    terms = np.zeros(n)
    for i in range(n):
        x = rows.X[i]

        def survival(t: float, x=x) -> float:
            return float(np.exp(-sum(h * np.exp(x @ beta) for u, h in hazard.items() if u <= t)))

        total = 0.0
        for u, h in hazard.items():
            if u > horizon or rows.stop[i] < u or rows.exposed[i] != arm:
                continue
            dies = float(rows.stop[i] == u and rows.event[i])
            stays = np.exp(-sum(v * np.exp(x @ left_beta) for w, v in left_hazard.items() if w < u))
            total += (dies - (1 - np.exp(-h * np.exp(x @ beta)))) / (survival(u) * stays)
        terms[i] = survival(horizon) * (1 - (rows.exposed[i] == arm) / chance[i] * total)
    return terms


@pytest.mark.parametrize("horizon", [25.0, 45.0])
def test_it_is_what_the_formula_gives(horizon: float) -> None:
    table = mixed_cohort(110, seed=13)
    found = aiptw_survival(table, DAY, ["x"], ["status"], horizons=[horizon])[0]
    rows = landmark_split(table, DAY, ["x"], ["status"])
    control, treated = slow_terms(rows, False, horizon), slow_terms(rows, True, horizon)
    assert found.n_bounded == 0
    for effect, terms in (
        (found.control, control),
        (found.treated, treated),
        (found.difference, treated - control),
    ):
        assert effect.estimate == pytest.approx(terms.mean(), abs=1e-8)
        assert effect.se == pytest.approx(terms.std(ddof=1) / np.sqrt(len(terms)), abs=1e-8)


def test_an_interval_that_takes_fitted_models_as_known_is_called_too_narrow() -> None:
    table = mixed_cohort(110, seed=13)
    for covariates, replicates, is_told in ((["x"], 0, True), (["x"], 20, False), ([], 0, False)):
        found = aiptw_survival(table, DAY, covariates, horizons=[25], replicates=replicates, workers=1)[0]
        assert any("too narrow" in w for w in found.warnings) == is_told


def test_without_covariates_it_is_nearly_kaplan_meier_with_greenwood() -> None:
    table = mixed_cohort(400, seed=3)
    found = aiptw_survival(table, DAY, horizons=[40])[0]
    curves = landmark_curves(table, DAY)
    for effect, curve in ((found.control, curves.unexposed), (found.treated, curves.exposed)):
        at = survival_at(curve, [40])[0]
        # Efron's hazard and the product-limit differ at ties alone.
        assert effect.estimate == pytest.approx(at.survival, abs=2e-3)
        assert effect.se == pytest.approx(at.se, rel=0.05)


def simulate(n: int, seed: int) -> CohortTable:
    """u and v decide on start, death and leaving; starting halves the hazard. Everybody decides by day 0."""
    g = np.random.default_rng(seed)
    u, v = g.normal(size=n), g.normal(size=n)
    starts = g.random(n) < 1 / (1 + np.exp(-(0.8 * u - 0.6 * v)))
    death = g.exponential(1 / (0.003 * np.exp(0.8 * u + 0.5 * v) * np.where(starts, 0.5, 1.0)))
    left = g.exponential(1 / (0.001 * np.exp(0.5 * u)))
    left = np.minimum(left, 600)
    time = np.ceil(np.minimum(death, left))
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": "a",
            "time_days": time.astype(int),
            "is_event": death <= left,
            "start_day": np.where(starts, 0.0, np.nan),
            "u": u,
            "v": v,
        }
    )
    return CohortTable(patients, no_changes())


def truth(horizon: float) -> tuple[float, float]:
    """Survival to the horizon had nobody, had everybody started: an integral over u and v."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    w = np.outer(weights, weights) / weights.sum() ** 2
    hazard = 0.003 * np.exp(0.8 * nodes[:, None] + 0.5 * nodes[None, :])
    return (
        float((w * np.exp(-hazard * horizon)).sum()),
        float((w * np.exp(-hazard * horizon * 0.5)).sum()),
    )


def assert_true(found: AiptwSurvival, horizon: float) -> None:
    never, always = truth(horizon)
    assert found.control.estimate == pytest.approx(never, abs=3 * found.control.se)
    assert found.treated.estimate == pytest.approx(always, abs=3 * found.treated.se)
    assert found.difference.ci_low < always - never < found.difference.ci_high


@pytest.mark.parametrize(
    ("outcome", "propensity"),
    [(["u", "v"], ["u", "v"]), (["u", "v"], []), ([], ["u", "v"])],
    ids=["both right", "propensity wrong", "outcome wrong"],
)
def test_either_model_may_be_wrong(outcome: list[str], propensity: list[str]) -> None:
    found = aiptw_survival(
        simulate(4000, seed=2),
        0,
        ["u", "v"],
        horizons=[200],
        outcome_covariates=outcome,
        propensity_covariates=propensity,
    )[0]
    assert_true(found, 200)


def test_both_wrong_is_wrong() -> None:
    found = aiptw_survival(simulate(4000, seed=2), 0, [], horizons=[200])[0]
    never, always = truth(200)
    assert abs(found.difference.estimate - (always - never)) > 3 * found.difference.se


def test_nobody_followed_to_the_horizon_and_nonsense() -> None:
    table = mixed_cohort(60, seed=1)
    with pytest.raises(NotEstimableError, match="followed until 5000 days"):
        aiptw_survival(table, DAY, ["x"], horizons=[5000])
    with pytest.raises(SurvivalDataError, match="horizon"):
        aiptw_survival(table, DAY, horizons=[])
    with pytest.raises(SurvivalDataError, match="no covariate y"):
        aiptw_survival(table, DAY, ["x"], horizons=[10], outcome_covariates=["y"])
    nobody = CohortTable(table.patients.assign(start_day=np.nan), table.changes)
    with pytest.raises(NotEstimableError, match="nobody started"):
        aiptw_survival(nobody, DAY, ["x"], horizons=[10])


def test_an_arm_without_events_has_no_standard_error() -> None:
    table = mixed_cohort(80, seed=2)
    exposed = table.patients["start_day"] <= DAY
    patients = table.patients.assign(is_event=table.patients["is_event"] & ~exposed)
    found = aiptw_survival(CohortTable(patients, table.changes), DAY, ["x"], horizons=[40])[0]
    assert found.treated.estimate == 1.0
    assert (found.treated.se, found.difference.se) == (None, None)
    assert found.control.se is not None
    assert "no event" in found.difference.warnings[0]


def test_small_probabilities_are_bounded_and_counted() -> None:
    g = np.random.default_rng(3)
    table = mixed_cohort(1500, seed=5)
    extreme = np.where(table.patients["start_day"].le(DAY), 3.0, 0.0) + g.normal(size=1500)
    found = aiptw_survival(
        CohortTable(table.patients.assign(extreme=3 * extreme), table.changes),
        DAY,
        ["extreme"],
        horizons=[20],
    )[0]
    assert found.n_bounded > 0
    assert any("was bounded there" in w for w in found.warnings)


def test_a_replicate_is_the_estimate_of_the_rows_written_out() -> None:
    """Patients drawn twice are two patients; those not drawn are gone."""
    table = mixed_cohort(160, seed=4)
    counts = draw_counts(np.zeros(len(landmark_split(table, DAY, ["x"])), dtype=np.int64), 5, 0)
    rows = landmark_split(table, DAY, ["x"])
    who = np.repeat(rows.patient, counts.astype(int))
    drawn = table.patients.iloc[who].reset_index(drop=True)
    written = CohortTable(drawn.assign(patient_id=[f"d{i}" for i in range(len(drawn))]), no_changes())
    found = aiptw_survival(written, DAY, ["x"], horizons=[45])[0]
    once = aiptw_once(plan_of(rows), counts)
    assert list(once) == pytest.approx([found.control.estimate, found.treated.estimate], abs=1e-6)


def plan_of(rows: CountingProcess) -> AiptwPlan:
    X = (rows.X - rows.X.mean(axis=0)) / rows.X.std(axis=0)
    models = tuple(
        hazard_model(_history(rows, event, rows.names), what)
        for event, what in ((rows.event, "the outcome"), (~rows.event, "loss to follow-up"))
    )
    return AiptwPlan(rows, X, (models[0], models[1]), (45.0,))


def test_the_bootstrap_keeps_the_estimate_and_gives_its_own_interval() -> None:
    table = mixed_cohort(160, seed=4)
    plain = aiptw_survival(table, DAY, ["x"], horizons=[45])[0]
    found = aiptw_survival(table, DAY, ["x"], horizons=[45], replicates=200, seed=3, workers=1)[0]
    assert found.difference.estimate == plain.difference.estimate
    assert found.difference.variance_method == "bootstrap of patients, all models refitted"
    assert found.difference.ci_low < found.difference.estimate < found.difference.ci_high
    # Models fitted to the same few patients are not known: the interval is no narrower than if they were.
    assert found.difference.se == pytest.approx(plain.difference.se, rel=0.3)
    assert found.difference.se > 0.95 * plain.difference.se
