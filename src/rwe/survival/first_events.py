"""Time to the first of several kinds of event: progression-free survival and competing risks.

On one day a relapse comes before a death: who relapses and dies on a day has relapsed first. A start of
treatment after the first event is no start any more (maintenance is not salvage).

For the planner: `first_events(table, {"relapse": relapse_days}, death="non_relapse_death")`. Its `table` is
an ordinary cohort table whose outcome is the composite, so every estimator of it gives progression-free
survival; `competing_rows(events, rows)` with rows split from that table serves cumulative incidence and
Fine-Gray, and `.of_cause(name)` any estimator of a cause-specific hazard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rwe.survival.data import (
    CohortTable,
    CountingProcess,
    IntArray,
    SurvivalDataError,
    frozen_flags,
    frozen_ints,
)
from rwe.survival.tables import numbers


@dataclass(frozen=True)
class FirstEvents:
    """A cohort table whose event is the first of several, and which it was.

    `cause` follows the table's patients: 0 for none, else 1 + the place in `causes`. `starts_dropped` are
    patients whose treatment started after their first event; they count as never started.
    """

    table: CohortTable
    cause: IntArray
    causes: tuple[str, ...]
    starts_dropped: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompetingRows:
    """Rows at risk with the cause of the event that ends each: 0 for none, else 1 + the place in `causes`."""

    data: CountingProcess
    cause: IntArray
    causes: tuple[str, ...]

    def code(self, cause: str) -> int:
        """The code of a cause. Raises SurvivalDataError if there is none of that name."""
        if cause not in self.causes:
            raise SurvivalDataError(f"there is no cause {cause} (of {', '.join(self.causes)})")
        return 1 + self.causes.index(cause)

    def of_cause(self, cause: str) -> CountingProcess:
        """The rows for the cause-specific hazard: events of other causes censor.

        Raises SurvivalDataError if there is no cause of that name.
        """
        return replace(self.data, event=frozen_flags(self.cause == self.code(cause)))


def first_events(
    table: CohortTable, days: Mapping[str, npt.ArrayLike], *, death: str = "death"
) -> FirstEvents:
    """End follow-up at the first event of any kind.

    `days`: for each kind of non-fatal event the whole day of each patient's first (NaN: none), in the order
    of the table's patients; on one day the kind named first counts. `death` names a death without any before.
    Days after the end of follow-up are ignored. Raises SurvivalDataError for days that are negative, not
    whole or not one for each patient, and for a kind named as `death`.
    """
    if death in days:
        raise SurvivalDataError(f"{death} names both a death and another event")
    end = numbers(table.patients, "time_days", "patients")
    died = table.patients["is_event"].to_numpy(dtype=bool)
    time, cause = end.copy(), np.where(died, 1 + len(days), 0).astype(np.int64)
    for code, (name, values) in enumerate(days.items(), start=1):
        day = np.asarray(values, dtype=np.float64)
        if day.shape != end.shape:
            raise SurvivalDataError(f"the days of {name} are not one for each patient")
        known = ~np.isnan(day)
        if (known & ((day < 0) | (day != np.rint(day)))).any():
            raise SurvivalDataError(f"a day of {name} is not a whole day on or after index")
        # A later kind has to be strictly earlier; the first kind also takes a death of the same day.
        is_first = known & ((day < time) | ((day == time) & ((cause == 0) | (cause == 1 + len(days)))))
        time = np.where(is_first, day, time)
        cause = np.where(is_first, code, cause)
    start = numbers(table.patients, "start_day", "patients")
    dropped = start > time
    patients = table.patients.assign(
        time_days=time.astype(np.int64), is_event=cause > 0, start_day=np.where(dropped, np.nan, start)
    )
    count = int(dropped.sum())
    who = "1 patient who starts" if count == 1 else f"{count} patients who start"
    verb = "counts" if count == 1 else "count"
    return FirstEvents(
        table=CohortTable(patients, table.changes),
        cause=frozen_ints(cause),
        causes=(*days, death),
        starts_dropped=count,
        warnings=(f"{who} after the first event {verb} as never started.",) if count else (),
    )


def competing_rows(events: FirstEvents, rows: CountingProcess) -> CompetingRows:
    """Give rows split from `events.table` (naive, landmark, time-dependent) the causes of their events."""
    cause = np.where(rows.event, events.cause[rows.patient], 0)
    return CompetingRows(rows, frozen_ints(cause), events.causes)
