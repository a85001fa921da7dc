"""How beta follows from totals: to the pooled optimum, bounded, and the same for whoever works it out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rwe.federate.newton import Decision, Point, decide, is_same_beta, point_of
from rwe.federate.plan import Plan
from rwe.federate.sums import SiteRows, site_sums
from rwe.survival.cox import cox_data, fit_cox
from rwe.survival.data import CountingProcess

PLAN = Plan(
    study="drawn",
    protocol_sha256="0" * 64,
    analysis=0,
    name="time_dependent_cox",
    kind="cox",
    landmark_day=None,
    coefficients=("exposed", "age"),
    ties="efron",
    is_robust=False,
    level=0.95,
    life_table_days=(90,),
)


def site_of(
    stop: np.ndarray, event: np.ndarray, exposed: np.ndarray, age: np.ndarray, name: str = "one"
) -> SiteRows:
    n = len(stop)
    rows = CountingProcess(
        start=np.zeros(n),
        stop=stop.astype(float),
        event=event.astype(bool),
        exposed=exposed.astype(bool),
        X=age.astype(float)[:, None],
        names=("age",),
        patient=np.arange(n),
        site=np.full(n, name, dtype=object),
        n_patients=n,
    )
    X = np.column_stack([exposed.astype(float), age.astype(float)])
    model = cox_data(X, rows.stop, rows.event, names=PLAN.coefficients, strata=np.full(n, name))
    return SiteRows(model, rows, n, int(rows.event.sum()))


def climb(sites: list[SiteRows], plan: Plan = PLAN) -> tuple[list[Point], Decision]:
    """The whole iteration on totals that nobody masked."""
    points: list[Point] = []
    beta: tuple[float, ...] = (0.0,) * len(plan.coefficients)
    while True:
        step = len(points)
        totals = np.sum([site_sums(s, plan, step, beta, rounding="exact") for s in sites], axis=0)
        points.append(point_of(plan, beta, dict(zip(plan.layout(step), totals, strict=True))))
        decision = decide(plan, points)
        if decision.beta is None:
            return points, decision
        beta = decision.beta


def simulated(seed: int, n: int, log_hr: float, per_year: float = 0.0) -> SiteRows:
    rng = np.random.default_rng(seed)
    exposed, age = rng.integers(0, 2, n), rng.normal(60, 10, n)
    stop = np.ceil(rng.exponential(300 * np.exp(-log_hr * exposed - per_year * (age - 60))))
    return site_of(np.minimum(stop, 700), stop <= 700, exposed, age, name=f"site{seed}")


@pytest.mark.parametrize(("log_hr", "per_year"), [(0.0, 0.0), (-1.2, 0.05), (2.5, -0.1), (3.5, 0.2)])
def test_it_ends_where_the_pooled_model_does(log_hr: float, per_year: float) -> None:
    sites = [simulated(seed, 120, log_hr, per_year) for seed in (1, 2, 3)]
    points, decision = climb(sites)
    assert decision.ending == "converged"
    pooled = fit_cox(
        cox_data(
            np.concatenate([s.model.X for s in sites]),
            np.concatenate([s.model.stop for s in sites]),
            np.concatenate([s.model.event for s in sites]),
            names=PLAN.coefficients,
            strata=np.repeat(["a", "b", "c"], 120),
        )
    )
    assert points[decision.best].beta == pytest.approx(pooled.coefficients, abs=1e-8)
    assert len(points) <= 12


def test_a_step_that_goes_too_far_is_halved() -> None:
    """The slope along the step turned round and is steeper than it was: the next beta lies half way."""
    information = np.array([[1.0, 0.0], [0.0, 100.0]])
    first = Point(np.zeros(2), np.array([1.0, 0.0]), information, None, events=4.0)
    far = Point(np.array([1.0, 0.0]), np.array([-1.5, 0.0]), information, None)
    decision = decide(PLAN, [first, far])
    assert decision.beta == (0.5, 0.0)
    near = Point(np.array([1.0, 0.0]), np.array([-0.5, 0.0]), information, None)
    assert decide(PLAN, [first, near]).beta == (0.5, 0.0)  # Newton's own step back, from the new point
    assert decide(PLAN, [first, near]).best == 1
    assert decision.best == 0


def test_no_step_is_longer_than_one_and_a_half_standard_deviations() -> None:
    information = np.array([[1.0, 0.0], [0.0, 400.0]])
    first = Point(np.zeros(2), np.array([100.0, 0.0]), information, None, events=4.0)
    decision = decide(PLAN, [first])
    assert decision.beta == pytest.approx((3.0, 0.0))  # a standard deviation of 1/2


def test_a_likelihood_without_maximum_ends_in_the_box() -> None:
    """No death among the exposed at any site: minus infinity is not approached, and there is no estimate."""
    stop, event = np.array([5, 9, 14, 20, 30, 31, 32, 33]), np.array([1, 1, 1, 1, 0, 0, 0, 0])
    exposed = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    age = np.array([50, 70, 61, 66, 52, 71, 60, 67])
    points, decision = climb([site_of(stop, event, exposed, age)])
    assert decision.ending == "out_of_the_box"
    assert decision.coefficients == ("exposed",)
    assert all(np.abs(p.beta[0]) <= PLAN.largest_coefficient for p in points)


def test_nobody_exposed_anywhere_is_said_and_not_divided_by() -> None:
    site = site_of(np.array([3, 5, 8]), np.array([1, 1, 0]), np.zeros(3), np.array([50, 60, 70]))
    _, decision = climb([site])
    assert decision.ending == "singular"
    assert decision.coefficients == ("exposed",)


def test_a_site_without_events_or_with_one_arm_adds_what_it_has() -> None:
    base = [simulated(seed, 120, -0.5) for seed in (1, 2, 3)]
    quiet = site_of(np.array([3, 5]), np.zeros(2), np.array([0, 1]), np.array([50, 60]), name="quiet")
    one_arm = site_of(
        np.array([3, 5, 8, 9]), np.array([1, 1, 1, 0]), np.zeros(4), np.array([50, 60, 80, 70]), name="arm"
    )
    alone = climb(base)[0][-1].beta
    assert climb([*base, quiet])[0][-1].beta == pytest.approx(alone, abs=1e-12)
    moved = climb([*base, one_arm])[0][-1].beta - alone
    assert abs(moved[1]) > 1e-5  # its ages at death count


def test_at_the_end_the_rule_stays_where_it_is() -> None:
    """A site whose rounding sees one step more to go is asked for the same point, and answers it."""
    points, decision = climb([simulated(seed, 120, -0.5) for seed in (1, 2, 3)])
    assert decision.ending == "converged"
    assert decision.beta is None
    assert decision.following is not None
    assert is_same_beta(decision.following, points[decision.best].beta.tolist())


def test_no_refresh_has_more_steps_than_the_plan() -> None:
    sites = [simulated(seed, 120, 2.5, -0.1) for seed in (1, 2, 3)]
    points, decision = climb(sites, replace(PLAN, most_steps=2))
    assert (len(points), decision.ending, decision.following) == (2, "too_many_steps", None)


def test_rounding_of_another_machine_passes_and_another_beta_does_not() -> None:
    assert is_same_beta((0.3, -1.0), (0.3 + 1e-12, -1.0))
    assert not is_same_beta((0.3 + 1e-6, -1.0), (0.3, -1.0))
    assert not is_same_beta((0.3,), (0.3, 0.0))
