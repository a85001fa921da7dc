"""From the analyses a protocol asks for to estimates and curves. Statistics are the survival room's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rwe.analyse.downgrade import downgrade, is_answer, require_enough_events
from rwe.analyse.run_competing import run_competing_risks
from rwe.analyse.run_emulation import run_clone_censor_weight
from rwe.analyse.run_groups import CONFOUNDED, DILUTED, NO_GROUP, run_cox, run_kaplan_meier, run_logrank
from rwe.analyse.run_imputed import imputed_tables, is_imputed, run_imputed
from rwe.analyse.run_intercurrent import run_event_weighted_cox
from rwe.analyse.run_small import run_firth, run_permutation, run_rmst
from rwe.analyse.run_weighted import (
    run_aiptw,
    run_landmark_weighting,
    run_marginal_structural_model,
    run_sequential_trials,
)
from rwe.analyse.tasks import Findings, Task, make_estimate, prepared, require_possible
from rwe.errors import RweError
from rwe.evidence.contract import Refusal
from rwe.progress import SILENT, Progress
from rwe.study import Analysis, Protocol
from rwe.study.lock import ProtocolLock
from rwe.survival.data import CohortTable, CountingProcess

__all__ = ["CONFOUNDED", "DILUTED", "NO_GROUP", "Findings", "run_analyses"]

UNLOCKED = ProtocolLock("unlocked")


@dataclass(frozen=True)
class _Runner:
    """How an analysis is run on its rows, and what its estimate would have been where it is refused."""

    run: Callable[[Task, CountingProcess, Findings], None]
    estimand: str


def carrying_weights(task: Task, runner: _Runner) -> _Runner:
    """The runner that weighs for the intercurrent events at which follow-up ends, where there are any."""
    if not task.censoring_events:
        return runner
    is_model = task.analysis.analysis == "time_dependent_cox"
    return replace(runner, run=run_event_weighted_cox) if is_model else runner


_COX = _Runner(run_cox, "hazard_ratio")
_CURVES = _Runner(run_kaplan_meier, "median_days")
_LOGRANK = _Runner(run_logrank, "chi_square")
_RMST = _Runner(run_rmst, "rmst_difference_days")
_PERMUTATION = _Runner(run_permutation, "p_value")
_FIRTH = _Runner(run_firth, "hazard_ratio")
_RUNNERS: dict[str, _Runner] = {
    "naive_kaplan_meier": _CURVES,
    "naive_logrank": _LOGRANK,
    "naive_permutation": _PERMUTATION,
    "naive_cox": _COX,
    "naive_firth": _FIRTH,
    "naive_rmst": _RMST,
    "landmark_kaplan_meier": _CURVES,
    "landmark_logrank": _LOGRANK,
    "landmark_permutation": _PERMUTATION,
    "landmark_cox": _COX,
    "landmark_firth": _FIRTH,
    "landmark_rmst": _RMST,
    "landmark_competing_risks": _Runner(run_competing_risks, "cumulative_incidence"),
    "landmark_weighting": _Runner(run_landmark_weighting, "hazard_ratio"),
    "landmark_aiptw": _Runner(run_aiptw, "survival_difference"),
    "mantel_byar": _LOGRANK,
    "simon_makuch": _CURVES,
    "time_dependent_cox": _COX,
    "time_dependent_firth": _FIRTH,
    "clone_censor_weight": _Runner(run_clone_censor_weight, "hazard_ratio"),
    "sequential_trials": _Runner(run_sequential_trials, "hazard_ratio"),
    "marginal_structural_model": _Runner(run_marginal_structural_model, "hazard_ratio"),
}


def run_analyses(
    protocol: Protocol,
    table: CohortTable,
    progress: Progress = SILENT,
    lock: ProtocolLock = UNLOCKED,
) -> Findings:
    """Run every analysis of the protocol. One that the data cannot carry is refused with its reason; one
    outside the locked protocol is marked post hoc, whatever role it asks for."""
    findings = Findings()
    tasks = [
        replace(task, is_posthoc=lock.is_posthoc(analysis, task.landmark, of_site=task.site is not None))
        for analysis in protocol.analyses
        for task in _tasks(protocol, analysis, table)
    ]
    asked: tuple[Task, RweError | None, slice] | None = None
    with progress.step("analysing", total=len(tasks), unit="analyses") as step:
        for task in tasks:
            begin = len(findings.estimates)
            failure = run_task(task, findings, progress)
            if is_answer(task):
                asked = task, failure, slice(begin, len(findings.estimates))
            step.advance()
    if asked is not None:
        downgrade(*asked, findings, run_task)
    return findings


def _tasks(protocol: Protocol, analysis: Analysis, table: CohortTable) -> list[Task]:
    days: Sequence[int | None] = [None]
    if analysis.analysis.startswith("landmark_"):
        days = analysis.landmarks or protocol.landmarks
    tasks = [Task(protocol, analysis, table, None, day) for day in days]
    sites = sorted(table.patients["site"].unique()) if analysis.by_site else []
    if len(sites) > 1:
        alone = (
            analysis.model_copy(update={"role": "sensitivity"}) if analysis.role == "primary" else analysis
        )
        tasks += [Task(protocol, alone, table.restrict(s), s, day) for s in sites for day in days]
    return tasks


def run_task(task: Task, findings: Findings, progress: Progress = SILENT) -> RweError | None:
    """Run one analysis; where the data cannot carry it, the refusal is the finding, and is returned."""
    kind = task.analysis.analysis
    runner = _RUNNERS[kind]
    rows: CountingProcess | None = None
    try:
        task = replace(prepared(task), progress=progress)
        imputed = imputed_tables(task) if is_imputed(task) else None
        rows = task.rows() if imputed is None else replace(task, table=imputed.tables[0]).rows()
        rows.require_patients()
        require_enough_events(task, rows)
        require_possible(task)
        runner = carrying_weights(task, runner)
        if imputed is None:
            runner.run(task, rows, findings)
        else:
            run_imputed(task, imputed, runner.run, findings)
    except RweError as e:
        where = f" at site {task.site}" if task.site else ""
        day = f", day {task.landmark}" if task.landmark is not None else ""
        findings.refused.append(Refusal(analysis=f"{kind}{day}{where}", reason=str(e)))
        told = [*(rows.warnings() if rows is not None else ()), str(e)]
        findings.estimates.append(make_estimate(task, rows, runner.estimand, "refused", warnings=told))
        return e
    return None
