"""From a cohort table to the rows that estimators read. The half-day rules live here and nowhere else.

Conventions (time in days from the index event, day 0):

- Exposure changes at the end of its start day: exposed on (start, stop].
- Zero follow-up, dead or censored, counts as day 0.5.
- A start on the last day of follow-up, dead or alive, moves to start - 0.5, but never before day 0: whoever
  starts and leaves on day 0 is exposed on (0, 0.5]. This is the rule of the `survival` package's vignette on
  time-dependent covariates (its Stanford heart data).
- A covariate that changes over time and is recorded on day d holds on (d, next change]. Before its first
  change it is what the column of its name among the patients says (NaN: missing); without one it is 0.
- Follow-up from day 0 needs every covariate there; a landmark needs it at the landmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rwe.survival.tables import (
    PATIENT_COLUMNS,
    CohortTable,
    FloatArray,
    NotEstimableError,
    SurvivalDataError,
    no_changes,
    numbers,
)

_MOST_ROWS = 5_000_000
"""Rows of `start_day_split` that still fit a small machine: start days times patients."""

__all__ = [
    "BoolArray",
    "CohortTable",
    "CountingProcess",
    "ExposureCounts",
    "FloatArray",
    "IntArray",
    "NotEstimableError",
    "SurvivalDataError",
    "exposure_split",
    "follow_up_days",
    "frozen_flags",
    "frozen_floats",
    "frozen_ints",
    "landmark_split",
    "naive_split",
    "no_changes",
    "start_day_split",
]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


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
    patients from 0 and is the cluster of a robust variance. `trial`: rows are only ever compared with rows of
    one trial; a patient may be in several (see `start_day_split`). `n_dropped` patients were left out because
    a covariate was missing (complete-case analysis); `missing` counts them for each such covariate.
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
    missing: tuple[tuple[str, int], ...] = ()
    trial: IntArray | None = None

    def __len__(self) -> int:
        return len(self.stop)

    def counts(self) -> ExposureCounts:
        """Patients, person-days and events while exposed and while not. A patient's event counts once."""
        days = self.stop - self.start
        ever = len(np.unique(self.patient[self.exposed]))
        died = np.unique(self.patient[self.event])
        exposed_at_it = np.unique(self.patient[self.event & self.exposed])
        return ExposureCounts(
            patients_exposed=ever,
            patients_unexposed=self.n_patients - ever,
            person_days_exposed=float(days[self.exposed].sum()),
            person_days_unexposed=float(days[~self.exposed].sum()),
            events_exposed=len(exposed_at_it),
            events_unexposed=len(died) - len(exposed_at_it),
        )

    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of these rows, as sentences."""
        if not self.n_dropped:
            return ()
        which = ", ".join(name for name, _ in self.missing)
        return (f"{_patients(self.n_dropped)} left out because a covariate is missing ({which}).",)

    def require_patients(self) -> None:
        """Raises NotEstimableError where nobody is at risk; says so if missing covariates are the reason."""
        if self.n_patients:
            return
        if not self.n_dropped:
            raise NotEstimableError("nobody is at risk")
        counts = ", ".join(f"{name} missing in {count}" for name, count in self.missing)
        raise NotEstimableError(f"no patient has all covariates ({counts}, of {self.n_dropped})")

    def require_both_groups(self) -> None:
        """Raises NotEstimableError where nobody is ever exposed, or nobody ever unexposed."""
        self.require_patients()
        if not self.exposed.any():
            raise NotEstimableError(f"nobody started (0 of {self.n_patients})")
        if self.exposed.all():
            raise NotEstimableError(f"everybody had started ({self.n_patients} of {self.n_patients})")


def follow_up_days(table: CohortTable) -> FloatArray:
    """Days of follow-up of each patient; zero follow-up counts as half a day."""
    return np.maximum(numbers(table.patients, "time_days", "patients"), 0.5)


def exposure_split(
    table: CohortTable, covariates: Sequence[str] = (), time_varying: Sequence[str] = ()
) -> CountingProcess:
    """Rows for time-dependent exposure, cut at its start and at each change of a covariate in `time_varying`.

    Nobody is exposed before having started: no immortal time. Raises SurvivalDataError for an unknown column.
    """
    _refuse_shared_names(covariates, time_varying)
    baseline, complete, missing = _baseline(table, covariates, also=time_varying)
    stop2 = _halves(follow_up_days(table))
    start2 = _exposure_start_halves(table)
    changes = {name: _changes_of(table, name) for name in time_varying}

    n = len(table)
    cut_patient = [np.arange(n), np.flatnonzero(start2 > 0)]
    cut_half = [np.zeros(n, dtype=np.int64), start2[start2 > 0]]
    for change in changes.values():
        inside = (change.half > 0) & (change.half < stop2[change.patient])
        cut_patient.append(change.patient[inside])
        cut_half.append(change.half[inside])
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
        missing=missing,
    )


def start_day_split(
    table: CohortTable, covariates: Sequence[str] = (), time_varying: Sequence[str] = ()
) -> CountingProcess:
    """Each start against those not yet started then: one `trial` for every day on which someone started.

    In the trial of day s are all who are at risk after s and have not started before; exposed are those who
    start on s. Covariates that change over time stay, in both groups, as they were known on s, so nothing
    that happens after the start is adjusted for. Later starters stay unexposed, as after a landmark. The
    clock is days from index, entered at s. This is the sequential stratified Cox approach (Gran et al. 2010,
    Statistics in Medicine 29:2757) without censoring at a later start. A patient is in several trials, so
    the variance must be the robust one.

    Raises SurvivalDataError for an unknown column, NotEstimableError for more than 5 million rows.
    """
    _refuse_shared_names(covariates, time_varying)
    baseline, complete, missing = _baseline(table, covariates, also=time_varying)
    stop2 = _halves(follow_up_days(table))
    start2 = _exposure_start_halves(table)
    # Exposure moved to the end of follow-up never is at risk; who never starts comes after every trial.
    entry2 = np.where(start2 >= 0, start2, np.iinfo(np.int64).max)
    days2 = np.unique(start2[(start2 >= 0) & complete])
    if len(days2) * int(complete.sum()) > _MOST_ROWS:
        raise NotEstimableError("too many start days and patients for one comparison a start day")
    in_trial = complete & (stop2 > days2[:, None]) & (entry2 >= days2[:, None])
    trial, patient = np.nonzero(in_trial)
    begin2 = days2[trial]
    columns = [baseline[patient]]
    columns += [_value_at(_changes_of(table, n), patient, begin2)[:, None] for n in time_varying]
    return _rows(
        table,
        start=begin2 / 2,
        stop=stop2[patient] / 2,
        event=table.patients["is_event"].to_numpy(dtype=bool)[patient],
        exposed=start2[patient] == begin2,
        X=np.hstack(columns),
        names=(*covariates, *time_varying),
        patient=patient,
        n_dropped=int((~complete).sum()),
        missing=missing,
        trial=trial,
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
    time = numbers(table.patients, "time_days", "patients")
    at_risk = time > day
    started = numbers(table.patients, "start_day", "patients") <= day
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
    everyone = np.arange(len(table))
    halves = np.full(len(table), 2 * day, dtype=np.int64)
    baseline = _numbers_of(table, covariates)
    then = [_value_at(_changes_of(table, name), everyone, halves)[:, None] for name in time_varying]
    known = np.hstack([baseline, *then])
    complete, missing = _completeness(known, (*covariates, *time_varying), at_risk)
    patient = np.flatnonzero(at_risk & complete)
    return _rows(
        table,
        start=np.zeros(len(patient)),
        stop=stop[patient],
        event=table.patients["is_event"].to_numpy(dtype=bool)[patient],
        exposed=exposed[patient],
        X=known[patient],
        names=(*covariates, *time_varying),
        patient=patient,
        n_dropped=int((at_risk & ~complete).sum()),
        missing=missing,
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
    missing: tuple[tuple[str, int], ...],
    trial: IntArray | None = None,
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
        missing=missing,
        trial=None if trial is None else frozen_ints(trial),
    )


def _halves(days: FloatArray) -> IntArray:
    """Half days as integers, so that no comparison of times depends on rounding."""
    return np.rint(2 * days).astype(np.int64)


def _exposure_start_halves(table: CohortTable) -> IntArray:
    """Start of exposure in half days after the rule for starts on the last day; -1 for never."""
    start = numbers(table.patients, "start_day", "patients")
    time = numbers(table.patients, "time_days", "patients")
    moved = np.where(start == time, np.maximum(start - 0.5, 0.0), start)
    return _halves(np.where(np.isnan(moved), -0.5, moved))


@dataclass(frozen=True)
class _Changes:
    """Changes of one covariate sorted by patient (their positions) and half day. `before`: by patient, the
    value before the first change."""

    patient: IntArray
    half: IntArray
    value: FloatArray
    before: FloatArray


def _changes_of(table: CohortTable, name: str) -> _Changes:
    rows = table.changes[table.changes["covariate"] == name]
    position = pd.Index(table.patients["patient_id"]).get_indexer(pd.Index(rows["patient_id"]))
    half = 2 * rows["day"].to_numpy(dtype=np.int64)
    order = np.lexsort((half, position))
    values = rows["value"].to_numpy(dtype=np.float64)
    before = _numbers_of(table, [name])[:, 0] if name in table.patients.columns else np.zeros(len(table))
    return _Changes(position[order].astype(np.int64), half[order], values[order], before)


def _value_at(changes: _Changes, patient: IntArray, half: IntArray) -> FloatArray:
    """The last value recorded on or before each (patient, half day); that of before where there is none."""
    who, when, before = changes.patient, changes.half, changes.before[patient]
    if not len(who):
        return before
    low = min(int(when.min()), int(half.min(initial=0)))
    span = max(int(when.max()), int(half.max(initial=0))) - low + 1
    place = np.searchsorted(who * span + when - low, patient * span + half - low, side="right") - 1
    found = (place >= 0) & (who[place] == patient)
    return np.where(found, changes.value[place], before)


def _baseline(
    table: CohortTable, covariates: Sequence[str], *, also: Sequence[str] = ()
) -> tuple[FloatArray, BoolArray, tuple[tuple[str, int], ...]]:
    """Baseline covariates, who has them and what of `also` begins at index, and what is missing how often."""
    values = _numbers_of(table, covariates)
    begun = [name for name in also if name in table.patients.columns]
    known = np.hstack([values, _numbers_of(table, begun)])
    complete, missing = _completeness(known, (*covariates, *begun), np.ones(len(table), dtype=bool))
    return values, complete, missing


def _numbers_of(table: CohortTable, covariates: Sequence[str]) -> FloatArray:
    """Columns of covariates, NaN where missing. Raises SurvivalDataError as the splits say."""
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
    return np.asarray(values)


def _completeness(
    values: FloatArray, names: Sequence[str], among: BoolArray
) -> tuple[BoolArray, tuple[tuple[str, int], ...]]:
    """Who has all values, and in how many of `among` each is missing."""
    is_missing = np.isnan(values)
    counts = is_missing[among].sum(axis=0)
    missing = tuple((c, int(n)) for c, n in zip(names, counts, strict=True) if n)
    return np.asarray(~is_missing.any(axis=1)), missing


def _refuse_shared_names(covariates: Sequence[str], time_varying: Sequence[str]) -> None:
    names = [*covariates, *time_varying]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SurvivalDataError(f"the covariate {', '.join(twice)} is asked for twice")


def _patients(count: int) -> str:
    return "1 patient was" if count == 1 else f"{count} patients were"
