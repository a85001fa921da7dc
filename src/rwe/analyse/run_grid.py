"""The sensitivity grid: the primary analysis once more, under each rule that the protocol wants tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rwe.analyse.plan import UNLOCKED, run_task
from rwe.analyse.planned import grace_days, hazard_ratio_of
from rwe.analyse.read import StudyTables, VariantTables
from rwe.analyse.tasks import Findings, Task
from rwe.errors import EvidenceError
from rwe.evidence.contract import Estimate
from rwe.evidence.grid import GridRow, SensitivityGrid
from rwe.progress import SILENT, Progress
from rwe.study import Analysis, Protocol
from rwe.study.grid import (
    CensoringChange,
    GraceChange,
    LagChange,
    LandmarkChange,
    RuleChange,
    RuleName,
    SalvageChange,
    TableChange,
    analysis_of,
)
from rwe.study.lock import ProtocolLock
from rwe.survival.data import CohortTable
from rwe.survival.histories import with_salvage
from rwe.survival.lag import lagged

_COMPARED = ("site", "time_days", "is_event", "start_day")


@dataclass(frozen=True)
class _Tried:
    """One changed rule made ready: the task, and how many patients it changes (None: no rule of patients)."""

    task: Task
    changed: int | None
    note: str | None = None


def run_grid(
    protocol: Protocol,
    tables: StudyTables,
    findings: Findings,
    progress: Progress = SILENT,
    lock: ProtocolLock = UNLOCKED,
) -> SensitivityGrid | None:
    """Run the grid of the protocol; None where it names none.

    Each hazard ratio joins `findings.estimates` as a sensitivity whose `parameters.variant` says which rule
    was changed; what the data cannot carry is refused in its row. Raises EvidenceError where `tables` lack a
    variant that the grid names, or no analysis knows a rule.
    """
    if not protocol.sensitivity_grid:
        return None
    cohort, rows, begun = tables.cohort(), list[GridRow](), list[Analysis]()
    asked = _as_answered(protocol, findings)
    by_analysis = [(_analysis(protocol, asked, c), c) for c in protocol.sensitivity_grid]
    by_analysis.sort(key=lambda found: (found[0].role != "primary", asked.index(found[0])))
    with progress.step("sensitivity grid", total=len(by_analysis), unit="rules") as step:
        for analysis, change in by_analysis:
            if analysis not in begun:
                begun.append(analysis)
                rows += _own_row(protocol, analysis, cohort, findings)
            tried = _tried(protocol, analysis, change, cohort, tables.variants)
            estimate = _run(
                replace(tried.task, is_posthoc=lock.is_posthoc_change(analysis, change)), progress
            )
            findings.estimates.append(estimate)
            rows.append(_row(estimate, change, protocol, analysis, tried))
            step.advance()
    return SensitivityGrid(rows=rows)


def _as_answered(protocol: Protocol, findings: Findings) -> list[Analysis]:
    """The analyses of the protocol, behind what stands in for a primary one that was downgraded."""
    answer = findings.answer.analysis if findings.answer is not None else None
    if answer is None or answer in protocol.analyses:
        return protocol.analyses
    as_sensitivity = [
        a.model_copy(update={"role": "sensitivity"}) if a.role == "primary" else a for a in protocol.analyses
    ]
    return [answer, *as_sensitivity]


def _analysis(protocol: Protocol, asked: Sequence[Analysis], change: RuleChange) -> Analysis:
    found = analysis_of(change.rule, asked)
    if found is None:  # a study file with such an entry is refused
        raise EvidenceError(
            f"no analysis with a hazard ratio knows the rule {change.rule}",
            where=f"study {protocol.name}",
            advice="take its entry out of sensitivity_grid",
        )
    return found


def _landmark(protocol: Protocol, analysis: Analysis) -> int | None:
    if not analysis.analysis.startswith("landmark_"):
        return None
    return (analysis.landmarks or protocol.landmarks)[0]


def _run(task: Task, progress: Progress) -> Estimate:
    """The hazard ratio alone: curves, survival and weights of a variant stay out of the evidence."""
    alone = Findings()
    run_task(task, alone, progress)
    return next(e for e in alone.estimates if e.estimand == "hazard_ratio")


def _tried(
    protocol: Protocol,
    analysis: Analysis,
    change: RuleChange,
    cohort: CohortTable,
    variants: Iterable[VariantTables],
) -> _Tried:
    asked = analysis.model_copy(update={"role": "sensitivity"})
    task = Task(protocol, asked, cohort, None, _landmark(protocol, analysis), variant=change.label)
    match change:
        case GraceChange():
            treated = protocol.strategies.treated.model_copy(update={"grace_days": change.value})
            strategies = protocol.strategies.model_copy(update={"treated": treated})
            changed_protocol = protocol.model_copy(update={"strategies": strategies})
            asked = asked.model_copy(update={"grace_days": None})  # its own would go before the protocol's
            return _Tried(replace(task, protocol=changed_protocol, analysis=asked), None)
        case LandmarkChange():
            asked = asked.model_copy(update={"landmarks": [change.value]})
            return _Tried(replace(task, analysis=asked, landmark=change.value), None)
        case SalvageChange():
            asked = asked.model_copy(update={"salvage": change.value})
            changed = _count_changed(cohort.patients, with_salvage(cohort).patients)
            return _Tried(replace(task, analysis=asked), changed)
        case LagChange():
            late = lagged(cohort, change.value)
            return _Tried(replace(task, table=late), _count_changed(cohort.patients, late.patients))
        case _:
            variant = next((v for v in variants if v.change == change), None)
            if variant is None:
                raise EvidenceError(
                    f"the cohort under {change.label} was not read",
                    where=f"study {protocol.name}",
                    advice="report it: the study file names it",
                )
            return _of_tables(task, change, variant)


def _of_tables(task: Task, change: TableChange, variant: VariantTables) -> _Tried:
    note = f"on {variant.data_cutoff}" if variant.data_cutoff is not None else None
    if isinstance(change, CensoringChange) and change.data_cutoff is not None:
        note = None  # the value says it
    table = variant.cohort()
    changed = _count_changed(task.table.patients, table.patients)
    return _Tried(replace(task, table=table), changed, note)


def _count_changed(before: pd.DataFrame, after: pd.DataFrame) -> int:
    """Patients for whom anything that the analyses take is another, or who are in one of the tables only."""
    both = before[["patient_id", *_COMPARED]].merge(
        after[["patient_id", *_COMPARED]],
        on="patient_id",
        how="outer",
        suffixes=("", "_after"),
        indicator=True,
    )
    is_other = (both["_merge"] != "both").to_numpy(dtype=bool)
    for name in _COMPARED:
        old, new = both[name], both[f"{name}_after"]
        is_other |= ~((old == new) | (old.isna() & new.isna())).to_numpy(dtype=bool)
    return int(np.count_nonzero(is_other))


def _own_row(
    protocol: Protocol, analysis: Analysis, cohort: CohortTable, findings: Findings
) -> Iterable[GridRow]:
    """What the analysis gives under the protocol's own rules, as it stands among the estimates."""
    task = Task(protocol, analysis, cohort, None, _landmark(protocol, analysis))
    # The answer and a sensitivity may be one model: each has its own row.
    of_its_role = [e for e in findings.estimates if e.role in {analysis.role, "posthoc"}]
    found = hazard_ratio_of(of_its_role, task)
    if found is not None:
        yield _numbers(found, analysis, None)


def _row(e: Estimate, change: RuleChange, protocol: Protocol, analysis: Analysis, tried: _Tried) -> GridRow:
    return _numbers(e, analysis, change).model_copy(
        update={
            "own_value": own_value(protocol, analysis, change.rule),
            "changed": tried.changed,
            "note": tried.note,
        }
    )


def _numbers(e: Estimate, analysis: Analysis, change: RuleChange | None) -> GridRow:
    return GridRow(
        analysis=analysis.analysis,
        landmark_day=e.parameters.landmark_day,
        rule=change.rule if change else None,
        value=change.words() if change else None,
        own_value=None,
        variant=change.label if change else None,
        changed=None,
        n=e.n,
        events=e.events,
        estimate=e.estimate,
        ci_low=e.ci_low,
        ci_high=e.ci_high,
        ci_level=e.ci_level,
        reason=None if e.estimate is not None else " ".join(e.warnings),
        is_posthoc=e.is_posthoc,
    )


def own_value(protocol: Protocol, analysis: Analysis, rule: RuleName) -> str:
    """What the protocol, or the analysis in its place, says where an entry of the grid says another."""
    censoring = protocol.censoring
    until = f" {censoring.data_cutoff}" if censoring.rule == "data_cutoff" else ""
    return {
        "exposure_tiers": ", ".join(protocol.exposure.tiers),
        "gap_days": str(protocol.exposure.gap_days),
        "death_without_date": protocol.outcome.death_without_date,
        "censoring": f"{censoring.rule}{until}",
        "grace_days": str(grace_days(protocol, analysis)),
        "landmark": str(_landmark(protocol, analysis)),
        "salvage": "apart",
        "lag_days": "0",
    }[rule]
