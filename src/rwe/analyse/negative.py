"""Negative controls: the primary analysis run on outcomes that the treatment cannot affect.

What it finds there is its systematic error; with enough of them the primary estimate is calibrated by it (see
`rwe.survival.negative_controls`). An outcome is the first record of an intercurrent event that the protocol
handles as treatment policy. Whatever ends follow-up in the study ends it here, too, and censors: death, the
other events of a composite outcome, events that censor (weighted for as the analysis does), the last contact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from rwe.analyse.plan import run_task
from rwe.analyse.tasks import Findings, Task
from rwe.errors import RweError
from rwe.evidence.parts import CalibratedEstimate, NegativeControlEstimate, NegativeControls
from rwe.study import Protocol
from rwe.survival.data import CohortTable, FloatArray
from rwe.survival.negative_controls import (
    FEWEST_CONTROLS,
    NegativeControl,
    calibrate,
    systematic_error,
)
from rwe.survival.tables import numbers

_DAYS = ("start_day", "salvage_start_day", "progression_day")
WALD_NOT_PROFILE = (
    "Firth's estimates are calibrated by their standard errors (Wald), not by the profile of the penalised "
    "likelihood: where a group has few events the two can be far apart, on either side."
)


def negative_controls(findings: Findings, intercurrent: pd.DataFrame) -> NegativeControls | None:
    """Run the analysis that gives the answer on each negative control of the protocol, and calibrate it.

    `intercurrent`: patient_id, event, day (the first after index). None where the protocol names none, or
    there is no primary analysis.
    """
    task = findings.answer
    if task is None or not task.protocol.negative_controls:
        return None
    controls, known = [], []
    for name in task.protocol.negative_controls:
        shown, estimate = _control(task, name, intercurrent)
        controls.append(shown)
        if estimate is not None:
            known.append(estimate)
    calibrated, why = _calibrated(findings, known)
    return NegativeControls(
        controls=controls, fewest=FEWEST_CONTROLS, calibrated=calibrated, not_calibrated=why
    )


def follow_up_of_controls(protocol: Protocol) -> list[str]:
    """What besides death and the last contact ends follow-up in the runs on negative controls, as a note."""
    outcome = [f"{name} (part of the outcome)" for name in protocol.composite_events()]
    censoring = [f"{e.name} (ends follow-up in this study)" for e in protocol.censoring_events()]
    if not protocol.negative_controls or not (outcome or censoring):
        return []
    *others, last = ["death", *outcome, *censoring]
    return [
        f"The runs on negative controls end at {', '.join(others)} and {last}: only a record before those "
        "counts."
    ]


def with_outcome(table: CohortTable, day: FloatArray) -> CohortTable:
    """The table with another outcome: an event on `day` (NaN: none); what ended follow-up otherwise censors.

    A day after the end of follow-up is none. A start or a progression after the event counts no more; nor
    does one on its day, for nobody knows which was first. (Whoever starts on the day of death was alive then;
    a record says nothing of the kind, and many are made at the visit at which treatment starts.)
    """
    patients = table.patients
    end = numbers(patients, "time_days", "patients")
    happens = day <= end
    time = np.where(happens, day, end)
    before: dict[str, pd.Series] = {}
    for name in _DAYS:
        if name in patients.columns:
            when = patients[name]
            before[name] = when.where((when < time) | ((when == time) & ~happens))
    changed = patients.assign(time_days=time.astype(np.int64), is_event=happens, **before)
    return CohortTable(changed, table.changes)


def _control(
    task: Task, name: str, intercurrent: pd.DataFrame
) -> tuple[NegativeControlEstimate, NegativeControl | None]:
    mine = intercurrent[intercurrent["event"] == name].groupby("patient_id")["day"].min()
    day = task.table.patients["patient_id"].map(mine).to_numpy(dtype=np.float64, na_value=np.nan)
    analysis = task.analysis.model_copy(update={"role": "sensitivity"})
    found = Findings()
    failure = run_task(replace(task, analysis=analysis, table=with_outcome(task.table, day)), found)
    e = next((e for e in found.estimates if e.estimand == "hazard_ratio"), None)
    blank = NegativeControlEstimate(
        outcome=name,
        patients=e.n if e else len(task.table),
        events=e.events if e else 0,
        hazard_ratio=None,
        ci_low=None,
        ci_high=None,
        p_value=None,
        refused=str(failure) if failure else None,
    )
    if e is None or e.log_estimate is None or e.estimate is None or not e.se:
        why = blank.refused or " ".join(e.warnings[:1] if e else ()) or "There is no estimate."
        return blank.model_copy(update={"refused": why}), None
    values = {"hazard_ratio": e.estimate, "ci_low": e.ci_low, "ci_high": e.ci_high, "p_value": e.p_value}
    return blank.model_copy(update=values), NegativeControl(name, e.log_estimate, e.se)


def _calibrated(
    findings: Findings, known: list[NegativeControl]
) -> tuple[CalibratedEstimate | None, str | None]:
    answer = next((e for e in findings.estimates if e.is_the_answer), None)
    if answer is None or answer.log_estimate is None or not answer.se:
        return None, "The primary analysis has no estimate with a standard error."
    level = answer.ci_level or 0.95
    try:
        error = systematic_error(known, level=level)
        found = calibrate(answer.log_estimate, answer.se, error, level=level)
    except RweError as e:
        return None, str(e)
    warnings = [*found.warnings, WALD_NOT_PROFILE] if answer.analysis.endswith("_firth") else found.warnings
    return (
        CalibratedEstimate(
            error_mean=error.mean,
            error_sd=error.sd,
            share_excluding_null=error.share_excluding_null,
            hazard_ratio=found.estimate,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            ci_level=found.ci_level,
            p_value=found.p_value,
            warnings=list(warnings),
        ),
        None,
    )
