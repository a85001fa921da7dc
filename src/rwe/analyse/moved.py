"""From yesterday's estimate to today's, one class of change at a time.

The primary analysis is run again on the rows of before with the changes made one class after another. The
steps add up from the one estimate to the other; in another order they would differ, for changes act together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rwe.analyse.downgrade import firth_in_place_of
from rwe.analyse.plan import run_task
from rwe.analyse.tasks import Findings, Task
from rwe.errors import RweError
from rwe.evidence.contract import Estimate
from rwe.evidence.history import Change, EstimateStep, Look
from rwe.history.compare import Moves, describe, moves
from rwe.history.ledger import Ledger
from rwe.study import Analysis, Protocol
from rwe.survival.tables import CohortTable

_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """The analysis that gave a refresh its answer: the protocol's primary one, or what stands in for it."""

    protocol: Protocol
    analysis: Analysis
    landmark: int | None

    def hazard_ratio(self, table: CohortTable) -> float | None:
        """The hazard ratio of all sites on these rows, without its interval; None where there is none."""
        findings = Findings()
        try:
            run_task(Task(self.protocol, self.analysis, table, None, self.landmark), findings)
        except RweError:
            return None
        found = (e.estimate for e in findings.estimates if e.estimand == "hazard_ratio")
        return next(found, None)


def answer_of(protocol: Protocol, estimates: Sequence[Estimate]) -> tuple[Answer, Estimate] | None:
    """What gave the answer, and the answer. A primary analysis outside the lock (posthoc) is one, too."""
    asked = next((a for a in protocol.analyses if a.role == "primary"), None)
    ratios = [
        e for e in estimates if e.estimand == "hazard_ratio" and e.site is None and e.estimate is not None
    ]
    primary = [e for e in ratios if e.is_the_answer or e.downgraded_from is not None]
    if asked is None or not primary:
        return None
    found = primary[0]
    # As a sensitivity it is run on whatever there is, and without the bootstrap of an interval.
    update = {"role": "sensitivity", "by_site": False, "replicates": 0}
    gave = _that_gave(found, asked).model_copy(update=update)
    return Answer(protocol, gave, found.parameters.landmark_day), found


def _that_gave(found: Estimate, asked: Analysis) -> Analysis:
    """The primary analysis that was asked for, or what the downgrade ran in its place: by its name alone the
    two cannot be told apart, for Firth's model stands in for one with more covariates, too."""
    if found.downgraded_from is None and found.analysis == asked.analysis:
        return asked
    p = found.parameters
    return firth_in_place_of(asked, p.landmark_day, keeps=p.adjusted_for == asked.adjusted_for)


def change_between(
    before: Ledger,
    after: Ledger,
    answer: tuple[Answer, Estimate] | None,
    *,
    look: Look | None,
    protocol_changed: list[str],
    is_same_code: bool,
) -> Change:
    """What moved from one refresh to the next, in counts, with the steps of the estimate where there is one.

    `answer`: of the later refresh. `look`: at the earlier one. Both ledgers are of one pseudonym key.
    """
    found = moves(before, after)
    change = describe(found, before, after, protocol_changed=protocol_changed, code_changed=not is_same_code)
    if answer is None:
        return change
    gave, estimate = answer
    model = (estimate.analysis, estimate.parameters.adjusted_for)
    is_same = look is not None and (look.analysis, look.adjusted_for) == model
    steps = estimate_steps(
        gave,
        before,
        after,
        found,
        estimate_before=look.estimate if look else None,
        is_same_analysis=is_same_code and not protocol_changed and is_same,
    )
    return change.model_copy(update={"steps": steps})


def estimate_steps(
    answer: Answer,
    before: Ledger,
    after: Ledger,
    found: Moves,
    *,
    estimate_before: float | None,
    is_same_analysis: bool,
) -> list[EstimateStep]:
    """The answer's hazard ratio from `before` to `after`: as it was, with the analysis of now (protocol,
    code, or what stands in for the primary analysis), without those who left, with corrected covariates, with
    corrected exposure, with outcomes come to be known (or withdrawn), with all other follow-up, with those
    who entered.

    A step that changes nobody is left out; one without an estimate has null.
    """
    steps = [EstimateStep(what="before", patients=None, estimate=estimate_before)]
    if not is_same_analysis:
        estimate = answer.hazard_ratio(before.cohort())
        steps.append(EstimateStep(what="analysis", patients=None, estimate=estimate))
    for what, patients, table in _tables(before, after, found):
        if patients:
            ratio = answer.hazard_ratio(table)
            steps.append(EstimateStep.model_validate({"what": what, "patients": patients, "estimate": ratio}))
    return steps


def _tables(before: Ledger, after: Ledger, found: Moves) -> Iterator[tuple[str, int, CohortTable]]:
    ids = found.patients.index
    rows = _Rows(before, after, list(ids))
    yield "left", len(found.left), rows.table()
    rows.take_covariates()
    yield "covariates", int(found.covariates.sum()), rows.table()
    rows.take_exposure(found.corrected_exposure, found)
    yield "moved", int(found.corrected_exposure.sum()), rows.table()
    rows.take_all(ids[found.outcome])
    yield "outcome", int(found.outcome.sum()), rows.table()
    others = (found.grown | found.shortened | found.started_since) & ~found.outcome
    rows.take_all(ids)
    yield "follow_up", int(others.sum()), rows.table()
    yield "entered", len(found.entered), after.cohort()


class _Rows:
    """The rows of those in both refreshes, on their way from before to after."""

    def __init__(self, before: Ledger, after: Ledger, ids: list[str]) -> None:
        self._ids = ids
        self._now, self._then = (
            pd.concat([x.survival, x.covariates], axis=1).set_index("patient_id").loc[ids]
            for x in (after, before)
        )
        self._covariates = list(after.covariates.columns)
        self._changes_then, self._changes_now = before.changes, after.changes
        self._corrected: frozenset[str] = frozenset()
        self._whole: frozenset[str] = frozenset()
        self._seen = dict(zip(ids, self._then["time_days"], strict=True))

    def take_covariates(self) -> None:
        """Covariates at index as they are known now."""
        for name in self._covariates:
            self._then[name] = self._now[name]

    def take_exposure(self, corrected: _Flags, found: Moves) -> None:
        """Starts, progressions and statuses of the days seen before, as they are known now."""
        then, now = self._then, self._now
        for name in ("start_day", "salvage_start_day", "progression_day"):
            days = now[name].where(now[name] <= then["time_days"])
            then[name] = then[name].where(~corrected, days)
        self._corrected = frozenset(found.patients.index[corrected])

    def take_all(self, ids: Collection[str]) -> None:
        """These patients entirely as they are now."""
        self._whole |= frozenset(ids)
        chosen = self._then.index.isin(self._whole)
        shared = [c for c in self._then.columns if c in self._now.columns]
        self._then.loc[chosen, shared] = self._now.loc[chosen, shared]

    def table(self) -> CohortTable:
        return CohortTable(patients=self._then.reset_index(names="patient_id"), changes=self._changes())

    def _changes(self) -> pd.DataFrame:
        then, now = self._changes_then, self._changes_now
        then = then[then["patient_id"].isin(self._ids)]
        now = now[now["patient_id"].isin(self._ids)]
        renewed = self._corrected | self._whole
        known = now["day"] < now["patient_id"].map(self._seen)
        taken = now["patient_id"].isin(self._whole) | (now["patient_id"].isin(self._corrected) & known)
        kept = [then[~then["patient_id"].isin(renewed)], now[taken]]
        return pd.concat(kept).sort_values(["patient_id", "covariate", "day"]).reset_index(drop=True)
