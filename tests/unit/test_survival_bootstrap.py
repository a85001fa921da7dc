"""The bootstrap, and the models that it refits: drawn patients count as tied patients written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rwe.survival.bootstrap import bootstrap, draw_counts, percentile_interval
from rwe.survival.cox import baseline_hazard, cox_data, fit_cox
from rwe.survival.data import SurvivalDataError
from rwe.survival.effects import bootstrap_effect, wald_effect
from rwe.survival.hazard_model import fit_hazard, hazard_model
from rwe.survival.histories import HistoryRows
from rwe.survival.logistic import fit_logistic
from tests.unit.r_oracle import in_r


def mean_and_share(state: np.ndarray, counts: np.ndarray) -> np.ndarray:
    mean = float(state @ counts / counts.sum())
    return np.array([mean, np.nan if mean > state.mean() else mean])


def test_draws_are_those_of_their_number_and_seed() -> None:
    state, strata = np.arange(50.0), np.zeros(50, dtype=np.int64)
    one = bootstrap(mean_and_share, state, strata, replicates=13, seed=4, workers=1)
    more = bootstrap(mean_and_share, state, strata, replicates=20, seed=4, workers=None)
    assert more.values[:13].tobytes() == one.values.tobytes()
    other = bootstrap(mean_and_share, state, strata, replicates=13, seed=5, workers=1)
    assert other.values[0, 0] != one.values[0, 0]
    assert one.failed.tolist() == [0, int(np.isnan(one.values[:, 1]).sum())]
    with pytest.raises(SurvivalDataError, match="no interval"):
        bootstrap(mean_and_share, state, strata, replicates=1, seed=4)


def test_each_site_keeps_its_size() -> None:
    strata = np.array([0] * 7 + [1] * 20 + [2])
    for b in range(5):
        counts = draw_counts(strata, 1, b)
        assert [counts[strata == s].sum() for s in (0, 1, 2)] == [7, 20, 1]


def test_the_standard_error_of_a_mean() -> None:
    g = np.random.default_rng(1)
    x = g.normal(size=200)
    found = bootstrap(mean_and_share, x, np.zeros(200, dtype=np.int64), replicates=2000, seed=1, workers=1)
    interval = percentile_interval(found.values[:, 0])
    assert interval.se == pytest.approx(x.std() / np.sqrt(200), rel=0.05)
    assert interval.ci_high - interval.ci_low == pytest.approx(2 * 1.96 * interval.se, rel=0.05)


def test_an_interval_needs_nine_replicates_in_ten() -> None:
    values = np.linspace(0, 1, 101)
    values[:10] = np.nan
    assert percentile_interval(values).failed == 10
    assert percentile_interval(values).ci_low == pytest.approx(0.1 + 0.9 * 0.025)
    values[10] = np.nan
    assert percentile_interval(values).ci_low is None
    assert "11 of 101" in bootstrap_effect(0.5, values, level=0.95).warnings[0]
    assert "left out" in bootstrap_effect(0.5, np.append(values, [0.5] * 20), level=0.95).warnings[0]


def test_what_is_undefined_is_none() -> None:
    assert bootstrap_effect(float("nan"), np.ones(5), level=0.95).estimate is None
    assert bootstrap_effect(1.0, np.ones(50), level=0.95).se is None
    ratio = wald_effect(np.log(0.5), 0.2, level=0.95, is_log=True)
    assert ratio.estimate == pytest.approx(0.5)
    assert (ratio.ci_low, ratio.ci_high) == pytest.approx(
        (0.5 * np.exp(-1.959964 * 0.2), 0.5 * np.exp(1.959964 * 0.2)), rel=1e-6
    )
    assert wald_effect(0.5, None, level=0.95).ci_low is None
    assert wald_effect(None, 1.0, level=0.95).estimate is None


def random_rows(seed: int, n: int = 60, p: int = 2) -> HistoryRows:
    """Start-stop rows, two a patient, with many ties."""
    g = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n), 2)
    first = g.integers(1, 8, n)
    start2 = np.where(np.arange(2 * n) % 2 == 0, -1, np.repeat(first, 2))
    stop2 = np.where(
        np.arange(2 * n) % 2 == 0, np.repeat(first, 2), np.repeat(first + g.integers(1, 8, n), 2)
    )
    event = (np.arange(2 * n) % 2 == 1) & (g.random(2 * n) < 0.6)
    X = g.normal(size=(2 * n, p)).round(1)
    return HistoryRows(start2, stop2, event, X, tuple(f"x{j}" for j in range(p)), patient)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_hazard_fitted_to_drawn_patients_is_that_of_their_rows_written_out(p: int, seed: int) -> None:
    rows = random_rows(seed, p=p)
    counts = draw_counts(np.zeros(60, dtype=np.int64), seed, 0)
    fit = fit_hazard(model := hazard_model(rows, "starting"), counts)
    many = counts[rows.patient].astype(int)
    data = cox_data(
        np.repeat(rows.X, many, axis=0),
        np.repeat(rows.stop2, many),
        np.repeat(rows.event, many),
        names=rows.names,
        start=np.repeat(rows.start2, many),
    )
    beta = fit_cox(data).coefficients
    assert fit.beta / model.scale == pytest.approx(beta, abs=1e-7)
    (expected,) = baseline_hazard(data, beta, at=np.zeros(p))
    # The two have their baselines at different covariates: compare the hazards of each row.
    hazard = np.cumsum(fit.increments)[np.searchsorted(model.time2, expected.time)]
    for r in range(0, len(rows), 7):
        ours = hazard * fit.relative[r]
        assert ours == pytest.approx(expected.cumulative_hazard * np.exp(rows.X[r] @ beta), rel=1e-6)


def test_a_hazard_without_covariates_is_kaplan_meier_s() -> None:
    rows = random_rows(4, p=0)
    counts = draw_counts(np.zeros(60, dtype=np.int64), 1, 1)
    model = hazard_model(rows, "starting")
    many = counts[rows.patient]
    expected = []
    for t in model.time2:
        at_risk = many[(rows.start2 < t) & (rows.stop2 >= t)].sum()
        expected.append(1 - many[rows.event & (rows.stop2 == t)].sum() / at_risk)
    assert np.exp(-fit_hazard(model, counts).increments) == pytest.approx(expected, abs=1e-12)


def test_a_hazard_without_departures_is_none() -> None:
    rows = random_rows(1)
    none = HistoryRows(
        rows.start2, rows.stop2, np.zeros(len(rows), dtype=bool), rows.X, rows.names, rows.patient
    )
    model = hazard_model(none, "starting")
    assert model.n_slots == 0
    assert len(fit_hazard(model, np.ones(60)).increments) == 0
    # Departures in the cohort, none among the patients drawn.
    nobody = np.zeros(60)
    nobody[[i for i in range(60) if not rows.event[rows.patient == i].any()]] = 1.0
    assert fit_hazard(hazard_model(rows, "starting"), nobody).increments.sum() == 0


def test_logistic_regression_is_r_s(tmp_path: Path) -> None:
    g = np.random.default_rng(5)
    X = g.normal(size=(80, 2))
    y = g.random(80) < 1 / (1 + np.exp(-X[:, 0]))
    counts = g.integers(0, 4, 80).astype(float)
    gold = in_r(
        "m <- glm(y ~ a + b, binomial, d, weights = n, control = list(epsilon = 1e-14)); "
        "list(b = coef(m), p = predict(m, d, type = 'response'))",
        pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": y.astype(int), "n": counts}),
        tmp_path,
        libraries=("stats",),
    )
    found = fit_logistic(X, y, counts)
    assert found.coefficients == pytest.approx(gold["b"], abs=1e-8)
    assert found.probability == pytest.approx(gold["p"], abs=1e-8)
    assert found.converged


def test_logistic_regression_at_its_edges() -> None:
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    split = fit_logistic(X, np.array([False, False, True, True]))
    assert split.is_separated
    assert split.probability == pytest.approx([0, 0, 1, 1], abs=5e-3)
    one_class = fit_logistic(X, np.ones(4, dtype=bool))
    assert one_class.is_separated
    assert one_class.probability.tolist() == [1.0] * 4
    twice = fit_logistic(np.column_stack([X, 2 * X]), np.array([False, True, False, True]))
    alone = fit_logistic(X, np.array([False, True, False, True]))
    assert twice.probability == pytest.approx(alone.probability, abs=1e-9)
