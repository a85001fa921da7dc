"""The jackknife of patients in one step against leaving each patient out in turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rwe.survival.cox import CoxData, cox_data, fit_cox, stratum_scores
from rwe.survival.cox_kernel import risk_sets
from rwe.survival.jackknife import (
    JACKKNIFE,
    SANDWICH,
    deletion_scores,
    evaluated,
    jackknife_ratio,
    patient_information,
)


def weighted_rows(
    n: int, seed: int, *, strata: int = 1, is_tied: bool = False, spread: float = 0.5
) -> CoxData:
    """Patients with two rows each, exposed from a day on, late entry, log-normal weights of that spread."""
    g = np.random.default_rng(seed)
    x = g.normal(size=n)
    begin = g.uniform(0, 10, n)
    change = begin + g.uniform(1, 30, n)
    stop = change + g.exponential(60, n) + 1
    if is_tied:
        begin, change, stop = np.floor(begin), np.ceil(change), np.ceil(stop / 20) * 20 + 60
    exposed = g.random(n) < 0.4
    event = g.random(n) < 0.7
    weight = np.exp(spread * g.normal(size=2 * n))
    return cox_data(
        np.column_stack([np.concatenate([np.zeros(n), exposed]), np.tile(x, 2)]),
        np.concatenate([change, stop]),
        np.concatenate([np.zeros(n, dtype=bool), event]),
        names=("exposed", "x"),
        start=np.concatenate([begin, change]),
        weights=weight,
        strata=np.tile(np.arange(n) % strata, 2),
        cluster=np.tile(np.arange(n), 2),
    )


def without(data: CoxData, patient: int) -> CoxData:
    kept = data.cluster != patient
    columns = ("X", "start", "stop", "event", "weight", "stratum", "cluster")
    return replace(data, **{name: getattr(data, name)[kept] for name in columns})


def score(data: CoxData, beta: np.ndarray) -> np.ndarray:
    return np.sum([part.score for part in stratum_scores(data, beta)], axis=0)


def at_estimate(data: CoxData, beta: np.ndarray):  # type: ignore[no-untyped-def]
    sets = risk_sets(
        data.X,
        start=data.start,
        stop=data.stop,
        event=data.event,
        weight=data.weight,
        stratum=data.stratum,
        ties="efron",
    )
    return evaluated(sets, beta)


def test_deletion_is_the_score_less_that_of_the_rows_without_the_patient() -> None:
    data = weighted_rows(60, seed=1, spread=0.1)
    beta = np.array([-0.4, 0.3])
    found = deletion_scores(at_estimate(data, beta), data.cluster)
    whole = score(data, beta)
    slow = np.array([whole - score(without(data, i), beta) for i in range(60)])
    assert found == pytest.approx(slow, abs=2e-3)
    # Those who never are more than a third of a risk set: the powers left out are nothing.
    early = np.unique(data.cluster[(data.stop < np.sort(data.stop)[-12])])
    early = np.setdiff1d(early, data.cluster[data.stop >= np.sort(data.stop)[-12]])
    assert len(early) > 40
    assert found[early] == pytest.approx(slow[early], abs=1e-6)


@pytest.mark.parametrize("is_tied", [False, True])
def test_what_patients_add_is_the_information(is_tied: bool) -> None:
    data = weighted_rows(80, seed=2, strata=3, is_tied=is_tied)
    fit = fit_cox(data, robust=True)
    parts = patient_information(at_estimate(data, fit.coefficients), data.cluster)
    assert parts.shape == (80, 2, 2)
    assert parts.sum(axis=0) == pytest.approx(np.linalg.inv(fit.model_variance), rel=1e-8)
    assert np.linalg.eigvalsh(parts).min() > -1e-9


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("seed", [3, 4])
def test_it_is_the_jackknife_where_the_sandwich_is_too_small(seed: int, is_tied: bool) -> None:
    data = weighted_rows(60, seed=seed, strata=6, spread=0.8, is_tied=is_tied)
    fit = fit_cox(data, robust=True)
    moved = np.array([fit_cox(without(data, i)).coefficients[0] for i in range(60)])
    jackknife = np.sqrt(np.sum((moved - fit.coefficients[0]) ** 2))
    found = jackknife_ratio(data, fit, level=0.95)
    assert found.variance_method == JACKKNIFE
    assert fit.se[0] < 0.9 * jackknife
    assert found.se == pytest.approx(jackknife, rel=0.05)


@pytest.mark.parametrize("weight", [1.0, 3.0, 9.0, 20.0])
def test_two_who_die_on_one_day_and_fill_their_stratum_move_nothing_much(weight: float) -> None:
    """Leaving each patient out and fitting again gives 0.19 whatever the weight of the one."""
    g = np.random.default_rng(0)
    data = cox_data(
        np.concatenate([g.random(100) < 0.5, [1, 0]]).astype(float)[:, None],
        np.concatenate([g.permutation(100) + 1.0, [50, 50]]),
        np.ones(102, dtype=bool),
        names=("exposed",),
        weights=np.concatenate([np.ones(100), [weight, 1]]),
        strata=np.concatenate([np.zeros(100), [1, 1]]),
    )
    fit = fit_cox(data, robust=True)
    moved = np.array([fit_cox(without(data, i)).coefficients[0] for i in range(102)])
    jackknife = np.sqrt(np.sum((moved - fit.coefficients[0]) ** 2))
    assert jackknife_ratio(data, fit, level=0.95).se == pytest.approx(jackknife, rel=0.15)


def test_many_patients_alike_have_the_sandwich_and_the_normal_interval() -> None:
    data = weighted_rows(6_000, seed=5, spread=0.0)
    fit = fit_cox(data, robust=True)
    found = jackknife_ratio(data, fit, level=0.95)
    assert found.se == pytest.approx(fit.se[0], rel=0.01)
    assert found.ci_low == pytest.approx(np.exp(fit.ci_low[0]), rel=0.002)


def test_without_an_estimate_of_a_covariate_the_sandwich_stays() -> None:
    data = weighted_rows(80, seed=8)
    # Nobody with the third covariate has an event: its coefficient runs away.
    rare = ((data.cluster % 4 == 0) & ~np.isin(data.cluster, data.cluster[data.event])).astype(float)
    assert rare.any()
    wide = replace(data, X=np.column_stack([data.X, rare]), names=(*data.names, "rare"))
    fit = fit_cox(wide, robust=True)
    assert fit.diverged == ("rare",)
    found = jackknife_ratio(wide, fit, level=0.95)
    assert found.variance_method == SANDWICH
    assert found.se == pytest.approx(fit.se[0])
