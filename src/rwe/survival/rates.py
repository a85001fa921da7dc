"""Rates of first events per person-time, with exact intervals.

Poisson limits by the chi-square distribution (Garwood 1936, Biometrika 28:437): defined without events, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from rwe.survival.data import CohortTable, exposure_split
from rwe.survival.first_events import first_events
from rwe.survival.tables import numbers

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Rate:
    """Events per person-year with its limits; None without person-time."""

    patients: int
    events: int
    person_years: float
    rate: float | None
    ci_low: float | None
    ci_high: float | None


def poisson_rate(events: int, person_years: float, *, patients: int, level: float = 0.95) -> Rate:
    """A rate and its exact interval."""
    if person_years <= 0:
        return Rate(patients, events, person_years, None, None, None)
    alpha = 1 - level
    # chdtri(df, p) is the value that a chi-square exceeds with probability p.
    low = 0.0 if events == 0 else float(chdtri(2 * events, 1 - alpha / 2)) / 2
    high = float(chdtri(2 * events + 2, alpha / 2)) / 2
    return Rate(
        patients, events, person_years, events / person_years, low / person_years, high / person_years
    )


def first_event_rates(
    table: CohortTable, first_day: npt.ArrayLike, *, level: float = 0.95
) -> tuple[Rate, Rate]:
    """Rates (while not exposed, while exposed) of a non-fatal event, by the day of each patient's first one.

    `first_day` follows the table's patients (NaN: none). A patient is at risk until the first event or the
    end of follow-up; a start of treatment on the day of the event or later has no time at risk: exposure
    begins at the end of its day.
    """
    days = np.asarray(first_day, dtype=np.float64)
    start = numbers(table.patients, "start_day", "patients")
    # Here, for the event ends follow-up below: a start on the last day is taken to be half a day earlier.
    before = table.patients.assign(start_day=np.where(start >= days, np.nan, start))
    events = first_events(CohortTable(before, table.changes), {"event": days}, death="end")
    rows = exposure_split(events.table)
    is_event = rows.event & (events.cause[rows.patient] == 1)
    found = []
    for exposed in (False, True):
        mine = rows.exposed == exposed
        years = float((rows.stop - rows.start)[mine].sum()) / DAYS_PER_YEAR
        patients = len(np.unique(rows.patient[mine]))
        found.append(poisson_rate(int(is_event[mine].sum()), years, patients=patients, level=level))
    return found[0], found[1]
