"""One simulated cohort as the estimators see it: its rows, split once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from rwe.errors import RweError
from rwe.simulate.scenarios import BASELINE, Scenario
from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.data import CountingProcess, exposure_split, landmark_split, naive_split
from rwe.survival.emulation import CloneCensorWeight, clone_censor_weight
from rwe.survival.first_events import CompetingRows, competing_rows, first_events
from rwe.survival.histories import event_days
from rwe.survival.propensity import Kind, LandmarkWeighted, landmark_weighted
from rwe.survival.sequential import SequentialTrials, sequential_trials
from rwe.survival.tables import CohortTable

RELAPSE, OTHER_DEATH = "relapse", "non_relapse_death"
PROGRESSED = "progressed"
Counted = Literal[
    "everybody",
    "trials",
    "sequential_trials",
    "landmark",
    "started",
    "not_started",
    "could_choose",
    "relapse",
    "relapse_started",
    "relapse_not_started",
    "non_relapse_death",
]
"""Whose events an estimate rests on: all deaths, those in the trials of all start days or of those within
grace, those after the landmark (of a group, of those who could
choose), first events of a kind after it."""


@dataclass(frozen=True)
class Cohort:
    """A table drawn in a scenario; `replicates` (0: none) and `seed` are those of its bootstraps."""

    table: CohortTable
    scenario: Scenario
    seed: int
    replicates: int = 0

    @property
    def by_site(self) -> bool:
        return self.scenario.sites > 1

    def events(self, counted: Counted) -> int:
        """How many events an estimate rests on, as its evidence counts them."""
        if counted == "sequential_trials":
            try:
                return self.sequential.events
            except RweError:
                return 0
        if counted in ("everybody", "trials", "could_choose"):
            table = self.could_choose if counted == "could_choose" else self.table
            begins = {"everybody": -1.0, "could_choose": float(self.scenario.landmark)}
            first = begins.get(counted, float(table.patients["start_day"].min()))
            return int((table.patients["is_event"] & (table.patients["time_days"] > first)).sum())
        rows = self.landmark
        if counted in ("relapse", "relapse_started", "relapse_not_started", "non_relapse_death"):
            rows = self.relapses.of_cause(OTHER_DEATH if counted == "non_relapse_death" else RELAPSE)
        if counted.endswith("not_started"):
            return int((rows.event & ~rows.exposed).sum())
        return int((rows.event & rows.exposed).sum() if counted.endswith("started") else rows.event.sum())

    @cached_property
    def naive(self) -> CountingProcess:
        return naive_split(self.table)

    @cached_property
    def over_time(self) -> CountingProcess:
        return exposure_split(self.table)

    @cached_property
    def over_time_adjusted(self) -> CountingProcess:
        return exposure_split(self.table, BASELINE, self.scenario.time_varying)

    @cached_property
    def adjusted_fit(self) -> CoxFit:
        """Time-dependent Cox, adjusted, with both variances."""
        return exposure_cox(self.over_time_adjusted, stratify_by_site=self.by_site, robust=True)

    @cached_property
    def landmark(self) -> CountingProcess:
        return landmark_split(self.table, self.scenario.landmark)

    @cached_property
    def landmark_adjusted(self) -> CountingProcess:
        return landmark_split(self.table, self.scenario.landmark, BASELINE, self.scenario.time_varying)

    @cached_property
    def could_choose(self) -> CohortTable:
        """Those who had not progressed by the landmark: nobody else could have started by it."""
        if PROGRESSED not in self.scenario.time_varying:
            return self.table
        gone = event_days(self.table, PROGRESSED) <= self.scenario.landmark
        kept = self.table.patients[~gone].reset_index(drop=True)
        changes = self.table.changes[self.table.changes["patient_id"].isin(kept["patient_id"])]
        return CohortTable(kept, changes.reset_index(drop=True))

    @property
    def still_varying(self) -> tuple[str, ...]:
        """The disease status that tells those apart who could choose at the landmark."""
        return tuple(name for name in self.scenario.time_varying if name != PROGRESSED)

    @cached_property
    def relapses(self) -> CompetingRows:
        """Relapse, or death before it, from the landmark on; not adjusted."""
        events = first_events(self.table, {RELAPSE: event_days(self.table, PROGRESSED)}, death=OTHER_DEATH)
        return competing_rows(events, landmark_split(events.table, self.scenario.landmark))

    @cached_property
    def older(self) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
        """A subgroup known at time zero."""
        return np.where(self.table.patients["age"].to_numpy() >= 65, "65 or older", "under 65")

    @cached_property
    def cloned_cox(self) -> CloneCensorWeight:
        return self._cloned("cox", 0)

    @cached_property
    def cloned_logistic(self) -> CloneCensorWeight:
        return self._cloned("logistic", 0)

    @cached_property
    def cloned_logistic_bootstrap(self) -> CloneCensorWeight:
        return self._cloned("logistic", self.replicates)

    @cached_property
    def sequential(self) -> SequentialTrials:
        s = self.scenario
        return sequential_trials(
            self.table,
            BASELINE,
            s.time_varying,
            unless=PROGRESSED,
            last_start_day=s.grace_days,
            stratify_by_site=self.by_site,
        )

    @cached_property
    def iptw(self) -> LandmarkWeighted:
        return self._weighted("iptw", 0)

    @cached_property
    def overlap(self) -> LandmarkWeighted:
        return self._weighted("overlap", 0)

    @cached_property
    def iptw_bootstrap(self) -> LandmarkWeighted:
        return self._weighted("iptw", self.replicates)

    @cached_property
    def overlap_bootstrap(self) -> LandmarkWeighted:
        return self._weighted("overlap", self.replicates)

    def _cloned(self, model: str, replicates: int) -> CloneCensorWeight:
        s = self.scenario
        return clone_censor_weight(
            self.table,
            s.grace_days,
            BASELINE,
            s.time_varying,
            horizon_days=s.horizon,
            times=(s.horizon,),
            unless=PROGRESSED,
            treated_model="cox" if model == "cox" else "logistic",
            site_indicators=self.by_site,
            replicates=replicates,
            seed=self.seed,
            workers=1,
        )

    def _weighted(self, kind: Kind, replicates: int) -> LandmarkWeighted:
        s = self.scenario
        return landmark_weighted(
            self.could_choose,
            s.landmark,
            BASELINE,
            self.still_varying,
            kind=kind,
            horizon_days=s.after_landmark,
            times=(s.after_landmark,),
            site_indicators=self.by_site,
            replicates=replicates,
            seed=self.seed,
            workers=1,
        )
