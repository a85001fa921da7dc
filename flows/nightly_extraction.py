"""What lands: every night what is new at each hospital, every week everything, by hand what was named.

Prefect only arranges: the work is `rwe.extract.extract_site`, which runs without Prefect as `rwe extract`.
Sites are pulled side by side, each in a subflow, and one that fails does not stop the others. Parameters and
results hold names of sites, types and runs and counts, nothing of a patient.

Run from a deployment (`rwe deploy`), a site has a time budget, what may be over in minutes is tried again,
and a slot keeps the runs of one site apart. Run by hand, as `rwe demo` does, it has none of the three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.concurrency.sync import concurrency

from rwe import progress
from rwe.arrivals import NIGHT
from rwe.audit import record
from rwe.config import open_workspace
from rwe.deploying import names, telling
from rwe.deploying.orders import Order
from rwe.deploying.transient import is_transient
from rwe.errors import LandingError, PartialError, RweError
from rwe.extract import ExtractionResult, PartlyLandedError, extract_site, raise_for_failures
from rwe.flow_run import current_flow_run, part_of_flow_run
from rwe.run_limits import Limits
from rwe.status import workspace_status
from rwe.study import load_studies

_JITTER = 0.5


def _may_pass(_task: object, _run: object, state: Any) -> bool:
    """Whether Prefect should try a site again."""
    return is_transient(state.result(raise_on_failure=False))


@task(
    name="land-site",
    task_run_name="land {site}",
    persist_result=False,
    retry_condition_fn=_may_pass,
    retry_jitter_factor=_JITTER,
)
def land_site(  # noqa: PLR0917
    workspace: str, site: str, full: bool, types: list[str], since: datetime | None, until: datetime | None
) -> ExtractionResult:
    """Land one site. HTTP retries ended inside the client before a task is tried again."""
    opened = open_workspace(Path(workspace))
    watched = progress.current()
    shown = telling.PrefectProgress(site) if watched is progress.SILENT else watched
    try:
        return extract_site(
            opened,
            site,
            load_studies(opened.studies),
            full=full,
            limits=Limits(frozenset(types), since, until),
            progress=shown,
        )
    except RweError:
        raise
    except Exception as e:  # Prefect stores an exception's text, and this one's may hold a record's values
        raise RweError(f"unexpected {type(e).__name__}", where=f"site {site}") from None


@flow(name="site-extraction", flow_run_name="{site}", persist_result=False, log_prints=False)
def site_extraction(  # noqa: PLR0917
    workspace: str,
    site: str,
    full: bool = False,
    types: list[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    retries: int = 0,
    retry_seconds: float = 0,
) -> ExtractionResult:
    """One site's part of a run."""
    patient = land_site.with_options(retries=retries, retry_delay_seconds=retry_seconds)
    return patient(workspace, site, full, types or [], since, until)


@flow(name=names.NIGHTLY, persist_result=False, log_prints=False)
def nightly_extraction(workspace: str, sites: list[str] | None = None) -> list[ExtractionResult]:
    """Land what is new of every site of the workspace that has a server, or only of `sites`.

    Raises PartlyExtractedError naming the sites that failed and those of which only some types landed
    (SiteError if nothing landed at all); what landed is kept. A run that crashed counts as a failure.
    """
    return _land(Order(open_workspace(Path(workspace))), sites)


@flow(name=names.RECONCILE, persist_result=False, log_prints=False)
def reconcile(workspace: str, sites: list[str] | None = None) -> list[ExtractionResult]:
    """Pull everything of the sites anew, whatever the watermarks say: what is gone there is found.

    Raises as `nightly_extraction` does.
    """
    return _land(Order(open_workspace(Path(workspace)), full=True), sites)


@flow(name=names.BACKFILL, persist_result=False, log_prints=False)
def backfill(
    workspace: str, site: str, types: list[str] | None = None, since: datetime | None = None
) -> list[ExtractionResult]:
    """Pull some types of a site again (all where none is named), from `since` on; without it, all of them.

    An instant without an offset is in UTC. Raises as `nightly_extraction` does.
    """
    aware = since.replace(tzinfo=UTC) if since and since.tzinfo is None else since
    order = Order(open_workspace(Path(workspace)), full=aware is None, types=tuple(types or ()), since=aware)
    return _land(order, [site])


def _land(order: Order, sites: list[str] | None) -> list[ExtractionResult]:
    settings = order.workspace.settings
    chosen = list(dict.fromkeys(sites or [name for name, site in settings.sites.items() if site.base_url]))
    is_deployed = runtime.deployment.id is not None
    results: list[ExtractionResult] = []
    failures: dict[str, RweError] = {}
    with part_of_flow_run(runtime.flow_run.id):
        for name, outcome in _outcomes(order, chosen, is_deployed).items():
            if isinstance(outcome, ExtractionResult):
                results.append(outcome)
            else:
                failures[name] = _as_failure(outcome, name)
            _close(order, name, outcome if isinstance(outcome, ExtractionResult) else failures[name])
        _show(order)
    raise_for_failures(results, failures)
    return results


def _outcomes(order: Order, sites: list[str], is_deployed: bool) -> dict[str, object]:
    """What came of each site: its result, or whatever stands in its place."""
    if len(sites) == 1:  # nothing to do side by side; and a signal reaches the work at once
        return {sites[0]: _outcome(lambda: _land_one(order, sites[0], is_deployed))}
    pool = ThreadPoolExecutor(max_workers=order.workspace.settings.schedule.sites_at_once)
    try:
        futures: dict[str, Future[ExtractionResult]] = {
            name: pool.submit(copy_context().run, _land_one, order, name, is_deployed) for name in sites
        }
        return {name: _outcome(future.result) for name, future in futures.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(result: Callable[[], ExtractionResult]) -> object:
    try:
        return result()
    except (Exception, SystemExit) as e:  # a run that crashed or was cancelled has no result to give
        return e


def _land_one(order: Order, site: str, is_deployed: bool) -> ExtractionResult:
    root = str(order.workspace.root)
    if not is_deployed:
        return site_extraction(root, site, order.full, list(order.types), order.since)
    schedule = order.workspace.settings.schedule
    budget = timedelta(hours=schedule.budget_hours_of(order.workspace.site(site)))
    with _slot(site, budget):
        return site_extraction(
            root,
            site,
            order.full,
            list(order.types),
            order.since,
            until=datetime.now(UTC) + budget,
            retries=schedule.retries,
            retry_seconds=schedule.retry_minutes * 60,
        )


@contextmanager
def _slot(site: str, patience: timedelta) -> Iterator[None]:
    """The site's slot: night, reconcile and backfill of one site wait for each other."""
    with ExitStack() as stack:
        try:
            stack.enter_context(
                concurrency(
                    names.site_limit(site),
                    strict=True,
                    timeout_seconds=patience.total_seconds(),
                    lease_duration=names.LEASE_SECONDS,
                    raise_on_lease_renewal_failure=False,  # the landing's own lock keeps two runs apart, too
                )
            )
        except TimeoutError:
            raise LandingError(
                "another run of this site held its slot for too long",
                where=f"site {site}",
                advice="see in Prefect which one, and whether it still runs",
            ) from None
        yield


def _close(order: Order, site: str, outcome: ExtractionResult | RweError) -> None:
    """Say in the audit log how the site's night ended, after the last retry, and tell of a failure."""
    landed = outcome.result if isinstance(outcome, PartlyLandedError) else outcome
    is_partly, is_failure = isinstance(outcome, PartialError), isinstance(outcome, RweError)
    if order.is_night and current_flow_run() is not None:
        record(
            order.workspace.root,
            NIGHT,
            site=site,
            run=landed.run.run if isinstance(landed, ExtractionResult) else None,
            approval=order.workspace.settings.approval,
            outcome="partly" if is_partly else "failed" if is_failure else "done",
        )
    if isinstance(outcome, RweError):
        telling.site_failed(site, outcome, is_partly=is_partly)


def _show(order: Order) -> None:
    try:
        telling.show_sites(workspace_status(order.workspace))
    except RweError as e:  # what landed has landed; the next command that reads it says so, too
        get_run_logger().warning("%s", e)


def _as_failure(outcome: object, site: str) -> RweError:
    """The site's own error, or one that names what happened to its run without quoting it."""
    if isinstance(outcome, RweError):  # PartlyLandedError brings the result of what landed
        return outcome
    kind = "no result" if outcome is None else type(outcome).__name__
    return RweError(f"the task ended with {kind}", where=f"site {site}", advice="see Prefect's log")
