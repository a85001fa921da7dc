"""Sequential target trials: on every day on which someone starts, a trial of starting then against not.

In the trial of day s are all who are followed beyond s, have not started before and are not excused; exposed
are those who start on s; covariates are as known on s, in both groups, so nothing after the start is adjusted
for. One Cox model over all trials, each a stratum with a baseline hazard of its own, on the clock of days
since index. Patients are in several trials and the last risk sets of a trial are small, so the variance is
that of a jackknife of patients in one step (see `jackknife`); the sandwich by patient, which `fit` has, is
too small.

- "as_started": later starters stay unexposed, as after a landmark. The ratio is drawn towards 1.
- "per_protocol": those not started on s are censored at a later start, and weighted by the inverse
  probability of not having started between s and t, given the covariates as they change, stabilised by the
  same given those of baseline: exp(H(t-) - H(s) - H*(t-) + H*(s)) of Cox models of starting. The outcome
  model has the baseline covariates, so weights are needed for what changes alone: without `time_varying`
  there are none. Starting on s is against never starting (unless excused).

Where single days are too many, a trial takes the start days of a window: those not started are in it from its
first day until they start, starters from their start. No time is immortal in either.

Sources: Hernan et al. 2008, Epidemiology 19:766; Gran et al. 2010, Stat Med 29:2757; Danaei et al. 2013, Stat
Methods Med Res 22:70; Keogh et al. 2023, Stat Med 42:2191. R's TrialEmulation pools logistic models instead.

For the planner: `sequential_trials(table, fixed, time_varying, contrast="per_protocol",
unless="progression_day", last_start_day=grace_days, stratify_by_site=True)` on the cohort table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

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
from rwe.survival.histories import (
    NEVER2,
    Histories,
    histories,
    last_start2,
    only_columns,
    row_at,
    starting_rows,
)
from rwe.survival.jackknife import jackknife_ratio
from rwe.survival.weight_diagnostics import WeightDiagnostics, weight_diagnostics
from rwe.survival.weight_steps import (
    MOST_ROWS,
    cut_entries,
    last_of_entries,
    log_weight_at,
    piece_counts,
    steps_that_matter,
    steps_upto,
)

Contrast = Literal["as_started", "per_protocol"]
METHOD = "sequential target trials, one Cox model stratified by trial, Efron ties"
ASSUMPTIONS = (
    "Given the covariates on a day, whoever starts on it has the prognosis of whoever does not (no "
    "unmeasured confounding).",
    "On every day everybody at risk could have started, and could have waited (positivity).",
    "Hazards are proportional, and the ratio is the same in all trials.",
    "Loss to follow-up is independent of prognosis, given the covariates at the trial's start.",
)
_WINDOWS = (1, 7, 14, 28)
_COMFORTABLE_ROWS = 2_000_000
_HOW = {"as_started": "", "per_protocol": "; censored at a later start, weighted for what changes"}
_WEIGHTED = "The model of later starting is right."


@dataclass(frozen=True)
class SequentialTrials:
    """Result of `sequential_trials`. The hazard ratio is conditional on the covariates at a trial's start.

    `n_trials` start days; `person_trials` (unexposed, exposed) entries, a patient in several; `events` of
    patients, each counted once. `weights`: of the unexposed, None where there are none. `data`: the rows.
    """

    contrast: Contrast
    window_days: int
    hazard_ratio: Effect
    fit: CoxFit
    n: int
    n_trials: int
    person_trials: tuple[int, int]
    events: int
    weights: WeightDiagnostics | None
    method: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    effect_type: str = "conditional"
    data: CoxData | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class _Entries:
    """One row a patient and trial: from `begin2` to `end2`, half days."""

    trial: IntArray
    patient: IntArray
    begin2: IntArray
    end2: IntArray
    event: BoolArray
    exposed: BoolArray


@dataclass(frozen=True)
class _Options:
    """Which entries there are: whether later starters are censored, the last start, days of follow-up."""

    censor_at_start: bool
    until2: int
    follow_up_days: int | None


@dataclass(frozen=True)
class _Models:
    """Models of starting with their fits: given all covariates, given those of baseline."""

    denominator: HazardModel
    denominator_fit: HazardFit
    numerator: HazardModel
    numerator_fit: HazardFit

    def log_weight(self, patient: IntArray, steps: IntArray) -> FloatArray:
        """Stabilised log weight of each patient after so many steps since index."""
        whole = log_weight_at(self.denominator, self.denominator_fit, patient, steps)
        return np.asarray(whole - log_weight_at(self.numerator, self.numerator_fit, patient, steps))


@dataclass(frozen=True)
class _Rows:
    """Entries cut where weights change. `entry` is the entry of each row."""

    entry: IntArray
    begin2: IntArray
    end2: IntArray
    event: BoolArray
    weight: FloatArray


def sequential_trials(
    table: CohortTable,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    contrast: Contrast = "per_protocol",
    unless: str | None = None,
    last_start_day: int | None = None,
    follow_up_days: int | None = None,
    window_days: int | None = None,
    stratify_by_site: bool = False,
    truncate_percentile: float | None = None,
    level: float = 0.95,
) -> SequentialTrials:
    """Compare starting on a day with not starting on it, over all days up to `last_start_day`.

    `unless`: an event (see `histories.event_days`) from whose day on nobody enters a trial and a start is
    salvage. `follow_up_days`: a trial's follow-up ends so many days after its first; with weights that grow
    for years the last risk sets rest on few. `window_days`: start days that make one trial; None takes
    single days, or the shortest of 7, 14 and 28 days that the machine's memory carries.
    `truncate_percentile`: weights above it are cut to it.

    Raises NotEstimableError where nobody started, nobody is left to compare, or rows exceed 6 million;
    SurvivalDataError for unknown columns or a day before index.
    """
    _check(last_start_day, window_days, follow_up_days, truncate_percentile)
    history = histories(table, covariates, time_varying, unless=unless)
    until2 = NEVER2 if last_start_day is None else 2 * last_start_day
    model = None
    if contrast == "per_protocol" and time_varying:
        model = _models(history, [history.names.index(name) for name in covariates])
    options = _Options(contrast == "per_protocol", until2, follow_up_days)
    entries, window = _fitting_entries(history, options, window_days, model)
    rows = _cut(history, entries, model)
    weight, cap = _truncated(rows, entries, truncate_percentile)
    data = _cox_rows(history, entries, rows, weight, stratify_by_site=stratify_by_site)
    fit = fit_cox(data, robust=True, level=level)
    weights = None if model is None else _diagnostics(entries, rows, weight, cap)
    return SequentialTrials(
        contrast=contrast,
        window_days=window,
        hazard_ratio=jackknife_ratio(data, fit, level=level),
        fit=fit,
        n=len(np.unique(entries.patient)),
        n_trials=len(np.unique(entries.trial)),
        person_trials=(int((~entries.exposed).sum()), int(entries.exposed.sum())),
        events=len(np.unique(entries.patient[entries.event])),
        weights=weights,
        method=METHOD + _HOW[contrast],
        assumptions=ASSUMPTIONS if model is None else (*ASSUMPTIONS, _WEIGHTED),
        warnings=(*history.warnings, *_window_note(window), *fit.warnings, *_weight_notes(model, weights)),
        data=data,
    )


def _window_note(days: int) -> tuple[str, ...]:
    return (f"Start days were taken together in windows of {days} days.",) if days > 1 else ()


def _weight_notes(model: _Models | None, weights: WeightDiagnostics | None) -> tuple[str, ...]:
    if model is None or weights is None:
        return ()
    return (*model.denominator.warnings, *weights.warnings("unexposed"))


def _check(
    last_start_day: int | None, window: int | None, follow_up: int | None, percentile: float | None
) -> None:
    if last_start_day is not None and last_start_day < 0:
        raise SurvivalDataError(f"the last start day {last_start_day} is before index")
    if window is not None and window < 1:
        raise SurvivalDataError("a window of start days has at least one day")
    if follow_up is not None and follow_up < 1:
        raise SurvivalDataError("a trial is followed for at least one day")
    if percentile is not None and not 50 <= percentile <= 100:
        raise SurvivalDataError("weights are truncated at a percentile between 50 and 100")


def _diagnostics(entries: _Entries, rows: _Rows, weight: FloatArray, cap: float | None) -> WeightDiagnostics:
    last = last_of_entries(rows.entry, weight, len(entries.trial))
    return weight_diagnostics(
        "Cox models of starting later, stabilised by the baseline covariates",
        last[~entries.exposed],
        rows=weight[~entries.exposed[rows.entry]],
        capped_at=cap,
    )


def _entries(history: Histories, options: _Options, window: int) -> _Entries:
    """Who is in which trial from when: those not started from its first day, starters from their start."""
    start2, stop2, until2 = history.start2, history.stop2, options.until2
    days2 = np.unique(start2[(start2 >= 0) & (start2 <= until2)])
    if not len(days2):
        raise NotEstimableError(f"nobody started (0 of {history.n})")
    # A trial of one day is that very half day; a longer one begins with its window.
    low2 = days2 if window == 1 else np.unique(days2 // (2 * window)) * 2 * window
    high2 = np.minimum(low2 + (1 if window == 1 else 2 * window), until2 + 1)
    not_before = np.where(start2 >= 0, start2, NEVER2)
    waiting = (stop2 > low2[:, None]) & (not_before > low2[:, None]) & (history.excused2 > low2[:, None])
    trial0, who0 = np.nonzero(waiting)
    leaves = (start2[who0] >= 0) & (options.censor_at_start | (start2[who0] < high2[trial0]))
    starters = np.flatnonzero((start2 >= 0) & (start2 <= until2))
    trial1 = np.searchsorted(low2, start2[starters], side="right") - 1
    exposed = np.repeat([False, True], [len(who0), len(starters)])
    found = _Entries(
        trial=np.concatenate([trial0, trial1]),
        patient=np.concatenate([who0, starters]),
        begin2=np.concatenate([low2[trial0], start2[starters]]),
        end2=np.concatenate([np.where(leaves, start2[who0], stop2[who0]), stop2[starters]]),
        event=np.concatenate([history.event[who0] & ~leaves, history.event[starters]]),
        exposed=exposed,
    )
    if options.follow_up_days is not None:
        found = _ended(found, low2 + 2 * options.follow_up_days)
    if exposed.all() or not exposed.any():
        raise NotEstimableError("on no start day is there anybody to compare with")
    return found


def _ended(entries: _Entries, last2: IntArray) -> _Entries:
    """The entries that begin before the last half day of their trial, none longer than that."""
    until2 = last2[entries.trial]
    kept = entries.begin2 < until2
    return _Entries(
        trial=entries.trial[kept],
        patient=entries.patient[kept],
        begin2=entries.begin2[kept],
        end2=np.minimum(entries.end2, until2)[kept],
        event=(entries.event & (entries.end2 <= until2))[kept],
        exposed=entries.exposed[kept],
    )


def _models(history: Histories, fixed: Sequence[int]) -> _Models:
    rows = starting_rows(history, last_start2(history))
    everybody = np.ones(history.n)
    denominator = hazard_model(rows, "starting")
    numerator = hazard_model(only_columns(rows, fixed), "starting")
    return _Models(
        denominator, fit_hazard(denominator, everybody), numerator, fit_hazard(numerator, everybody)
    )


def _fitting_entries(
    history: Histories, options: _Options, window: int | None, model: _Models | None
) -> tuple[_Entries, int]:
    """The entries, in the shortest window that fits a small machine unless one is asked for."""
    cuts = _cuts(history, model)
    for days in _WINDOWS if window is None else (window,):
        entries = _entries(history, options, days)
        many = piece_counts(entries.begin2, entries.end2, cuts, ~entries.exposed).sum()
        if many <= (_COMFORTABLE_ROWS if window is None else MOST_ROWS):
            return entries, days
    raise NotEstimableError(
        "too many patients and start days for sequential trials", advice="name an earlier last start day"
    )


def _cuts(history: Histories, model: _Models | None) -> IntArray:
    """Where the weights of those not started change before another death: not at each start day."""
    if model is None:
        return np.zeros(0, dtype=np.int64)
    return steps_that_matter(model.denominator.time2, np.unique(history.stop2[history.event]))


def _cut(history: Histories, entries: _Entries, model: _Models | None) -> _Rows:
    if model is None:
        n = len(entries.trial)
        return _Rows(np.arange(n), entries.begin2, entries.end2, entries.event, np.ones(n))
    pieces = cut_entries(entries.begin2, entries.end2, _cuts(history, model), ~entries.exposed)
    entry, who = pieces.entry, entries.patient[pieces.entry]
    # Both models have the same starts, hence the same steps.
    upto = steps_upto(model.denominator, pieces.begin2)
    before = steps_upto(model.denominator, entries.begin2[entry])
    log_weight = model.log_weight(who, upto) - model.log_weight(who, before)
    weight = np.where(entries.exposed[entry], 1.0, np.exp(np.minimum(log_weight, LARGEST)))
    return _Rows(entry, pieces.begin2, pieces.end2, entries.event[entry] & pieces.is_last, weight)


def _truncated(rows: _Rows, entries: _Entries, percentile: float | None) -> tuple[FloatArray, float | None]:
    if percentile is None:
        return rows.weight, None
    last = last_of_entries(rows.entry, rows.weight, len(entries.trial))[~entries.exposed]
    cap = float(np.percentile(last, percentile))
    return np.minimum(rows.weight, cap), cap


def _cox_rows(
    history: Histories,
    entries: _Entries,
    rows: _Rows,
    weight: FloatArray,
    *,
    stratify_by_site: bool,
) -> CoxData:
    at_start = row_at(history.rows, entries.patient, entries.begin2, just_before=False)
    X = history.rows.X[at_start]
    varies = _varies_within(X, entries.trial)
    kept = [name for name, v in zip(history.names, varies, strict=True) if v]
    left_out = [
        f"{name} has one value only in each trial: it cancels, and was left out of the model."
        for name, v in zip(history.names, varies, strict=True)
        if not v
    ]
    stratum = entries.trial
    if stratify_by_site:
        codes = history.site_codes()
        stratum = entries.trial * (int(codes.max()) + 1) + codes[entries.patient]
    design = np.column_stack([entries.exposed.astype(np.float64), X[:, varies]])
    return cox_data(
        design[rows.entry],
        rows.end2 / 2,
        rows.event,
        names=(EXPOSURE, *kept),
        start=rows.begin2 / 2,
        weights=weight,
        strata=stratum[rows.entry],
        cluster=entries.patient[rows.entry],
        warnings=left_out,
    )


def _varies_within(X: FloatArray, trial: IntArray) -> BoolArray:
    """Which columns vary within some trial."""
    if not X.shape[1]:
        return np.zeros(0, dtype=bool)
    order = np.argsort(trial, kind="stable")
    sorted_trial, values = trial[order], X[order]
    begins = np.flatnonzero(np.append(True, sorted_trial[1:] != sorted_trial[:-1]))
    spread = np.maximum.reduceat(values, begins) - np.minimum.reduceat(values, begins)
    return np.asarray((spread > 0).any(axis=0))
