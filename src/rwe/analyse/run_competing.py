"""Relapse and what comes without it: cumulative incidence, and the two hazard ratios that belong to each.

Without a relapse there is death, and where the outcome is composite each of its other events.
"""

from __future__ import annotations

from rwe.analyse.assumptions import of_groups, of_test, of_time_zero
from rwe.analyse.run_groups import CONFOUNDED
from rwe.analyse.tasks import Findings, Task, make_estimate, relapses, require_status
from rwe.errors import RweError
from rwe.evidence.contract import Estimate
from rwe.survival.competing import CumulativeIncidence, exposure_incidence, incidence_at
from rwe.survival.data import CountingProcess, landmark_split
from rwe.survival.fine_gray import CompetingFit, cause_specific_cox, fine_gray
from rwe.survival.first_events import CompetingRows, competing_rows
from rwe.survival.gray import exposure_gray


def run_competing_risks(task: Task, _: CountingProcess, findings: Findings) -> None:
    """From a landmark on, for relapse and for each other event without relapse before it.

    Incidences and their test know no covariate, so they are of everybody at the landmark; the models are of
    those whose covariates are known.
    """
    require_status(task.protocol)
    events = relapses(task.table, task.protocol.composite_events())
    day = task.landmark or 0
    everybody = landmark_split(events.table, day)
    everybody.require_both_groups()
    whole = competing_rows(events, everybody)
    rows = landmark_split(events.table, day, task.fixed, task.time_varying)
    rows.require_both_groups()
    competing = competing_rows(events, rows)
    notes = [*events.warnings, _free_of_events(task)]
    for cause in events.causes:
        _incidences(task, whole, cause, notes, findings)
        findings.estimates.append(_gray(task, whole, cause, notes))
        mine = competing.of_cause(cause)
        for estimand, fit in (
            ("cause_specific_hazard_ratio", cause_specific_cox),
            ("subdistribution_hazard_ratio", fine_gray),
        ):
            at = task.parameters(cause=cause)
            try:
                fitted = fit(
                    competing, cause, stratify_by_site=task.by_site, level=task.protocol.confidence_level
                )
            except RweError as e:
                told = [*notes, *rows.warnings(), str(e)]
                findings.estimates.append(
                    make_estimate(task, mine, estimand, "refused", warnings=told, parameters=at)
                )
                continue
            findings.estimates.append(_ratio(task, mine, estimand, fitted, notes))


def _free_of_events(task: Task) -> str:
    without = " or ".join(["relapse", *(n.replace("_", " ") for n in task.protocol.composite_events())])
    return f"Among those alive and without {without} at the landmark."


def _ratio(
    task: Task, rows: CountingProcess, estimand: str, fitted: CompetingFit, notes: list[str]
) -> Estimate:
    hr = fitted.hazard_ratio()
    caveats = [] if task.analysis.adjusted_for else [CONFOUNDED]
    return make_estimate(
        task,
        rows,
        estimand,
        fitted.method,
        warnings=[*notes, *fitted.warnings, *caveats],
        assumptions=[*of_groups(task), *fitted.assumptions],
        parameters=task.parameters(cause=fitted.cause, ties=fitted.fit.ties),
        effect_type="conditional" if task.analysis.adjusted_for or fitted.fit.strata else "marginal",
        estimate=hr.estimate,
        log_estimate=hr.log_estimate,
        se=hr.se,
        se_scale=None if hr.se is None else "log",
        variance_method="robust, clustered by patient" if fitted.fit.is_robust else "inverse information",
        ci_low=hr.ci_low,
        ci_high=hr.ci_high,
        ci_level=fitted.fit.ci_level,
        ci_method="Wald on the log scale",
        df=1,
        p_value=hr.p_value,
        status="ok" if hr.estimate is not None else "did_not_converge",
    )


def _gray(task: Task, rows: CompetingRows, cause: str, notes: list[str]) -> Estimate:
    """Whether the incidences differ, over all of follow-up; not adjusted, as they are not."""
    at = task.parameters(cause=cause, adjusted_for=[])
    mine = rows.of_cause(cause)
    try:
        test = exposure_gray(rows, cause, stratify_by_site=task.by_site)
    except RweError as e:
        return make_estimate(task, mine, "chi_square", "refused", warnings=[*notes, str(e)], parameters=at)
    return make_estimate(
        task,
        mine,
        "chi_square",
        test.method,
        warnings=[*notes, CONFOUNDED],
        assumptions=[*of_test(task), *test.assumptions],
        parameters=at,
        estimate=test.chi_square,
        df=test.df,
        p_value=test.p_value,
        variance=test.variance,
    )


def _incidences(task: Task, rows: CompetingRows, cause: str, notes: list[str], findings: Findings) -> None:
    control, treated = task.strategies()
    curves = exposure_incidence(rows, level=task.protocol.confidence_level)
    for strategy, group in ((treated, curves.exposed), (control, curves.unexposed)):
        curve = next(c for c in group if c.cause == cause)
        for day in task.protocol.horizons:
            findings.estimates.append(_incidence(task, rows.data, strategy, curve, day=day, notes=notes))


def _incidence(
    task: Task,
    rows: CountingProcess,
    strategy: str,
    curve: CumulativeIncidence,
    *,
    day: int,
    notes: list[str],
) -> Estimate:
    at = incidence_at(curve, [day])[0]
    is_beyond = at.is_beyond_follow_up
    beyond = [f"Nobody was followed until {day} days after the landmark, so there is no estimate."]
    return make_estimate(
        task,
        rows,
        "cumulative_incidence",
        curve.method,
        warnings=[*notes, *curve.warnings, CONFOUNDED, *(beyond if is_beyond else [])],
        assumptions=[*of_time_zero(task), *curve.assumptions],
        contrast=task.contrast(strategy),
        parameters=task.parameters(
            cause=curve.cause,
            time_days=day,
            time_origin_day=task.landmark or 0,
            adjusted_for=[],
            stratified_by=[],
        ),
        estimate=None if is_beyond else at.incidence,
        se=None if is_beyond else at.se,
        se_scale=None if is_beyond or at.se is None else "natural",
        ci_low=None if is_beyond else at.ci_low,
        ci_high=None if is_beyond else at.ci_high,
        ci_level=curve.ci_level,
        ci_method=curve.ci_method,
        n=curve.n_patients,
        events=curve.n_events,
    )
