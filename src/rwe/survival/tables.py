"""The cohort table that estimators start from, and what is said where one breaks its contract.

Messages name columns and counts, never a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rwe.errors import RweError

FloatArray = npt.NDArray[np.float64]

PATIENT_COLUMNS = ("patient_id", "site", "time_days", "is_event", "start_day")
CHANGE_COLUMNS = ("patient_id", "covariate", "day", "value")


class SurvivalDataError(RweError):
    """A table handed to an estimator breaks its contract. The message names columns and counts only."""


class NotEstimableError(RweError):
    """The data are valid but hold no answer: no event, or a constant or collinear covariate."""


@dataclass(frozen=True)
class CohortTable:
    """The cohort as the warehouse gives it, whole days from index.

    patients: one row a patient. `patient_id` and `site` (text), `time_days` (whole, >= 0), `is_event` (died
        on that day), `start_day` (NaN: never started; else 0 <= start_day <= time_days, whole), and one
        numeric column for each baseline covariate (NaN: missing).
    changes: covariates that change over time, one row a change: `patient_id`, `covariate`, `day` (whole; zero
        or negative: known at index), `value`. A value holds from the end of its day on; before the first
        it is the value of the patients' column of that name, or 0 where there is none.

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


def _require_columns(frame: pd.DataFrame, columns: Sequence[str], table: str) -> None:
    absent = [c for c in columns if c not in frame.columns]
    if absent:
        raise SurvivalDataError(f"the column {', '.join(absent)} is missing", where=table)


def _refuse(is_wrong: npt.ArrayLike, what: str, table: str) -> None:
    count = int(np.sum(np.asarray(is_wrong, dtype=bool)))
    if count:
        raise SurvivalDataError(f"{what} ({count} of the rows)", where=table)


def numbers(frame: pd.DataFrame, column: str, table: str) -> FloatArray:
    """A column as floats, NaN where it is missing. Raises SurvivalDataError if it is not numeric."""
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
    time = numbers(frame, "time_days", table)
    _refuse(~np.isfinite(time), "time_days is missing", table)
    _refuse((time < 0) | (time != np.rint(time)), "time_days is not a whole day on or after index", table)
    start = numbers(frame, "start_day", table)
    known = ~np.isnan(start)
    _refuse(known & (start < 0), "start_day is before index", table)
    _refuse(known & (start > time), "start_day is after the end of follow-up", table)
    _refuse(known & (start != np.rint(start)), "start_day is not a whole day", table)


def _check_changes(frame: pd.DataFrame, patients: pd.DataFrame) -> None:
    table = "changes"
    _require_columns(frame, CHANGE_COLUMNS, table)
    _refuse(~frame["patient_id"].isin(patients["patient_id"]), "patient_id is not in the cohort", table)
    _refuse(frame["covariate"].isna(), "covariate is missing", table)
    day = numbers(frame, "day", table)
    _refuse(~np.isfinite(day) | (day != np.rint(day)), "day is not a whole day", table)
    _refuse(~np.isfinite(numbers(frame, "value", table)), "value is missing or infinite", table)
    _refuse(
        frame.duplicated(["patient_id", "covariate", "day"]), "a covariate has two values on one day", table
    )
