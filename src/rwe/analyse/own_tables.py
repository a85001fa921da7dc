"""The study's tables of this workspace's own patients: of its build, or of one made and thrown away."""

from __future__ import annotations

from rwe.analyse.read import StudyTables, holds_study, read_study
from rwe.config import Workspace
from rwe.progress import SILENT, Progress
from rwe.scratch import scratch_folder
from rwe.study import Study
from rwe.warehouse.build import build
from rwe.warehouse.opening import private_key


def own_tables(
    workspace: Workspace, study: Study, progress: Progress = SILENT, *, with_variants: bool = False
) -> StudyTables:
    """Without what others shared with the workspace. `with_variants`: also those of its sensitivity grid.

    Raises EvidenceError where nobody is in the cohort, BuildError as `read_study`.
    """
    key = private_key(workspace)
    if holds_study(workspace.private_database, study, key):
        return read_study(workspace.private_database, study, key, with_variants=with_variants)
    with scratch_folder(workspace.private, "analyse-") as folder:
        target = folder / "private.duckdb"
        build(workspace, [study], target=target, progress=progress)
        return read_study(target, study, key, with_variants=with_variants)
