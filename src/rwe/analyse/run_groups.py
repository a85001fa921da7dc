"""Analyses of groups as they are: Kaplan-Meier curves, log-rank tests, Cox models."""

from __future__ import annotations

from rwe.analyse.assumptions import of_model, of_one_group, of_test
from rwe.analyse.tasks import Findings, PrimaryRows, Task, count_events, defined, make_estimate
from rwe.evidence.contract import Coefficient, Curve, CurvePoint, Estimate
from rwe.survival.cox import exposure_cox, exposure_data
from rwe.survival.data import CountingProcess, ExposureCounts, NotEstimableError
from rwe.survival.kaplan_meier import SurvivalAt, SurvivalCurve, exposure_curves, median, survival_at
from rwe.survival.logrank import exposure_logrank

CONFOUNDED = "Not adjusted: confounded by whatever decided who started."
NO_GROUP = (
    "Patients change between these curves when they start: a value is the survival of no group of patients."
)
DILUTED = "Later starters stay with those not started, so this ratio is drawn towards 1."
FEW_EVENTS_IN_A_GROUP = 5
"""Below this the interval of a ratio leans on a handful of patients, whatever the other group has."""


def run_cox(task: Task, rows: CountingProcess, findings: Findings) -> None:
    a = task.analysis
    fit = exposure_cox(
        rows,
        ties=a.ties,
        stratify_by_site=task.by_site,
        robust=a.variance == "robust",
        level=task.protocol.confidence_level,
    )
    if task.analysis.role == "primary" and task.site is None:
        data = exposure_data(rows, stratify_by_site=task.by_site)
        findings.primary = PrimaryRows(data, a.ties, is_robust=fit.is_robust)
    hr = fit.hazard_ratio()
    # Where only another coefficient runs away, the exposure's is the limit of its estimate and stands.
    is_ok = hr.estimate is not None and (fit.converged or bool(fit.diverged))
    findings.estimates.append(
        make_estimate(
            task,
            rows,
            "hazard_ratio",
            f"Cox model, {a.ties.capitalize()} ties",
            warnings=[
                *fit.warnings,
                *few_events(task, rows.counts(), len(fit.names), has_ratio=hr.estimate is not None),
                *_caveats(task),
            ],
            assumptions=of_model(task),
            effect_type="conditional" if a.adjusted_for or fit.strata else "marginal",
            estimate=hr.estimate,
            log_estimate=hr.log_estimate,
            se=hr.se,
            se_scale=None if hr.se is None else "log",
            variance_method="robust, clustered by patient" if fit.is_robust else "inverse information",
            ci_low=hr.ci_low,
            ci_high=hr.ci_high,
            ci_level=fit.ci_level,
            ci_method="Wald on the log scale",
            df=1,
            p_value=hr.p_value,
            coefficients=[
                Coefficient(name=name, estimate=defined(b), se=defined(se))
                for name, b, se in zip(fit.names, fit.coefficients, fit.se, strict=True)
            ],
            status="ok" if is_ok else "did_not_converge",
        )
    )


def few_events(task: Task, counts: ExposureCounts, coefficients: int, *, has_ratio: bool = True) -> list[str]:
    """Too few for the model, and too few in a group: a ratio of two groups knows no more than the smaller."""
    words, events = [], counts.events_exposed + counts.events_unexposed
    if events < task.protocol.min_events_per_parameter * coefficients:
        many = "1 coefficient" if coefficients == 1 else f"{coefficients} coefficients"
        words.append(f"Only {count_events(task, events)} for {many}: estimates and intervals are unreliable.")
    fewest = min(counts.events_exposed, counts.events_unexposed)
    if fewest < FEW_EVENTS_IN_A_GROUP and has_ratio:
        who = "who started" if counts.events_exposed == fewest else "not started"
        words.append(f"Only {count_events(task, fewest)} among those {who}: the interval is unreliable.")
    return words


def _caveats(task: Task) -> list[str]:
    words = unadjusted(task)
    return [*words, DILUTED] if task.analysis.status_after_start == "freeze" else words


def unadjusted(task: Task) -> list[str]:
    """That nothing stands against confounding, where an analysis adjusts, or weighs, for nothing."""
    return [] if task.is_biased or task.analysis.adjusted_for else [CONFOUNDED]


def run_logrank(task: Task, rows: CountingProcess, findings: Findings) -> None:
    control, treated = task.strategies()
    rows.require_both_groups()
    test = exposure_logrank(rows, stratify_by_site=task.by_site)
    if test.chi_square is None:
        raise NotEstimableError(" ".join(test.warnings))
    findings.estimates.append(
        make_estimate(
            task,
            rows,
            "chi_square",
            "Mantel-Byar test" if task.analysis.analysis == "mantel_byar" else "log-rank test",
            warnings=test.warnings,
            assumptions=of_test(task),
            estimate=test.chi_square,
            df=test.df,
            p_value=test.p_value,
            expected_by_strategy={treated: test.expected[1], control: test.expected[0]},
            variance=test.variance,
        )
    )


def run_kaplan_meier(task: Task, rows: CountingProcess, findings: Findings) -> None:
    control, treated = task.strategies()
    curves = exposure_curves(rows, level=task.protocol.confidence_level)
    for strategy, curve in ((treated, curves.exposed), (control, curves.unexposed)):
        findings.curves.append(
            Curve(
                analysis=task.analysis.analysis,
                strategy=strategy,
                site=task.site,
                is_biased=task.is_biased,
                parameters=task.parameters(),
                points=_points(curve),
            )
        )
        if task.analysis.analysis != "simon_makuch":  # its curve is no group of people, so it has no median
            findings.estimates.append(_median(task, rows, strategy, curve))
        for day in task.protocol.horizons:
            findings.estimates.append(_survival(task, rows, strategy, curve, day))


def _points(curve: SurvivalCurve) -> list[CurvePoint]:
    columns = zip(
        curve.time, curve.survival, curve.ci_low, curve.ci_high, curve.at_risk, curve.events, strict=True
    )
    return [
        CurvePoint(
            time_days=float(time),
            survival=defined(s),
            ci_low=defined(low),
            ci_high=defined(high),
            at_risk=int(at_risk),
            events=int(events),
        )
        for time, s, low, high, at_risk, events in columns
    ]


def _median(task: Task, rows: CountingProcess, strategy: str, curve: SurvivalCurve) -> Estimate:
    m = median(curve)
    missing = [] if m.estimate is not None else ["The curve does not fall to a half, so there is no median."]
    return make_estimate(
        task,
        rows,
        "median_days",
        "Kaplan-Meier",
        warnings=[*curve.warnings, *missing, *_open_limits(m.estimate, m.ci_low, m.ci_high)],
        assumptions=of_one_group(task),
        contrast=task.contrast(strategy),
        estimate=m.estimate,
        ci_low=m.ci_low,
        ci_high=m.ci_high,
        ci_level=curve.ci_level,
        ci_method=f"where the {curve.ci_method}-transformed limits reach a half",
        n=curve.n_patients,
        events=curve.n_events,
    )


def _open_limits(estimate: float | None, low: float | None, high: float | None) -> list[str]:
    if estimate is None or (low is not None and high is not None):
        return []
    return ["A confidence limit does not fall to a half, so that side of the interval is open."]


def _survival(task: Task, rows: CountingProcess, strategy: str, curve: SurvivalCurve, day: int) -> Estimate:
    at = survival_at(curve, [day])[0]
    notes = [NO_GROUP] if task.analysis.analysis == "simon_makuch" else []
    if at.is_beyond_follow_up:
        since = "index" if task.landmark is None else "the landmark"
        notes.append(f"Nobody was followed until {day} days after {since}, so there is no estimate.")
        at = SurvivalAt(at.time, None, None, None, None, at.at_risk, is_beyond_follow_up=True)
    return make_estimate(
        task,
        rows,
        "survival",
        "Kaplan-Meier with delayed entry" if task.analysis.analysis == "simon_makuch" else "Kaplan-Meier",
        warnings=[*curve.warnings, *notes],
        assumptions=of_one_group(task),
        contrast=task.contrast(strategy),
        parameters=task.parameters(time_days=day),
        estimate=at.survival,
        se=at.se,
        se_scale=None if at.se is None else "natural",
        variance_method="Greenwood",
        ci_low=at.ci_low,
        ci_high=at.ci_high,
        ci_level=curve.ci_level,
        ci_method=f"Wald on the {curve.ci_method} scale",
        n=curve.n_patients,
        events=curve.n_events,
    )
