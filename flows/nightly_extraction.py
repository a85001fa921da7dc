"""Every night: land what each hospital has for the cohorts of the workspace's studies.

Prefect only arranges: the work is `rwe.extract.extract_site`, which runs without Prefect as `rwe extract`.
Sites are pulled side by side, and one that fails does not stop the others. Parameters and results hold names
of sites and runs and counts, nothing of a patient.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from rwe import progress
from rwe.config import open_workspace
from rwe.errors import RweError
from rwe.extract import ExtractionResult, extract_site, raise_for_failures
from rwe.study import load_studies


@task(name="extract-site", task_run_name="extract {site}", persist_result=False)
def extract_one(workspace: str, site: str) -> ExtractionResult:
    """Land one site. HTTP retries end inside the client; a task retry would only hide a broken server."""
    opened = open_workspace(Path(workspace))
    try:
        return extract_site(opened, site, load_studies(opened.studies), progress=progress.current())
    except RweError:
        raise
    except Exception as e:  # Prefect stores an exception's text, and this one's may hold a record's values
        raise RweError(f"unexpected {type(e).__name__}", where=f"site {site}") from None


@flow(
    name="nightly-extraction",
    persist_result=False,
    log_prints=False,
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
)
def nightly_extraction(workspace: str, sites: list[str] | None = None) -> list[ExtractionResult]:
    """Land every site of the workspace that has a server, or only `sites`.

    Raises PartlyExtractedError naming the sites that failed and those of which only some types landed
    (SiteError if nothing landed at all); what landed is kept. A task that crashed counts as a failure.
    """
    opened = open_workspace(Path(workspace))
    names = dict.fromkeys(sites or [name for name, site in opened.settings.sites.items() if site.base_url])
    futures = {name: extract_one.submit(workspace, name) for name in names}
    results: list[ExtractionResult] = []
    failures: dict[str, RweError] = {}
    for name, future in futures.items():
        outcome = _outcome(future)
        if isinstance(outcome, ExtractionResult):
            results.append(outcome)
        else:
            failures[name] = _as_failure(outcome, name)
    raise_for_failures(results, failures)
    return results


def _outcome(future: PrefectFuture[ExtractionResult]) -> object:
    """What came of a site: its result, or whatever stands in its place."""
    try:
        return future.result(raise_on_failure=False)
    except (Exception, SystemExit) as e:  # a run that crashed or was cancelled has no result to give
        return e


def _as_failure(outcome: object, site: str) -> RweError:
    """The site's own error, or one that names what happened to its task without quoting it."""
    if isinstance(outcome, RweError):  # PartlyLandedError brings the result of what landed
        return outcome
    kind = "no result" if outcome is None else type(outcome).__name__
    return RweError(f"the task ended with {kind}", where=f"site {site}", advice="see Prefect's log")
