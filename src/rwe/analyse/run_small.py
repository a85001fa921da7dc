"""Analyses for few patients or few events: Firth's penalty, exact permutation, restricted means."""

from __future__ import annotations

from rwe.analyse.assumptions import of_model, of_one_group, of_test, of_time_zero
from rwe.analyse.run_groups import CONFOUNDED, few_events, unadjusted
from rwe.analyse.tasks import Findings, PrimaryRows, Task, defined, make_estimate
from rwe.evidence.contract import Coefficient
from rwe.survival.cox import exposure_data
from rwe.survival.data import CountingProcess
from rwe.survival.firth import PENALTY, exposure_firth
from rwe.survival.permutation import exposure_permutation
from rwe.survival.rmst import ArmMean, exposure_rmst


def run_firth(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """A Cox model with Firth's penalty: finite where an arm has no event."""
    fit = exposure_firth(rows, stratify_by_site=task.by_site, level=task.protocol.confidence_level)
    hr = fit.hazard_ratio()
    if task.analysis.role == "primary" and task.site is None:
        findings.primary = firth_rows(task)
    findings.estimates.append(
        make_estimate(
            task,
            rows,
            "hazard_ratio",
            f"{fit.method}, {fit.ties.capitalize()} ties",
            warnings=[*fit.warnings, *few_events(task, rows.counts(), len(fit.names)), *unadjusted(task)],
            assumptions=[*of_model(task), PENALTY],
            effect_type="conditional" if task.analysis.adjusted_for or fit.strata else "marginal",
            parameters=task.parameters(ties=fit.ties),
            estimate=hr.estimate,
            log_estimate=hr.log_estimate,
            se=hr.se,
            se_scale="log",
            variance_method="inverse information",
            ci_low=hr.ci_low,
            ci_high=hr.ci_high,
            ci_level=fit.ci_level,
            ci_method=fit.ci_method,
            df=1,
            p_value=hr.p_value,
            coefficients=[
                Coefficient(name=name, estimate=defined(b), se=defined(se))
                for name, b, se in zip(fit.names, fit.coefficients, fit.se, strict=True)
            ],
        )
    )


def firth_rows(task: Task) -> PrimaryRows:
    """The rows of a penalised model, for the bundle. Raises as `exposure_data`."""
    data = exposure_data(task.rows(), stratify_by_site=task.by_site)
    return PrimaryRows(data, "breslow", is_robust=False, is_firth=True)


def run_permutation(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """The exact permutation log-rank test; beyond a million relabellings a seeded sample of them."""
    test = exposure_permutation(rows, stratify_by_site=task.by_site, seed=task.protocol.seed)
    control, treated = task.strategies()
    exactness = "exact" if test.is_exact else f"{test.n_drawn:,} random relabellings"
    total = test.observed + (rows.counts().events_unexposed)
    findings.estimates.append(
        make_estimate(
            task,
            rows,
            "p_value",
            f"{test.method}, {exactness}",
            warnings=test.warnings,
            assumptions=[*of_time_zero(task), *test.assumptions],
            estimate=test.p_value,
            se=test.error,
            se_scale=None if test.error is None else "natural",
            variance_method=None if test.error is None else "Monte Carlo",
            ci_low=test.error_low,
            ci_high=test.error_high,
            ci_level=None if test.error_low is None else 0.99,
            ci_method=None
            if test.error_low is None
            else "for the exact p value, from the relabellings drawn",
            p_value=test.p_value,
            expected_by_strategy={treated: test.expected, control: total - test.expected},
        )
    )


def run_rmst(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """Restricted means of both arms and their difference."""
    horizon = task.horizon
    level = task.protocol.confidence_level
    found = exposure_rmst(rows, horizon, level=level)
    control, treated = task.strategies()
    at = task.parameters(horizon_days=horizon, time_origin_day=task.landmark or 0)
    for strategy, arm in ((treated, found.exposed), (control, found.unexposed)):
        findings.estimates.append(
            make_estimate(
                task,
                rows,
                "rmst_days",
                found.method,
                warnings=arm.warnings,
                assumptions=of_one_group(task),
                contrast=task.contrast(strategy),
                parameters=at,
                **_mean(arm, level, found.ci_method),
                n=arm.n_patients,
                events=arm.events,
            )
        )
    findings.estimates.append(
        make_estimate(
            task,
            rows,
            "rmst_difference_days",
            found.method,
            warnings=[*found.warnings, *([] if task.is_biased else [CONFOUNDED])],
            assumptions=of_test(task),
            parameters=at,
            effect_type="marginal",
            estimate=found.difference,
            se=found.se,
            se_scale=None if found.se is None else "natural",
            variance_method=None if found.se is None else "variance of the area",
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            ci_level=found.ci_level,
            ci_method=None if found.ci_low is None else found.ci_method,
            p_value=found.p_value,
        )
    )


def _mean(arm: ArmMean, level: float, ci_method: str) -> dict[str, object]:
    has_interval = arm.ci_low is not None
    return {
        "estimate": arm.estimate,
        "se": arm.se,
        "se_scale": None if arm.se is None else "natural",
        "variance_method": None if arm.se is None else "variance of the area",
        "ci_low": arm.ci_low if has_interval else arm.lower_bound,
        "ci_high": arm.ci_high,
        "ci_level": level,
        "ci_method": ci_method if has_interval else "exact binomial bound" if arm.lower_bound else None,
    }
