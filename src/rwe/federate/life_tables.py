"""Rounded counts of a site, and the curve that their totals give.

A life table has fixed intervals. For each arm, at the origin and at each interval's end, it counts who has
entered the arm, who has left it without an event, and who had an event: three cumulative counts, each rounded
at the site. Their totals give the grouped product-limit estimate with the actuarial correction: in an
interval with n at its beginning, w leaving and e entering, n - w/2 + e/2 are at risk.

Source: Cutler & Ederer 1958 (half of those who leave within an interval count as at risk).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rwe.federate.plan import ARMS, MOVES
from rwe.survival.data import BoolArray, CountingProcess, FloatArray


@dataclass(frozen=True)
class LifeTableRow:
    """One arm over the interval that ends on `day`: at risk in it, events in it, survival after it.

    All from rounded counts. `survival` is None where nobody is at risk in the interval.
    """

    arm: str
    day: int
    at_risk: float
    events: float
    survival: float | None


def cumulative_counts(rows: CountingProcess, days: tuple[int, ...]) -> dict[str, int]:
    """Entered, left and events up to each day, by arm, as `entered[exposed,90]`. Nothing is rounded here."""
    found: dict[str, int] = {}
    for arm, exposed in zip(ARMS, (False, True), strict=True):
        entries, exits, is_event = _episodes(rows, exposed)
        for day in (0, *days):
            counts = (
                np.sum(entries <= day),
                np.sum((exits <= day) & ~is_event),
                np.sum((exits <= day) & is_event),
            )
            found |= {f"{move}[{arm},{day}]": int(n) for move, n in zip(MOVES, counts, strict=True)}
    return found


def _episodes(rows: CountingProcess, exposed: bool) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Entry, exit and whether the exit is an event, for each stay of a patient in an arm.

    Rows of a patient that follow each other in one arm are one stay: a change of a covariate is no exit.
    """
    mine = np.flatnonzero(rows.exposed == exposed)
    trial = np.zeros(len(rows), dtype=np.int64) if rows.trial is None else rows.trial
    order = mine[np.lexsort((rows.start[mine], trial[mine], rows.patient[mine]))]
    start, stop, patient, group = rows.start[order], rows.stop[order], rows.patient[order], trial[order]
    goes_on = np.zeros(len(order), dtype=bool)
    goes_on[1:] = (patient[1:] == patient[:-1]) & (group[1:] == group[:-1]) & (start[1:] == stop[:-1])
    last = np.append(~goes_on[1:], True)[: len(order)]
    return start[~goes_on], stop[last], rows.event[order][last]


def life_table(totals: Mapping[str, float], days: tuple[int, ...]) -> tuple[LifeTableRow, ...]:
    """The rows of both arms from the totals of rounded cumulative counts; none without days."""
    if not days:
        return ()
    rows = []
    for arm in ARMS:
        before = {m: totals[f"{m}[{arm},0]"] for m in MOVES}
        survival = 1.0
        for day in days:
            now = {m: max(totals[f"{m}[{arm},{day}]"], before[m]) for m in MOVES}
            entered, left, events = (now[m] - before[m] for m in MOVES)
            at_start = before["entered"] - before["left"] - before["events"]
            at_risk = max(at_start + entered / 2 - left / 2, 0.0)
            survival *= max(0.0, 1 - events / at_risk) if at_risk > 0 else 1.0
            rows.append(LifeTableRow(arm, day, at_risk, events, survival if at_risk > 0 else None))
            before = now
    return tuple(rows)
