"""Releases: evidence as it may leave the site, and when the next one may.

Tonight's release minus yesterday's may be one patient. So a release is made only where, against *every*
earlier release, a minimum of patients and a minimum of events is new (`release:` of rwe.yaml). Against the
last one alone would not do: A, then others, then A without one patient gives that patient away. Nor against
those of one study: the same question under another name is the same patients. The rule counts who is in the
analysed cohort, so a protocol narrowed by one patient is no way round it; and each number leaves again only
where enough of the patients and events that it is made of are new, or none at all.

Earlier releases are told by their ledgers, which stay here wherever the release itself was taken.

    evidence/STUDY/releases/RELEASE/evidence.json, report.html, manifest.json     0444, what leaves
    private/history/STUDY/releases/RELEASE.json.zst                                who was in it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rwe.config import Workspace
from rwe.errors import EvidenceError, UsageError
from rwe.evidence.contract import Evidence, write_evidence
from rwe.evidence.history import History
from rwe.evidence.numbers import Number, numbers_that_leave
from rwe.evidence.outward import outward
from rwe.history.ledger import (
    Ledger,
    WhatLeft,
    history_folder,
    key_id,
    read_ledger,
    read_release_ledger,
    release_ledger_path,
    released,
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
    written_whole,
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
    study: str | None
    new_patients: int
    new_events: int
    min_new_patients: int
    min_new_events: int

    @property
    def is_missing(self) -> bool:
        return self.new_patients < self.min_new_patients or self.new_events < self.min_new_events

    @property
    def new(self) -> tuple[int, int]:
        return self.new_patients, self.new_events

    def sentence(self) -> str:
        """How far it is, in numbers that stay at the site."""
        since = f"since release {self.since} of study {self.study}" if self.since else "in the study"
        new = (
            f"{counted(self.new_patients, 'patient')} and {counted(self.new_events, 'event')} are new {since}"
        )
        return f"{new}; a release takes {self.min_new_patients} and {self.min_new_events}"


@dataclass(frozen=True)
class Released:
    """A release that was made: its folder, its number, and how far it was beyond the minimum. `withheld`:
    numbers of which too little is new."""

    release: str
    number: int
    folder: Path
    beyond: Shortfall
    withheld: int = 0


@dataclass(frozen=True)
class Earlier:
    """An earlier release: of which study, its name, and who and what was in it."""

    study: str
    release: str
    ledger: Ledger


def releases(workspace: Workspace, study: str) -> tuple[Path, ...]:
    """The folders of a study's releases that still lie among its evidence, oldest first."""
    found = (workspace.evidence / study / "releases").glob(f"*/{EVIDENCE}")
    return tuple(sorted(p.parent for p in found if not p.parent.name.startswith(UNFINISHED)))


def release(workspace: Workspace, study: str, *, apart: bool = False) -> Released:
    """Make a release of the newest refresh.

    `apart`: releases of other studies do not count; whoever says so knows that the two can be compared.
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
    # One at a time in the whole workspace: two studies of the same patients would not see each other.
    with locked(history_folder(workspace) / ".lock"), locked(history_folder(workspace, study) / ".lock"):
        seal_open(workspace, study)
        ledger = read_ledger(workspace, study, folders[-1].name)
        if ledger is None or ledger.key_id != key_id(workspace):
            raise EvidenceError(
                "who is in the newest refresh cannot be told: its ledger is not here, or of another key",
                where=f"study {study}",
                advice="run `rwe analyse --force`, and release that",
            )
        earlier = earlier_releases(workspace, study, ledger, apart=apart)
        worst = shortfall(workspace, study, ledger, earlier)
        if worst.is_missing:
            raise EvidenceError(worst.sentence(), where=f"study {study}", advice=_advice(worst, study))
        return _write(workspace, folders[-1], ledger, earlier, worst)


def _advice(worst: Shortfall, study: str) -> str:
    if worst.study in (None, study):
        return "the release of before stays; wait for more"
    return "wait for more; `--apart` leaves other studies out, if nobody gets the releases of both"


def earlier_releases(workspace: Workspace, study: str, now: Ledger, *, apart: bool) -> tuple[Earlier, ...]:
    """Every release made so far, of all studies or (`apart`) of this one, by ledgers and evidence alike.

    Raises EvidenceError where the ledger of one is missing or of another pseudonym key: then nobody can tell
    how near it is.
    """
    found = list[Earlier]()
    for name in [study] if apart else _studies(workspace, study):
        seal_open(workspace, name)
        for made in _names(workspace, name):
            then = read_release_ledger(workspace, name, made)
            if then is None or then.key_id != now.key_id:
                advice = "restore private/history from a backup; without it nothing more is released"
                raise EvidenceError(
                    f"who was in release {made} cannot be told: its ledger is not here, or of another key",
                    where=str(workspace.private / "history" / name),
                    advice=advice if name == study else f"{advice}, or say `--apart`",
                )
            found.append(Earlier(name, made, then))
    return tuple(found)


def _studies(workspace: Workspace, study: str) -> list[str]:
    roots = (workspace.private / "history", workspace.evidence)
    return sorted({study, *(p.parent.name for root in roots for p in root.glob("*/releases"))})


def _names(workspace: Workspace, study: str) -> list[str]:
    """A release that was handed on by moving its folder is still known by its ledger, and one whose ledger
    was lost by its folder."""
    return sorted({*released(workspace, study), *(p.name for p in releases(workspace, study))})


def shortfall(workspace: Workspace, study: str, now: Ledger, earlier: Sequence[Earlier]) -> Shortfall:
    """The earlier release that the refresh of now is nearest to."""
    asked = workspace.settings.release
    minima = (asked.min_new_patients, asked.min_new_events)
    found = [Shortfall(None, None, len(now.survival), int(now.survival["is_event"].sum()), *minima)]
    for then in earlier:
        found.append(Shortfall(then.release, then.study, *new_since(then.ledger, now), *minima))
    return min(found, key=lambda s: (not s.is_missing, *s.new, s.study not in (None, study)))


def new_since(then: Ledger, now: Ledger) -> tuple[int, int]:
    """Patients who were not in it then, and events that were not there then.

    At a site of which nobody is found again (another study's pseudonyms of shares, a key of a site that was
    changed, a site under another name) the same people may stand under other names: there a patient or an
    event is new only beyond as many as there were.
    """
    before, after = then.survival, now.survival
    common = set(before["patient_id"]) & set(after["patient_id"])
    told = {site for f in (before, after) for site in f.loc[f["patient_id"].isin(common), "site"]}
    new = [
        len(set(a.loc[a["site"].isin(told), "patient_id"]) - set(b.loc[b["site"].isin(told), "patient_id"]))
        + max(0, int((~a["site"].isin(told)).sum()) - int((~b["site"].isin(told)).sum()))
        for b, a in ((before, after), (before[before["is_event"]], after[after["is_event"]]))
    ]
    return new[0], new[1]


def too_near(
    workspace: Workspace, numbers: Iterable[Number], protocol_sha256: str, earlier: Sequence[Earlier]
) -> frozenset[Number]:
    """The numbers of which too little is new since an earlier release.

    With n patients now and m then, at least n - m of now were not there then. Under the same protocol a
    number is compared with itself; under another one, or of another study, with every number of its kind:
    a landmark moved by a day is the same patients. A number that is exactly as it was may leave again.
    """
    asked = workspace.settings.release

    def is_near(number: Number, then: Earlier) -> bool:
        others = _like(number, then, protocol_sha256)
        if any((o.n, o.events, o.value) == (number.n, number.events, number.value) for o in others):
            return False
        return any(
            number.n - o.n < asked.min_new_patients or number.events - o.events < asked.min_new_events
            for o in others
        )

    return frozenset(n for n in numbers if any(is_near(n, then) for then in earlier))


def _like(number: Number, then: Earlier, protocol_sha256: str) -> list[Number]:
    """The numbers of an earlier release that one of now may be subtracted from."""
    left, who = then.ledger.left, then.ledger.survival
    if left is None:  # of an older rwe: any number was of the whole cohort at most
        return [Number(number.kind, "", len(who), int(who["is_event"].sum()), "")]
    kind = [o for o in left.numbers if o.kind == number.kind]
    same = [o for o in kind if o.detail == number.detail]
    return same if same and left.protocol_sha256 == protocol_sha256 else kind


def _write(
    workspace: Workspace, source: Path, ledger: Ledger, earlier: Sequence[Earlier], worst: Shortfall
) -> Released:
    at, study = datetime.now(UTC), source.parent.name
    number = _number(_names(workspace, study))
    name = f"{at:%Y%m%dT%H%M%SZ}-release-{number}"
    folder = workspace.evidence / study / "releases" / name
    if folder.exists():
        raise UsageError(
            "a release of this second is there already", where=str(folder), advice="run it again"
        )
    inside = older_evidence(source)
    numbers, protocol = numbers_that_leave(inside), inside.study.protocol_sha256
    withheld = too_near(workspace, numbers, protocol, earlier)
    evidence = outward(inside, name, at, _history(releases(workspace, study)), withheld)
    # Who was in it is kept first: killed after this, the next release counts against one more, for what was
    # released is told by the ledgers.
    left = WhatLeft(protocol, tuple(n for n in numbers if n not in withheld))
    kept = replace(who_and_events(ledger), left=left)
    write_ledger(workspace, release_ledger_path(workspace, study, name), kept)
    _write_folder(folder, evidence, number)
    return Released(name, number, folder, worst, len(withheld))


def _number(names: Sequence[str]) -> int:
    """One more than the highest so far."""
    ends = [name.rpartition("-")[2] for name in names]
    return 1 + max([len(names), *(int(end) for end in ends if end.isdigit())])


def _write_folder(folder: Path, evidence: Evidence, number: int) -> None:
    with written_whole(folder) as part:
        write_evidence(evidence, part / EVIDENCE)
        write_report(part / EVIDENCE, part / REPORT)
        manifest = ReleaseManifest(
            study=evidence.study.name,
            release=folder.name,
            number=number,
            created_at=evidence.refresh.created_at,
            protocol_sha256=evidence.study.protocol_sha256,
            code_version=evidence.refresh.code_version,
            files=sealed(part, [EVIDENCE, REPORT]),
        )
        write_sealed(part, manifest.files, msgspec.json.encode(manifest))


def _history(earlier: Sequence[Path]) -> History | None:
    """The history of the newest release that still lies here; it names releases only."""
    return older_evidence(earlier[-1]).history if earlier else None
