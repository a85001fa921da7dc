"""The protocol lock: what was decided before anybody saw the outcome, kept beside the study file.

    studies/NAME.lock.json      a log that is only ever appended to: the lock, then its amendments

Each entry holds the whole protocol with its code lists, and the hash of the entry before, so that a changed
log is noticed. Whoever is to believe it compares the hash with the registration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from rwe.durable import AS_UMASK, write_whole
from rwe.errors import StudyError
from rwe.scratch import locked
from rwe.study.analyses import Analysis
from rwe.study.deviations import changed_fields, is_planned, is_same_part, primary_of
from rwe.study.files import Study, lock_file
from rwe.study.grid import RuleChange


class LockEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One lock or amendment. `content` is the protocol with its code lists; `reason` is of an amendment."""

    locked_at: datetime
    version: str
    protocol_sha256: str
    previous_sha256: str | None
    registration: str | None
    reason: str | None
    content: dict[str, Any]


class _Log(msgspec.Struct, forbid_unknown_fields=True):
    study: str
    entries: list[LockEntry]
    schema_version: Literal[1] = 1


@dataclass(frozen=True)
class ProtocolLock:
    """A study against its lock.

    `status` is unlocked (there is no lock), locked (the study is the one that was locked last) or changed;
    `changed` names the fields of the protocol that differ then, `codelists` among them. `content`: the
    protocol with its code lists as it is now, where there is a lock.
    """

    status: Literal["unlocked", "locked", "changed"]
    entries: tuple[LockEntry, ...] = ()
    changed: tuple[str, ...] = ()
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def registration(self) -> str | None:
        """The registration number given last."""
        return next((e.registration for e in reversed(self.entries) if e.registration), None)

    @property
    def planned(self) -> dict[str, Any]:
        """What was locked last."""
        return self.entries[-1].content

    def is_posthoc(self, analysis: Analysis, landmark: int | None = None, *, of_site: bool = False) -> bool:
        """Whether an analysis is outside the locked protocol: that does not ask for it, or what it rests on
        has changed since. `landmark`, `of_site`: of that day, of one site."""
        if self.status != "changed":
            return False
        return not is_planned(self.planned, self.content, analysis, landmark, of_site=of_site)

    def is_posthoc_change(self, analysis: Analysis, change: RuleChange) -> bool:
        """Whether an entry of the sensitivity grid, or the analysis it is tried on, is outside the lock.

        What stands in for a primary analysis is judged as the primary analysis is."""
        if self.status != "changed":
            return False
        planned = self.planned["protocol"].get("sensitivity_grid", [])
        primary = primary_of(self.content) if analysis.role == "primary" else None
        return self.is_posthoc(primary or analysis) or change.model_dump(mode="json") not in planned

    def is_posthoc_part(self, field: str, name: str | None = None) -> bool:
        """Whether a part of the protocol beside its analyses (a field, or one of its entries by its name) was
        locked otherwise or not at all."""
        return self.status == "changed" and not is_same_part(self.planned, self.content, field, name)


def lock_path(study: Study) -> Path:
    """Where the lock of a study lies: beside its file."""
    return lock_file(study.path)


def read_lock(study: Study) -> ProtocolLock:
    """The lock of a study, compared with it. Raises StudyError where the log is damaged or was changed."""
    path = lock_path(study)
    if not path.exists():
        return ProtocolLock("unlocked")
    log = _read(path, study.name)
    entries = tuple(log.entries)
    now = study.content()
    changed = tuple(changed_fields(entries[-1].content, now))
    return ProtocolLock("changed" if changed else "locked", entries, changed, now)


def lock_study(study: Study, *, registration: str | None = None, amendment: str | None = None) -> LockEntry:
    """Lock a protocol, or amend the lock of one that changed since. Returns the entry written.

    Raises StudyError where it is locked as it stands already, where it changed and no reason is given, or
    where an amendment has the version of before.
    """
    path = lock_path(study)
    with locked(path.with_name(f".{path.name}.held")):
        log = _read(path, study.name) if path.exists() else _Log(study.name, [])
        _refuse(log, study, path, amendment)
        entry = LockEntry(
            locked_at=datetime.now(UTC),  # to the microsecond: refreshes before and after it are told apart
            version=study.protocol.version,
            protocol_sha256=study.protocol_sha256,
            previous_sha256=_digest(log.entries[-1]) if log.entries else None,
            registration=registration,
            reason=amendment,
            content=study.content(),
        )
        write_whole(path, encode_log(study.name, [*log.entries, entry]), AS_UMASK)
    return entry


def _refuse(log: _Log, study: Study, path: Path, amendment: str | None) -> None:
    if not log.entries:
        if amendment:
            raise StudyError(
                "there is no lock to amend yet", where=str(path), advice="lock it without --amendment"
            )
        return
    last = log.entries[-1]
    if not changed_fields(last.content, study.content()):
        raise StudyError(
            "the protocol is locked as it stands", where=str(path), advice="there is nothing to do"
        )
    if not amendment:
        raise StudyError(
            "the protocol changed since it was locked",
            where=str(path),
            advice="give the reason with --amendment; until then what is outside the lock is marked posthoc",
        )
    if last.version == study.protocol.version:
        raise StudyError(
            f"the amended protocol still has the version {last.version}",
            where=str(study.path),
            advice="raise its field version",
        )


def _read(path: Path, study: str) -> _Log:
    damaged = StudyError(
        "the protocol's lock is damaged or was changed by hand",
        where=str(path),
        advice="restore it from your version control: a lock is only ever appended to",
    )
    try:
        entries = decode_log(path.read_bytes(), study)
    except OSError:
        raise damaged from None
    if not entries:
        raise damaged
    return _Log(study, list(entries))


def decode_log(content: bytes, study: str) -> tuple[LockEntry, ...] | None:
    """The entries of a study's log as `encode_log` wrote it; None where it is damaged, was changed or is of
    another study."""
    try:
        log = msgspec.json.decode(content, type=_Log)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    before: str | None = None
    for entry in log.entries:
        text = json.dumps(entry.content, sort_keys=True)
        if (
            entry.previous_sha256 != before
            or hashlib.sha256(text.encode()).hexdigest() != entry.protocol_sha256
        ):
            return None
        before = _digest(entry)
    return tuple(log.entries) if log.study == study else None


def encode_log(study: str, entries: Sequence[LockEntry]) -> bytes:
    """A study's log, as JSON in lines."""
    return (
        msgspec.json.format(msgspec.json.encode(_Log(study, list(entries)), order="deterministic"), indent=1)
        + b"\n"
    )


def _digest(entry: LockEntry) -> str:
    return hashlib.sha256(msgspec.json.encode(entry, order="deterministic")).hexdigest()
