"""One analysis on one set of rows, and the estimate that is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rwe.evidence.contract import Contrast, Curve, Estimate, Parameters, Refusal, groups_of
from rwe.progress import SILENT, Progress
from rwe.simulate.coverage import few_events_warning
from rwe.study import Analysis, Protocol
from rwe.study.analyses import OPTIONS
from rwe.study.possible import NO_HORIZON, never_runs
from rwe.survival.cox import CoxData
from rwe.survival.data import (
    CohortTable,
    CountingProcess,
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    frozen_ints,
    landmark_split,
    naive_split,
    start_day_split,
)
from rwe.survival.effects import Effect
from rwe.survival.emulation import CloneCensorWeight
from rwe.survival.first_events import FirstEvents, first_events
from rwe.survival.histories import with_salvage
from rwe.survival.intercurrent import CensoringEvent
from rwe.survival.tables import numbers
from rwe.survival.weight_diagnostics import WeightDiagnostics

IMMORTAL_TIME = "Biased: whoever started had survived until then, so immortal time counts as treated time."
RELAPSE, NON_RELAPSE_DEATH = "relapse", "non_relapse_death"
FEWEST_REPLICATES = 200
"""The 2.5th percentile of fewer is the fifth smallest or one nearer to the end: any other draw moves it."""
FEW_REPLICATES = (
    "The bootstrap has few replicates, so its limits are rough: another seed would move them. Ask for two "
    "hundred or more."
)
_CURVES = ("_kaplan_meier", "simon_makuch")


class TooLittleError(NotEstimableError):
    """The data are too few for what a primary analysis asks; something simpler can stand in its place."""


@dataclass(frozen=True)
class PrimaryRows:
    """The rows of the primary analysis, and how the model that was fitted to them is to be asked for in R.

    `has_own_se`: the standard error of the evidence is that of the model, and not a bootstrap's. `is_firth`:
    the likelihood has Firth's penalty.
    """

    data: CoxData
    ties: str
    is_robust: bool
    has_own_se: bool = True
    is_firth: bool = False


@dataclass(frozen=True)
class BalanceAfter:
    """Standardised mean differences of baseline covariates in a weighted analysis, and whose they are."""

    words: str
    smd: dict[str, float]
    is_primary: bool
    is_planned: bool = True


@dataclass
class Findings:
    """What the analyses gave, in the order in which the protocol asks."""

    estimates: list[Estimate] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    weights: list[tuple[Task, CloneCensorWeight]] = field(default_factory=list)
    balance: list[BalanceAfter] = field(default_factory=list)
    event_weights: list[tuple[Task, WeightDiagnostics]] = field(default_factory=list)
    primary: PrimaryRows | None = None
    answer: Task | None = None

    def balanced(self) -> BalanceAfter | None:
        """The balance by the weights of the primary analysis, else of the first weighted one of the study's
        own question."""
        own = [b for b in self.balance if b.is_planned]
        return min(own, key=lambda b: not b.is_primary, default=None)

    def warnings(self) -> list[str]:
        """Each warning of a primary estimate once; the others stay with their estimates."""
        found = [w for e in self.estimates if e.role == "primary" for w in e.warnings]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Task:
    """One analysis on one set of rows: what every estimate made from it shares."""

    protocol: Protocol
    analysis: Analysis
    table: CohortTable
    site: str | None
    landmark: int | None = None
    is_posthoc: bool = False
    notes: tuple[str, ...] = ()
    variant: str | None = None
    progress: Progress = SILENT

    @property
    def is_biased(self) -> bool:
        return self.analysis.analysis.startswith("naive_")

    @property
    def time_varying(self) -> list[str]:
        """What it adjusts for as it changes; from a landmark as known then."""
        changing = self.protocol.changing(self.analysis)
        return [name for name in self.analysis.adjusted_for if name in changing]

    @property
    def fixed(self) -> list[str]:
        return [name for name in self.analysis.adjusted_for if name not in self.time_varying]

    @property
    def at_index(self) -> list[str]:
        """What it adjusts for and has a value at index, which may be missing."""
        return [name for name in self.analysis.adjusted_for if name not in self.protocol.statuses()]

    @property
    def censoring_events(self) -> tuple[CensoringEvent, ...]:
        """The intercurrent events at which follow-up ended and that are weighted for."""
        changing = self.protocol.changing(self.analysis)
        return tuple(
            CensoringEvent(
                e.name,
                tuple(n for n in e.weighted_for if n not in changing),
                tuple(n for n in e.weighted_for if n in changing),
            )
            for e in self.protocol.censoring_events()
        )

    @property
    def excuse(self) -> str | None:
        """The event that ends the strategy: progression, where the protocol says so and salvage is apart."""
        excuses = self.protocol.strategies.treated.unless_progressed and self.analysis.salvage == "apart"
        return "progression_day" if excuses else None

    @property
    def interval_options(self) -> tuple[str, ...]:
        """What of the analysis decides how its interval is made, in the words of the coverage table."""
        a, kind = self.analysis, self.analysis.analysis
        models = {"landmark_weighting": a.weights, "clone_censor_weight": a.weight_model}
        said = {
            "adjusted": bool(a.adjusted_for),
            "robust": a.variance == "robust",
            "freeze": a.status_after_start == "freeze",
            "bootstrap": a.replicates > 0 and kind in OPTIONS["replicates"],
        }
        return (*(word for word, holds in said.items() if holds), *filter(None, [models.get(kind)]))

    @property
    def by_site(self) -> bool:
        """Whether each site has a baseline hazard (or a coefficient of the weights) of its own."""
        return "site" in self.analysis.stratify_by and self.site is None

    @property
    def horizon(self) -> int:
        """The day up to which restricted means and survival differences are taken."""
        asked = self.analysis.horizon_days or max(self.protocol.horizons, default=None)
        if asked is None:
            raise NotEstimableError(NO_HORIZON.what, advice=NO_HORIZON.advice)
        return asked

    def rows(self) -> CountingProcess:
        """The rows at risk: ever against never, from a landmark, or split at the start of exposure."""
        if self.is_biased:
            return naive_split(self.table, self.fixed, self.time_varying)
        if self.landmark is not None:
            return landmark_split(self.table, self.landmark, self.fixed, self.time_varying)
        if self.analysis.status_after_start == "freeze":
            return start_day_split(self.table, self.fixed, self.time_varying)
        return exposure_split(self.table, self.fixed, self.time_varying)

    def parameters(self, **values: object) -> Parameters:
        a = self.analysis
        is_followed = a.analysis == "time_dependent_cox" and self.time_varying
        fields: dict[str, object] = {
            "landmark_day": self.landmark,
            "time_origin_day": (self.landmark or 0) if a.analysis.endswith(_CURVES) else None,
            "adjusted_for": a.adjusted_for,
            "stratified_by": list(a.stratify_by) if self.site is None else [],
            "status_after_start": a.status_after_start if is_followed else None,
            "ties": a.ties if a.analysis.endswith("_cox") else None,
            "salvage": "counts_as_start" if a.salvage == "counts_as_start" else None,
            "endpoint": None if a.endpoint == "outcome" else a.endpoint,
            "variant": self.variant,
        }
        return Parameters.model_validate({**fields, **values})

    def contrast(self, strategy: str | None = None) -> Contrast:
        """Treated against control, or one `strategy` alone."""
        control, treated = self.strategies()
        return Contrast(
            strategy=strategy or treated,
            reference=None if strategy else control,
            groups=groups_of(self.analysis.analysis),
        )

    def strategies(self) -> tuple[str, str]:
        return self.protocol.strategies.control.name, self.protocol.strategies.treated.name


def require_possible(task: Task) -> None:
    """Raises NotEstimableError where the protocol alone says that the analysis can never run."""
    found = never_runs(task.protocol, task.analysis)
    if found is not None:
        raise NotEstimableError(found.what, advice=found.advice)


def prepared(task: Task) -> Task:
    """The task on the table that its options ask for: with salvage as a start, to the first progression.

    Raises NotEstimableError where the study has no disease status.
    """
    notes: list[str] = []
    table = task.table
    if task.analysis.salvage == "counts_as_start":
        table = with_salvage(table)
        notes.append("A first start after progression counts here: salvage is not what the question asks.")
    if task.analysis.endpoint == "progression_free_survival":
        require_status(task.protocol)
        events = relapses(table)
        table = events.table
        notes += [*events.warnings, *_ends_at_composite(task.protocol)]
    task = replace(task, table=table)
    notes += [*_later_starters(task), *_adjusts_for_less(task)]
    return replace(task, notes=tuple(notes))


def _ends_at_composite(protocol: Protocol) -> list[str]:
    """Progression-free survival goes no further than follow-up does, and that ends at the outcome."""
    composite = protocol.composite_events()
    if not composite:
        return []
    others = " or ".join(name.replace("_", " ") for name in composite)
    return [f"The outcome is composite: {others} counts here as an event, too, beside progression and death."]


def _later_starters(task: Task) -> list[str]:
    """Who starts after a landmark stays with those who had not started: that draws a contrast to nothing."""
    if task.landmark is None:
        return []
    patients = task.table.patients
    start, time = numbers(patients, "start_day", "patients"), numbers(patients, "time_days", "patients")
    later = int(((time > task.landmark) & (start > task.landmark)).sum())
    waiting = int(((time > task.landmark) & ~(start <= task.landmark)).sum())
    if not later:
        return []
    return [
        f"{later} of the {waiting} who had not started by day {task.landmark} start later and stay with "
        "them, so a difference is drawn towards none."
    ]


def _adjusts_for_less(task: Task) -> list[str]:
    """Names what the primary analysis adjusts for and this one, which adjusts, does not."""
    asked = task.analysis
    primary = next((a for a in task.protocol.analyses if a.role == "primary"), None)
    if primary is None or not asked.adjusted_for or asked == primary or task.is_biased:
        return []
    missing = [n for n in primary.adjusted_for if n not in asked.adjusted_for]
    if asked.endpoint != "outcome" or asked.analysis == "landmark_competing_risks":
        progressed = {c.name for c in task.protocol.covariates if getattr(c, "status", "") == "progressed"}
        missing = [n for n in missing if n not in progressed]  # it is part of the outcome there
    if not missing:
        return []
    return [f"Not adjusted for {', '.join(missing)}, as the primary analysis is: confounding is left."]


def require_status(protocol: Protocol) -> None:
    """Raises NotEstimableError where a study records no progression: it would be as if nobody had any."""
    if protocol.disease_status is None:
        raise NotEstimableError("the study records no progression", advice="name a disease_status in it")


def relapses(table: CohortTable, composite: Sequence[str] = ()) -> FirstEvents:
    """First progression or the outcome, whichever comes first.

    With the events of a `composite` outcome each of them is a cause of its own, beside death. Raises
    NotEstimableError without progressions, SurvivalDataError where the table does not tell those events.
    """
    if "progression_day" not in table.patients.columns:
        raise NotEstimableError("the study records no progression", advice="name a disease_status in it")
    days = numbers(table.patients, "progression_day", "patients")
    events = first_events(table, {RELAPSE: days}, death=NON_RELAPSE_DEATH)
    return _outcomes_apart(events, composite) if composite else events


def _outcomes_apart(events: FirstEvents, composite: Sequence[str]) -> FirstEvents:
    """The outcomes without relapse by what they were: `end_reason` is death or composite:NAME."""
    patients = events.table.patients
    if "end_reason" not in patients.columns:
        raise SurvivalDataError("the table does not say why follow-up ended", where="end_reason")
    death = events.causes.index(NON_RELAPSE_DEATH) + 1
    code = {f"composite:{name}": death + i for i, name in enumerate(composite, start=1)}
    which = patients["end_reason"].map(code).fillna(death).to_numpy(dtype=np.int64)
    causes = (
        RELAPSE,
        "_or_".join(["death_without_relapse", *composite]),
        *(f"{name}_without_relapse" for name in composite),
    )
    cause = frozen_ints(np.where(events.cause == death, which, events.cause))
    return replace(events, cause=cause, causes=causes)


def make_estimate(
    task: Task,
    rows: CountingProcess | None,
    estimand: str,
    method: str,
    *,
    warnings: Sequence[str] = (),
    assumptions: Sequence[str] = (),
    **values: object,
) -> Estimate:
    """An estimate with everything its task already knows; a number that is not given is null."""
    control, treated = task.strategies()
    counts = rows.counts() if rows is not None else None
    blank = dict.fromkeys(
        ("estimate", "log_estimate", "se", "se_scale", "variance_method", "ci_low", "ci_high", "ci_level")
    )
    blank |= dict.fromkeys(("ci_method", "df", "p_value", "effect_type"))
    n_by = {treated: counts.patients_exposed, control: counts.patients_unexposed} if counts else {}
    events_by = {treated: counts.events_exposed, control: counts.events_unexposed} if counts else {}
    events = values.get("events")
    few = _coverage(task, estimand, events if isinstance(events, int) else sum(events_by.values()), values)
    said = ([IMMORTAL_TIME] if task.is_biased else []) + [
        *task.notes,
        *warnings,
        *few,
        *_rough(values),
    ]
    fields: dict[str, object] = {
        **blank,
        "analysis": task.analysis.analysis,
        "estimand": estimand,
        "role": "posthoc" if task.is_posthoc and not task.is_biased else task.analysis.role,
        "asked_role": task.analysis.role if task.is_posthoc else None,
        "contrast": task.contrast(),
        "site": task.site,
        "method": method,
        "parameters": task.parameters(),
        "n": rows.n_patients if rows is not None else len(task.table),
        "events": sum(events_by.values()),
        "n_by_strategy": n_by,
        "events_by_strategy": events_by,
        "status": "refused" if method == "refused" else "ok",
        "is_biased": task.is_biased,
        "assumptions": [] if method == "refused" else list(assumptions),
        "warnings": list(dict.fromkeys(said)),
    }
    return Estimate.model_validate({**fields, **values})


def _coverage(task: Task, estimand: str, events: int, values: Mapping[str, object]) -> list[str]:
    """What simulations with so few events say of this method's intervals, where there is one."""
    has_interval = any(values.get(k) is not None for k in ("ci_low", "ci_high", "p_value"))
    if task.is_biased or not has_interval:
        return []
    found = few_events_warning(task.analysis.analysis, estimand, events, options=task.interval_options)
    return [found] if found else []


def _rough(values: Mapping[str, object]) -> list[str]:
    """What a bootstrap of few replicates leaves of its limits, where there are some."""
    at = values.get("parameters")
    replicates = at.replicates if isinstance(at, Parameters) else None
    has_limits = values.get("ci_low") is not None or values.get("ci_high") is not None
    is_rough = replicates is not None and replicates < FEWEST_REPLICATES and has_limits
    return [FEW_REPLICATES] if is_rough else []


def effect_estimate(
    task: Task,
    rows: CountingProcess | None,
    estimand: str,
    effect: Effect,
    *,
    method: str,
    warnings: Sequence[str] = (),
    assumptions: Sequence[str] = (),
    **values: object,
) -> Estimate:
    """An estimate of what an estimator returned as an effect."""
    return make_estimate(
        task,
        rows,
        estimand,
        method,
        warnings=[*warnings, *effect.warnings],
        assumptions=assumptions,
        estimate=defined(effect.estimate),
        log_estimate=effect.log_estimate,
        se=effect.se,
        se_scale=effect.se_scale,
        variance_method=effect.variance_method,
        ci_low=defined(effect.ci_low),
        ci_high=defined(effect.ci_high),
        ci_level=effect.ci_level,
        ci_method=effect.ci_method,
        p_value=effect.p_value,
        **{"status": "ok" if effect.estimate is not None else "did_not_converge", **values},
    )


def defined(value: float | None) -> float | None:
    """A finite number, else None: the contract has no infinities."""
    return float(value) if value is not None and math.isfinite(value) else None


def count_events(task: Task, count: int) -> str:
    """`1 death`, `12 events`."""
    is_death = not task.protocol.composite_events() and task.analysis.endpoint == "outcome"
    noun = "death" if is_death else "event"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
