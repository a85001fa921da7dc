"""What estimators on plain arrays ask of their rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rwe.survival.data import (
    BoolArray,
    CountingProcess,
    FloatArray,
    NotEstimableError,
    SurvivalDataError,
)


def checked_rows(
    stop: npt.ArrayLike, event: npt.ArrayLike, group: npt.ArrayLike, entry: npt.ArrayLike | None
) -> tuple[FloatArray, BoolArray, BoolArray, FloatArray]:
    """Rows at risk on (entry, stop], days, of group 1 (True) or 0, as (stop, event, group, entry).

    Raises SurvivalDataError for missing times, an event or group other than 0 and 1, entry on or after stop.
    """
    stops, groups, events = np.asarray(stop, dtype=np.float64), np.asarray(group), np.asarray(event)
    entries = np.zeros_like(stops) if entry is None else np.asarray(entry, dtype=np.float64)
    if not stops.shape == groups.shape == events.shape == entries.shape or stops.ndim != 1:
        raise SurvivalDataError("stop, event, group and entry have not one length")
    if not (np.isfinite(stops).all() and np.isfinite(entries).all()):
        raise SurvivalDataError("a time is missing or infinite")
    if not np.isin(events, [0, 1]).all():
        raise SurvivalDataError("event is neither 0 nor 1")
    if not np.isin(groups, [0, 1]).all():
        raise SurvivalDataError("a group is neither 0 nor 1")
    if (entries >= stops).any():
        raise SurvivalDataError(f"{int((entries >= stops).sum())} rows enter on or after the time they leave")
    return stops, events.astype(bool), groups.astype(bool), entries


def require_fixed_groups(data: CountingProcess, what: str) -> None:
    """Raises NotEstimableError where a patient's exposure changes; `what` needs it not to."""
    exposed, unexposed = np.unique(data.patient[data.exposed]), np.unique(data.patient[~data.exposed])
    if data.trial is not None or len(np.intersect1d(exposed, unexposed)):
        raise NotEstimableError(
            f"{what} needs groups fixed at time zero, and here patients change groups",
            advice="use a landmark",
        )
