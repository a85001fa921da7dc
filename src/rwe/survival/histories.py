"""Each patient's history as rows, with what the models of starting and of leaving are made of.

Times are half days as integers, so that no comparison depends on rounding; the half-day rules themselves are
those of `rwe.survival.data`. A start on or after the day of the excusing event (progression) is salvage: it
is no start of the strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rwe.survival.data import (
    BoolArray,
    CohortTable,
    CountingProcess,
    FloatArray,
    IntArray,
    SurvivalDataError,
    exposure_split,
    frozen_flags,
    frozen_floats,
    frozen_ints,
)
from rwe.survival.tables import numbers

NEVER2 = np.iinfo(np.int64).max // 4
"""Half days of what never happens."""
SITE_COLUMN = "site "
"""How the name of a 0/1 column of a site begins."""


@dataclass(frozen=True)
class HistoryRows:
    """Rows of a patient's history on (start2, stop2], half days, with covariates that hold on them.

    `event`: what is modelled happens at stop2. `patient` numbers patients from 0; rows are sorted by patient
    and time.
    """

    start2: IntArray
    stop2: IntArray
    event: BoolArray
    X: FloatArray
    names: tuple[str, ...]
    patient: IntArray

    def __len__(self) -> int:
        return len(self.stop2)


@dataclass(frozen=True)
class Histories:
    """The patients who have all covariates. By patient: end of follow-up, event, start and excuse, half days.

    start2 is -1 for never, excused2 is NEVER2. `rows` are the whole histories (event: the outcome), `exposed`
    flags those after the start. `members` are the patients' places in the table they come from.
    """

    n: int
    stop2: IntArray
    event: BoolArray
    start2: IntArray
    excused2: IntArray
    site: npt.NDArray[np.object_]
    rows: HistoryRows
    exposed: BoolArray
    members: IntArray
    warnings: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.rows.names

    def site_codes(self) -> IntArray:
        """Codes of the sites from 0, in the order of their names."""
        return np.asarray(np.unique(self.site.astype(str), return_inverse=True)[1], dtype=np.int64)


def event_days(table: CohortTable, name: str) -> FloatArray:
    """The first day of an event of each patient, NaN for none.

    `name` is a column of `patients` that holds days (such as progression_day), else a covariate of `changes`:
    the first day on which it is above 0. Raises SurvivalDataError if it is neither.
    """
    if name in table.patients.columns:
        return numbers(table.patients, name, "patients")
    rows = table.changes[(table.changes["covariate"] == name) & (table.changes["value"] > 0)]
    if rows.empty and name not in set(table.changes["covariate"]):
        raise SurvivalDataError(f"there is neither a column nor a changing covariate {name}")
    first = rows.groupby("patient_id")["day"].min()
    return np.asarray(table.patients["patient_id"].map(first).to_numpy(dtype=np.float64, na_value=np.nan))


def without_salvage(table: CohortTable, unless: str) -> CohortTable:
    """The table without starts on or after the first day of the event `unless`."""
    start = numbers(table.patients, "start_day", "patients")
    is_salvage = start >= event_days(table, unless)
    return CohortTable(table.patients.assign(start_day=np.where(is_salvage, np.nan, start)), table.changes)


def with_salvage(table: CohortTable, column: str = "salvage_start_day") -> CohortTable:
    """The table in which a salvage start counts as a start (a sensitivity). Use no `unless` with it."""
    start = np.fmin(
        numbers(table.patients, "start_day", "patients"), numbers(table.patients, column, "patients")
    )
    return CohortTable(table.patients.assign(start_day=start), table.changes)


def censored_at(table: CohortTable, name: str) -> CohortTable:
    """The table in which patients leave, alive, on the day of the event `name` (see `event_days`).

    For an intercurrent event whose handling is "censored with weights": analyse this table with weights for
    leaving (`loss_weights`). An event on the last day of follow-up, or later, changes nothing.
    """
    day = event_days(table, name)
    patients = table.patients
    leaves = day < numbers(patients, "time_days", "patients")
    if (day < 0).any():
        raise SurvivalDataError(f"{name} holds days before index", where="patients")
    start = numbers(patients, "start_day", "patients")
    return CohortTable(
        patients.assign(
            time_days=np.where(leaves, day, patients["time_days"]).astype(np.int64),
            is_event=patients["is_event"].to_numpy(dtype=bool) & ~leaves,
            start_day=np.where(leaves & (start > day), np.nan, start),
        ),
        table.changes,
    )


def histories(
    table: CohortTable,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    unless: str | None = None,
    site_indicators: bool = False,
) -> Histories:
    """The histories of all who have every covariate.

    `site_indicators` adds a 0/1 column for each site but the first.

    Raises SurvivalDataError for an unknown column, NotEstimableError where nobody has all covariates.
    """
    kept = without_salvage(table, unless) if unless else table
    rows = exposure_split(kept, covariates, time_varying)
    rows.require_patients()
    members, patient = np.unique(rows.patient, return_inverse=True)
    n = len(members)
    site = table.patients["site"].to_numpy(dtype=object)[members]
    names, X = _design(rows, site, patient, site_indicators)
    begin2, end2 = _halves(rows.start), _halves(rows.stop)
    stop2, first2 = np.zeros(n, dtype=np.int64), np.full(n, NEVER2)
    np.maximum.at(stop2, patient, end2)
    np.minimum.at(first2, patient[rows.exposed], begin2[rows.exposed])
    excused2 = np.full(n, NEVER2)
    if unless:
        day = event_days(table, unless)[members]
        excused2 = np.where(np.isnan(day), NEVER2, _halves(np.nan_to_num(day)))
    return Histories(
        n=n,
        stop2=frozen_ints(stop2),
        event=frozen_flags(np.bincount(patient, rows.event, n) > 0),
        start2=frozen_ints(np.where(first2 < NEVER2, first2, -1)),
        excused2=frozen_ints(excused2),
        site=site,
        rows=HistoryRows(
            frozen_ints(begin2), frozen_ints(end2), rows.event, frozen_floats(X), names, frozen_ints(patient)
        ),
        exposed=rows.exposed,
        members=frozen_ints(members),
        warnings=rows.warnings(),
    )


def last_start2(history: Histories, until2: int = NEVER2) -> IntArray:
    """The last half day on which each patient can start by the strategy: before the day that excuses."""
    before = np.where(history.excused2 < NEVER2, history.excused2 - 1, NEVER2)
    return np.minimum(before, until2)


def starting_rows(history: Histories, last2: IntArray) -> HistoryRows:
    """Rows at risk of starting, up to `last2` of each patient, with the event "starts".

    They begin half a day before index, so that a start on day 0 is at risk.
    """
    rows = history.rows
    begin2 = np.where(rows.start2 == 0, -1, rows.start2)
    on_day_0 = history.exposed & (begin2 == -1)
    used = np.flatnonzero(on_day_0 | (~history.exposed & (begin2 < last2[rows.patient])))
    who = rows.patient[used]
    stop2 = np.where(history.exposed[used], 0, np.minimum(rows.stop2[used], last2[who]))
    return HistoryRows(
        start2=frozen_ints(begin2[used]),
        stop2=frozen_ints(stop2),
        event=frozen_flags((history.start2[who] == stop2) & (history.start2[who] <= last2[who])),
        X=frozen_floats(rows.X[used]),
        names=rows.names,
        patient=frozen_ints(who),
    )


def only_columns(rows: HistoryRows, columns: Sequence[int]) -> HistoryRows:
    """The rows with some of the covariates."""
    return HistoryRows(
        rows.start2,
        rows.stop2,
        rows.event,
        frozen_floats(rows.X[:, list(columns)]),
        tuple(rows.names[j] for j in columns),
        rows.patient,
    )


def leaving_rows(history: Histories) -> HistoryRows:
    """The whole histories with exposure as first covariate and the event "leaves without the outcome"."""
    rows = history.rows
    is_last = rows.stop2 == history.stop2[rows.patient]
    return HistoryRows(
        start2=rows.start2,
        stop2=rows.stop2,
        event=frozen_flags(is_last & ~history.event[rows.patient]),
        X=frozen_floats(np.column_stack([history.exposed.astype(np.float64), rows.X])),
        names=("exposed", *rows.names),
        patient=rows.patient,
    )


def row_at(rows: HistoryRows, patient: IntArray, half: IntArray, *, just_before: bool) -> IntArray:
    """The row of each patient that holds at `half`: start2 < half <= stop2, or start2 <= half < stop2.

    The first of these (`just_before`) is what was known before that day, the second includes the day. Before
    a patient's first row it is the first, after the last the last.
    """
    span = int(max(rows.stop2.max(initial=0), half.max(initial=0))) + 2
    key = rows.patient * span + rows.start2
    wanted = patient * span + half
    found = np.searchsorted(key, wanted, side="left" if just_before else "right") - 1
    first = np.searchsorted(rows.patient, patient, side="left")
    last = np.searchsorted(rows.patient, patient, side="right") - 1
    return np.asarray(np.clip(found, first, last))


def _halves(days: FloatArray) -> IntArray:
    return np.rint(2 * days).astype(np.int64)


def _design(
    rows: CountingProcess, site: npt.NDArray[np.object_], patient: IntArray, site_indicators: bool
) -> tuple[tuple[str, ...], FloatArray]:
    if not site_indicators:
        return rows.names, rows.X
    others = sorted(set(site.tolist()))[1:]
    columns = [rows.X, *((site[patient] == s).astype(np.float64)[:, None] for s in others)]
    return (*rows.names, *(f"{SITE_COLUMN}{s}" for s in others)), np.hstack(columns)
