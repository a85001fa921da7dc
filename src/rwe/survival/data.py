"""From a cohort table to the rows that estimators read. The half-day rules live here and nowhere else.

Conventions (time in days from the index event, day 0):

- Exposure changes at the end of its start day: exposed on (start, stop].
- Zero follow-up, dead or censored, counts as day 0.5.
- A start on the last day of follow-up, dead or alive, moves to start - 0.5, but never before day 0: whoever
  starts and leaves on day 0 is exposed on (0, 0.5]. This is the rule of the `survival` package's vignette on
  time-dependent covariates (its Stanford heart data).
- A covariate that changes over time and is recorded on day d holds on (d, next change]; it is 0 before its
  first value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rwe.errors import RweError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

PATIENT_COLUMNS = ("patient_id", "site", "time_days", "is_event", "start_day")
CHANGE_COLUMNS = ("patient_id", "covariate", "day", "value")


class SurvivalDataError(RweError):
    """A table handed to an estimator breaks its contract. The message names columns and counts only."""


class NotEstimableError(RweError):
    """The data are valid but hold no answer: no event, or a constant or collinear covariate."""


def frozen_floats(values: npt.ArrayLike) -> FloatArray:
    """A copy of `values` that nobody can write to."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def frozen_ints(values: npt.ArrayLike) -> IntArray:
    """A copy of `values` that nobody can write to."""
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array


def frozen_flags(values: npt.ArrayLike) -> BoolArray:
    """A copy of `values` that nobody can write to."""
    array = np.array(values, dtype=np.bool_)
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class CohortTable:
    """The cohort as the warehouse gives it, whole days from index.

    patients: one row a patient. `patient_id` and `site` (text), `time_days` (whole, >= 0), `is_event` (died
        on that day), `start_day` (NaN: never started; else 0 <= start_day <= time_days, whole), and one
        numeric column for each baseline covariate (NaN: missing).
    changes: covariates that change over time, one row a change: `patient_id`, `covariate`, `day` (whole; zero
        or negative: known at index), `value`. A value holds from the end of its day on.

    Raises SurvivalDataError where the tables break this contract.
    """

    patients: pd.DataFrame
    changes: pd.DataFrame

    def __post_init__(self) -> None:
        _check_patients(self.patients)
        _check_changes(self.changes, self.patients)

    def __len__(self) -> int:
        return len(self.patients)

    def restrict(self, site: str) -> CohortTable:
        """The same table for one site alone."""
        patients = self.patients[self.patients["site"] == site].reset_index(drop=True)
        changes = self.changes[self.changes["patient_id"].isin(patients["patient_id"])]
        return CohortTable(patients, changes.reset_index(drop=True))


def no_changes() -> pd.DataFrame:
    """The table of changes for a study without covariates that change over time."""
    return pd.DataFrame(
        {
            "patient_id": pd.Series(dtype=str),
            "covariate": pd.Series(dtype=str),
            "day": pd.Series(dtype="int64"),
            "value": pd.Series(dtype="float64"),
        }
    )


@dataclass(frozen=True)
class ExposureCounts:
    """Patients, days and events by exposure. `patients_exposed` are those ever exposed in these rows."""

    patients_exposed: int
    patients_unexposed: int
    person_days_exposed: float
    person_days_unexposed: float
    events_exposed: int
    events_unexposed: int


@dataclass(frozen=True)
class CountingProcess:
    """Rows at risk on (start, stop], days; a patient may have several, which never overlap.

    X has one column for each of `names` (the adjustment covariates; exposure is apart). `patient` numbers
    patients from 0 and is the cluster of a robust variance. `n_dropped` patients were left out because a
    covariate was missing (complete-case analysis); those missing covariates are `incomplete`.
    """

    start: FloatArray
    stop: FloatArray
    event: BoolArray
    exposed: BoolArray
    X: FloatArray
    names: tuple[str, ...]
    patient: IntArray
    site: npt.NDArray[np.object_]
    n_patients: int
    n_dropped: int = 0
    incomplete: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stop)

    def counts(self) -> ExposureCounts:
        """Patients, person-days and events while exposed and while not."""
        days = self.stop - self.start
        ever = len(np.unique(self.patient[self.exposed]))
        return ExposureCounts(
            patients_exposed=ever,
            patients_unexposed=self.n_patients - ever,
            person_days_exposed=float(days[self.exposed].sum()),
            person_days_unexposed=float(days[~self.exposed].sum()),
            events_exposed=int(self.event[self.exposed].sum()),
            events_unexposed=int(self.event[~self.exposed].sum()),
        )

    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of these rows, as sentences."""
        if not self.n_dropped:
            return ()
        which = ", ".join(self.incomplete)
        return (f"{_patients(self.n_dropped)} left out because a covariate is missing ({which}).",)


def follow_up_days(table: CohortTable) -> FloatArray:
    """Days of follow-up of each patient; zero follow-up counts as half a day."""
    return np.maximum(_numbers(table.patients, "time_days", "patients"), 0.5)


def exposure_split(
    table: CohortTable, covariates: Sequence[str] = (), time_varying: Sequence[str] = ()
) -> CountingProcess:
    """Rows for time-dependent exposure, cut at its start and at each change of a covariate in `time_varying`.

    Nobody is exposed before having started: no immortal time. Raises SurvivalDataError for an unknown column.
    """
    _refuse_shared_names(covariates, time_varying)
    baseline, complete, incomplete = _baseline(table, covariates)
    stop2 = _halves(follow_up_days(table))
    start2 = _exposure_start_halves(table)
    changes = {name: _changes_of(table, name) for name in time_varying}

    n = len(table)
    cut_patient = [np.arange(n), np.flatnonzero(start2 > 0)]
    cut_half = [np.zeros(n, dtype=np.int64), start2[start2 > 0]]
    for who, half, _ in changes.values():
        inside = (half > 0) & (half < stop2[who])
        cut_patient.append(who[inside])
        cut_half.append(half[inside])
    span = int(stop2.max(initial=0)) + 1
    keys = np.unique(np.concatenate(cut_patient) * span + np.concatenate(cut_half))
    patient, begin2 = keys // span, keys % span
    used = complete[patient] & (begin2 < stop2[patient])
    patient, begin2 = patient[used], begin2[used]

    last = np.ones(len(patient), dtype=bool)
    last[:-1] = patient[1:] != patient[:-1]
    end2 = stop2[patient]
    end2[~last] = begin2[1:][~last[:-1]]
    columns = [baseline[patient]]
    columns += [_value_at(change, patient, begin2)[:, None] for change in changes.values()]
    return _rows(
        table,
        start=begin2 / 2,
        stop=end2 / 2,
        event=table.patients["is_event"].to_numpy(dtype=bool)[patient] & last,
        exposed=(start2[patient] >= 0) & (begin2 >= start2[patient]),
        X=np.hstack(columns),
        names=(*covariates, *time_varying),
        patient=patient,
        n_dropped=int((~complete).sum()),
        incomplete=incomplete,
    )


def landmark_split(
    table: CohortTable, day: int, covariates: Sequence[str] = (), time_varying: Sequence[str] = ()
) -> CountingProcess:
    """One row for each patient still followed after the landmark `day`; the clock restarts there.

    At risk if time > day; exposed if started on or before it; later starters stay unexposed; covariates that
    change over time as known at the landmark. Raises SurvivalDataError for a negative day, an unknown column.
    """
    if day < 0 or int(day) != day:
        raise SurvivalDataError(f"the landmark day {day} is not a whole day on or after index")
    time = _numbers(table.patients, "time_days", "patients")
    at_risk = time > day
    started = _numbers(table.patients, "start_day", "patients") <= day
    return _fixed_groups(
        table, at_risk=at_risk, stop=time - day, exposed=started, day=day, names=(covariates, time_varying)
    )


def naive_split(
    table: CohortTable, covariates: Sequence[str] = (), time_varying: Sequence[str] = ()
) -> CountingProcess:
    """Ever against never started, both from day 0: biased by immortal time, and to be labelled so.

    Whoever starts has survived until then. Covariates that change over time as known at index.
    """
    everyone = np.ones(len(table), dtype=bool)
    ever = table.patients["start_day"].notna().to_numpy(dtype=bool)
    return _fixed_groups(
        table,
        at_risk=everyone,
        stop=follow_up_days(table),
        exposed=ever,
        day=0,
        names=(covariates, time_varying),
    )


def _fixed_groups(
    table: CohortTable,
    *,
    at_risk: BoolArray,
    stop: FloatArray,
    exposed: BoolArray,
    day: int,
    names: tuple[Sequence[str], Sequence[str]],
) -> CountingProcess:
    covariates, time_varying = names
    _refuse_shared_names(covariates, time_varying)
    baseline, complete, incomplete = _baseline(table, covariates, at_risk)
    patient = np.flatnonzero(at_risk & complete)
    halves = np.full(len(patient), 2 * day, dtype=np.int64)
    columns = [baseline[patient]]
    columns += [_value_at(_changes_of(table, name), patient, halves)[:, None] for name in time_varying]
    return _rows(
        table,
        start=np.zeros(len(patient)),
        stop=stop[patient],
        event=table.patients["is_event"].to_numpy(dtype=bool)[patient],
        exposed=exposed[patient],
        X=np.hstack(columns),
        names=(*covariates, *time_varying),
        patient=patient,
        n_dropped=int((at_risk & ~complete).sum()),
        incomplete=incomplete,
    )


def _rows(
    table: CohortTable,
    *,
    start: npt.ArrayLike,
    stop: npt.ArrayLike,
    event: npt.ArrayLike,
    exposed: npt.ArrayLike,
    X: npt.ArrayLike,
    names: tuple[str, ...],
    patient: IntArray,
    n_dropped: int,
    incomplete: tuple[str, ...],
) -> CountingProcess:
    return CountingProcess(
        start=frozen_floats(start),
        stop=frozen_floats(stop),
        event=frozen_flags(event),
        exposed=frozen_flags(exposed),
        X=frozen_floats(X),
        names=names,
        patient=frozen_ints(patient),
        site=table.patients["site"].to_numpy(dtype=object)[patient],
        n_patients=len(np.unique(patient)),
        n_dropped=n_dropped,
        incomplete=incomplete,
    )


def _halves(days: FloatArray) -> IntArray:
    """Half days as integers, so that no comparison of times depends on rounding."""
    return np.rint(2 * days).astype(np.int64)


def _exposure_start_halves(table: CohortTable) -> IntArray:
    """Start of exposure in half days after the rule for starts on the last day; -1 for never."""
    start = _numbers(table.patients, "start_day", "patients")
    time = _numbers(table.patients, "time_days", "patients")
    moved = np.where(start == time, np.maximum(start - 0.5, 0.0), start)
    return _halves(np.where(np.isnan(moved), -0.5, moved))


_Changes = tuple[IntArray, IntArray, FloatArray]


def _changes_of(table: CohortTable, name: str) -> _Changes:
    """Changes of one covariate sorted by patient and day: patient's position, half days, values."""
    rows = table.changes[table.changes["covariate"] == name]
    position = pd.Index(table.patients["patient_id"]).get_indexer(pd.Index(rows["patient_id"]))
    half = 2 * rows["day"].to_numpy(dtype=np.int64)
    order = np.lexsort((half, position))
    values = rows["value"].to_numpy(dtype=np.float64)
    return position[order].astype(np.int64), half[order], values[order]


def _value_at(changes: _Changes, patient: IntArray, half: IntArray) -> FloatArray:
    """The last value recorded on or before each (patient, half day); 0 where there is none."""
    who, when, values = changes
    if not len(who):
        return np.zeros(len(patient))
    low = min(int(when.min()), int(half.min(initial=0)))
    span = max(int(when.max()), int(half.max(initial=0))) - low + 1
    place = np.searchsorted(who * span + when - low, patient * span + half - low, side="right") - 1
    found = (place >= 0) & (who[place] == patient)
    return np.where(found, values[place], 0.0)


def _baseline(
    table: CohortTable, covariates: Sequence[str], among: BoolArray | None = None
) -> tuple[FloatArray, BoolArray, tuple[str, ...]]:
    """Baseline covariates, who has them all, and which are missing for someone in `among`."""
    unknown = [c for c in covariates if c not in table.patients.columns or c in PATIENT_COLUMNS]
    if unknown:
        raise SurvivalDataError(f"there is no baseline covariate {', '.join(unknown)}")
    try:
        values = table.patients[list(covariates)].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise SurvivalDataError(f"a covariate is not numeric (of {', '.join(covariates)})") from None
    values = values.reshape(len(table), len(covariates))
    for name, column in zip(covariates, values.T, strict=True):
        if np.isinf(column).any():
            raise SurvivalDataError(
                f"the covariate {name} holds {int(np.isinf(column).sum())} infinite values"
            )
    missing = np.isnan(values)
    seen = missing if among is None else missing[among]
    incomplete = tuple(c for c, is_missing in zip(covariates, seen.any(axis=0), strict=True) if is_missing)
    return values, ~missing.any(axis=1), incomplete


def _refuse_shared_names(covariates: Sequence[str], time_varying: Sequence[str]) -> None:
    names = [*covariates, *time_varying]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SurvivalDataError(f"the covariate {', '.join(twice)} is asked for twice")


def _patients(count: int) -> str:
    return "1 patient was" if count == 1 else f"{count} patients were"


def _require_columns(frame: pd.DataFrame, columns: Sequence[str], table: str) -> None:
    absent = [c for c in columns if c not in frame.columns]
    if absent:
        raise SurvivalDataError(f"the column {', '.join(absent)} is missing", where=table)


def _refuse(is_wrong: npt.ArrayLike, what: str, table: str) -> None:
    count = int(np.sum(np.asarray(is_wrong, dtype=bool)))
    if count:
        raise SurvivalDataError(f"{what} ({count} of the rows)", where=table)


def _numbers(frame: pd.DataFrame, column: str, table: str) -> FloatArray:
    try:
        values: FloatArray = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise SurvivalDataError(f"{column} is not numeric", where=table) from None
    return values


def _check_patients(frame: pd.DataFrame) -> None:
    table = "patients"
    _require_columns(frame, PATIENT_COLUMNS, table)
    _refuse(frame["patient_id"].isna(), "patient_id is missing", table)
    _refuse(frame["patient_id"].duplicated(), "patient_id repeats", table)
    _refuse(frame["site"].isna(), "site is missing", table)
    _refuse(frame["is_event"].isna(), "is_event is missing", table)
    _refuse(~frame["is_event"].isin([True, False]), "is_event is neither true nor false", table)
    time = _numbers(frame, "time_days", table)
    _refuse(~np.isfinite(time), "time_days is missing", table)
    _refuse((time < 0) | (time != np.rint(time)), "time_days is not a whole day on or after index", table)
    start = _numbers(frame, "start_day", table)
    known = ~np.isnan(start)
    _refuse(known & (start < 0), "start_day is before index", table)
    _refuse(known & (start > time), "start_day is after the end of follow-up", table)
    _refuse(known & (start != np.rint(start)), "start_day is not a whole day", table)


def _check_changes(frame: pd.DataFrame, patients: pd.DataFrame) -> None:
    table = "changes"
    _require_columns(frame, CHANGE_COLUMNS, table)
    _refuse(~frame["patient_id"].isin(patients["patient_id"]), "patient_id is not in the cohort", table)
    _refuse(frame["covariate"].isna(), "covariate is missing", table)
    day = _numbers(frame, "day", table)
    _refuse(~np.isfinite(day) | (day != np.rint(day)), "day is not a whole day", table)
    _refuse(~np.isfinite(_numbers(frame, "value", table)), "value is missing or infinite", table)
    _refuse(
        frame.duplicated(["patient_id", "covariate", "day"]), "a covariate has two values on one day", table
    )
