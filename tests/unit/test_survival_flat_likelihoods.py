"""Where a likelihood has no maximum none is given; where it has one, far out, it is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, exposure_split, no_changes
from rwe.survival.logistic import fit_logistic, overlapping
from rwe.survival.site_effects import common_effect, site_interaction
from tests.unit.r_oracle import in_r


def skewed(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A value as skewed as ferritin, and age: one patient lies far out, nothing is separated."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 300))
    value, age = np.exp(rng.normal(6, 1.6, n)), rng.normal(60, 10, n)
    chance = 1 / (1 + np.exp(-(-2 + 1.5 * value / np.quantile(value, 0.6))))
    X = np.column_stack([value, age])
    return (X - X.mean(axis=0)) / X.std(axis=0), rng.random(n) < chance


@pytest.mark.parametrize("seed", range(8))
def test_a_skewed_covariate_is_fitted_to_the_maximum(seed: int) -> None:
    X, y = skewed(seed)
    assert overlapping(X, y).all()  # by a linear programme: there is a maximum
    found = fit_logistic(X, y)
    assert found.converged
    assert not found.is_separated
    design = np.column_stack([np.ones(len(y)), X])
    assert np.abs(design.T @ (y - found.probability)).max() < 1e-6  # the score equations


def test_a_skewed_covariate_has_the_coefficients_of_r(tmp_path: Path) -> None:
    X, y = skewed(3)
    data = pd.DataFrame({"y": y.astype(int), "value": X[:, 0], "age": X[:, 1]})
    r = in_r(
        "list(b = coef(glm(y ~ value + age, binomial, d, control = list(epsilon = 1e-14, maxit = 100))))",
        data,
        tmp_path,
    )
    assert fit_logistic(X, y).coefficients == pytest.approx(r["b"], rel=1e-7)


@pytest.mark.parametrize(
    ("x", "y"),
    [([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1]), ([1, 2, 3, 3, 5, 6], [0, 0, 0, 1, 1, 1])],
)
def test_separated_classes_are_called_so_also_where_two_lie_on_the_border(x: list[int], y: list[int]) -> None:
    assert fit_logistic(np.array(x, dtype=float)[:, None], np.array(y, dtype=bool)).is_separated


@pytest.mark.parametrize("n", [46, 47, 48, 49, 50, 120, 1000])
def test_two_who_start_and_die_first_give_no_ratio_however_many_wait(n: int) -> None:
    """Alone among the exposed when they die: the likelihood rises for ever. R has no estimate either."""
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": "s",
            "time_days": [10, 15, *range(20, 18 + n)],
            "is_event": True,
            "start_day": [9.0, 12.0, *[np.nan] * (n - 2)],
        }
    )
    fit = exposure_cox(exposure_split(CohortTable(patients, no_changes())))
    assert fit.hazard_ratio().estimate is None
    assert not fit.converged
    assert "no maximum" in fit.warnings[0]


@pytest.mark.parametrize("seed", range(12))
def test_a_site_whose_deaths_all_precede_its_first_start_is_silent(seed: int) -> None:
    """Nobody exposed is at risk at any of its deaths: it says nothing, whatever rounding leaves."""
    rng = np.random.default_rng(seed)
    parts = []
    for site in ("a", "b", "c"):
        time = rng.integers(5, 400, 40)
        start = np.where(rng.random(40) < 0.5, np.floor(rng.uniform(0, 1, 40) * time), np.nan)
        parts.append(pd.DataFrame({"site": site, "time_days": time, "start_day": start}))
        parts[-1]["is_event"] = rng.random(40) < 0.6
    start = np.where(np.arange(9) < 4, rng.integers(30, 60, 9), np.nan)
    dies = np.isnan(start)
    time = np.where(dies, rng.integers(1, 29, 9), rng.integers(100, 400, 9))
    parts.append(pd.DataFrame({"site": "d", "time_days": time, "start_day": start, "is_event": dies}))
    patients = pd.concat(parts, ignore_index=True)
    patients["patient_id"] = [f"p{i}" for i in range(len(patients))]
    patients["age"] = np.round(rng.normal(60, 9, len(patients)), 1)
    rows = exposure_split(CohortTable(patients, no_changes()), ["age"])
    assert site_interaction(rows).sites == ("a", "b", "c")
    found = common_effect(rows)
    assert (found.contributing, found.silent) == (("a", "b", "c"), ("d",))
