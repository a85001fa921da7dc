"""The Cox kernel against loops written from the textbook, its invariances, and its edges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rwe.survival.cox import (
    CoxData,
    baseline_hazard,
    cox_data,
    fit_cox,
    stratum_scores,
)
from rwe.survival.cox_kernel import risk_sets, score_residuals
from rwe.survival.data import (
    NotEstimableError,
)
from rwe.survival.logrank import logrank

TIES = ("efron", "breslow")

row = st.tuples(
    st.integers(0, 4),  # start
    st.integers(1, 6),  # stop
    st.booleans(),  # event
    st.integers(0, 1),  # x1
    st.integers(-2, 3),  # x2
    st.sampled_from([0.5, 1.0, 2.0, 3.5]),  # weight
    st.sampled_from("ab"),  # stratum
).filter(lambda r: r[0] < r[1])
rows_of = st.lists(row, min_size=2, max_size=16)


@st.composite
def well_mixed_rows(draw: st.DrawFn) -> list[tuple]:
    """Thirty rows with many ties, mixed enough that most have an estimate."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start = rng.integers(0, 5, 30)
    stop = start + rng.integers(1, 5, 30)
    columns = (
        start.tolist(),
        stop.tolist(),
        (rng.random(30) < 0.7).tolist(),
        rng.integers(0, 2, 30).tolist(),
        rng.integers(-2, 4, 30).tolist(),
        rng.choice([0.5, 1.0, 2.0, 3.5], 30).tolist(),
        rng.choice(["a", "b"], 30).tolist(),
    )
    return list(zip(*columns, strict=True))


betas = st.tuples(st.floats(-2, 2), st.floats(-1, 1))


def cox(rows: list[tuple], **changes) -> CoxData:
    start, stop, event, x1, x2, weight, stratum = zip(*rows, strict=True)
    columns = {"start": start, "weights": weight, "strata": stratum, "names": ("x1", "x2")} | changes
    return cox_data(np.column_stack([x1, x2]), stop, event, **columns)


def partial_likelihood(rows: list[tuple], beta: tuple[float, float], ties: str):
    """Log partial likelihood, score and information, one event term after the other.

    With d tied events each of the d terms has the events' mean weight; Efron takes the share r/d of the
    events' own sums off the risk set's in term r (Therneau & Grambsch 2000, section 3.3).
    """
    b = np.array(beta)
    loglik, score, information = 0.0, np.zeros(2), np.zeros((2, 2))
    for stratum in "ab":
        here = [r for r in rows if r[6] == stratum]
        for t in sorted({r[1] for r in here if r[2]}):
            at_risk = [(r[5], np.array(r[3:5], dtype=float)) for r in here if r[0] < t <= r[1]]
            events = [(r[5], np.array(r[3:5], dtype=float)) for r in here if r[2] and r[1] == t]
            d, mean_weight = len(events), sum(w for w, _ in events) / len(events)
            for w, x in events:
                loglik += w * (x @ b)
                score += w * x
            for r in range(d):
                a = r / d if ties == "efron" else 0.0
                terms = [(w * math.exp(x @ b), x) for w, x in at_risk]
                terms += [(-a * w * math.exp(x @ b), x) for w, x in events]
                s0 = sum(k for k, _ in terms)
                mean = sum(k * x for k, x in terms) / s0
                loglik -= mean_weight * math.log(s0)
                score -= mean_weight * mean
                second = sum(k * np.outer(x, x) for k, x in terms) / s0
                information += mean_weight * (second - np.outer(mean, mean))
    return loglik, score, information


@settings(deadline=None)
@given(rows_of, betas, st.sampled_from(TIES))
def test_likelihood_score_and_information_are_those_of_the_definition(rows, beta, ties):
    loglik, score, information = partial_likelihood(rows, beta, ties)
    pieces = stratum_scores(cox(rows), beta, ties=ties)
    assert sum(p.loglik for p in pieces) == pytest.approx(loglik, abs=1e-10)
    np.testing.assert_allclose(sum(p.score for p in pieces), score, atol=1e-10)
    np.testing.assert_allclose(sum(p.information for p in pieces), information, atol=1e-10)


def fitted(rows: list[tuple], ties: str = "efron", **changes):
    """A fit, where these random rows have one."""
    try:
        fit = fit_cox(cox(rows, **changes), ties=ties, robust=True)
    except NotEstimableError:
        assume(False)
    assume(fit.converged)
    return fit


@settings(max_examples=60, deadline=None)
@given(well_mixed_rows(), st.sampled_from(TIES))
def test_the_optimum_has_score_zero_and_the_inverse_information_as_variance(rows, ties):
    fit = fitted(rows, ties)
    loglik, score, information = partial_likelihood(rows, tuple(fit.coefficients), ties)
    np.testing.assert_allclose(score, 0, atol=1e-7)
    np.testing.assert_allclose(fit.model_variance @ information, np.eye(2), atol=1e-6)
    assert fit.loglik == pytest.approx(loglik, abs=1e-10)
    null, at_zero, information_at_zero = partial_likelihood(rows, (0.0, 0.0), ties)
    assert fit.loglik_null == pytest.approx(null, abs=1e-10)
    chi_square = at_zero @ np.linalg.solve(information_at_zero, at_zero)
    assert fit.score_test.chi_square == pytest.approx(chi_square, rel=1e-7, abs=1e-10)


def residuals_of(rows: list[tuple], beta: tuple[float, float], ties: str) -> np.ndarray:
    data = cox(rows)
    sets = risk_sets(
        data.X,
        start=data.start,
        stop=data.stop,
        event=data.event,
        weight=data.weight,
        stratum=data.stratum,
        ties=ties,
    )
    return score_residuals(sets, np.array(beta))


@settings(deadline=None)
@given(rows_of, betas, st.sampled_from(TIES))
def test_weighted_score_residuals_add_up_to_the_score(rows, beta, ties):
    # With Efron ties and unequal weights among tied events the sum is the score only if weights are equal.
    if ties == "efron":
        rows = [(*r[:5], 2.0, r[6]) for r in rows]
    weights = np.array([r[5] for r in rows])
    _, score, _ = partial_likelihood(rows, beta, ties)
    np.testing.assert_allclose(weights @ residuals_of(rows, beta, ties), score, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(rows_of, betas, st.data())
def test_a_score_residual_is_what_the_score_gains_by_more_weight_on_its_row(rows, beta, data):
    i = data.draw(st.integers(0, len(rows) - 1))

    def score(change: float) -> np.ndarray:
        moved = [(*r[:5], r[5] + change * (k == i), r[6]) for k, r in enumerate(rows)]
        return partial_likelihood(moved, beta, "breslow")[1]

    slope = (score(1e-5) - score(-1e-5)) / 2e-5
    np.testing.assert_allclose(residuals_of(rows, beta, "breslow")[i], slope, atol=1e-7)


def sandwich(rows: list[tuple], clusters: list[int], fit) -> np.ndarray:
    residuals = residuals_of(rows, tuple(fit.coefficients), fit.ties) * np.array([[r[5]] for r in rows])
    sums = [sum(r for r, c in zip(residuals, clusters, strict=True) if c == k) for k in set(clusters)]
    return fit.model_variance @ sum(np.outer(s, s) for s in sums) @ fit.model_variance


@settings(max_examples=40, deadline=None)
@given(well_mixed_rows(), st.sampled_from(TIES))
def test_the_sandwich_squares_sums_over_patients_not_rows(rows, ties):
    clusters = [i // 2 for i in range(len(rows))]
    fit = fitted(rows, ties, cluster=clusters)
    np.testing.assert_allclose(fit.variance, sandwich(rows, clusters, fit), rtol=1e-6, atol=1e-9)
    assert fit.n_patients == len(set(clusters))


def assert_same_fit(one, other) -> None:
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=1e-6)
    np.testing.assert_allclose(one.model_se, other.model_se, rtol=1e-5)
    np.testing.assert_allclose(one.se, other.se, rtol=1e-5, atol=1e-8)
    assert one.loglik == pytest.approx(other.loglik, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(well_mixed_rows(), st.sampled_from(TIES), st.randoms())
def test_neither_order_nor_splitting_of_rows_changes_the_fit(rows, ties, random):
    fit = fitted(rows, ties)
    pieces, clusters = [], []
    for i, (start, stop, event, *rest) in enumerate(rows):
        cut = random.uniform(start, stop)
        whole = not start < cut < stop
        pieces += (
            [(start, stop, event, *rest)]
            if whole
            else [(start, cut, False, *rest), (cut, stop, event, *rest)]
        )
        clusters += [i] * (1 if whole else 2)
    order = random.sample(range(len(pieces)), len(pieces))
    again = fit_cox(
        cox([pieces[k] for k in order], cluster=[clusters[k] for k in order]), ties=ties, robust=True
    )
    assert_same_fit(fit, again)
    assert again.events == fit.events


@settings(max_examples=40, deadline=None)
@given(well_mixed_rows(), st.sampled_from([1e-4, 365.25, 1e5]), st.sampled_from([0.0, 2020.0]))
def test_the_unit_of_a_covariate_changes_only_its_own_coefficient(rows, unit, origin):
    fit = fitted(rows)
    data = cox(rows)
    other = fit_cox(
        replace(data, X=np.column_stack([data.X[:, 0], data.X[:, 1] * unit + origin])), robust=True
    )
    assert other.coefficients[0] == pytest.approx(fit.coefficients[0], abs=1e-5)
    assert other.coefficients[1] * unit == pytest.approx(fit.coefficients[1], abs=1e-5)
    assert other.se[1] * unit == pytest.approx(fit.se[1], rel=1e-4, abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(well_mixed_rows())
def test_a_whole_weight_is_that_many_patients_with_breslow_ties(rows):
    rows = [(*r[:5], float(math.ceil(r[5])), r[6]) for r in rows]
    fit = fitted(rows, "breslow")
    copies = [(*r[:5], 1.0, r[6]) for r in rows for _ in range(int(r[5]))]
    again = fit_cox(cox(copies), ties="breslow")
    np.testing.assert_allclose(fit.coefficients, again.coefficients, atol=1e-6)
    np.testing.assert_allclose(fit.model_se, again.model_se, rtol=1e-5)


def test_rows_of_weight_zero_are_as_good_as_absent():
    rows = [(0, t, t % 3 > 0, t % 2, t % 4, 1.0, "a") for t in range(1, 15)]
    with_ghost = [*rows, (0, 4, True, 1, 3, 0.0, "a")]
    assert_same_fit(fit_cox(cox(rows)), fit_cox(cox(with_ghost)))


def test_score_test_of_one_group_without_ties_is_the_logrank_test():
    stop, event, group = range(1, 21), [t % 3 > 0 for t in range(20)], [t * 7 % 5 > 2 for t in range(20)]
    fit = fit_cox(cox_data(np.array(group, dtype=float), stop, event, names=("group",)))
    assert fit.score_test.chi_square == pytest.approx(logrank(stop, event, group).chi_square, abs=1e-10)


def test_baseline_hazard_of_breslow_is_deaths_over_the_summed_risks():
    # At risk on day 2: exp(b), 1, 1; on day 3: 1, 1.
    data = cox_data(np.array([1.0, 0.0, 0.0]), [2, 3, 4], [1, 1, 0], names=("x",))
    b = math.log(2)
    (found,) = baseline_hazard(data, [b], at=[0.0], ties="breslow")
    assert found.time.tolist() == [2, 3]
    np.testing.assert_allclose(found.cumulative_hazard, [1 / 4, 1 / 4 + 1 / 2])
    (exposed,) = baseline_hazard(data, [b], at=[1.0], ties="breslow")
    np.testing.assert_allclose(exposed.cumulative_hazard, 2 * found.cumulative_hazard)


def test_baseline_hazard_of_efron_spreads_tied_deaths():
    data = cox_data(np.zeros(4), [5, 5, 5, 9], [1, 1, 1, 0], names=("x",), strata=["s"] * 4)
    (found,) = baseline_hazard(data, [0.0], at=[0.0])
    np.testing.assert_allclose(found.cumulative_hazard, [1 / 4 + 1 / 3 + 1 / 2])
    assert found.stratum == "s"


def test_a_stratum_without_events_adds_nothing():
    data = cox_data([1.0, 0, 1, 0], [1, 2, 3, 4], [1, 1, 0, 0], names=("x",), strata=["a", "a", "b", "b"])
    pieces = {p.stratum: p for p in stratum_scores(data, [0.3])}
    assert pieces["b"].loglik == 0
    assert pieces["b"].score.tolist() == [0]
    assert pieces["b"].information.tolist() == [[0]]
    assert pieces["a"].information[0, 0] > 0
    hazards = {h.stratum: h for h in baseline_hazard(data, [0.3], at=[0.0])}
    assert len(hazards["b"].time) == 0


def test_a_hundred_thousand_rows_with_the_known_hazard_ratio():
    # Exponential times with hazard ratio 0.6 and four strata of different baselines; entry is staggered.
    rng = np.random.default_rng(20)
    n = 100_000
    x, stratum = rng.integers(0, 2, n).astype(float), rng.integers(0, 4, n)
    entry = rng.uniform(0, 100, n)
    death = entry + rng.exponential(1 / (0.002 * (1 + stratum) * 0.6**x))
    stop = np.minimum(death, entry + 500)
    fit = fit_cox(cox_data(x, stop, death <= entry + 500, names=("x",), start=entry, strata=stratum))
    assert fit.iterations < 10
    assert fit.coefficients[0] == pytest.approx(math.log(0.6), abs=4 * fit.se[0])
    assert fit.se[0] < 0.01
