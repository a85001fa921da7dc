"""The target trial emulated: clone-censor-weight, with survival, restricted means and the hazard ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rwe.analyse.planned import is_as_planned
from rwe.analyse.run_groups import unadjusted
from rwe.analyse.tasks import (
    BalanceAfter,
    Findings,
    PrimaryRows,
    Task,
    TooLittleError,
    defined,
    effect_estimate,
)
from rwe.evidence.contract import Coefficient, Curve, CurvePoint, Estimate
from rwe.survival.clone_plan import grace_overlap
from rwe.survival.clone_rows import arm_cox_data
from rwe.survival.clones import clone
from rwe.survival.data import CountingProcess
from rwe.survival.effects import Effect
from rwe.survival.emulation import CloneCensorWeight, clone_censor_weight
from rwe.survival.weight_diagnostics import WeightDiagnostics
from rwe.survival.weighted_curves import WeightedCurve

FEWEST_EFFECTIVE = 10.0
"""Effective patients of an arm below which its weighted estimate is refused."""
_ADVICE = "fewer covariates, a longer grace period, or truncate_percentile as a sensitivity"
_NOBODY_ALIKE = (
    "ask the question in patients who could have started and could have not, or adjust for fewer covariates"
)


def emulated(task: Task, *, horizon: float) -> CloneCensorWeight:
    """Clone-censor-weight as the protocol asks for it; raises as `clone_censor_weight`."""
    a, treated = task.analysis, task.protocol.strategies.treated
    return clone_censor_weight(
        task.table,
        treated.grace_days if a.grace_days is None else a.grace_days,
        task.fixed,
        task.time_varying,
        horizon_days=horizon,
        times=task.protocol.horizons,
        control=a.compared_with,
        unless=task.excuse,
        treated_model=a.weight_model,
        site_indicators=task.by_site,
        loss_weights=a.weight_for_loss,
        censoring_events=task.censoring_events,
        truncate_percentile=a.truncate_percentile,
        replicates=a.replicates,
        seed=task.protocol.seed,
        level=task.protocol.confidence_level,
        progress=task.progress,
    )


def run_clone_censor_weight(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """Start by the end of grace against no start by then (or never); see `rwe.survival.emulation`.

    Raises NotEstimableError as `refuse_few`, before any bootstrap.
    """
    a = task.analysis
    once = replace(task, analysis=a.model_copy(update={"replicates": 0}))
    found = emulated(once, horizon=task.horizon)
    refuse_few(found.weights, in_overlap=_in_overlap(task, found.grace_days), advice=_ADVICE)
    if a.replicates:
        found = emulated(task, horizon=task.horizon)
    if a.role == "primary" and task.site is None and found.rows is not None:
        data = arm_cox_data(found.rows)
        findings.primary = PrimaryRows(data, "efron", is_robust=True, has_own_se=not a.replicates)
    findings.estimates.extend(_estimates(task, rows, found))
    findings.curves.extend(_curves(task, found))
    findings.weights.append((task, found))
    balance = balance_after(task, found)
    if balance is not None:
        findings.balance.append(balance)


def _in_overlap(task: Task, grace_days: int) -> tuple[int, int] | None:
    """As `grace_overlap`, of the task's patients."""
    clones = clone(
        task.table,
        grace_days,
        task.fixed,
        task.time_varying,
        unless=task.excuse,
        site_indicators=task.by_site,
    )
    return grace_overlap(clones)


def refuse_few(
    weights: Sequence[WeightDiagnostics], *, in_overlap: tuple[int, int] | None = None, advice: str
) -> None:
    """Raises TooLittleError where fewer than ten patients of an arm can be compared.

    That is by the worth of its weights, or by `in_overlap`: the patients of both arms whom covariates do not
    tell apart, where they do so with others. Where they tell all apart weights tend to 1, and their worth
    says nothing: the estimate is then the crude one.
    """
    if in_overlap is not None and min(in_overlap) < FEWEST_EFFECTIVE:
        alike = min(in_overlap)
        left = f"only {alike} {'is' if alike == 1 else 'are'}" if alike else "nobody is"
        raise TooLittleError(
            f"the covariates tell without error who started: {left} left in an arm to be compared",
            advice=_NOBODY_ALIKE,
        )
    fewest = min((w.effective_sample_size for w in weights), default=FEWEST_EFFECTIVE)
    if fewest < FEWEST_EFFECTIVE:
        raise TooLittleError(
            f"the weights of an arm are worth {fewest:.1f} patients: too few for a weighted estimate",
            advice=advice,
        )


def balance_after(task: Task, found: CloneCensorWeight) -> BalanceAfter | None:
    """What the weights leave of the differences at index; None of one site, or where it is not known."""
    if task.site is not None or not found.balance:
        return None
    smd = {b.covariate: b.after for b in found.balance if b.after is not None and b.covariate in task.fixed}
    words = f"clone-censor-weight, copies followed beyond day {found.grace_days}"
    return BalanceAfter(words, smd, task.analysis.role == "primary", is_as_planned(task.analysis))


def _estimates(task: Task, rows: CountingProcess, found: CloneCensorWeight) -> Iterable[Estimate]:
    control, treated = task.strategies()
    c = found.contrasts
    coefficients = [
        Coefficient(name=f"{k.model}: {k.name}", estimate=defined(k.estimate), se=None)
        for k in found.coefficients
    ]
    yield _one(task, rows, found, "hazard_ratio", c.hazard_ratio, coefficients=coefficients)
    for at in c.survival:
        day = {"time_days": int(at.day), "time_origin_day": 0}
        yield _one(task, rows, found, "survival", at.treated, strategy=treated, at=day)
        yield _one(task, rows, found, "survival", at.control, strategy=control, at=day)
        yield _one(task, rows, found, "survival_difference", at.difference, at=day)
        yield _one(task, rows, found, "survival_ratio", at.ratio, at=day)
    horizon = {"horizon_days": int(c.horizon_days), "time_origin_day": 0}
    yield _one(task, rows, found, "rmst_days", c.rmst_treated, strategy=treated, at=horizon)
    yield _one(task, rows, found, "rmst_days", c.rmst_control, strategy=control, at=horizon)
    yield _one(task, rows, found, "rmst_difference_days", c.rmst_difference, at=horizon)


def _one(
    task: Task,
    rows: CountingProcess,
    found: CloneCensorWeight,
    estimand: str,
    effect: Effect,
    *,
    strategy: str | None = None,
    at: Mapping[str, object] | None = None,
    coefficients: list[Coefficient] | None = None,
) -> Estimate:
    control, treated = task.strategies()
    a = task.analysis
    is_contrast = strategy is None
    return effect_estimate(
        task,
        rows,
        estimand,
        effect,
        method=found.method,
        warnings=[*found.warnings, *unadjusted(task)] if is_contrast else (),
        assumptions=found.assumptions,
        contrast=task.contrast(strategy),
        parameters=task.parameters(
            grace_days=found.grace_days,
            compared_with=a.compared_with,
            weight_model=a.weight_model,
            weight_for_loss=a.weight_for_loss,
            truncate_percentile=a.truncate_percentile,
            replicates=a.replicates or None,
            **(at or {}),
        ),
        effect_type="marginal" if is_contrast else None,
        n=found.n,
        events=found.events,
        n_by_strategy={treated: found.clones[1].clones, control: found.clones[0].clones},
        events_by_strategy={treated: found.clones[1].events, control: found.clones[0].events},
        coefficients=coefficients or [],
    )


def _curves(task: Task, found: CloneCensorWeight) -> Iterable[Curve]:
    control, treated = task.strategies()
    for strategy, curve in zip((control, treated), found.contrasts.curves, strict=True):
        yield Curve(
            analysis=task.analysis.analysis,
            strategy=strategy,
            site=task.site,
            is_biased=False,
            parameters=task.parameters(
                grace_days=found.grace_days,
                compared_with=task.analysis.compared_with,
                weight_model=task.analysis.weight_model,
                weight_for_loss=task.analysis.weight_for_loss,
                truncate_percentile=task.analysis.truncate_percentile,
                time_origin_day=0,
            ),
            points=weighted_points(curve, found.n),
        )


def weighted_points(curve: WeightedCurve, n: int) -> list[CurvePoint]:
    """Weighted survival with the patients behind it, `n` at first. Limits stand with single days."""
    start = CurvePoint(
        time_days=0.0,
        survival=1.0,
        ci_low=None,
        ci_high=None,
        at_risk=n,
        events=0,
    )
    columns = zip(curve.time, curve.survival, curve.n_at_risk, curve.n_events, strict=True)
    points = [
        CurvePoint(
            time_days=float(t),
            survival=defined(s),
            ci_low=None,
            ci_high=None,
            at_risk=int(n),
            events=int(d),
        )
        for t, s, n, d in columns
    ]
    return [start, *points]
