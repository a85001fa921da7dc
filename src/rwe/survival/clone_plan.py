"""Clone-censor-weight made ready to be repeated: what one estimate, or one bootstrap replicate, computes.

`clone_plan` sorts everything out once; `estimate_once` refits the weight models to the patients drawn and
walks through both arms. The estimate of the whole cohort is the same function with everybody drawn once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rwe.survival.arm_contrasts import contrast_vector
from rwe.survival.clone_weights import (
    Activations,
    ArmPlan,
    ArmSums,
    HazardSteps,
    OneStep,
    Steps,
    activations,
    arm_plan,
    weighted_sums,
)
from rwe.survival.clones import ArmClones, Clones
from rwe.survival.data import BoolArray, FloatArray, IntArray, frozen_floats, frozen_ints
from rwe.survival.hazard_model import LARGEST, HazardFit, HazardModel, fit_hazard, hazard_model
from rwe.survival.histories import HistoryRows
from rwe.survival.logistic import LogisticFit, fit_logistic, overlap_of
from rwe.survival.weighted_curves import WeightedCurve, arm_log_hazard_ratio, weighted_curve

TreatedModel = Literal["cox", "logistic"]
LOSS = "loss to follow-up"
_TINY = 1e-300


@dataclass(frozen=True)
class GraceModel:
    """The model of having started by g: logistic, of those followed beyond g; or Cox, of being censored at g.

       X is standardised by `scale`.
    `names` are the covariates that vary; `patient` of each row.
       `hazard` is None for the logistic model.
    """

    names: tuple[str, ...]
    X: FloatArray
    scale: FloatArray
    started: BoolArray
    patient: IntArray
    hazard: HazardModel | None
    start_at: FloatArray | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ClonePlan:
    """Both arms, their weight models, and what is asked for. Arms are (control, treated).

    `leaving`: the models of ending follow-up alive that are weighted for, by intercurrent events and by loss;
    `leaving_by` says what each is of.
    """

    clones: Clones
    arms: tuple[ArmPlan, ArmPlan]
    starting: HazardModel
    starting_on: Activations
    grace: GraceModel
    leaving: tuple[HazardModel, ...]
    leaving_on: tuple[tuple[Activations, Activations], ...]
    leaving_by: tuple[str, ...]
    times: tuple[float, ...]
    horizon: float
    truncate_percentile: float | None


@dataclass(frozen=True)
class WeightFits:
    """The fitted weight models of one draw."""

    starting: HazardFit
    grace: HazardFit | LogisticFit
    leaving: tuple[HazardFit, ...]


@dataclass(frozen=True)
class Arms:
    """What one draw gives: curves (control, treated), log hazard ratio, weighted sums, caps of truncation."""

    curves: tuple[WeightedCurve, WeightedCurve]
    log_hazard_ratio: float | None
    sums: tuple[ArmSums, ArmSums]
    caps: tuple[float | None, float | None]


def clone_plan(
    clones: Clones,
    *,
    treated_model: TreatedModel,
    times: Sequence[float],
    horizon: float,
    loss_weights: bool = False,
    truncate_percentile: float | None = None,
) -> ClonePlan:
    """Sort out arms and weight models. Raises NotEstimableError for collinear covariates of the weights."""
    death2 = np.unique(clones.patients.stop2[clones.patients.event])
    arms = (arm_plan(clones.control, death2), arm_plan(clones.treated, death2))
    starting = hazard_model(clones.starting, "starting")
    models = [(what, hazard_model(_before(rows, horizon), what)) for what, rows in clones.leaving]
    if loss_weights:
        models.append((LOSS, hazard_model(_before(clones.loss, horizon), LOSS)))
    return ClonePlan(
        clones=clones,
        arms=arms,
        starting=starting,
        starting_on=activations(starting, arms[0]),
        grace=_grace_model(clones, treated_model),
        leaving=tuple(model for _, model in models),
        leaving_on=tuple((activations(m, arms[0]), activations(m, arms[1])) for _, m in models),
        leaving_by=tuple(what for what, _ in models),
        times=tuple(float(t) for t in times),
        horizon=float(horizon),
        truncate_percentile=truncate_percentile,
    )


def grace_overlap(clones: Clones) -> tuple[int, int] | None:
    """Of those followed beyond g and not excused, how many (not started by g, started) overlap.

    By the covariates as just before g, whatever the model of the weights; as `logistic.overlap_of`.
    """
    followed = clones.patients.stop2[clones.at_grace] > clones.grace2
    started = clones.started_by_grace[clones.at_grace][followed]
    return overlap_of(clones.X_at_grace[followed], started)


def fit_weights(plan: ClonePlan, counts: FloatArray) -> WeightFits:
    """Fit the weight models to patients drawn `counts` times each."""
    grace = plan.grace
    fitted: HazardFit | LogisticFit
    if grace.hazard is not None:
        fitted = fit_hazard(grace.hazard, counts)
    else:
        fitted = fit_logistic(grace.X, grace.started, counts[grace.patient], start=grace.start_at)
    leaving = tuple(fit_hazard(model, counts) for model in plan.leaving)
    return WeightFits(fit_hazard(plan.starting, counts), fitted, leaving)


def weigh(plan: ClonePlan, fits: WeightFits, counts: FloatArray) -> Arms:
    """Curves and hazard ratio of both arms under fitted weights. Numbers at risk are those of the cohort."""
    n = plan.clones.n
    starting = HazardSteps(plan.starting, fits.starting, plan.starting_on, n)
    by_patient = grace_log_weight(plan, fits)
    grace = OneStep(plan.clones.grace2, by_patient[plan.arms[1].order])
    sources: tuple[list[Steps], list[Steps]] = ([starting], [grace])
    sums, caps = [], []
    for arm, own in zip(plan.arms, sources, strict=True):
        found, cap = _walk(plan, fits, arm, own, counts)
        sums.append(found)
        caps.append(cap)
    days = plan.arms[0].time2 / 2
    both = (plan.clones.control, plan.clones.treated)
    curves = [
        weighted_curve(
            days,
            s.at_risk,
            s.deaths,
            n_at_risk=plan_of.at_risk,
            n_events=s.count,
            last_time=_last_time(c, counts),
        )
        for s, plan_of, c in zip(sums, plan.arms, both, strict=True)
    ]
    log_hr = arm_log_hazard_ratio(
        (sums[0].at_risk, sums[1].at_risk), (sums[0].deaths, sums[1].deaths), (sums[0].count, sums[1].count)
    )
    return Arms((curves[0], curves[1]), log_hr, (sums[0], sums[1]), (caps[0], caps[1]))


def estimate_once(plan: ClonePlan, counts: FloatArray) -> FloatArray:
    """`arm_contrasts.contrast_vector` of patients drawn `counts` times each, the weights refitted."""
    arms = weigh(plan, fit_weights(plan, counts), counts)
    return contrast_vector(arms.curves, arms.log_hazard_ratio, plan.times, plan.horizon)


def grace_log_weight(plan: ClonePlan, fits: WeightFits) -> FloatArray:
    """Log weight that each patient's treated clone takes on at g; 0 for who is excused or not followed."""
    found = np.zeros(plan.clones.n)
    if isinstance(fits.grace, LogisticFit):
        found[plan.grace.patient] = -np.log(np.maximum(fits.grace.probability, _TINY))
    elif len(fits.grace.increments):
        with np.errstate(over="ignore"):
            found[plan.grace.patient] = np.minimum(fits.grace.increments[0] * fits.grace.relative, LARGEST)
    return found


def _walk(
    plan: ClonePlan, fits: WeightFits, arm: ArmPlan, own: list[Steps], counts: FloatArray
) -> tuple[ArmSums, float | None]:
    def sources() -> list[Steps]:
        which = 0 if arm is plan.arms[0] else 1
        leaving = zip(plan.leaving, fits.leaving, plan.leaving_on, strict=True)
        return [*own, *(HazardSteps(m, fit, on[which], plan.clones.n) for m, fit, on in leaving)]

    found = weighted_sums(arm, counts, sources())
    if plan.truncate_percentile is None:
        return found, None
    drawn = np.repeat(found.log_weight, counts[arm.order].astype(np.int64))
    cap = float(np.exp(np.percentile(drawn, plan.truncate_percentile)))
    for source in own:
        source.rewind()
    return weighted_sums(arm, counts, sources(), cap), cap


def _last_time(clones: ArmClones, counts: FloatArray) -> float | None:
    followed = clones.stop2[counts > 0].max(initial=0)
    return float(followed) / 2 if followed > 0 else None


def _grace_model(clones: Clones, model: TreatedModel) -> GraceModel:
    rows, X = clones.at_grace, clones.X_at_grace
    followed = clones.patients.stop2[rows] > clones.grace2
    started = clones.started_by_grace[rows]
    if model == "cox":
        g2 = np.full(len(rows), clones.grace2)
        history = HistoryRows(g2 - 1, g2, followed & ~started, X, clones.names, rows)
        hazard = hazard_model(history, "not having started by the end of grace")
        return GraceModel(hazard.names, X, hazard.scale, started, rows, hazard, None, hazard.warnings)
    rows, X, started = rows[followed], X[followed], started[followed]
    varies = np.array([len(x) > 0 and np.ptp(x) > 0 for x in X.T], dtype=bool)
    names = tuple(n for n, v in zip(clones.names, varies, strict=True) if v)
    kept = X[:, varies]
    # Standardised: Newton's steps are then of one size.
    scale = kept.std(axis=0) if varies.any() else np.ones(0)
    kept = (kept - kept.mean(axis=0)) / scale if varies.any() else kept
    notes = [
        f"{n} has one value only at the end of grace: it was left out of the weights."
        for n, v in zip(clones.names, varies, strict=True)
        if not v
    ]
    whole = fit_logistic(kept, started)
    if whole.is_separated:
        notes.append(
            "The covariates tell some of those who started by the end of grace from the others without "
            "error, so the weights of the treated arm rest on nobody there."
        )
    start_at = None if whole.is_separated else whole.coefficients
    return GraceModel(
        names, frozen_floats(kept), scale, started, frozen_ints(rows), None, start_at, tuple(notes)
    )


def _before(rows: HistoryRows, horizon: float) -> HistoryRows:
    """The rows up to the horizon: leaving on it, or later, loses nothing that is estimated."""
    end2 = round(2 * horizon)
    kept = rows.start2 < end2
    event = rows.event & (rows.stop2 < end2)
    return HistoryRows(
        rows.start2[kept],
        np.minimum(rows.stop2, end2)[kept],
        event[kept],
        rows.X[kept],
        rows.names,
        rows.patient[kept],
    )
