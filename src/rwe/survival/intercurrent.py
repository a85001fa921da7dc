"""Intercurrent events that end follow-up, and weights for those who go on without one.

The question is then what would have happened had nobody had the event (ICH E9 R1: a hypothetical strategy).
Ending follow-up at it answers that only if whoever has the event has the prognosis of whoever has not. So
those who go on are weighted by the inverse probability of not having had it:

    exp(H(t-) - H*(t-))

H is the patient's cumulative hazard of the event given exposure and the covariates named for it, as they
change; H* is 0, or (stabilised, for a Cox model of the outcome) given what that model holds anyway: exposure,
site, and the covariates of baseline that both have. Cox models, Efron's baseline hazard. Piecewise constant,
left-continuous: the weight on (t0, t1] uses events up to t0.

Sources: Robins & Finkelstein 2000, Biometrics 56:779; Hernan, Brumback & Robins 2001, J Am Stat Assoc 96:440;
Olarte Parra et al. 2022, Stat Biopharm Res 14:442 (hypothetical strategies).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rwe.survival.cox import CoxData, CoxFit, exposure_data, fit_cox
from rwe.survival.cox_kernel import Ties
from rwe.survival.data import (
    BoolArray,
    CohortTable,
    CountingProcess,
    FloatArray,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
    frozen_flags,
    frozen_floats,
    frozen_ints,
)
from rwe.survival.hazard_model import HazardFit, HazardModel, fit_hazard, hazard_model
from rwe.survival.histories import SITE_COLUMN, Histories, HistoryRows, histories
from rwe.survival.weight_diagnostics import WeightDiagnostics, weight_diagnostics
from rwe.survival.weight_steps import (
    Pieces,
    cut_entries,
    last_of_entries,
    log_weight_at,
    steps_that_matter,
    steps_upto,
)

CENSORED = "censored:"
"""Before the name of an event in `end_reason` of a patient whose follow-up ended at it."""
METHOD = "Cox model weighted for intercurrent events"
ASSUMPTIONS = (
    "Given exposure and the covariates named for it, whoever has the intercurrent event on a day has the "
    "prognosis of whoever has not.",
    "At every time everybody could have gone on without the event (positivity).",
    "The models of the events are right.",
)


@dataclass(frozen=True)
class CensoringEvent:
    """An intercurrent event at which follow-up ends, and the covariates of its model.

    `covariates` are of baseline, `time_varying` are followed as they change.
    """

    name: str
    covariates: tuple[str, ...] = ()
    time_varying: tuple[str, ...] = ()

    @property
    def weighted_for(self) -> tuple[str, ...]:
        return (*self.covariates, *self.time_varying)


@dataclass(frozen=True)
class EventWeights:
    """The models of all events, fitted: the denominator of each, and what stabilises it (None: nothing)."""

    denominators: tuple[tuple[HazardModel, HazardFit], ...]
    numerators: tuple[tuple[HazardModel, HazardFit] | None, ...]

    def times2(self) -> IntArray:
        """Half days at which a weight changes."""
        times = [model.time2 for model, _ in self.denominators]
        return np.unique(np.concatenate(times)) if times else np.zeros(0, dtype=np.int64)

    def log_weight(self, patient: IntArray, half: IntArray) -> FloatArray:
        """Log weight of each patient after the half day: by the events up to and on it."""
        found = np.zeros(len(patient))
        for (model, fit), stable in zip(self.denominators, self.numerators, strict=True):
            found += log_weight_at(model, fit, patient, steps_upto(model, half))
            if stable is not None:
                found -= log_weight_at(*stable, patient, steps_upto(stable[0], half))
        return found

    def warnings(self) -> tuple[str, ...]:
        return tuple(w for model, _ in self.denominators for w in model.warnings)


@dataclass(frozen=True)
class EventWeightedCox:
    """Result of `event_weighted_cox`. `weights` are over rows, stabilised; `n_censored` counts by event."""

    fit: CoxFit
    data: CoxData
    n: int
    events: int
    n_censored: tuple[tuple[str, int], ...]
    weights: WeightDiagnostics
    method: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


def is_censored_by(table: CohortTable, event: str) -> BoolArray:
    """By patient: whether follow-up ended, alive, at the intercurrent event.

    Raises SurvivalDataError where the table has no `end_reason`.
    """
    patients = table.patients
    if "end_reason" not in patients.columns:
        raise SurvivalDataError("the table does not say why follow-up ended", where="end_reason")
    at_event = (patients["end_reason"] == f"{CENSORED}{event}").to_numpy(dtype=bool)
    return np.asarray(at_event & ~patients["is_event"].to_numpy(dtype=bool))


def event_rows(
    history: Histories, table: CohortTable, event: str, columns: Sequence[int] | None = None
) -> HistoryRows:
    """The histories with the intercurrent event as the event, exposure as first covariate.

    `columns`: the covariates besides, positions in `history.names`; None: all.
    """
    rows = history.rows
    used = list(range(len(rows.names))) if columns is None else list(columns)
    ends = is_censored_by(table, event)[history.members]
    is_last = rows.stop2 == history.stop2[rows.patient]
    return HistoryRows(
        start2=rows.start2,
        stop2=rows.stop2,
        event=frozen_flags(is_last & ends[rows.patient]),
        X=frozen_floats(np.column_stack([history.exposed.astype(np.float64), rows.X[:, used]])),
        names=("exposed", *(rows.names[j] for j in used)),
        patient=rows.patient,
    )


def event_weights(
    history: Histories,
    table: CohortTable,
    events: Sequence[CensoringEvent],
    *,
    stabilised_by: Sequence[str] | None = None,
) -> EventWeights:
    """Fit the model of each event. `stabilised_by`: covariates of baseline that the outcome model holds.

    None stabilises nothing. Sites that are columns of the history enter all models. Raises NotEstimableError
    for collinear covariates.
    """
    everybody = np.ones(history.n)

    def fitted(event: str, names: Sequence[str]) -> tuple[HazardModel, HazardFit]:
        columns = [j for j, n in enumerate(history.names) if n in names or n.startswith(SITE_COLUMN)]
        model = hazard_model(event_rows(history, table, event, columns), event)
        return model, fit_hazard(model, everybody)

    denominators, numerators = [], list[tuple[HazardModel, HazardFit] | None]()
    for e in events:
        denominators.append(fitted(e.name, e.weighted_for))
        kept = None if stabilised_by is None else [n for n in e.covariates if n in stabilised_by]
        numerators.append(None if kept is None else fitted(e.name, kept))
    return EventWeights(tuple(denominators), tuple(numerators))


def cut_at_events(
    start2: IntArray, stop2: IntArray, patient: IntArray, weights: EventWeights, death2: IntArray
) -> tuple[Pieces, FloatArray]:
    """Rows (half days) cut where a weight changes, and the log weight of each piece.

    `death2`: half days of the outcome; between two of them only the last change matters. Raises
    NotEstimableError for more than 6 million pieces.
    """
    cuts = steps_that_matter(weights.times2(), death2)
    pieces = cut_entries(start2, stop2, cuts, np.ones(len(start2), dtype=bool))
    return pieces, weights.log_weight(patient[pieces.entry], pieces.begin2)


def event_weighted_cox(
    table: CohortTable,
    events: Sequence[CensoringEvent],
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    stratify_by_site: bool = False,
    ties: Ties = "efron",
    level: float = 0.95,
) -> EventWeightedCox:
    """The Cox model of time-dependent exposure, those without an event so far weighted for it.

    `covariates` and `time_varying` are those of the outcome model; an event's own need not be among them.
    The table says in `end_reason` whose follow-up ended at which event. The variance is the sandwich by
    patient, with the weights taken as known: conservative.

    Raises NotEstimableError where nobody, or everybody, is exposed, and as `fit_cox`.
    """
    fixed = _union(covariates, *(e.covariates for e in events))
    varying = _union(time_varying, *(e.time_varying for e in events))
    history = histories(table, fixed, varying, site_indicators=stratify_by_site)
    weights = event_weights(history, table, events, stabilised_by=covariates)
    rows = history.rows
    death2 = np.unique(history.stop2[history.event])
    pieces, log_weight = cut_at_events(rows.start2, rows.stop2, rows.patient, weights, death2)
    own = [history.names.index(n) for n in (*covariates, *time_varying)]
    process = _process(history, pieces, own)
    weight = np.exp(log_weight)
    data = replace(exposure_data(process, stratify_by_site=stratify_by_site), weight=frozen_floats(weight))
    fit = fit_cox(data, ties=ties, robust=True, level=level)
    model = "Cox models of " + ", ".join(e.name for e in events) + ", stabilised (time-dependent exposure)"
    final = last_of_entries(process.patient, weight, history.n)
    diagnostics = weight_diagnostics(model, final, rows=weight)
    counts = tuple((e.name, int(is_censored_by(table, e.name)[history.members].sum())) for e in events)
    return EventWeightedCox(
        fit=fit,
        data=data,
        n=history.n,
        events=int(history.event.sum()),
        n_censored=counts,
        weights=diagnostics,
        method=f"{METHOD}: {', '.join(e.name for e in events)}; {ties.capitalize()} ties",
        assumptions=ASSUMPTIONS,
        warnings=(
            *history.warnings,
            *weights.warnings(),
            *fit.warnings,
            *diagnostics.warnings("weighted"),
            *(f"Nobody's follow-up ended at {name}: it has no weights." for name, n in counts if not n),
        ),
    )


def require_adjusted(events: Sequence[CensoringEvent], adjusted_for: Sequence[str]) -> None:
    """Raises NotEstimableError where an event is weighted for what the weights of starting are not."""
    for e in events:
        missing = [n for n in e.weighted_for if n not in adjusted_for]
        if missing:
            raise NotEstimableError(
                f"{e.name} is weighted for {missing[0]}, which the weights of starting leave out",
                advice=f"name {missing[0]} in adjusted_for, too",
            )


def _process(history: Histories, pieces: Pieces, columns: Sequence[int]) -> CountingProcess:
    rows = history.rows
    patient = rows.patient[pieces.entry]
    return CountingProcess(
        start=frozen_floats(pieces.begin2 / 2),
        stop=frozen_floats(pieces.end2 / 2),
        event=frozen_flags(rows.event[pieces.entry] & pieces.is_last),
        exposed=frozen_flags(history.exposed[pieces.entry]),
        X=frozen_floats(rows.X[pieces.entry][:, list(columns)]),
        names=tuple(history.names[j] for j in columns),
        patient=frozen_ints(patient),
        site=history.site[patient],
        n_patients=history.n,
    )


def _union(*names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(n for some in names for n in some))
