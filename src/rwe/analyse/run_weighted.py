"""Weighted comparisons beside clone-censor-weight: landmarks, sequential trials, a structural model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rwe.analyse.assumptions import of_time_zero
from rwe.analyse.planned import is_as_planned
from rwe.analyse.run_emulation import refuse_few, weighted_points
from rwe.analyse.run_groups import unadjusted
from rwe.analyse.tasks import (
    BalanceAfter,
    Findings,
    PrimaryRows,
    Task,
    effect_estimate,
    require_possible,
)
from rwe.evidence.contract import Curve, Estimate
from rwe.survival.aiptw import AiptwSurvival, aiptw_survival
from rwe.survival.arm_contrasts import SurvivalContrast
from rwe.survival.cox import CoxData
from rwe.survival.data import CohortTable, CountingProcess
from rwe.survival.msm import marginal_structural_cox
from rwe.survival.propensity import Kind, LandmarkWeighted, landmark_weighted
from rwe.survival.sequential import sequential_trials

_ADVICE = "adjust for fewer covariates, or choose another landmark"


def run_sequential_trials(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """Starting on a day against not starting on it, over all days of the grace period."""
    found = sequential_trials(
        task.table,
        task.fixed,
        task.time_varying,
        unless=task.excuse,
        last_start_day=task.protocol.strategies.treated.grace_days,
        stratify_by_site=task.by_site,
        level=task.protocol.confidence_level,
    )
    refuse_few([found.weights] if found.weights else [], advice=_ADVICE)
    _keep_rows(task, found.data, findings, has_own_se=False)
    findings.estimates.append(
        effect_estimate(
            task,
            rows,
            "hazard_ratio",
            found.hazard_ratio,
            method=found.method,
            warnings=[*found.warnings, *unadjusted(task)],
            assumptions=found.assumptions,
            parameters=task.parameters(grace_days=task.protocol.strategies.treated.grace_days),
            effect_type=found.effect_type,
            n=found.n,
            events=found.events,
            n_by_strategy={},
            events_by_strategy={},
        )
    )


def run_marginal_structural_model(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """A Cox model weighted by the inverse probability of each patient's own history of starting.

    Raises NotEstimableError where the strategy ends at progression: whoever progressed can then not start by
    it, so exposed and not exposed cannot be made alike by weights, and the ratio would be as confounded as
    without them.
    """
    require_possible(task)
    found = marginal_structural_cox(
        task.table,
        task.fixed,
        task.time_varying,
        stratify_by_site=task.by_site,
        censoring_events=task.censoring_events,
        truncate_percentile=task.analysis.truncate_percentile,
        level=task.protocol.confidence_level,
    )
    refuse_few([found.weights], advice=_ADVICE)
    _keep_rows(task, found.data, findings, has_own_se=False)
    findings.estimates.append(
        effect_estimate(
            task,
            rows,
            "hazard_ratio",
            found.hazard_ratio,
            method=found.method,
            warnings=[*found.warnings, *unadjusted(task)],
            assumptions=found.assumptions,
            parameters=task.parameters(truncate_percentile=task.analysis.truncate_percentile),
            effect_type=found.effect_type,
            n=found.n,
        )
    )


def who_could_choose(task: Task) -> tuple[Task, CountingProcess]:
    """The task among those who could still have started at the landmark, where progression forbids it.

    Whoever had progressed by then could not start by the strategy: no weight makes the started like them.
    Raises NotEstimableError as `require_both_groups`.
    """
    if task.excuse is None or "progression_day" not in task.table.patients.columns:
        return task, task.rows()
    day = task.landmark or 0
    patients = task.table.patients
    progressed = patients["progression_day"].le(day).to_numpy(dtype=bool)
    kept = patients[~progressed].reset_index(drop=True)
    changes = task.table.changes[task.table.changes["patient_id"].isin(kept["patient_id"])]
    gone = {c.name for c in task.protocol.covariates if getattr(c, "status", "") == "progressed"}
    asked = [name for name in task.analysis.adjusted_for if name not in gone]
    note = f"Among those without progression by day {day}: whoever had progressed could not start."
    narrowed = replace(
        task,
        table=CohortTable(kept, changes.reset_index(drop=True)),
        analysis=task.analysis.model_copy(update={"adjusted_for": asked}),
        notes=(*task.notes, note),
    )
    rows = narrowed.rows()
    rows.require_both_groups()
    return narrowed, rows


def _keep_rows(task: Task, data: CoxData | None, findings: Findings, *, has_own_se: bool = True) -> None:
    """For the bundle of a primary analysis: a Cox model with the sandwich variance by patient.

    `has_own_se`: that is the variance of the evidence, and not a bootstrap's or a jackknife's.
    """
    if task.analysis.role == "primary" and task.site is None and data is not None:
        findings.primary = PrimaryRows(data, "efron", is_robust=True, has_own_se=has_own_se)


def run_landmark_weighting(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """Started by the landmark against not, weighted by propensity; days count from the landmark."""
    task, rows = who_could_choose(task)
    a = task.analysis
    found = _weighted(task, a.weights, replicates=a.replicates)
    _keep_rows(task, found.data, findings, has_own_se=not a.replicates)
    if task.site is None:
        smd = {b.covariate: b.after for b in found.balance if b.after is not None}
        words = f"{found.method}, day {task.landmark}, measured values as known then"
        findings.balance.append(BalanceAfter(words, smd, a.role == "primary", is_as_planned(a)))
    asked: dict[str, object] = {"weight_model": a.weights, "replicates": a.replicates or None}
    findings.estimates.append(
        effect_estimate(
            task,
            rows,
            "hazard_ratio",
            found.contrasts.hazard_ratio,
            method=found.method,
            warnings=[*found.warnings, *unadjusted(task)],
            assumptions=[*of_time_zero(task), *found.assumptions],
            parameters=task.parameters(**asked),
            effect_type="marginal",
        )
    )
    for at in found.contrasts.survival:
        findings.estimates.extend(
            _survival(task, rows, at, found.method, asked, assumptions=found.assumptions)
        )
    findings.curves.extend(_curves(task, found))


def _weighted(task: Task, kind: Kind, *, replicates: int) -> LandmarkWeighted:
    """The arms at the landmark weighted by propensity. Raises as `refuse_few`, before any bootstrap."""

    def ask(repeated: int) -> LandmarkWeighted:
        return landmark_weighted(
            task.table,
            task.landmark or 0,
            task.fixed,
            task.time_varying,
            kind=kind,
            horizon_days=task.horizon,
            times=task.protocol.horizons,
            site_indicators=task.by_site,
            replicates=repeated,
            seed=task.protocol.seed,
            level=task.protocol.confidence_level,
            progress=task.progress,
        )

    found = ask(0)
    refuse_few(found.weights, in_overlap=found.in_overlap, advice=_ADVICE)
    return ask(replicates) if replicates else found


def _survival(
    task: Task,
    rows: CountingProcess,
    at: SurvivalContrast | AiptwSurvival,
    method: str,
    asked: Mapping[str, object],
    *,
    warnings: Sequence[str] = (),
    assumptions: Sequence[str] = (),
) -> Iterator[Estimate]:
    """Survival of both strategies on one day after the landmark, and their difference, with `warnings`."""
    control, treated = task.strategies()
    where = task.parameters(**asked, time_days=int(at.day), time_origin_day=task.landmark)
    for strategy, effect in ((treated, at.treated), (control, at.control), (None, at.difference)):
        yield effect_estimate(
            task,
            rows,
            "survival" if strategy else "survival_difference",
            effect,
            method=method,
            warnings=() if strategy else [*warnings, *unadjusted(task)],
            assumptions=[*of_time_zero(task), *assumptions],
            contrast=task.contrast(strategy),
            parameters=where,
            effect_type=None if strategy else "marginal",
        )


def _curves(task: Task, found: LandmarkWeighted) -> Iterator[Curve]:
    for strategy, curve, n in zip(task.strategies(), found.contrasts.curves, found.n, strict=True):
        yield Curve(
            analysis=task.analysis.analysis,
            strategy=strategy,
            site=task.site,
            is_biased=False,
            parameters=task.parameters(weight_model=task.analysis.weights, time_origin_day=task.landmark),
            points=weighted_points(curve, n),
        )


def run_aiptw(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """Survival after a landmark: right if the outcome model is, or those of treatment and censoring."""
    task, rows = who_could_choose(task)
    leaning = _weighted(task, "iptw", replicates=0)
    found = aiptw_survival(
        task.table,
        task.landmark or 0,
        task.fixed,
        task.time_varying,
        horizons=[task.horizon] if task.analysis.horizon_days else task.protocol.horizons,
        site_indicators=task.by_site,
        replicates=task.analysis.replicates,
        seed=task.protocol.seed,
        level=task.protocol.confidence_level,
        progress=task.progress,
    )
    asked = {"replicates": task.analysis.replicates or None}
    for at in found:
        warnings = (*at.warnings, *leaning.warnings)
        findings.estimates.extend(
            _survival(task, rows, at, at.method, asked, warnings=warnings, assumptions=at.assumptions)
        )
