"""What a run tells Prefect: artifacts to look at, events to act on. Names and counts, none of a patient."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event

from rwe.config import Workspace
from rwe.deploying import names
from rwe.errors import RweError
from rwe.evidence.contract import Estimate, Evidence
from rwe.progress import Step
from rwe.status import WorkspaceStatus

_TELL_SECONDS = 5.0
_MOST_ESTIMATES = 40
_SHOWN_ESTIMANDS = frozenset({"hazard_ratio", "cause_specific_hazard_ratio", "subdistribution_hazard_ratio"})


def site_failed(site: str, error: RweError, *, is_partly: bool) -> None:
    """Tell that a site's run failed, or of which only some types landed."""
    payload = {"site": site, "outcome": "partly" if is_partly else "failed", "what": str(error)}
    _emit(names.SITE_FAILED, f"rwe.site.{site}", payload)


def site_stale(site: str, fresh_hours: float | None, allowed_hours: float) -> None:
    """Tell that a site's last complete run is too old, or that there never was one (None)."""
    hours = None if fresh_hours is None else round(fresh_hours, 1)
    payload = {"site": site, "fresh_hours": hours, "stale_after_hours": allowed_hours}
    _emit(names.SITE_STALE, f"rwe.site.{site}", payload)


def check_failed(error: RweError) -> None:
    """Tell that a check stopped the build: its name, for what it found are counts of rows."""
    _emit(names.CHECK_FAILED, "rwe.build", {"check": (error.where or "").removeprefix("check ")})


def estimate_moved(study: str, threshold_log: float) -> None:
    """Tell that the primary estimate of a study moved by more than a threshold.

    Not by how much, nor to what: what is told may leave the house, and one night's difference may be that of
    one patient.
    """
    _emit(names.ESTIMATE_MOVED, f"rwe.study.{study}", {"study": study, "moved_more_than_log": threshold_log})


def _emit(event: str, resource: str, payload: dict[str, Any]) -> None:
    emit_event(event=event, resource={"prefect.resource.id": resource}, payload=payload)


def show_sites(status: WorkspaceStatus) -> None:
    """A table of the sites: what landed last, how fresh it is, what failed."""
    rows = [
        {
            "site": s.site,
            "run": s.last_run or "none yet",
            "resources": s.resources,
            "fresh (hours)": "never complete" if s.fresh_hours is None else round(s.fresh_hours, 1),
            "failed types": ", ".join(s.failed_types),
            "quarantined": "not known" if s.quarantined is None else s.quarantined,
        }
        for s in status.sites
    ]
    create_table_artifact(table=rows, key=names.key("sites"), description="The sites, after this run")


def show_refresh(workspace: Workspace, evidence: Evidence, page: Path) -> None:
    """The estimates of a refresh, and the way to its report."""
    study = evidence.study.name
    shown = [e for e in evidence.estimates if e.estimand in _SHOWN_ESTIMANDS and e.site is None]
    create_table_artifact(
        table=[_estimate_row(e) for e in shown[:_MOST_ESTIMATES]],
        key=names.key("estimates", study),
        description=f"{evidence.study.title}: refresh {evidence.refresh.id}",
    )
    base, place = workspace.settings.schedule.report_url, page.relative_to(workspace.evidence)
    create_link_artifact(
        link=f"{base}/{place.as_posix()}" if base else page.as_uri(),
        key=names.key("report", study),
        link_text=f"Report of {study}",
        description=f"refresh {evidence.refresh.id}; runs {_runs(evidence)}",
    )


def _estimate_row(e: Estimate) -> dict[str, Any]:
    def shown(value: float | None) -> str:
        return "not estimable" if value is None else f"{value:.3f}"

    return {
        "analysis": e.analysis,
        "estimand": e.estimand,
        "role": e.role,
        "estimate": shown(e.estimate),
        "low": shown(e.ci_low),
        "high": shown(e.ci_high),
        "biased": "yes" if e.is_biased else "",
    }


def _runs(evidence: Evidence) -> str:
    newest: dict[str, str] = {}
    for run in evidence.runs:
        newest[run.site] = max(run.run, newest.get(run.site, ""))
    return ", ".join(f"{site} {run}" for site, run in sorted(newest.items()))


class PrefectProgress:
    """Progress that Prefect shows: an artifact of the run, told at most every few seconds."""

    def __init__(self, *words: str) -> None:
        self._key = names.key("progress", *words)
        self._artifact: UUID | None = None
        self._told = float("-inf")

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Step]:
        yield _PrefectStep(self, f"{label} ({unit})" if unit else label, total)

    def tell(self, label: str, done: int, total: int | None) -> None:
        """Show how far a step is, unless something was shown a moment ago. It never stops the work: where the
        server does not take it, nothing is shown any more."""
        if time.monotonic() - self._told < _TELL_SECONDS:
            return
        self._told = time.monotonic()
        percent = min(100.0, 100 * done / total) if total else 0.0
        text = f"{label}: {done:,}" + (f" of {total:,}" if total else "")
        try:
            if self._artifact is None:
                made = create_progress_artifact(progress=percent, key=self._key, description=text)
                self._artifact = cast(UUID, made)
            else:
                update_progress_artifact(artifact_id=self._artifact, progress=percent, description=text)
        except Exception:  # a server that is down, after the client's own retries
            self._told = float("inf")


class _PrefectStep:
    def __init__(self, progress: PrefectProgress, label: str, total: int | None) -> None:
        self._progress, self._label, self._total, self._done = progress, label, total, 0

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        self._progress.tell(self._label, self._done, self._total)

    def total(self, total: int) -> None:
        self._total = total


def primary_change(before: Evidence | None, after: Evidence, answers: Sequence[Estimate]) -> float | None:
    """By how much, on the log scale, the primary estimate moved; None where one of the two has none.

    `answers` are the estimates of `after` that answer the study's question.
    """
    if before is None or before.refresh.id == after.refresh.id or not answers:
        return None
    new = answers[0]
    for old in before.estimates:
        if (old.analysis, old.estimand, old.role, old.site) == (
            new.analysis,
            new.estimand,
            new.role,
            new.site,
        ) and old.parameters == new.parameters:
            if old.log_estimate is None or new.log_estimate is None:
                return None
            return new.log_estimate - old.log_estimate
    return None
