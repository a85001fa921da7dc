"""Who was in a refresh, kept at the site: so that the next one can say what moved, in counts.

    private/history/STUDY/REFRESH.json.zst              0600, sealed (`.enc`) where the workspace is encrypted
    private/history/STUDY/releases/RELEASE.json.zst     who was in what left the site, who had an event, and
                                                        what each number that left was made of

A ledger holds the rows of the primary analysis by pseudonym: no more than the private build holds, and only
of the newest refreshes (`history.keep_ledgers`). `rwe erase` takes patients out of all and counts them.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import zstandard

from rwe.blocklist import open_blocklist
from rwe.config import Workspace
from rwe.crypt import SUFFIX, DamagedError, OtherKeyError, UnsealError, place
from rwe.durable import write_whole
from rwe.errors import EvidenceError
from rwe.evidence.numbers import Number
from rwe.survival.tables import CohortTable

_RELEASES = "releases"
_ENDING = ".json.zst"
_SURVIVAL = (
    "patient_id",
    "site",
    "time_days",
    "is_event",
    "start_day",
    "salvage_start_day",
    "progression_day",
    "end_reason",
)
_CHANGES = ("patient_id", "covariate", "day", "value")
_VERSION = 1


@dataclass(frozen=True)
class WhatLeft:
    """The numbers that left with a release, by the exact counts behind each, and the protocol they are of."""

    protocol_sha256: str
    numbers: tuple[Number, ...]


class _Stored(msgspec.Struct, frozen=True):
    refresh: str
    key_id: str
    survival: dict[str, list[Any]]
    covariates: dict[str, list[float | None]]
    changes: dict[str, list[Any]]
    excluded: dict[str, str]
    erased: int = 0
    left: WhatLeft | None = None
    version: int = _VERSION


class _Version(msgspec.Struct, frozen=True):
    version: int = _VERSION


class _NewerError(Exception):
    """A ledger is of a newer rwe."""


@dataclass(frozen=True)
class Ledger:
    """The rows of a refresh. Frames as in `StudyTables`; `excluded` gives those with an index event who are
    not in the cohort the step that excludes them. `erased` were taken out since. `key_id` tells pseudonym
    keys apart: under another key nobody can be found again. `left`: of a release."""

    refresh: str
    key_id: str
    survival: pd.DataFrame
    covariates: pd.DataFrame
    changes: pd.DataFrame
    excluded: dict[str, str]
    erased: int = 0
    left: WhatLeft | None = None

    def cohort(self) -> CohortTable:
        """The table that estimators take."""
        patients = pd.concat([self.survival, self.covariates], axis=1)
        return CohortTable(patients=patients.reset_index(drop=True), changes=self.changes)


def key_id(workspace: Workspace) -> str:
    """What tells the workspace's pseudonym key from others, and gives nothing of it away."""
    return hmac.digest(workspace.pseudonym_key(), b"rwe history key id", "sha256").hex()[:16]


def history_folder(workspace: Workspace, *parts: str) -> Path:
    """private/history/..., with every folder on the way for its owner alone."""
    folder: Path = workspace.private
    for part in ("", "history", *parts):
        folder = folder / part
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    return folder


def released(workspace: Workspace, study: str) -> tuple[str, ...]:
    """The names of the releases of a study that a ledger is kept of, oldest first, wherever they lie now."""
    folder: Path = workspace.private / "history" / study / _RELEASES
    found = (p.name for p in folder.glob(f"*{_ENDING}*") if not p.name.startswith("."))
    return tuple(sorted({name.split(_ENDING)[0] for name in found}))


def ledger_path(workspace: Workspace, study: str, refresh: str) -> Path:
    """Where the ledger of a refresh lies, or would."""
    folder: Path = workspace.private / "history" / study
    return folder / f"{refresh}{_ENDING}{SUFFIX if workspace.cipher() else ''}"


def release_ledger_path(workspace: Workspace, study: str, release: str) -> Path:
    """Where the ledger of a release lies, or would."""
    folder: Path = workspace.private / "history" / study / _RELEASES
    return folder / f"{release}{_ENDING}{SUFFIX if workspace.cipher() else ''}"


def write_ledger(workspace: Workspace, path: Path, ledger: Ledger) -> None:
    """Write a ledger below `history_folder`: complete or absent, readable by its owner only."""
    history_folder(workspace, *path.parent.relative_to(workspace.private / "history").parts)
    stored = _Stored(
        refresh=ledger.refresh,
        key_id=ledger.key_id,
        survival=_columns(ledger.survival, _SURVIVAL),
        covariates=_columns(ledger.covariates, tuple(ledger.covariates.columns)),
        changes=_columns(ledger.changes, _CHANGES),
        excluded=ledger.excluded,
        erased=ledger.erased,
        left=ledger.left,
    )
    content = zstandard.ZstdCompressor(level=3).compress(msgspec.json.encode(stored))
    cipher = workspace.cipher()
    if cipher is not None:
        content = cipher.seal(content, place(path))
    write_whole(path, content)


def read_ledger(workspace: Workspace, study: str, refresh: str) -> Ledger | None:
    """The ledger of a refresh; None where it is not kept, or cannot be read (with another key, damaged)."""
    return _read(workspace, ledger_path(workspace, study, refresh))


def read_release_ledger(workspace: Workspace, study: str, release: str) -> Ledger | None:
    """The ledger of a release; None as `read_ledger`."""
    return _read(workspace, release_ledger_path(workspace, study, release))


def retain(workspace: Workspace, study: str) -> None:
    """Remove the ledgers of all but the newest refreshes of a study. Those of releases stay."""
    folder = workspace.private / "history" / study
    paths = sorted(p for p in folder.glob(f"*{_ENDING}*") if not p.name.startswith("."))
    keep = workspace.settings.history.keep_ledgers
    for path in paths[:-keep]:
        path.unlink(missing_ok=True)


def seal_open(workspace: Workspace, study: str) -> None:
    """Seal the ledgers of a study that lie open though the settings name a key by now.

    A damaged one is given up, as `forget_erased` does; one that cannot be read this time stays as it is.
    """
    if workspace.cipher() is None:
        return
    for path in (workspace.private / "history" / study).rglob(f"*{_ENDING}"):
        ledger = _read_or_give_up(workspace, path)
        if ledger is not None:
            write_ledger(workspace, path.with_name(path.name + SUFFIX), ledger)
            path.unlink(missing_ok=True)


def holds_erased(workspace: Workspace, ledger: Ledger) -> bool:
    """Whether somebody of a ledger that is not written yet was erased since its tables were read.

    For a caller who holds the build's lock, as an erasure does from before it lists whom it erases.
    """
    blocklist = open_blocklist(workspace)
    return blocklist is not None and _without(ledger, blocklist.holds_pseudonym)[0] is not None


def forget_erased(workspace: Workspace) -> int:
    """Take everybody on the list of the erased out of every ledger; returns how many rows went.

    A damaged ledger is given up: nobody can say that they are not in it. That of a release stays as an empty
    file, so that it is known that there was one, and nothing is released that may be too near. One that may
    be read another time (sealed with a key that is not at hand, of a newer rwe, on a disk that does not give
    it) stays as it is; the search of the erasure (`rwe.keeping.search`) names it among the files that may
    still hold somebody.
    """
    blocklist = open_blocklist(workspace)
    if blocklist is None:
        return 0
    gone, root = 0, workspace.private / "history"
    for stray in root.rglob(".*.part"):  # of a process that was killed
        stray.unlink(missing_ok=True)
    for folder in root.glob("*/"):  # what is written anew is sealed, and must be called so
        seal_open(workspace, folder.name)
    for path in _all(workspace):
        ledger = _read_or_give_up(workspace, path)
        if ledger is None:
            continue
        kept, count = _without(ledger, blocklist.holds_pseudonym)
        if kept is not None:
            write_ledger(workspace, path, kept)
            gone += count
    return gone


def _read_or_give_up(workspace: Workspace, path: Path) -> Ledger | None:
    """The ledger, or None. Given up is only one that no other key, time or rwe could read."""
    try:
        return _load(workspace, path)
    except DamagedError:
        _give_up(path)
    except (OSError, UnsealError, _NewerError):
        pass
    return None


def _give_up(path: Path) -> None:
    if path.parent.name == _RELEASES:
        path.write_bytes(b"")
    else:
        path.unlink(missing_ok=True)


def who_and_events(ledger: Ledger) -> Ledger:
    """No more than a release is counted by: who was in it, at which site, and who had an event."""
    survival = ledger.survival.assign(
        time_days=0, start_day=np.nan, salvage_start_day=np.nan, progression_day=np.nan, end_reason=None
    )
    nothing = ledger.changes.iloc[:0]
    return replace(
        ledger,
        survival=survival,
        covariates=pd.DataFrame(index=survival.index),
        changes=nothing,
        excluded={},
    )


def _without(ledger: Ledger, is_gone: Callable[[str], bool]) -> tuple[Ledger | None, int]:
    """The ledger without the gone, and how many of the cohort went; None where nobody did."""
    ids = {*ledger.survival["patient_id"], *ledger.changes["patient_id"], *ledger.excluded}
    gone = {p for p in ids if is_gone(p)}
    if not gone:
        return None, 0
    kept = ~ledger.survival["patient_id"].isin(gone)
    count = int((~kept).sum())
    changes = ledger.changes[~ledger.changes["patient_id"].isin(gone)]
    return replace(
        ledger,
        survival=ledger.survival[kept].reset_index(drop=True),
        covariates=ledger.covariates[kept].reset_index(drop=True),
        changes=changes.reset_index(drop=True),
        excluded={p: step for p, step in ledger.excluded.items() if p not in gone},
        erased=ledger.erased + count,
    ), count


def _all(workspace: Workspace) -> Iterator[Path]:
    for pattern in (f"*/*{_ENDING}*", f"*/releases/*{_ENDING}*"):
        yield from sorted((workspace.private / "history").glob(pattern))


def _read(workspace: Workspace, path: Path) -> Ledger | None:
    try:
        return _load(workspace, path)
    except (OSError, UnsealError, _NewerError):
        return None


def _load(workspace: Workspace, path: Path) -> Ledger:
    """Raises DamagedError where the file is no ledger any more, OtherKeyError where its key is not at hand,
    _NewerError where a newer rwe wrote it, OSError where the disk does not give it."""
    content = path.read_bytes()
    if path.name.endswith(SUFFIX):
        cipher = workspace.cipher()
        if cipher is None:
            raise OtherKeyError
        content = cipher.unseal(content, place(path))
    try:
        plain = zstandard.ZstdDecompressor().decompress(content)
        if msgspec.json.decode(plain, type=_Version).version > _VERSION:
            raise _NewerError
        stored = msgspec.json.decode(plain, type=_Stored)
    except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError):
        raise DamagedError from None
    survival = pd.DataFrame(stored.survival, columns=list(_SURVIVAL))
    for name in ("start_day", "salvage_start_day", "progression_day"):
        survival[name] = survival[name].astype(float)
    changes = pd.DataFrame(stored.changes, columns=list(_CHANGES))
    return Ledger(
        refresh=stored.refresh,
        key_id=stored.key_id,
        survival=survival.astype({"time_days": int, "is_event": bool}),
        covariates=pd.DataFrame(stored.covariates, index=survival.index, dtype=float),
        changes=changes.astype({"day": int, "value": float}),
        excluded=stored.excluded,
        erased=stored.erased,
        left=stored.left,
    )


def _columns(frame: pd.DataFrame, names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Columns as plain lists; what is missing is null."""
    absent = [n for n in names if n not in frame.columns]
    if absent:
        raise EvidenceError(f"the tables of the study lack {', '.join(absent)}")
    return {n: [None if pd.isna(v) else v for v in frame[n].tolist()] for n in names}
