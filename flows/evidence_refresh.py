"""After the night: rebuild the database, rerun every study, write its report.

Prefect only arranges: the work is `build`, `analyse` and `write_report`, which run without Prefect as
`rwe refresh`. Results hold names, counts and paths, nothing of a patient.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from rwe import progress
from rwe.analyse import analyse
from rwe.audit import audited
from rwe.config import open_workspace
from rwe.errors import RweError
from rwe.report.page import write_report
from rwe.study import load_studies, load_study
from rwe.warehouse.build import build


@task(name="build-database", persist_result=False)
def build_database(workspace: str) -> str:
    """The path of the checked, published database."""
    opened = open_workspace(Path(workspace))
    try:
        studies = load_studies(opened.studies)
        with audited(opened, "build") as deed:
            result = build(opened, studies, progress=progress.current())
            deed.counts = result.tables
        return str(result.path)
    except RweError:
        raise
    except Exception as e:  # Prefect stores an exception's text, and this one's may hold a record's values
        raise RweError(f"unexpected {type(e).__name__}", where="build") from None


@task(name="analyse-study", task_run_name="analyse {study}", persist_result=False)
def analyse_study(workspace: str, study: str) -> str:
    """The path of the study's new report; its evidence.json lies beside it."""
    opened = open_workspace(Path(workspace))
    try:
        read = load_study(opened.studies / f"{study}.yaml")
        with audited(opened, "analyse", study=study) as deed:
            result = analyse(opened, read, progress=progress.current())
            deed.counts = {"patients": result.evidence.cohort.n}
        page = result.path.with_name("report.html")
        with audited(opened, "report", study=study):
            write_report(result.path, page)
    except RweError:
        raise
    except Exception as e:
        raise RweError(f"unexpected {type(e).__name__}", where=f"study {study}") from None
    return str(page)


@flow(name="evidence-refresh", persist_result=False, log_prints=False)
def evidence_refresh(workspace: str, studies: list[str] | None = None) -> dict[str, str]:
    """Refresh the named studies, or all of the workspace. Returns the path of each study's report."""
    build_database(workspace)
    folder = open_workspace(Path(workspace)).studies
    names = studies or [path.stem for path in sorted(folder.glob("*.yaml"))]
    return {name: analyse_study(workspace, name) for name in names}
