"""Exposure that counts only some days after its start: a sensitivity for what works late, or not at once.

A death in the first days after a start is then none of the exposed. Source: the lag time analysis of
pharmacoepidemiology (Hallas & Pottegard 2014, Pharmacoepidemiol Drug Saf 23:437).
"""

from __future__ import annotations

import numpy as np

from rwe.survival.data import CohortTable, SurvivalDataError
from rwe.survival.tables import numbers


def lagged(table: CohortTable, days: int) -> CohortTable:
    """The table in which exposure begins `days` (1 or more) after the start.

    Whoever is not followed beyond that day never counts as exposed. When the start was, and what was known
    on that day, is gone: for models of time-dependent exposure only, not for models of starting. Raises
    SurvivalDataError where `days` is below 1.
    """
    if days < 1:
        raise SurvivalDataError("a lag is at least one day")
    later = numbers(table.patients, "start_day", "patients") + days
    is_followed = later < numbers(table.patients, "time_days", "patients")
    return CohortTable(table.patients.assign(start_day=np.where(is_followed, later, np.nan)), table.changes)
