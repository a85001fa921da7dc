"""Could patients of every kind have had either strategy? At landmarks, by what was known then; no outcome.

For each landmark the propensity of having started by it (logistic, the covariates of the analysis that gives
the answer) is compared between the strategies, and kinds of patients that one strategy alone has are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rwe.analyse.run_weighted import who_could_choose
from rwe.analyse.tasks import Task, prepared
from rwe.errors import RweError
from rwe.evidence.parts import EmptyCell, OverlapAtLandmark
from rwe.study import Analysis, Protocol
from rwe.survival.data import BoolArray, CohortTable, CountingProcess, FloatArray
from rwe.survival.logistic import fit_logistic
from rwe.survival.positivity import Overlap, overlap, zero_cells

_MOST_LEVELS = 6


@dataclass(frozen=True)
class Positivity:
    """Overlap and empty cells at every landmark; `notes` say where there is none, and why."""

    overlap: tuple[OverlapAtLandmark, ...]
    empty_cells: tuple[EmptyCell, ...]
    notes: tuple[str, ...]


def positivity_at_landmarks(protocol: Protocol, table: CohortTable) -> Positivity:
    """Look at each landmark of the protocol, or at the end of grace where it names none."""
    asked = _adjusted(protocol)
    if asked is None:
        return Positivity((), (), ())
    days = protocol.landmarks or [max(protocol.strategies.treated.grace_days, 1)]
    shown: list[OverlapAtLandmark] = []
    cells: list[EmptyCell] = []
    notes: list[str] = []
    for day in days:
        try:
            rows = _rows(protocol, asked, table, day)
            both = overlap(_propensity(rows.X, rows.exposed), rows.exposed)
        except RweError as e:
            notes.append(f"Overlap at day {day}: {e}")
            continue
        shown += _arms(protocol, day, both)
        cells += _cells(day, rows)
    return Positivity(tuple(shown), tuple(cells), tuple(notes))


def _adjusted(protocol: Protocol) -> Analysis | None:
    """The analysis whose covariates are looked at: the primary one, else the first that adjusts."""
    asked = [a for a in protocol.analyses if a.adjusted_for and not a.analysis.startswith("naive_")]
    return min(asked, key=lambda a: a.role != "primary", default=None)


def _rows(protocol: Protocol, asked: Analysis, table: CohortTable, day: int) -> CountingProcess:
    plain = Analysis(
        analysis="landmark_weighting", adjusted_for=asked.adjusted_for, landmarks=[day], salvage=asked.salvage
    )
    task = prepared(Task(protocol, plain, table, None, day))
    rows = who_could_choose(replace(task, notes=()))[1]
    rows.require_both_groups()
    return rows


def _propensity(X: FloatArray, started: BoolArray) -> FloatArray:
    spread = X.std(axis=0)
    scaled = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.asarray(fit_logistic(scaled[:, spread > 0], started).probability)


def _arms(protocol: Protocol, day: int, found: Overlap) -> Sequence[OverlapAtLandmark]:
    names = (protocol.strategies.control.name, protocol.strategies.treated.name)
    return [
        OverlapAtLandmark(
            landmark_day=day,
            strategy=name,
            patients=arm.n,
            q1=arm.lower_quartile,
            median=arm.median,
            q3=arm.upper_quartile,
            outside=arm.n_outside_common,
            effective=arm.effective_n,
            overlap=found.coefficient,
        )
        for name, arm in zip(names, (found.unexposed, found.exposed), strict=True)
    ]


def _cells(day: int, rows: CountingProcess) -> Sequence[EmptyCell]:
    """Of covariates with few values: cut-points of the others would be found in the data."""
    few = [j for j, x in enumerate(rows.X.T) if len(np.unique(x)) <= _MOST_LEVELS]
    found = zero_cells(rows.X[:, few], [rows.names[j] for j in few], rows.exposed)
    return [
        EmptyCell(
            landmark_day=day, kind=dict(cell.kind), started=cell.n_exposed, not_started=cell.n_unexposed
        )
        for cell in found
    ]
