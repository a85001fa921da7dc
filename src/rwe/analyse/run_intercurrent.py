"""Analyses of a study whose follow-up ends at an intercurrent event: weighted for it, or refused."""

from __future__ import annotations

from rwe.analyse.assumptions import of_model
from rwe.analyse.run_emulation import FEWEST_EFFECTIVE
from rwe.analyse.run_groups import few_events, unadjusted
from rwe.analyse.tasks import Findings, PrimaryRows, Task, TooLittleError, defined, make_estimate
from rwe.evidence.contract import Coefficient
from rwe.survival.data import CountingProcess
from rwe.survival.intercurrent import event_weighted_cox


def run_event_weighted_cox(task: Task, rows: CountingProcess, findings: Findings) -> None:
    """The time-dependent Cox model, those who go on weighted for the intercurrent events.

    Raises TooLittleError where the weights are worth fewer than ten patients.
    """
    a = task.analysis
    found = event_weighted_cox(
        task.table,
        task.censoring_events,
        task.fixed,
        task.time_varying,
        stratify_by_site=task.by_site,
        ties=a.ties,
        level=task.protocol.confidence_level,
    )
    effective = found.weights.effective_sample_size
    if effective < FEWEST_EFFECTIVE:
        raise TooLittleError(
            f"the weights for the events are worth {effective:.1f} patients: too few for a weighted estimate",
            advice="name fewer covariates in weighted_for",
        )
    findings.event_weights.append((task, found.weights))
    fit, hr = found.fit, found.fit.hazard_ratio()
    if a.role == "primary" and task.site is None:
        findings.primary = PrimaryRows(found.data, a.ties, is_robust=True)
    findings.estimates.append(
        make_estimate(
            task,
            rows,
            "hazard_ratio",
            found.method,
            warnings=[
                *found.warnings,
                *few_events(task, rows.counts(), len(fit.names), has_ratio=hr.estimate is not None),
                *unadjusted(task),
            ],
            assumptions=[*of_model(task), *found.assumptions],
            parameters=task.parameters(weight_model="cox_of_events"),
            effect_type="conditional" if a.adjusted_for or fit.strata else "marginal",
            estimate=hr.estimate,
            log_estimate=hr.log_estimate,
            se=hr.se,
            se_scale=None if hr.se is None else "log",
            variance_method="robust, clustered by patient",
            ci_low=hr.ci_low,
            ci_high=hr.ci_high,
            ci_level=fit.ci_level,
            ci_method="Wald on the log scale",
            df=1,
            p_value=hr.p_value,
            n=found.n,
            coefficients=[
                Coefficient(name=name, estimate=defined(b), se=defined(se))
                for name, b, se in zip(fit.names, fit.coefficients, fit.se, strict=True)
            ],
            status="ok" if hr.estimate is not None else "did_not_converge",
        )
    )
