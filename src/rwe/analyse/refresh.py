"""One refresh of a study's evidence: an immutable folder, and `latest` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import rwe
from rwe.analyse.autopsy import bias_autopsy
from rwe.analyse.blind import write_blind_diagnostics
from rwe.analyse.bundle import write_bundle, write_kinetics
from rwe.analyse.describe import (
    baseline_table,
    describe_codelists,
    describe_cohort,
    describe_lock,
    describe_sites,
)
from rwe.analyse.diagnose import diagnose, is_the_answer
from rwe.analyse.plan import run_analyses
from rwe.analyse.read import StudyTables, holds_study, read_study
from rwe.analyse.safety import describe_kinetics, describe_safety, without_single_patients
from rwe.analyse.tasks import PrimaryRows
from rwe.config import Workspace
from rwe.errors import EvidenceError
from rwe.evidence.blind import BlindDiagnostics
from rwe.evidence.contract import SCHEMA_VERSION, Estimate, Evidence, Refresh, StudyIdentity, write_evidence
from rwe.progress import SILENT, Progress
from rwe.scratch import locked, scratch_folder
from rwe.study import Study
from rwe.study.lock import read_lock
from rwe.warehouse.build import build
from rwe.warehouse.opening import private_key


@dataclass(frozen=True)
class Analysed:
    """A refresh that was written. `path` is its evidence.json."""

    refresh: str
    path: Path
    evidence: Evidence


def analyse(workspace: Workspace, study: Study, *, progress: Progress = SILENT) -> Analysed:
    """Run the analyses of a study and write evidence/STUDY/REFRESH/evidence.json.

    Reads the private build if it was made with exactly this protocol; else (a study file by path, or
    one changed since the build) its tables are built privately and thrown away afterwards.

    Raises EvidenceError where nothing has landed or nobody is left in the cohort.
    """
    tables = study_tables(workspace, study, progress)
    evidence, primary = make_evidence(study, tables, created_at=datetime.now(UTC), progress=progress)
    folder_of_study = workspace.evidence / study.name
    folder_of_refresh = folder_of_study / evidence.refresh.id
    folder_of_refresh.mkdir(parents=True)
    path = folder_of_refresh / "evidence.json"
    write_evidence(evidence, path)
    if workspace.cipher() is None:
        with locked(workspace.private / "build.lock"):  # an erasure holds it, too
            if _is_still_there(workspace, study, tables):
                _write_single_patients(study, tables, primary, folder_of_refresh)
    _point_latest(folder_of_study, evidence.refresh.id)
    return Analysed(evidence.refresh.id, path, evidence)


def _is_still_there(workspace: Workspace, study: Study, tables: StudyTables) -> bool:
    """Whether the private build is the one that was read: a patient may have been erased in between."""
    key = private_key(workspace)
    if not holds_study(workspace.private_database, study, key):
        return not workspace.private_database.exists() or study.path.parent != workspace.studies
    return read_study(workspace.private_database, study, key).content_sha256 == tables.content_sha256


def _write_single_patients(
    study: Study, tables: StudyTables, primary: tuple[PrimaryRows, Estimate] | None, folder: Path
) -> None:
    if primary is not None:
        write_bundle(*primary, folder)
    kinetics = describe_kinetics(study, tables)
    if kinetics is not None and (kinetics.traces or kinetics.case_series):
        write_kinetics(kinetics, folder)


def study_tables(workspace: Workspace, study: Study, progress: Progress = SILENT) -> StudyTables:
    """The study's tables of the private build, or of one made for it and thrown away. Raises as `analyse`."""
    key = private_key(workspace)
    if holds_study(workspace.private_database, study, key):
        return read_study(workspace.private_database, study, key)
    with scratch_folder(workspace.private, "analyse-") as folder:
        target = folder / "private.duckdb"
        build(workspace, [study], target=target, progress=progress)
        return read_study(target, study, key)


def analyse_blind(
    workspace: Workspace, study: Study, *, progress: Progress = SILENT
) -> tuple[Path, BlindDiagnostics]:
    """Diagnostics without any outcome by strategy, for who decides on the protocol. Raises as `analyse`."""
    tables = study_tables(workspace, study, progress)
    return write_blind_diagnostics(study, tables, workspace.evidence)


def make_evidence(
    study: Study, tables: StudyTables, *, created_at: datetime, progress: Progress = SILENT
) -> tuple[Evidence, tuple[PrimaryRows, Estimate] | None]:
    """The evidence of one study from its tables, and the rows behind its primary estimate if there is one.

    The same tables give the same numbers.
    """
    p = study.protocol
    cohort, lock = tables.cohort(), read_lock(study)
    findings = run_analyses(p, cohort, progress, lock)
    stamp = created_at.strftime("%Y%m%dT%H%M%S%fZ")
    evidence = Evidence(
        schema_version=SCHEMA_VERSION,
        audience="internal",
        seed=p.seed,
        study=StudyIdentity(
            name=p.name,
            version=p.version,
            title=p.title,
            question=p.question,
            protocol_sha256=study.protocol_sha256,
        ),
        protocol=p.model_dump(mode="json"),
        codelists=describe_codelists(study),
        refresh=Refresh(
            id=f"{stamp}-{tables.content_sha256[:8]}",
            created_at=created_at,
            data_cutoff=tables.data_cutoff,
            code_version=rwe.__version__,
            content_sha256=tables.content_sha256,
        ),
        sites=describe_sites(tables),
        runs=tables.runs,
        quality=tables.quality,
        cohort=describe_cohort(study, tables),
        attrition=tables.attrition,
        baseline=baseline_table(study, tables),
        estimates=findings.estimates,
        curves=findings.curves,
        refused=findings.refused,
        warnings=findings.warnings(),
        diagnostics=diagnose(p, cohort, findings),
        safety=describe_safety(study, tables),
        kinetics=without_single_patients(describe_kinetics(study, tables)),
        bias_autopsy=bias_autopsy(p, cohort, findings.estimates),
        protocol_lock=describe_lock(lock),
    )
    found = [e for e in findings.estimates if is_the_answer(e)]
    return evidence, (findings.primary, found[0]) if findings.primary and found else None


def latest_folder(workspace: Workspace, study: str) -> Path:
    """The folder of a study's newest refresh. Raises EvidenceError if there is none."""
    folder: Path = workspace.evidence / study / "latest"
    if not folder.is_dir():
        raise EvidenceError(
            "there is no evidence yet", where=f"study {study}", advice="run `rwe analyse` first"
        )
    return folder


def _point_latest(folder: Path, refresh: str) -> None:
    aside = folder / ".latest.new"
    aside.unlink(missing_ok=True)
    aside.symlink_to(refresh, target_is_directory=True)
    aside.replace(folder / "latest")
