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
    describe_sites,
)
from rwe.analyse.diagnose import answer_of, diagnose
from rwe.analyse.looks import Before, describe_history
from rwe.analyse.outside_lock import describe_lock, mark_outside_lock, with_refreshes_before
from rwe.analyse.own_tables import own_tables
from rwe.analyse.plan import run_analyses
from rwe.analyse.pool import pooled_tables, without_cohort_changes
from rwe.analyse.read import StudyTables
from rwe.analyse.run_grid import run_grid
from rwe.analyse.run_synthesis import synthesise
from rwe.analyse.safety import describe_kinetics, describe_safety, without_single_patients
from rwe.analyse.tasks import PrimaryRows
from rwe.config import Workspace
from rwe.errors import EvidenceError
from rwe.evidence.blind import BlindDiagnostics
from rwe.evidence.contract import (
    SCHEMA_VERSION,
    Estimate,
    Evidence,
    Refresh,
    StudyIdentity,
    read_evidence,
    write_evidence,
)
from rwe.evidence.federated import federated_estimates
from rwe.evidence.history import History
from rwe.history.inputs import inputs_of
from rwe.history.kept_lock import keep_lock
from rwe.history.ledger import (
    history_folder,
    holds_erased,
    key_id,
    ledger_path,
    read_ledger,
    retain,
    seal_open,
    write_ledger,
)
from rwe.history.manifest import (
    EVIDENCE,
    Inputs,
    Manifest,
    manifest_sha256,
    read_manifest,
    sealed,
    verify,
    write_manifest,
    written_whole,
)
from rwe.history.past import Past, lenient_evidence, read_past, refresh_folders
from rwe.history.words import repeated_looks
from rwe.progress import SILENT, Progress
from rwe.scratch import locked
from rwe.study import Study
from rwe.study.lock import read_lock


@dataclass(frozen=True)
class Analysed:
    """A refresh, written now or (`is_new` is false) by an earlier run from the same inputs. `path` is its
    evidence.json. `note` says where it stands among the looks at this study."""

    refresh: str
    path: Path
    evidence: Evidence
    is_new: bool = True
    note: str = ""


def analyse(
    workspace: Workspace, study: Study, *, progress: Progress = SILENT, force: bool = False
) -> Analysed:
    """Run the analyses of a study and write a refresh: evidence/STUDY/REFRESH/, never changed afterwards.

    Reads the private build if it was made with exactly this protocol; else (a study file by path, or
    one changed since the build) its tables are built privately and thrown away afterwards. Where tables,
    protocol, code, lock and the hub's federated estimates are those of the newest refresh there is nothing
    new: that one is returned and nothing is written, unless `force`.

    Raises EvidenceError where nothing has landed or nobody is left in the cohort. Raises as `keep_lock`, too.
    """
    keep_lock(workspace, study)
    tables = study_tables(workspace, study, progress, with_variants=True)
    federated = federated_estimates(workspace.root, study.name, study.protocol_sha256)
    key = workspace.pseudonym_key()
    inputs = inputs_of(study, tables, read_lock(study), key=key, federated=federated.found)
    seal_open(workspace, study.name)
    if not force:
        # Under the lock: a refresh that ends meanwhile is newer, and `latest` must stay with it.
        with locked(history_folder(workspace, study.name) / ".lock"):
            same = _same_as_newest(workspace, study, inputs)
        if same is not None:
            return same
    evidence, primary = make_evidence(study, tables, created_at=datetime.now(UTC), progress=progress)
    with locked(history_folder(workspace, study.name) / ".lock"):  # two at once would be one look
        past = read_past(workspace, study.name)
        before = _before(workspace, study, past)
        history, ledger = describe_history(
            study, tables, evidence, inputs, past=past, before=before, key_id=key_id(workspace)
        )
        is_made_up = workspace.settings.patients == "made_up"
        evidence = evidence.model_copy(
            update={
                "history": history,
                "protocol_lock": with_refreshes_before(evidence.protocol_lock, past.looks),
                "federated": federated.found,
                "is_made_up": is_made_up,
                "warnings": [*evidence.warnings, *federated.warnings],
            }
        )
        folder = _write_refresh(workspace, evidence, history, inputs, past)
        with locked(workspace.private / "build.lock"):  # an erasure holds it, too
            if not holds_erased(workspace, ledger):
                write_ledger(workspace, ledger_path(workspace, study.name, folder.name), ledger)
                retain(workspace, study.name)
                if workspace.cipher() is None:
                    _write_single_patients(study, tables, primary, folder)
        _point_latest(folder.parent, folder.name)
    return Analysed(folder.name, folder / EVIDENCE, evidence, note=repeated_looks(history.look))


def _same_as_newest(workspace: Workspace, study: Study, inputs: Inputs) -> Analysed | None:
    """The newest refresh, if it was made of the same and is as it was written."""
    folders = refresh_folders(workspace, study.name)
    if not folders:
        return None
    found = verify(folders[-1])
    if found.problems or found.manifest is None or found.manifest.inputs != inputs:
        return None
    try:
        evidence = read_evidence(folders[-1] / EVIDENCE)
    except EvidenceError:
        return None
    _point_latest(folders[-1].parent, folders[-1].name)
    at = f"{found.manifest.created_at:%Y-%m-%d %H:%M} UTC"
    note = f"Nothing new since the refresh of {at}: the same data, protocol, code and lock."
    return Analysed(folders[-1].name, folders[-1] / EVIDENCE, evidence, is_new=False, note=note)


def _before(workspace: Workspace, study: Study, past: Past) -> Before:
    """What is kept of the newest refresh that can be believed."""
    if not past.looks:
        return Before()
    folder = workspace.evidence / study.name / past.looks[-1].refresh
    manifest, then = read_manifest(folder), lenient_evidence(folder)
    return Before(
        look=past.looks[-1],
        inputs=manifest.inputs if manifest else None,
        ledger=read_ledger(workspace, study.name, folder.name),
        protocol=then.get("protocol"),
        codelists=then.get("codelists"),
    )


def _write_refresh(
    workspace: Workspace, evidence: Evidence, history: History, inputs: Inputs, past: Past
) -> Path:
    folder: Path = workspace.evidence / evidence.study.name / evidence.refresh.id
    with written_whole(folder) as part:
        write_evidence(evidence, part / EVIDENCE)
        manifest = Manifest(
            study=evidence.study.name,
            refresh=evidence.refresh.id,
            created_at=evidence.refresh.created_at,
            content_sha256=evidence.refresh.content_sha256,
            inputs=inputs,
            look=history.looks[-1].model_dump(mode="json"),
            files=sealed(part, [EVIDENCE]),
            before_refresh=past.newest.name if past.newest else None,
            before=manifest_sha256(past.newest) if past.newest else None,
        )
        write_manifest(part, manifest)
    return folder


def _write_single_patients(
    study: Study, tables: StudyTables, primary: tuple[PrimaryRows, Estimate] | None, folder: Path
) -> None:
    if primary is not None:
        write_bundle(*primary, folder)
    kinetics = describe_kinetics(study, tables)
    if kinetics is not None and (kinetics.traces or kinetics.case_series):
        write_kinetics(kinetics, folder)


def study_tables(
    workspace: Workspace, study: Study, progress: Progress = SILENT, *, with_variants: bool = False
) -> StudyTables:
    """The study's tables of the private build, or of one made for it and thrown away, with what other sites
    shared of them.

    `with_variants`: also those of its sensitivity grid. Raises as `analyse`.
    """
    return pooled_tables(
        workspace, study, lambda: own_tables(workspace, study, progress, with_variants=with_variants)
    )


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
    grid = run_grid(without_cohort_changes(study, tables).protocol, tables, findings, progress, lock)
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
        baseline=baseline_table(study, tables, findings.balanced()),
        estimates=findings.estimates,
        curves=findings.curves,
        refused=findings.refused,
        warnings=[*findings.warnings(), *(tables.pooling.notes if tables.pooling else ())],
        diagnostics=diagnose(p, cohort, findings, tables.intercurrent),
        safety=describe_safety(study, tables),
        kinetics=without_single_patients(describe_kinetics(study, tables)),
        bias_autopsy=bias_autopsy(p, cohort, findings.estimates),
        protocol_lock=describe_lock(lock),
        sensitivity_grid=grid,
        synthesis=synthesise(p, cohort, findings, tables.pooling),
    )
    evidence = mark_outside_lock(evidence, lock, p)
    found = answer_of(findings.estimates)
    return evidence, (findings.primary, found) if findings.primary and found else None


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
