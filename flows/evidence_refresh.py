"""After the night: rebuild the database, rerun every study, write its report, tell what moved.

Prefect only arranges: the work is `build`, `analyse` and `report_of`, which run without Prefect as
`rwe refresh`. Results hold names, counts and paths, nothing of a patient.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import flow, get_run_logger, runtime, task
from prefect.concurrency.sync import concurrency

from rwe import progress
from rwe.arrivals import Arrivals, await_sites
from rwe.audit import audited
from rwe.config import Workspace, open_workspace
from rwe.deploying import names, telling
from rwe.deploying.orders import Refreshed
from rwe.errors import BuildError, EvidenceError, PartialError, RweError
from rwe.evidence.contract import Evidence, read_evidence
from rwe.flow_run import part_of_flow_run
from rwe.status import workspace_status
from rwe.study import load_named_study, load_studies
from rwe.warehouse.build import build
from rwe.wording import counted

_PAUSE_SECONDS = 5.0


class PartlyRefreshedError(PartialError):
    """Some studies failed; `reports` are the paths of the others' reports, by study."""

    def __init__(self, reports: dict[str, str], failures: dict[str, RweError]) -> None:
        self.reports, self.failures = reports, failures
        reasons = " / ".join(f"{name}: {str(e).rstrip('.')}" for name, e in failures.items())
        total = counted(len(reports) + len(failures), "study", "studies")
        super().__init__(f"{len(failures)} of {total} failed: {reasons}", advice="the others are done")


@task(name="await-sites", persist_result=False)
def await_nights(workspace: str, hours: float) -> Arrivals:
    """Wait until every site's night is over, at most so many hours."""
    opened, logger = open_workspace(Path(workspace)), get_run_logger()

    said: list[tuple[str, ...]] = []

    def say(found: Arrivals) -> None:
        if found.awaited not in said:
            said.append(found.awaited)
            logger.info("waiting for %s", ", ".join(found.awaited))

    try:
        until = datetime.now(UTC) + timedelta(hours=hours)
        found = await_sites(opened, until, pause_seconds=_PAUSE_SECONDS, on_wait=say)
    except RweError:
        raise
    except Exception as e:
        raise RweError(f"unexpected {type(e).__name__}", where="waiting for the sites") from None
    if found.awaited or found.failed:
        logger.warning("going on without tonight's data of %s", ", ".join((*found.awaited, *found.failed)))
    return found


@task(name="build-database", persist_result=False)
def build_database(workspace: str) -> str:
    """The path of the checked, published database."""
    opened = open_workspace(Path(workspace))
    try:
        studies = load_studies(opened.studies)
        with audited(opened, "build") as deed:
            result = build(opened, studies, progress=_watched())
            deed.counts = result.tables
            deed.run = result.content_sha256[:16]
        return str(result.path)
    except BuildError as e:
        if (e.where or "").startswith("check "):
            telling.check_failed(e)
        raise
    except RweError:
        raise
    except Exception as e:  # Prefect stores an exception's text, and this one's may hold a record's values
        raise RweError(f"unexpected {type(e).__name__}", where="build") from None


@task(name="analyse-study", task_run_name="analyse {study}", persist_result=False)
def analyse_study(workspace: str, study: str) -> Refreshed:
    """The study's new refresh; its evidence.json lies beside the report."""
    # `rwe deploy` reads this file, too, and need not wait for estimators and figures.
    from rwe.analyse import analyse  # noqa: PLC0415
    from rwe.history.kept_lock import require_lock_kept  # noqa: PLC0415
    from rwe.history.report import report_of  # noqa: PLC0415

    opened = open_workspace(Path(workspace))
    try:
        read = load_named_study(opened.studies / f"{study}.yaml")
        require_lock_kept(opened, read)
        before = _latest(opened, read.name)
        with audited(opened, "analyse", study=study) as deed:
            result = analyse(opened, read, progress=_watched())
            deed.counts = {"patients": result.evidence.cohort.n}
            deed.run = result.refresh
        if result.note:
            get_run_logger().info(result.note)
        with audited(opened, "report", study=study) as deed:
            page = report_of(result.path.parent)
            deed.run = result.refresh
    except RweError:
        raise
    except Exception as e:
        raise RweError(f"unexpected {type(e).__name__}", where=f"study {study}") from None
    return Refreshed(before, result.evidence, page)


@flow(name=names.REFRESH, persist_result=False, log_prints=False)
def evidence_refresh(
    workspace: str, studies: list[str] | None = None, wait_for_sites: bool = False
) -> dict[str, str]:
    """Refresh the named studies, or all of the workspace. Returns the path of each study's report.

    With `wait_for_sites` it begins when every site's night is over, or at the workspace's deadline with
    those that arrived. Raises BuildError, PartlyRefreshedError naming the studies that failed while others
    are done, and where there is no other the study's own error.
    """
    opened = open_workspace(Path(workspace))
    with part_of_flow_run(runtime.flow_run.id):
        if wait_for_sites:
            await_nights(workspace, opened.settings.schedule.refresh_deadline_hours)
        _tell_stale(opened)
        chosen = studies or [path.stem for path in sorted(opened.studies.glob("*.yaml"))]
        with _only_refresh():
            build_database(workspace)
            return _analyse_all(opened, chosen)


def _only_refresh() -> AbstractContextManager[None]:
    """The slot of builds, where `rwe deploy` made one."""
    if runtime.deployment.id is None:
        return nullcontext()
    return concurrency(
        names.BUILD_LIMIT,
        strict=True,
        lease_duration=names.LEASE_SECONDS,
        raise_on_lease_renewal_failure=False,  # the build's own lock keeps two apart, too
    )


def _analyse_all(opened: Workspace, studies: list[str]) -> dict[str, str]:
    reports: dict[str, str] = {}
    failures: dict[str, RweError] = {}
    for name in studies:
        try:
            found = analyse_study(str(opened.root), name)
        except RweError as e:
            failures[name] = e
            continue
        reports[name] = str(found.page)
        _tell_of_study(opened, found)
    if failures and reports:
        raise PartlyRefreshedError(reports, failures)
    if failures:
        raise next(iter(failures.values()))
    return reports


def _tell_of_study(opened: Workspace, found: Refreshed) -> None:
    telling.show_refresh(opened, found.after, found.page)
    answers = [e for e in found.after.estimates if e.is_the_answer and e.log_estimate is not None]
    change = telling.primary_change(found.before, found.after, answers)
    threshold = opened.settings.schedule.moved_log
    if change is not None and abs(change) > threshold:
        telling.estimate_moved(found.after.study.name, threshold)


def _tell_stale(opened: Workspace) -> None:
    status, settings = workspace_status(opened), opened.settings
    telling.show_sites(status)
    for one in status.sites:
        site = settings.sites.get(one.site)
        if site is None or site.base_url is None:
            continue
        allowed = settings.schedule.stale_after_hours_of(site)
        if one.fresh_hours is None or one.fresh_hours > allowed:
            telling.site_stale(one.site, one.fresh_hours, allowed)


def _latest(opened: Workspace, study: str) -> Evidence | None:
    from rwe.analyse import latest_folder  # noqa: PLC0415

    try:
        return read_evidence(latest_folder(opened, study) / "evidence.json")
    except EvidenceError:  # none yet, or of another version
        return None


def _watched() -> progress.Progress:
    """What whoever started the flow watches; else Prefect shows it."""
    watched = progress.current()
    return telling.PrefectProgress("refresh") if watched is progress.SILENT else watched
