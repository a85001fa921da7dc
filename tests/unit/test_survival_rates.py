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


def test_an_event_on_the_day_of_the_start_is_not_yet_exposed() -> None:
    """Exposure begins at the end of its day, and many a record is made at the visit at which it starts."""
    cohort = table(
        [(name, 400, False, start) for name, start in zip("abcd", [100, 100, 100, NEVER], strict=True)]
    )
    unexposed, exposed = first_event_rates(cohort, [100, 100, NEVER, 300])
    assert (unexposed.events, exposed.events) == (3, 0)
    assert unexposed.person_years == pytest.approx((100 + 100 + 100 + 300) / 365.25)
    assert exposed.person_years == pytest.approx(300 / 365.25)
    assert (unexposed.patients, exposed.patients) == (4, 1)


def test_a_start_on_the_last_day_without_an_event_is_half_a_day_at_risk() -> None:
    """The rule of the survival vignette is for the end of a patient's own follow-up: it stays."""
    _, exposed = first_event_rates(table([("a", 100, True, 100)]), [NEVER])
    assert (exposed.events, exposed.person_years) == (0, pytest.approx(0.5 / 365.25))
