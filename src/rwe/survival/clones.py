"""Two copies of each patient, one a strategy, each censored when its patient departs from it.

Strategies, with grace period g (inclusive):

- *start by g*: a patient still followed after g who has not started is censored at g. With `unless`, an
  event that excuses (progression), nobody has to start who had it by g.
- *no start by g*: censored at a start up to g; later starters stay ("no_start_by_grace"). Or *never*:
  censored at any start.

Sources: Hernan & Robins 2016, Am J Epidemiol 183:758; Maringe et al. 2020, Int J Epidemiol 49:1719.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rwe.survival.data import (
    BoolArray,
    CohortTable,
    FloatArray,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
    frozen_flags,
    frozen_floats,
    frozen_ints,
)
from rwe.survival.histories import (
    NEVER2,
    SITE_COLUMN,
    Histories,
    HistoryRows,
    histories,
    last_start2,
    leaving_rows,
    row_at,
    starting_rows,
)
from rwe.survival.intercurrent import CensoringEvent, event_rows

ControlStrategy = Literal["no_start_by_grace", "never"]


@dataclass(frozen=True)
class ArmClones:
    """One strategy's clones, one a patient: followed until stop2 (half days), then the event or censoring.

    `deviates`: censored there because its patient departed from the strategy. stop2 is 0 for a clone censored
    on day 0: it has no follow-up.
    """

    stop2: IntArray
    event: BoolArray
    deviates: BoolArray


@dataclass(frozen=True)
class Clones:
    """All clones of a cohort, and the histories from which their weights are modelled.

    `patients` are the patients' own histories. `starting`: rows at risk of starting. `loss`: the whole
    history, exposure first, with the event "left alive"; `leaving` the same for each intercurrent event at
    which follow-up ends (its name, its rows), which then is no loss. `at_grace`: patients still followed at g
    and not excused, of whom those followed beyond it are censored unless they started; `X_at_grace` their
    covariates just before g.
    """

    grace_days: int
    control_strategy: ControlStrategy
    patients: Histories
    control: ArmClones
    treated: ArmClones
    starting: HistoryRows
    loss: HistoryRows
    leaving: tuple[tuple[str, HistoryRows], ...]
    at_grace: IntArray
    X_at_grace: FloatArray

    @property
    def n(self) -> int:
        return self.patients.n

    @property
    def names(self) -> tuple[str, ...]:
        return self.patients.names

    @property
    def grace2(self) -> int:
        return 2 * self.grace_days

    @property
    def started_by_grace(self) -> BoolArray:
        start2 = self.patients.start2
        return np.asarray((start2 >= 0) & (start2 <= self.grace2))


def clone(
    table: CohortTable,
    grace_days: int,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    control: ControlStrategy = "no_start_by_grace",
    unless: str | None = None,
    site_indicators: bool = False,
    censoring_events: Sequence[CensoringEvent] = (),
) -> Clones:
    """Clone every patient who has all `covariates`; nothing is weighted yet.

    `censoring_events`: intercurrent events at which follow-up of the table ended; their covariates are among
    those of the weights.

    Raises SurvivalDataError for a negative or fractional grace period or an unknown column, NotEstimableError
    where nobody has all covariates.
    """
    if grace_days < 0 or int(grace_days) != grace_days:
        raise SurvivalDataError(f"the grace period of {grace_days} days is not a whole number of days")
    history = histories(table, covariates, time_varying, unless=unless, site_indicators=site_indicators)
    grace2 = 2 * int(grace_days)
    stop2, event, start2 = history.stop2, history.event, history.start2
    in_grace = (start2 >= 0) & (start2 <= grace2)
    leaves = in_grace if control == "no_start_by_grace" else start2 >= 0
    can_wait = history.excused2 <= grace2
    late = ~in_grace & (stop2 > grace2) & ~can_wait
    at_grace = np.flatnonzero((stop2 >= grace2) & ~can_wait)
    before = row_at(history.rows, at_grace, np.full(len(at_grace), grace2), just_before=True)
    until2 = grace2 if control == "no_start_by_grace" else NEVER2
    leaving = tuple((e.name, _leaving(history, table, e)) for e in censoring_events)
    return Clones(
        grace_days=int(grace_days),
        control_strategy=control,
        patients=history,
        control=_arm(np.where(leaves, start2, stop2), event & ~leaves, leaves),
        treated=_arm(np.where(late, grace2, stop2), event & ~late, late),
        starting=starting_rows(history, last_start2(history, until2)),
        loss=_without(leaving_rows(history), leaving),
        leaving=leaving,
        at_grace=frozen_ints(at_grace),
        X_at_grace=frozen_floats(history.rows.X[before]),
    )


def require_both_strategies(clones: Clones) -> None:
    """Raises NotEstimableError where nobody started by g, or where nobody is left who did not."""
    day, stop2 = clones.grace_days, clones.patients.stop2
    if not clones.started_by_grace.any():
        raise NotEstimableError(f"nobody started within {day} days (0 of {clones.n})")
    if not clones.started_by_grace[stop2 > clones.grace2].any():
        raise NotEstimableError(f"nobody who started within {day} days was followed any longer")
    if not (clones.control.stop2 > clones.grace2).any():
        raise NotEstimableError(f"everybody followed beyond day {day} had started by then")


def _leaving(history: Histories, table: CohortTable, event: CensoringEvent) -> HistoryRows:
    columns = [j for j, n in enumerate(history.names) if n in event.weighted_for or n.startswith(SITE_COLUMN)]
    return event_rows(history, table, event.name, columns)


def _without(loss: HistoryRows, leaving: Sequence[tuple[str, HistoryRows]]) -> HistoryRows:
    """The rows of leaving, without those who left by an event that has a model of its own."""
    event = loss.event.copy()
    for _, rows in leaving:
        event &= ~rows.event
    return replace(loss, event=frozen_flags(event))


def _arm(stop2: IntArray, event: BoolArray, deviates: BoolArray) -> ArmClones:
    return ArmClones(frozen_ints(stop2), frozen_flags(event), frozen_flags(deviates))
