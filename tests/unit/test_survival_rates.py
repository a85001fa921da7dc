"""Rates per person-time: exact Poisson limits as published, person-time as drawn."""

from __future__ import annotations

import pytest

from rwe.survival.rates import first_event_rates, poisson_rate
from tests.unit.test_survival_data import NEVER, table


@pytest.mark.parametrize(
    ("events", "low", "high"),
    # Garwood 1936 (Biometrika 28:437), 95 % limits of a Poisson mean, as tabulated ever since.
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (10, 4.795, 18.390), (50, 37.111, 65.919)],
)
def test_exact_limits(events: int, low: float, high: float) -> None:
    found = poisson_rate(events, 1.0, patients=1)
    assert (found.ci_low, found.ci_high) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


def test_no_time_has_no_rate() -> None:
    found = poisson_rate(0, 0.0, patients=0)
    assert (found.rate, found.ci_low, found.ci_high) == (None, None, None)


def test_an_event_is_counted_where_it_happens_and_ends_the_time_at_risk() -> None:
    cohort = table(
        [
            ("a", 100, True, 40.0),  # event on day 60: 40 days not exposed, 20 exposed
            ("b", 100, False, NEVER),  # event on day 30: 30 days not exposed
            ("c", 50, True, NEVER),  # none: 50 days not exposed; a death is no such event
            ("d", 80, False, 20.0),  # event on day 10, before the start: 10 days not exposed
            ("e", 80, False, 20.0),  # none: 20 and 60
        ]
    )
    unexposed, exposed = first_event_rates(cohort, [60, 30, NEVER, 10, NEVER])
    assert (unexposed.events, exposed.events) == (2, 1)
    assert unexposed.person_years == pytest.approx((40 + 30 + 50 + 10 + 20) / 365.25)
    assert exposed.person_years == pytest.approx((20 + 60) / 365.25)
    assert (unexposed.patients, exposed.patients) == (5, 2)
