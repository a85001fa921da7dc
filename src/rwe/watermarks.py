"""What earlier nights left to build on, read from their manifests: a watermark is a fact of a complete run.

Per site and resource type counts the newest run whose manifest says that the type came whole. Its watermark
is the server's clock at its first page, and the next night asks from there, less an overlap. Nothing is kept
beside the runs: a run that is moved away takes its watermark with it, and those of the runs built on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rwe.crypt import Cipher
from rwe.landing import Run, TypeScope, list_runs

#: Types that refer to Medications, which are asked for only as far as what lands refers to them.
REFERRING_TO_MEDICATIONS = frozenset(
    {"MedicationAdministration", "MedicationRequest", "MedicationDispense", "MedicationStatement"}
)


@dataclass(frozen=True)
class Baseline:
    """The newest whole pull of one type. Instants are aware; `patients` are pseudonyms.

    `newest` is the latest `meta.lastUpdated` it and the runs it builds on saw; `finished_at` (by the server's
    clock, at the latest) is when the pull was over.
    """

    run: str
    plan_sha256: str
    watermark: datetime | None
    newest: datetime | None
    since: datetime | None
    finished_at: datetime
    clock_ahead: tuple[float, float] | None
    patients: frozenset[str]
    was_paged: bool = True

    def ask_from(self, overlap: timedelta, clock_ahead: tuple[float, float] | None) -> datetime | None:
        """The instant to ask from, None where everything must be asked for.

        It is never ahead of data: a clock that tells more than the newest resource bears is not believed.
        """
        start = self.history_from(overlap, clock_ahead)
        if start is None or self.newest is None:
            return None
        return min(start, self.newest - overlap)

    def history_from(self, overlap: timedelta, clock_ahead: tuple[float, float] | None) -> datetime | None:
        """The watermark less the overlap. Where the server's clock was set back since (`clock_ahead`,
        seconds, now), that much less again."""
        if self.watermark is None:
            return None
        start = self.watermark - overlap
        if self.clock_ahead and clock_ahead:
            start -= timedelta(seconds=max(0.0, self.clock_ahead[1] - clock_ahead[0]))
        return start


@dataclass(frozen=True)
class Watermark:
    """For `rwe status`: up to when a type of a site is whole, by the server's clock, and by which run."""

    site: str
    resource_type: str
    at: datetime | None
    run: str


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Runs as they were made: run ids of one second do not tell."""
    return sorted(runs, key=lambda r: (r.manifest.started_at, r.run))


def baselines(runs: Sequence[Run], archived: Collection[str] = ()) -> dict[str, Baseline]:
    """By type, what the next night can build on. `runs` are one site's, oldest first.

    `archived` are runs that are no longer landed but in the lake. A run whose base is neither is no base.
    """
    present = {r.run: r for r in runs}
    found: dict[str, Baseline] = {}
    for run in reversed(runs):
        for resource_type, scope in run.manifest.scopes.items():
            if resource_type in found or not scope.is_complete:
                continue
            if resource_type in REFERRING_TO_MEDICATIONS and _lacks_medications(run):
                continue  # whoever builds on it would never ask for the Medications that it refers to
            patients = run.cohort()
            if patients is not None and _is_founded(resource_type, scope, present, frozenset(archived)):
                found[resource_type] = _baseline(run, resource_type, scope, patients)
    return found


def _lacks_medications(run: Run) -> bool:
    """Whether the Medications that a run's resources refer to did not all come."""
    scope = run.manifest.scopes.get("Medication")
    is_failed = scope is not None and not scope.is_complete
    return is_failed or any(e.startswith("Medication:") for e in run.manifest.errors)


def _is_founded(
    resource_type: str, scope: TypeScope | None, present: dict[str, Run], archived: frozenset[str]
) -> bool:
    while scope is not None and scope.base is not None:
        if scope.base in archived and scope.base not in present:
            return True
        base = present.get(scope.base)
        scope = base.manifest.scopes.get(resource_type) if base else None
    return scope is not None


def _baseline(run: Run, resource_type: str, scope: TypeScope, patients: frozenset[str]) -> Baseline:
    ahead = run.manifest.clock_ahead
    return Baseline(
        run=run.run,
        plan_sha256=scope.plan_sha256,
        watermark=_instant(run.manifest.watermarks.get(resource_type)),
        newest=_instant(scope.newest),
        since=_instant(scope.since),
        finished_at=run.manifest.finished_at + timedelta(seconds=ahead[1] if ahead else 0),
        clock_ahead=ahead,
        patients=patients,
        was_paged=scope.is_paged,
    )


def reconciled_at(runs: Sequence[Run], resource_type: str) -> datetime | None:
    """When what is gone of a type was last looked for in full (start of the run); None is never."""
    scopes = ((r, r.manifest.scopes.get(resource_type)) for r in reversed(runs))
    return next((r.manifest.started_at for r, s in scopes if s and s.is_complete and s.is_reconciled), None)


def watermarks(landing: Path, site: str | None = None, *, cipher: Cipher | None = None) -> list[Watermark]:
    """The watermarks of one site or of all, by site and type. Raises LandingError as `list_runs` does."""
    by_site: dict[str, list[Run]] = {}
    for run in in_order(list_runs(landing, site, cipher=cipher)):
        by_site.setdefault(run.site, []).append(run)
    return [
        Watermark(name, resource_type, base.watermark, base.run)
        for name, runs in sorted(by_site.items())
        for resource_type, base in sorted(baselines(runs, {r.run for r in runs}).items())
    ]


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
