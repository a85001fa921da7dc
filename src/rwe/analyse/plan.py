"""From the analyses a protocol asks for to estimates and curves. Statistics are the survival room's work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rwe.errors import RweError
from rwe.evidence.contract import (
    Coefficient,
    Contrast,
    Curve,
    CurvePoint,
    Estimate,
    Parameters,
    Refusal,
    groups_of,
)
from rwe.progress import SILENT, Progress
from rwe.study import Analysis, Protocol
from rwe.study.lock import ProtocolLock
from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.data import (
    CohortTable,
    CountingProcess,
    ExposureCounts,
    NotEstimableError,
    exposure_split,
    landmark_split,
    naive_split,
    start_day_split,
)
from rwe.survival.kaplan_meier import SurvivalAt, SurvivalCurve, exposure_curves, median, survival_at
from rwe.survival.logrank import exposure_logrank

IMMORTAL_TIME = "Biased: whoever started had survived until then, so immortal time counts as treated time."
CONFOUNDED = "Not adjusted: confounded by whatever decided who started."
NO_GROUP = (
    "Patients change between these curves when they start: a value is the survival of no group of patients."
)
DILUTED = "Later starters stay with those not started, so this ratio is drawn towards 1."
UNLOCKED = ProtocolLock("unlocked")
FEW_EVENTS_IN_A_GROUP = 5
"""Below this the interval of a ratio leans on a handful of patients, whatever the other group has."""


@dataclass
class Findings:
    """What the analyses gave, in the order in which the protocol asks."""

    estimates: list[Estimate] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """Each warning of a primary estimate once; the others stay with their estimates."""
        found = [w for e in self.estimates if e.role == "primary" for w in e.warnings]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Task:
    """One analysis on one set of rows: what every estimate made from it shares."""

    protocol: Protocol
    analysis: Analysis
    table: CohortTable
    site: str | None
    landmark: int | None = None
    is_posthoc: bool = False

    @property
    def is_biased(self) -> bool:
        return self.analysis.analysis.startswith("naive_")

    @property
    def time_varying(self) -> list[str]:
        return [name for name in self.analysis.adjusted_for if name in self.protocol.statuses()]

    @property
    def fixed(self) -> list[str]:
        return [name for name in self.analysis.adjusted_for if name not in self.time_varying]

    def rows(self) -> CountingProcess:
        """The rows at risk: ever against never, from a landmark, or split at the start of exposure."""
        if self.is_biased:
            return naive_split(self.table, self.fixed, self.time_varying)
        if self.landmark is not None:
            return landmark_split(self.table, self.landmark, self.fixed, self.time_varying)
        if self.analysis.status_after_start == "freeze":
            return start_day_split(self.table, self.fixed, self.time_varying)
        return exposure_split(self.table, self.fixed, self.time_varying)

    def parameters(self, time_days: int | None = None) -> Parameters:
        is_model = self.analysis.analysis.endswith("_cox")
        is_curve = self.analysis.analysis.endswith(("_kaplan_meier", "simon_makuch"))
        is_followed = self.analysis.analysis == "time_dependent_cox" and self.time_varying
        return Parameters(
            landmark_day=self.landmark,
            time_days=time_days,
            time_origin_day=(self.landmark or 0) if is_curve else None,
            adjusted_for=self.analysis.adjusted_for,
            stratified_by=list(self.analysis.stratify_by) if self.site is None else [],
            status_after_start=self.analysis.status_after_start if is_followed else None,
            ties=self.analysis.ties if is_model else None,
        )

    def contrast(self, strategy: str | None = None) -> Contrast:
        """Treated against control, or one `strategy` alone."""
        control, treated = self.strategies()
        return Contrast(
            strategy=strategy or treated,
            reference=None if strategy else control,
            groups=groups_of(self.analysis.analysis),
        )

    def strategies(self) -> tuple[str, str]:
        return self.protocol.strategies.control.name, self.protocol.strategies.treated.name


def run_analyses(
    protocol: Protocol,
    table: CohortTable,
    progress: Progress = SILENT,
    lock: ProtocolLock = UNLOCKED,
) -> Findings:
    """Run every analysis of the protocol. One that the data cannot carry is refused with its reason; one
    outside the locked protocol is marked posthoc, whatever role it asks for."""
    findings = Findings()
    tasks = [
        replace(task, is_posthoc=lock.is_posthoc(analysis))
        for analysis in protocol.analyses
        for task in _tasks(protocol, analysis, table)
    ]
    with progress.step("analysing", total=len(tasks), unit="analyses") as step:
        for task in tasks:
            _run(task, findings)
            step.advance()
    return findings


def _tasks(protocol: Protocol, analysis: Analysis, table: CohortTable) -> list[_Task]:
    days: Sequence[int | None] = [None]
    if analysis.analysis.startswith("landmark_"):
        days = analysis.landmarks or protocol.landmarks
    tasks = [_Task(protocol, analysis, table, None, day) for day in days]
    sites = sorted(table.patients["site"].unique()) if analysis.by_site else []
    if len(sites) > 1:
        alone = (
            analysis.model_copy(update={"role": "sensitivity"}) if analysis.role == "primary" else analysis
        )
        tasks += [_Task(protocol, alone, table.restrict(s), s, day) for s in sites for day in days]
    return tasks


def _run(task: _Task, findings: Findings) -> None:
    kind = task.analysis.analysis
    run: Callable[[_Task, CountingProcess, Findings], None] = _cox
    if kind.endswith(("_kaplan_meier", "simon_makuch")):
        run = _kaplan_meier
    elif kind.endswith(("_logrank", "mantel_byar")):
        run = _logrank
    rows: CountingProcess | None = None
    try:
        rows = task.rows()
        rows.require_patients()
        run(task, rows, findings)
    except RweError as e:
        where = f" at site {task.site}" if task.site else ""
        day = f", day {task.landmark}" if task.landmark is not None else ""
        findings.refused.append(Refusal(analysis=f"{kind}{day}{where}", reason=str(e)))
        estimand = "hazard_ratio" if run is _cox else "chi_square" if run is _logrank else "median_days"
        told = [*(rows.warnings() if rows is not None else ()), str(e)]
        findings.estimates.append(_estimate(task, rows, estimand, "refused", warnings=told))


def _estimate(
    task: _Task,
    rows: CountingProcess | None,
    estimand: str,
    method: str,
    *,
    warnings: Sequence[str] = (),
    **values: object,
) -> Estimate:
    """An estimate with everything its task already knows; a number that is not given is null."""
    control, treated = task.strategies()
    counts = rows.counts() if rows is not None else None
    blank = dict.fromkeys(
        ("estimate", "log_estimate", "se", "se_scale", "variance_method", "ci_low", "ci_high", "ci_level")
    )
    blank |= dict.fromkeys(("ci_method", "df", "p_value", "effect_type"))
    n_by = {treated: counts.patients_exposed, control: counts.patients_unexposed} if counts else {}
    events_by = {treated: counts.events_exposed, control: counts.events_unexposed} if counts else {}
    fields: dict[str, object] = {
        **blank,
        "analysis": task.analysis.analysis,
        "estimand": estimand,
        "role": "posthoc" if task.is_posthoc and not task.is_biased else task.analysis.role,
        "contrast": task.contrast(),
        "site": task.site,
        "method": method,
        "parameters": task.parameters(),
        "n": rows.n_patients if rows is not None else len(task.table),
        "events": sum(events_by.values()),
        "n_by_strategy": n_by,
        "events_by_strategy": events_by,
        "status": "refused" if method == "refused" else "ok",
        "is_biased": task.is_biased,
        "warnings": ([IMMORTAL_TIME] if task.is_biased else []) + list(warnings),
    }
    return Estimate.model_validate({**fields, **values})


def _cox(task: _Task, rows: CountingProcess, findings: Findings) -> None:
    a = task.analysis
    fit = exposure_cox(
        rows,
        ties=a.ties,
        stratify_by_site="site" in a.stratify_by and task.site is None,
        robust=a.variance == "robust",
        level=task.protocol.confidence_level,
    )
    hr = fit.hazard_ratio()
    # Where only another coefficient runs away, the exposure's is the limit of its estimate and stands.
    is_ok = hr.estimate is not None and (fit.converged or bool(fit.diverged))
    findings.estimates.append(
        _estimate(
            task,
            rows,
            "hazard_ratio",
            f"Cox model, {a.ties.capitalize()} ties",
            warnings=[*fit.warnings, *_few_events(task, rows.counts(), fit), *_caveats(task)],
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
                Coefficient(name=name, estimate=_defined(b), se=_defined(se))
                for name, b, se in zip(fit.names, fit.coefficients, fit.se, strict=True)
            ],
            status="ok" if is_ok else "did_not_converge",
        )
    )


def _few_events(task: _Task, counts: ExposureCounts, fit: CoxFit) -> list[str]:
    """Too few for the model, and too few in a group: a ratio of two groups knows no more than the smaller."""
    words, events = [], counts.events_exposed + counts.events_unexposed
    if events < task.protocol.min_events_per_parameter * len(fit.names):
        many = "1 coefficient" if len(fit.names) == 1 else f"{len(fit.names)} coefficients"
        words.append(f"Only {_events(task, events)} for {many}: estimates and intervals are unreliable.")
    fewest = min(counts.events_exposed, counts.events_unexposed)
    if fewest < FEW_EVENTS_IN_A_GROUP and fit.hazard_ratio().estimate is not None:
        who = "who started" if counts.events_exposed == fewest else "not started"
        words.append(f"Only {_events(task, fewest)} among those {who}: the interval is unreliable.")
    return words


def _events(task: _Task, count: int) -> str:
    noun = "event" if task.protocol.composite_events() else "death"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _caveats(task: _Task) -> list[str]:
    words = [] if task.is_biased or task.analysis.adjusted_for else [CONFOUNDED]
    return [*words, DILUTED] if task.analysis.status_after_start == "freeze" else words


def _logrank(task: _Task, rows: CountingProcess, findings: Findings) -> None:
    control, treated = task.strategies()
    rows.require_both_groups()
    test = exposure_logrank(rows, stratify_by_site="site" in task.analysis.stratify_by and task.site is None)
    if test.chi_square is None:
        raise NotEstimableError(" ".join(test.warnings))
    findings.estimates.append(
        _estimate(
            task,
            rows,
            "chi_square",
            "Mantel-Byar test" if task.analysis.analysis == "mantel_byar" else "log-rank test",
            warnings=test.warnings,
            estimate=test.chi_square,
            df=test.df,
            p_value=test.p_value,
            expected_by_strategy={treated: test.expected[1], control: test.expected[0]},
            variance=test.variance,
        )
    )


def _kaplan_meier(task: _Task, rows: CountingProcess, findings: Findings) -> None:
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
            survival=_defined(s),
            ci_low=_defined(low),
            ci_high=_defined(high),
            at_risk=int(at_risk),
            events=int(events),
        )
        for time, s, low, high, at_risk, events in columns
    ]


def _defined(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _median(task: _Task, rows: CountingProcess, strategy: str, curve: SurvivalCurve) -> Estimate:
    m = median(curve)
    missing = [] if m.estimate is not None else ["The curve does not fall to a half, so there is no median."]
    return _estimate(
        task,
        rows,
        "median_days",
        "Kaplan-Meier",
        warnings=[*curve.warnings, *missing, *_open_limits(m.estimate, m.ci_low, m.ci_high)],
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


def _survival(task: _Task, rows: CountingProcess, strategy: str, curve: SurvivalCurve, day: int) -> Estimate:
    at = survival_at(curve, [day])[0]
    notes = [NO_GROUP] if task.analysis.analysis == "simon_makuch" else []
    if at.is_beyond_follow_up:
        since = "index" if task.landmark is None else "the landmark"
        notes.append(f"Nobody was followed until {day} days after {since}, so there is no estimate.")
        at = SurvivalAt(at.time, None, None, None, None, at.at_risk, is_beyond_follow_up=True)
    return _estimate(
        task,
        rows,
        "survival",
        "Kaplan-Meier with delayed entry" if task.analysis.analysis == "simon_makuch" else "Kaplan-Meier",
        warnings=[*curve.warnings, *notes],
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
