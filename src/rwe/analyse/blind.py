"""Before the lock: what can be looked at without seeing the outcome by strategy.

Balance, overlap, weights, follow-up and what the study could detect. No survival, no death and no censoring
is given by strategy: any of them would give the outcome away. (How many started, and how many are still
followed at the end of the grace period, stand there: they bound how many were lost or died before.)
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rwe.analyse.blind_power import BlindPower, blind_power
from rwe.analyse.describe import baseline_table
from rwe.analyse.diagnose import arm_weights
from rwe.analyse.outside_lock import describe_lock
from rwe.analyse.read import StudyTables
from rwe.analyse.run_emulation import balance_after, emulated
from rwe.analyse.tasks import BalanceAfter, Task
from rwe.errors import RweError
from rwe.evidence.blind import BlindDiagnostics, write_blind
from rwe.evidence.parts import ArmWeights, PositivityCell
from rwe.study import Analysis, Study
from rwe.study.lock import read_lock
from rwe.survival.kaplan_meier import median_follow_up


def blind_diagnostics(study: Study, tables: StudyTables) -> BlindDiagnostics:
    """Everything that may be seen before the protocol is locked."""
    p, cohort = study.protocol, tables.cohort()
    s = tables.survival
    treated, control = p.strategies.treated, p.strategies.control
    started = s["start_day"].notna()
    notes: list[str] = []
    weights, positivity, balance = _weights(study, tables, notes)
    power: BlindPower | None = None
    try:
        power = blind_power(p, cohort)
        notes.append(power.sentence())
    except RweError as e:
        notes.append(str(e))
    return BlindDiagnostics(
        study=p.name,
        version=p.version,
        protocol_sha256=study.protocol_sha256,
        created_at=datetime.now(UTC),
        content_sha256=tables.content_sha256,
        lock=describe_lock(read_lock(study)),
        attrition=tables.attrition,
        n=len(s),
        events=int(s["is_event"].sum()),
        n_by_strategy={treated.name: int(started.sum()), control.name: int((~started).sum())},
        started_after_progression=int((s["salvage_start_day"].notna() & ~started).sum()),
        median_follow_up_days=median_follow_up(cohort).estimate,
        baseline=baseline_table(study, tables, balance),
        weights=weights,
        positivity=positivity,
        detectable=power.detectable if power else None,
        exposure_r_squared=power.r_squared if power else None,
        notes=notes,
    )


def _weights(
    study: Study, tables: StudyTables, notes: list[str]
) -> tuple[list[ArmWeights], list[PositivityCell], BalanceAfter | None]:
    """Weights and strata of clone-censor-weight, as the protocol adjusts; they rest on starts alone."""
    p = study.protocol
    adjusted = [a for a in p.analyses if a.adjusted_for and a.endpoint == "outcome" and a.salvage == "apart"]
    if not adjusted:
        notes.append("No analysis adjusts for anything, so there are no weights to look at.")
        return [], [], None
    first = min(adjusted, key=lambda a: (a.analysis != "clone_censor_weight", a.role != "primary"))
    asked = (
        first
        if first.analysis == "clone_censor_weight"
        else Analysis(
            analysis="clone_censor_weight", adjusted_for=first.adjusted_for, stratify_by=first.stratify_by
        )
    )
    task = Task(p, asked.model_copy(update={"replicates": 0}), tables.cohort(), None)
    try:
        found = emulated(task, horizon=1)
    except RweError as e:
        notes.append(f"Weights: {e}")
        return [], [], None
    notes.extend(found.warnings_of_starts)
    cells = [
        PositivityCell(covariate=c.covariate, level=c.level, started=c.started, not_started=c.not_started)
        for c in found.positivity
    ]
    balance = balance_after(task, found)
    if balance is not None:
        notes.append(f"Differences after weighting are of: {balance.words}.")
    return [w.model_copy(update={"patients": None}) for w in arm_weights(task, found)], cells, balance


def write_blind_diagnostics(study: Study, tables: StudyTables, folder: Path) -> tuple[Path, BlindDiagnostics]:
    """Write blind.json into a new folder of the study's evidence; returns its path and content."""
    found = blind_diagnostics(study, tables)
    place = folder / study.name / f"blind-{found.created_at:%Y%m%dT%H%M%S%fZ}"
    place.mkdir(parents=True)
    path = place / "blind.json"
    write_blind(found, path)
    return path, found
