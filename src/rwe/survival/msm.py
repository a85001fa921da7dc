"""The marginal structural Cox model: time-dependent exposure where what decides on it is itself affected.

Response or CAR-T copies decide who starts, and starting changes them. Adjusting for them takes part of the
effect away and opens other paths; weighting for them does not. Each patient is weighted by the inverse
probability of his own history of starting, stabilised by the same with baseline covariates alone:

    before a start     exp(H(t-) - H*(t-))
    after a start at s exp(H(s-) - H*(s-)) x (1 - exp(-dH*(s))) / (1 - exp(-dH(s)))

H is the patient's cumulative hazard of starting given all covariates as they change, H* given those of
baseline, both of Cox models with Efron's baseline hazard. The outcome model is a weighted Cox model of
exposure (and the baseline covariates, which stabilised weights leave confounded). Its variance is that of a
jackknife of patients in one step (see `jackknife`), for a rare start with a large weight makes the sandwich
too small; `fit` has the sandwich.

Sources: Robins, Hernan & Brumback 2000, Epidemiology 11:550; Hernan, Brumback & Robins 2000, Epidemiology
11:561; Cole & Hernan 2008, Am J Epidemiol 168:656 (diagnostics, truncation).

For the planner: `marginal_structural_cox(table, fixed, time_varying, unless="progression_day")` on the cohort
table, time_varying being the disease status and the values that the study follows over time, such as copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rwe.survival.cox import EXPOSURE, CoxData, CoxFit, cox_data, fit_cox
from rwe.survival.data import (
    BoolArray,
    CohortTable,
    FloatArray,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
)
from rwe.survival.effects import Effect
from rwe.survival.hazard_model import LARGEST, HazardFit, HazardModel, fit_hazard, hazard_model
from rwe.survival.histories import Histories, histories, last_start2, only_columns, starting_rows
from rwe.survival.intercurrent import (
    CensoringEvent,
    EventWeights,
    cut_at_events,
    event_weights,
    require_adjusted,
)
from rwe.survival.jackknife import jackknife_ratio
from rwe.survival.weight_diagnostics import WeightDiagnostics, weight_diagnostics
from rwe.survival.weight_steps import cut_entries, log_weight_at, steps_that_matter, steps_upto

METHOD = "marginal structural Cox model, stabilised weights, Efron ties"
ASSUMPTIONS = (
    "Given baseline and the covariates up to a day, whoever starts on it has the prognosis of whoever does "
    "not (no unmeasured confounding).",
    "On every day everybody at risk could have started, and could have waited (positivity).",
    "The models of starting are right.",
    "The hazard ratio of being exposed is constant, whenever the start was.",
    "Loss to follow-up is independent of prognosis, given exposure and the baseline covariates.",
)
_MEAN_OFF = 0.1
_TINY = 1e-300


@dataclass(frozen=True)
class MarginalStructuralModel:
    """Result of `marginal_structural_cox`.

    The hazard ratio is marginal over the covariates that change, conditional on those of baseline
    (`effect_type` "marginal" only without these). `weights` are over rows; their mean should be near 1.
    """

    hazard_ratio: Effect
    fit: CoxFit
    n: int
    n_started: int
    events: int
    weights: WeightDiagnostics
    method: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    effect_type: str
    data: CoxData | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class WeightedHistories:
    """Rows of time-dependent exposure with weights, half days. X are the baseline covariates."""

    start2: IntArray
    stop2: IntArray
    event: BoolArray
    exposed: BoolArray
    X: FloatArray
    patient: IntArray
    weight: FloatArray


def marginal_structural_cox(
    table: CohortTable,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    unless: str | None = None,
    stratify_by_site: bool = False,
    censoring_events: Sequence[CensoringEvent] = (),
    truncate_percentile: float | None = None,
    level: float = 0.95,
) -> MarginalStructuralModel:
    """Fit both models of starting, weight, and fit the outcome model.

    `covariates` are those of baseline, `time_varying` those that decide on a start as they change. `unless`:
    an event from whose day on nobody starts by the strategy (its weights stay as they are then).
    `stratify_by_site`: a baseline hazard of the outcome for each site; sites then enter the models of
    starting. `censoring_events`: intercurrent events at which the table's follow-up ended; the weights are
    multiplied by those of not having had them, stabilised likewise. `truncate_percentile` p: weights are cut
    to their percentiles 100 - p and p.

    Raises NotEstimableError where nobody started or everybody was exposed throughout, and as `fit_cox`.
    """
    require_adjusted(censoring_events, (*covariates, *time_varying))
    if truncate_percentile is not None and not 50 <= truncate_percentile <= 100:
        raise SurvivalDataError("weights are truncated at a percentile between 50 and 100")
    full = histories(table, covariates, time_varying, unless=unless, site_indicators=stratify_by_site)
    if not (full.start2 >= 0).any():
        raise NotEstimableError(f"nobody started (0 of {full.n})")
    weighted = _weighted(full, table, covariates, time_varying, censoring_events)
    weight, cap = _truncated(weighted.rows.weight, truncate_percentile)
    site = full.site.astype(str)[weighted.rows.patient] if stratify_by_site else None
    data = _cox_rows(weighted.rows, weight, full.names[: len(covariates)], site)
    fit = fit_cox(data, robust=True, level=level)
    diagnostics = weight_diagnostics(
        "Cox models of starting, stabilised by the baseline covariates", weight, capped_at=cap
    )
    return MarginalStructuralModel(
        hazard_ratio=jackknife_ratio(data, fit, level=level),
        fit=fit,
        n=full.n,
        n_started=int((full.start2 >= 0).sum()),
        events=int(full.event.sum()),
        weights=diagnostics,
        method=METHOD,
        assumptions=ASSUMPTIONS,
        warnings=(
            *full.warnings,
            *weighted.warnings,
            *fit.warnings,
            *diagnostics.warnings("weighted"),
            *_mean_is_off(weighted.rows, weight),
        ),
        effect_type="conditional" if covariates or stratify_by_site else "marginal",
        data=data,
    )


@dataclass(frozen=True)
class _Weighted:
    """Rows with their weights, not truncated, and what the models of these warn of."""

    rows: WeightedHistories
    warnings: tuple[str, ...]


def _weighted(
    full: Histories,
    table: CohortTable,
    covariates: Sequence[str],
    time_varying: Sequence[str],
    censoring_events: Sequence[CensoringEvent],
) -> _Weighted:
    """Weights for starting, and for the intercurrent events."""
    base = [j for j, name in enumerate(full.names) if name not in time_varying]
    rows = starting_rows(full, last_start2(full))
    denominator = hazard_model(rows, "starting")
    numerator = hazard_model(only_columns(rows, base), "starting")
    weighted = weighted_histories(full, base[: len(covariates)], denominator, numerator)
    leaving = event_weights(full, table, censoring_events, stabilised_by=covariates)
    if censoring_events:
        weighted = _weighted_for(weighted, leaving)
    return _Weighted(weighted, (*denominator.warnings, *leaving.warnings()))


def weighted_histories(
    history: Histories, base: Sequence[int], denominator: HazardModel, numerator: HazardModel
) -> WeightedHistories:
    """Each patient's follow-up, unexposed and exposed, with stabilised weights; `base`: columns kept as X."""
    everybody = np.ones(history.n)
    fits = (fit_hazard(denominator, everybody), fit_hazard(numerator, everybody))
    models = (denominator, numerator)
    starts = history.start2 >= 0
    waits = np.flatnonzero(~starts | (history.start2 > 0))
    until2 = np.where(starts, history.start2, history.stop2)[waits]
    cuts = steps_that_matter(denominator.time2, np.unique(history.stop2[history.event]))
    pieces = cut_entries(np.zeros(len(waits), dtype=np.int64), until2, cuts, np.ones(len(waits), dtype=bool))
    who = waits[pieces.entry]
    # Both models have the same starts, hence the same steps.
    steps = steps_upto(denominator, pieces.begin2)
    log_weight = _difference(models, fits, who, steps)
    taken = np.flatnonzero(starts)
    at_start = np.searchsorted(denominator.time2, history.start2[taken])
    log_start = _difference(models, fits, taken, at_start)
    log_start += _log_chance(numerator, fits[1], taken, at_start)
    log_start -= _log_chance(denominator, fits[0], taken, at_start)
    patient = np.concatenate([who, taken])
    first = np.searchsorted(history.rows.patient, patient)
    ends_unexposed = pieces.is_last & ~starts[who] & history.event[who]
    return WeightedHistories(
        start2=np.concatenate([pieces.begin2, history.start2[taken]]),
        stop2=np.concatenate([pieces.end2, history.stop2[taken]]),
        event=np.concatenate([ends_unexposed, history.event[taken]]),
        exposed=np.repeat([False, True], [len(who), len(taken)]),
        X=history.rows.X[first][:, list(base)],
        patient=patient,
        weight=np.exp(np.minimum(np.concatenate([log_weight, log_start]), LARGEST)),
    )


def _weighted_for(rows: WeightedHistories, leaving: EventWeights) -> WeightedHistories:
    """The rows cut where the weight for an intercurrent event changes, and weighted for it."""
    death2 = np.unique(rows.stop2[rows.event])
    pieces, log_weight = cut_at_events(rows.start2, rows.stop2, rows.patient, leaving, death2)
    entry = pieces.entry
    return WeightedHistories(
        start2=pieces.begin2,
        stop2=pieces.end2,
        event=rows.event[entry] & pieces.is_last,
        exposed=rows.exposed[entry],
        X=rows.X[entry],
        patient=rows.patient[entry],
        weight=rows.weight[entry] * np.exp(log_weight),
    )


def _difference(
    models: tuple[HazardModel, HazardModel],
    fits: tuple[HazardFit, HazardFit],
    patient: IntArray,
    steps: IntArray,
) -> FloatArray:
    """Cumulative hazard of starting in the denominator less that in the numerator, after so many steps."""
    denominator = log_weight_at(models[0], fits[0], patient, steps)
    return np.asarray(denominator - log_weight_at(models[1], fits[1], patient, steps))


def _log_chance(model: HazardModel, fit: HazardFit, patient: IntArray, step: IntArray) -> FloatArray:
    """Log probability of starting at a step, not having started before."""
    hazard = log_weight_at(model, fit, patient, step + 1) - log_weight_at(model, fit, patient, step)
    return np.asarray(np.log(-np.expm1(-np.maximum(hazard, _TINY))))


def _truncated(weight: FloatArray, percentile: float | None) -> tuple[FloatArray, float | None]:
    if percentile is None:
        return weight, None
    low, high = np.percentile(weight, [100 - percentile, percentile])
    return np.clip(weight, low, high), float(high)


def _cox_rows(
    rows: WeightedHistories,
    weight: FloatArray,
    names: tuple[str, ...],
    site: npt.NDArray[np.str_] | None,
) -> CoxData:
    varies = np.array([np.ptp(x) > 0 for x in rows.X.T], dtype=bool)
    notes = [
        f"{n} has one value only: it was left out of the model."
        for n, v in zip(names, varies, strict=True)
        if not v
    ]
    return cox_data(
        np.column_stack([rows.exposed.astype(np.float64), rows.X[:, varies]]),
        rows.stop2 / 2,
        rows.event,
        names=(EXPOSURE, *(n for n, v in zip(names, varies, strict=True) if v)),
        start=rows.start2 / 2,
        weights=weight,
        strata=site,
        cluster=rows.patient,
        warnings=notes,
    )


def _mean_is_off(rows: WeightedHistories, weight: FloatArray) -> tuple[str, ...]:
    """Stabilised weights average 1 over person-time if both models are right."""
    days = (rows.stop2 - rows.start2).astype(np.float64)
    mean = float(np.sum(days * weight) / days.sum())
    if abs(mean - 1) <= _MEAN_OFF:
        return ()
    return (
        f"The stabilised weights average {mean:.2f} over follow-up instead of 1: a model of starting is "
        "wrong, or somebody could hardly have started (or waited).",
    )
