"""The target trial emulated by cloning, censoring and weighting: "start by g" against "no start by g".

Every patient is copied once for each strategy; a copy is censored when its patient departs from it, and those
who go on are weighted by the inverse probability of having done so. All copies begin at index, so there is no
immortal time; the effect is marginal. Confidence by a bootstrap of patients, drawn before cloning, with the
weight models refitted in each replicate.

Weights: of control clones by a Cox model of starting on min(time, g), exp(H(t0) exp(xb)), Efron's baseline
hazard; of treated clones by a Cox model of being censored at g, or by a logistic model of having started by g
among those followed beyond it; without covariates by Kaplan-Meier. Piecewise constant, left-continuous, not
truncated unless asked for.

Sources: Hernan & Robins 2016, Am J Epidemiol 183:758; Maringe et al. 2020, Int J Epidemiol 49:1719;
Cain et al. 2010, Int J Biostat 6:18 (grace periods); Robins & Finkelstein 2000 (loss to follow-up).

For the planner: `clone_censor_weight(table, grace_days, fixed, time_varying, horizon_days=..., times=...,
unless="progression_day" if the protocol says unless_progressed, seed=protocol.seed)`. It needs the cohort
table with every patient's day of progression (a column of `patients`, or a covariate of `changes` such as
"progressed"). Sensitivities are further calls: treated_model, control="never", loss_weights,
truncate_percentile, another grace period, `with_salvage(table)` with unless=None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rwe.progress import SILENT, Progress
from rwe.survival.arm_contrasts import ArmContrasts, arm_contrasts
from rwe.survival.bootstrap import Draws, bootstrap
from rwe.survival.clone_plan import (
    LOSS,
    Arms,
    ClonePlan,
    TreatedModel,
    WeightFits,
    clone_plan,
    estimate_once,
    fit_weights,
    weigh,
)
from rwe.survival.clone_rows import WeightedRows, arm_cox, weighted_rows
from rwe.survival.clones import (
    ArmClones,
    Clones,
    ControlStrategy,
    clone,
    require_both_strategies,
)
from rwe.survival.data import CohortTable, FloatArray, NotEstimableError, SurvivalDataError
from rwe.survival.effects import defined
from rwe.survival.hazard_model import HazardModel
from rwe.survival.intercurrent import CensoringEvent, require_adjusted
from rwe.survival.logistic import LogisticFit
from rwe.survival.propensity import Balance, balance_of
from rwe.survival.weight_diagnostics import (
    Stratum,
    WeightDiagnostics,
    strata_counts,
    weight_diagnostics,
)

METHOD = "clone-censor-weight"
ASSUMPTIONS = (
    "Given the covariates of the weight models, whoever departs from a strategy has the prognosis of whoever "
    "does not (no unmeasured confounding).",
    "Everybody could have followed either strategy (positivity).",
    "The weight models are right.",
    "A start within the grace period has the same effect on whichever day of it.",
)
_LOSS_ASSUMED = "Loss to follow-up is independent of prognosis within each arm."
_LOSS_WEIGHTED = "Loss to follow-up is independent of prognosis, given treatment and covariates."
_AT_GRACE = (
    "Covariates that change over time enter the treated arm's weights as known just before the end of grace, "
    "when a start may already have changed them."
)
_CONTROL_MODEL = "Cox model of starting, Efron baseline hazard"
_TREATED_MODELS = {
    "cox": "Cox model of being censored at the end of grace, Efron baseline hazard",
    "logistic": "logistic model of having started by the end of grace",
}


@dataclass(frozen=True)
class Coefficient:
    """A log hazard ratio or log odds ratio of a weight model; None where it has no estimate."""

    model: str
    name: str
    estimate: float | None


@dataclass(frozen=True)
class CloneCounts:
    """One arm's clones: all, censored because their patients departed from the strategy, with an event."""

    clones: int
    departed: int
    events: int


@dataclass(frozen=True)
class CloneCensorWeight:
    """Result of `clone_censor_weight`. Pairs are (control, treated).

    The hazard ratio compares the arms over all follow-up; `robust_se` is its sandwich standard error on the
    log scale with the weights taken as known. `balance` compares the covariates at index of the clones that
    are followed beyond the grace period, weighted as they then are; empty without `rows`. `draws` are the
    bootstrap's replicates, None without. `rows` are the weighted rows behind the hazard ratio, None where
    there are too many. `warnings_of_starts`: those of the warnings that rest on starts and covariates alone:
    they may be seen before the protocol is locked.
    """

    grace_days: int
    control_strategy: ControlStrategy
    contrasts: ArmContrasts
    robust_se: float | None
    n: int
    events: int
    started_in_grace: int
    clones: tuple[CloneCounts, CloneCounts]
    weights: tuple[WeightDiagnostics, WeightDiagnostics]
    coefficients: tuple[Coefficient, ...]
    positivity: tuple[Stratum, ...]
    balance: tuple[Balance, ...]
    draws: Draws | None
    method: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    warnings_of_starts: tuple[str, ...]
    rows: WeightedRows | None = field(default=None, repr=False, compare=False)
    effect_type: str = "marginal"


def clone_censor_weight(
    table: CohortTable,
    grace_days: int,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    horizon_days: float,
    times: Sequence[float] = (),
    band_days: Sequence[float] = (),
    control: ControlStrategy = "no_start_by_grace",
    unless: str | None = None,
    treated_model: TreatedModel = "cox",
    site_indicators: bool = False,
    loss_weights: bool = False,
    censoring_events: Sequence[CensoringEvent] = (),
    truncate_percentile: float | None = None,
    replicates: int = 500,
    seed: int = 0,
    workers: int | None = None,
    level: float = 0.95,
    progress: Progress = SILENT,
) -> CloneCensorWeight:
    """Compare "start by g" (unless excused) with "no start by g", or with "never".

    Parameters: days from index; `times` on which survival is compared, `band_days` on which curves get limits
    (for a figure), `horizon_days` of the restricted mean;
    `unless`: the event that excuses, see `histories.event_days`; `site_indicators`: sites enter the weights;
    `loss_weights`: also weight for loss to follow-up (Cox model with exposure and the covariates);
    `censoring_events`: intercurrent events at which the table's follow-up ended, weighted for likewise;
    `truncate_percentile`: weights above this percentile of the arm's final weights are cut to it;
    `replicates` 0: no bootstrap, the interval of the hazard ratio is then the sandwich's. Patients are drawn
    within sites.

    Raises SurvivalDataError for options that make no sense, NotEstimableError where nobody, or everybody,
    started by g, or covariates are collinear.
    """
    require_adjusted(censoring_events, (*covariates, *time_varying))
    _check(horizon_days, (*times, *band_days), truncate_percentile, replicates, level)
    clones = clone(
        table,
        grace_days,
        covariates,
        time_varying,
        control=control,
        unless=unless,
        site_indicators=site_indicators,
        censoring_events=censoring_events,
    )
    require_both_strategies(clones)
    plan = clone_plan(
        clones,
        treated_model=treated_model,
        times=(*times, *band_days),
        horizon=horizon_days,
        loss_weights=loss_weights,
        truncate_percentile=truncate_percentile,
    )
    draws = _draws(plan, replicates, seed, workers, progress) if replicates else None
    result = _result(plan, draws, level, n_band_days=len(band_days))
    return replace(result, warnings=(*result.warnings, _AT_GRACE)) if time_varying else result


def _draws(plan: ClonePlan, replicates: int, seed: int, workers: int | None, progress: Progress) -> Draws:
    return bootstrap(
        estimate_once,
        plan,
        plan.clones.patients.site_codes(),
        replicates=replicates,
        seed=seed,
        workers=workers,
        progress=progress,
        label="bootstrapping clone-censor-weight",
    )


def _check(
    horizon: float, times: Sequence[float], percentile: float | None, replicates: int, level: float
) -> None:
    if not (np.isfinite(horizon) and horizon > 0):
        raise SurvivalDataError("the horizon is not a number of days after index")
    if any(not (np.isfinite(t) and t >= 0) for t in times):
        raise SurvivalDataError("a day of survival is before index")
    if percentile is not None and not 50 <= percentile <= 100:
        raise SurvivalDataError(f"weights are not truncated at percentile {percentile:g}: choose 50 to 100")
    if replicates < 0 or replicates == 1:
        raise SurvivalDataError(f"{replicates} bootstrap replicates give no interval")
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")


def _result(plan: ClonePlan, draws: Draws | None, level: float, *, n_band_days: int) -> CloneCensorWeight:
    clones = plan.clones
    everybody = np.ones(clones.n)
    fits = fit_weights(plan, everybody)
    arms = weigh(plan, fits, everybody)
    robust_se, rows, notes = _sandwich(plan, fits, arms)
    weights = _diagnostics(plan, arms, rows)
    contrasts = arm_contrasts(
        arms.curves,
        arms.log_hazard_ratio,
        plan.times,
        plan.horizon,
        draws=draws,
        robust_se=robust_se,
        level=level,
        n_band_days=n_band_days,
    )
    positivity = strata_counts(clones.X_at_grace, clones.names, clones.started_by_grace[clones.at_grace])
    of_starts = (
        *clones.patients.warnings,
        *plan.starting.warnings,
        *plan.grace.warnings,
        *weights[0].warnings("control"),
        *weights[1].warnings("treated"),
        *_empty_cells(positivity),
    )
    return CloneCensorWeight(
        grace_days=clones.grace_days,
        control_strategy=clones.control_strategy,
        contrasts=contrasts,
        robust_se=robust_se,
        n=clones.n,
        events=int(clones.patients.event.sum()),
        started_in_grace=int(clones.started_by_grace.sum()),
        clones=(_counts(clones.control), _counts(clones.treated)),
        weights=weights,
        coefficients=_coefficients(plan, fits),
        positivity=positivity,
        balance=_balance(clones, rows),
        draws=draws,
        rows=rows,
        method=_method(plan),
        assumptions=(*ASSUMPTIONS, *_assumed_of_leaving(plan)),
        warnings=(
            *of_starts,
            *(w for model in plan.leaving for w in model.warnings),
            *notes,
            *_without_events(clones),
        ),
        warnings_of_starts=of_starts,
    )


def _sandwich(
    plan: ClonePlan, fits: WeightFits, arms: Arms
) -> tuple[float | None, WeightedRows | None, tuple[str, ...]]:
    try:
        rows = weighted_rows(plan, fits, arms)
    except NotEstimableError:
        note = "There are too many rows for a sandwich variance; the bootstrap gives the interval."
        return None, None, (note,)
    if arms.log_hazard_ratio is None:
        return None, rows, ()
    se = arm_cox(rows).hazard_ratio().se
    return se, rows, ()


def _diagnostics(
    plan: ClonePlan, arms: Arms, rows: WeightedRows | None
) -> tuple[WeightDiagnostics, WeightDiagnostics]:
    clones = plan.clones
    models = (_CONTROL_MODEL, _TREATED_MODELS["cox" if plan.grace.hazard else "logistic"])
    suffix = "".join(f"; Cox model of {what}" for what in plan.leaving_by)
    result = []
    for a, arm_clones in enumerate((clones.control, clones.treated)):
        cap = arms.caps[a]
        final = _final_weights(plan, arms, a, arm_clones, rows)
        result.append(
            weight_diagnostics(
                models[a] + suffix,
                final,
                rows=None if rows is None else rows.weight[rows.arm == a],
                capped_at=cap,
            )
        )
    return result[0], result[1]


def _balance(clones: Clones, rows: WeightedRows | None) -> tuple[Balance, ...]:
    if rows is None:
        return ()
    beyond = (rows.start <= clones.grace_days) & (rows.stop > clones.grace_days)
    at_index = np.searchsorted(clones.patients.rows.patient, rows.patient[beyond])
    X = clones.patients.rows.X[at_index]
    return balance_of(X, clones.names, rows.arm[beyond] == 1, rows.weight[beyond])


def _final_weights(
    plan: ClonePlan, arms: Arms, arm: int, clones: ArmClones, rows: WeightedRows | None
) -> FloatArray:
    """The last weight of each clone followed beyond the grace period."""
    beyond = clones.stop2 > plan.clones.grace2
    if rows is not None:
        of_arm = rows.arm == arm
        last = np.zeros(len(clones.stop2))
        last[rows.patient[of_arm]] = rows.weight[of_arm]  # in order of time: the last one stays
        return last[beyond]
    by_patient = np.empty(len(beyond))
    by_patient[plan.arms[arm].order] = np.exp(arms.sums[arm].log_weight)
    cap = arms.caps[arm]
    return by_patient[beyond] if cap is None else np.minimum(by_patient[beyond], cap)


def _counts(arm: ArmClones) -> CloneCounts:
    followed = arm.stop2 > 0
    return CloneCounts(len(arm.stop2), int(arm.deviates.sum()), int((arm.event & followed).sum()))


def _coefficients(plan: ClonePlan, fits: WeightFits) -> tuple[Coefficient, ...]:
    """Coefficients of the weight models, in units of the covariates."""
    found = _of_hazard("starting", plan.starting)
    grace = plan.grace
    if grace.hazard is not None:
        found += _of_hazard("not having started by the end of grace", grace.hazard)
    elif isinstance(fits.grace, LogisticFit):
        beta = np.full(len(grace.names), np.nan) if fits.grace.is_separated else fits.grace.coefficients[1:]
        found += [
            Coefficient("having started by the end of grace", n, defined(b / s))
            for n, b, s in zip(grace.names, beta, grace.scale, strict=True)
        ]
    for what, model in zip(plan.leaving_by, plan.leaving, strict=True):
        found += _of_hazard(what, model)
    return tuple(found)


def _assumed_of_leaving(plan: ClonePlan) -> tuple[str, ...]:
    events = [what for what in plan.leaving_by if what != LOSS]
    loss = _LOSS_WEIGHTED if LOSS in plan.leaving_by else _LOSS_ASSUMED
    if not events:
        return (loss,)
    return (loss, f"{', '.join(events)}: independent of prognosis, given treatment and covariates.")


def _of_hazard(what: str, model: HazardModel) -> list[Coefficient]:
    return [Coefficient(what, n, defined(b)) for n, b in zip(model.names, model.coefficients, strict=True)]


def _method(plan: ClonePlan) -> str:
    treated = _TREATED_MODELS["cox" if plan.grace.hazard else "logistic"]
    words = f"{METHOD}; weights: {_CONTROL_MODEL} (control), {treated} (treated)"
    words += "".join(f", Cox model of {what}" for what in plan.leaving_by)
    if plan.truncate_percentile is not None:
        words += f"; truncated at percentile {plan.truncate_percentile:g}"
    return words


def _empty_cells(positivity: Sequence[Stratum]) -> tuple[str, ...]:
    empty = list(dict.fromkeys(s.covariate for s in positivity if s.is_empty_cell))
    if not empty:
        return ()
    return (f"In some stratum of {', '.join(empty)} all or none had started by the end of grace.",)


def _without_events(clones: Clones) -> tuple[str, ...]:
    both = (("control", clones.control), ("treated", clones.treated))
    empty = [who for who, arm in both if not (arm.event & (arm.stop2 > 0)).any()]
    return tuple(f"There is no event in the {who} arm: its survival stays at 1." for who in empty)
