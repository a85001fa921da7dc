"""Releases: evidence as it may leave the site, and when the next one may.

Tonight's release minus yesterday's may be one patient. So a release is made only where, against *every*
earlier release of the study, a minimum of patients and a minimum of events is new (`release:` of rwe.yaml).
Against the last one alone would not do: A, then others, then A without one patient gives that patient away.
The rule counts who is in the analysed cohort, so a protocol narrowed by one patient is no way round it.

    evidence/STUDY/releases/RELEASE/evidence.json, report.html, manifest.json     0444, what leaves
    private/history/STUDY/releases/RELEASE.json.zst                                who was in it
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rwe.config import Workspace
from rwe.errors import EvidenceError, UsageError
from rwe.evidence.contract import write_evidence
from rwe.evidence.history import History
from rwe.evidence.outward import outward
from rwe.history.ledger import (
    Ledger,
    key_id,
    read_ledger,
    read_release_ledger,
    release_ledger_path,
    seal_open,
    who_and_events,
    write_ledger,
)
from rwe.history.manifest import (
    EVIDENCE,
    REPORT,
    UNFINISHED,
    SealedFile,
    require_unaltered,
    sealed,
    write_sealed,
)
from rwe.history.past import older_evidence, refresh_folders
from rwe.report.page import write_report
from rwe.scratch import locked
from rwe.wording import counted


class ReleaseManifest(msgspec.Struct, frozen=True):
    """What a release is. It names nothing private: no hash of the site's tables, no run, no refresh."""

    study: str
    release: str
    number: int
    created_at: datetime
    protocol_sha256: str
    code_version: str
    files: tuple[SealedFile, ...]
    version: int = 1


@dataclass(frozen=True)
class Shortfall:
    """What is missing until the next release: patients and events that are new against an earlier one."""

    since: str | None
    new_patients: int
    new_events: int
    min_new_patients: int
    min_new_events: int

    @property
    def is_missing(self) -> bool:
        return self.new_patients < self.min_new_patients or self.new_events < self.min_new_events

    def sentence(self) -> str:
        """How far it is, in numbers that stay at the site."""
        since = f"since release {self.since}" if self.since else "in the study"
        new = (
            f"{counted(self.new_patients, 'patient')} and {counted(self.new_events, 'event')} are new {since}"
        )
        return f"{new}; a release takes {self.min_new_patients} and {self.min_new_events}"


@dataclass(frozen=True)
class Released:
    """A release that was made: its folder, its number, and how far it was beyond the minimum."""

    release: str
    number: int
    folder: Path
    beyond: Shortfall


def releases(workspace: Workspace, study: str) -> tuple[Path, ...]:
    """The folders of a study's releases, oldest first."""
    found = (workspace.evidence / study / "releases").glob(f"*/{EVIDENCE}")
    return tuple(sorted(p.parent for p in found if not p.parent.name.startswith(UNFINISHED)))


def release(workspace: Workspace, study: str) -> Released:
    """Make a release of the newest refresh.

    Raises EvidenceError where too few patients or events are new (the sentence says how many are), where the
    refresh was altered, or where it cannot be told who was in an earlier release.
    """
    folders = refresh_folders(workspace, study)
    if not folders:
        raise EvidenceError("there is no evidence yet", where=f"study {study}", advice="run `rwe analyse`")
    if require_unaltered(folders[-1]) is None:
        raise EvidenceError(
            "the newest refresh has no manifest", where=str(folders[-1]), advice="run `rwe analyse --force`"
        )
    seal_open(workspace, study)
    ledger = read_ledger(workspace, study, folders[-1].name)
    if ledger is None or ledger.key_id != key_id(workspace):
        raise EvidenceError(
            "who is in the newest refresh cannot be told: its ledger is not here, or of another key",
            where=f"study {study}",
            advice="run `rwe analyse --force`, and release that",
        )
    private: Path = workspace.private / "history" / study
    with locked(private / ".lock"):
        earlier = releases(workspace, study)
        worst = shortfall(workspace, study, ledger, earlier)
        if worst.is_missing:
            raise EvidenceError(
                worst.sentence(), where=f"study {study}", advice="the release of before stays; wait for more"
            )
        return _write(workspace, folders[-1], ledger, earlier, worst)


def shortfall(workspace: Workspace, study: str, now: Ledger, earlier: Sequence[Path]) -> Shortfall:
    """The earlier release that the refresh of now is nearest to. Raises EvidenceError where the ledger of one
    is missing or of another pseudonym key: then nobody can tell how near it is."""
    asked = workspace.settings.release
    minima = (asked.min_new_patients, asked.min_new_events)
    found = [Shortfall(None, len(now.survival), int(now.survival["is_event"].sum()), *minima)]
    for folder in earlier:
        then = read_release_ledger(workspace, study, folder.name)
        if then is None or then.key_id != now.key_id:
            raise EvidenceError(
                f"who was in release {folder.name} cannot be told: its ledger is not here, or of another key",
                where=str(workspace.private / "history" / study),
                advice="restore private/history from a backup; without it nothing more is released",
            )
        found.append(Shortfall(folder.name, *new_since(then, now), *minima))
    return min(found, key=lambda s: (not s.is_missing, s.new_patients, s.new_events))


def new_since(then: Ledger, now: Ledger) -> tuple[int, int]:
    """Patients who were not in it then, and events that were not there then."""
    before, after = then.survival, now.survival
    known = set(before["patient_id"])
    had = set(before.loc[before["is_event"], "patient_id"])
    return (
        len(set(after["patient_id"]) - known),
        len(set(after.loc[after["is_event"], "patient_id"]) - had),
    )


def _write(
    workspace: Workspace, source: Path, ledger: Ledger, earlier: Sequence[Path], worst: Shortfall
) -> Released:
    at, number, study = datetime.now(UTC), len(earlier) + 1, source.parent.name
    name = f"{at:%Y%m%dT%H%M%SZ}-release-{number}"
    folder = workspace.evidence / study / "releases" / name
    if folder.exists():
        raise UsageError("a release of this second is there already", where=str(folder))
    evidence = outward(older_evidence(source), name, at, _history(earlier))
    # Who was in it is kept first: killed after this, the next release counts against one more.
    write_ledger(workspace, release_ledger_path(workspace, study, name), who_and_events(ledger))
    for stale in folder.parent.glob(f"{UNFINISHED}*"):
        shutil.rmtree(stale)
    part = folder.with_name(f"{UNFINISHED}{name}")
    part.mkdir(parents=True)
    write_evidence(evidence, part / EVIDENCE)
    write_report(part / EVIDENCE, part / REPORT)
    manifest = ReleaseManifest(
        study=study,
        release=name,
        number=number,
        created_at=at,
        protocol_sha256=evidence.study.protocol_sha256,
        code_version=evidence.refresh.code_version,
        files=sealed(part, [EVIDENCE, REPORT]),
    )
    write_sealed(part, manifest.files, msgspec.json.encode(manifest))
    part.rename(folder)
    return Released(name, number, folder, worst)


def _history(earlier: Sequence[Path]) -> History | None:
    """The newest release's own history, which names releases only."""
    return older_evidence(earlier[-1]).history if earlier else None
