"""A study's lock against what is known of it: a lock that evidence was made under does not go away.

    private/history/STUDY/lock.json     0600, the log as `rwe study lock` or an analysis saw it last; without
                                        entries where there was no lock

Without that file (refreshes of an older rwe) the refreshes themselves are asked, and each must be as it was
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from rwe.config import Workspace
from rwe.durable import write_whole
from rwe.errors import EvidenceError, StudyError
from rwe.evidence.parts import LockSummary
from rwe.history.inputs import lock_sha256
from rwe.history.ledger import history_folder
from rwe.history.manifest import EVIDENCE, MANIFEST, UNFINISHED, manifest_sha256, read_manifest, verify
from rwe.history.past import lenient_evidence, refresh_folders
from rwe.scratch import locked
from rwe.study import Study
from rwe.study.lock import LockEntry, ProtocolLock, decode_log, encode_log, lock_path, read_lock

_UNLOCKED = lock_sha256(ProtocolLock("unlocked"))


def require_lock_kept(workspace: Workspace, study: Study) -> None:
    """Raises StudyError where this study's name was locked otherwise than the study is now.

    Its own log must be the one kept, and that of the newest locked refresh, or go on from there: every entry
    with its date, reason and registration. A lock that was deleted, or begun anew, would make what came after
    it look as if it had never been planned otherwise.

    Raises EvidenceError where no log is kept yet and a refresh that might tell is altered or unreadable.
    """
    own = read_lock(study).entries
    kept = _kept(workspace, study.name)
    before = _strictly_before(workspace, study.name) if kept is None else _before(workspace, study.name)
    if kept is not None and own[: len(kept)] != kept:
        raise StudyError(
            f"{study.name} was locked by a lock that is not here",
            where=str(lock_path(study)),
            advice=f"restore it from your version control or from {kept_path(workspace, study.name)}, "
            "or give the study another name",
        )
    if before is not None and not _goes_on_from(own, before):
        raise StudyError(
            f"refreshes of {study.name} were made under a lock that is not here",
            where=str(lock_path(study)),
            advice="restore the lock from your version control, or give the study another name",
        )


def keep_lock(workspace: Workspace, study: Study) -> None:
    """Keep the study's log, so that neither its file nor a refresh can go away unnoticed.

    Raises as `require_lock_kept`.
    """
    with locked(history_folder(workspace, study.name) / ".lock"):
        require_lock_kept(workspace, study)
        own = read_lock(study).entries
        if _kept(workspace, study.name) != own:
            write_whole(kept_path(workspace, study.name), encode_log(study.name, own))


def kept_path(workspace: Workspace, study: str) -> Path:
    """Where the log of a study's lock is kept, or would be."""
    folder: Path = workspace.private / "history" / study
    return folder / "lock.json"


def require_made_under_lock(workspace: Workspace, study: Study) -> None:
    """Raises EvidenceError where the study is locked and its newest refresh knows of no lock: made before it
    was locked, or of a file that was not this study's. Evidence says so itself; what leaves should not have
    to. Raises as `require_lock_kept`."""
    require_lock_kept(workspace, study)
    folders = refresh_folders(workspace, study.name)
    if not folders or read_lock(study).status == "unlocked":
        return
    found = lenient_evidence(folders[-1]).get("protocol_lock")
    if isinstance(found, dict) and found.get("status") == "unlocked":
        raise EvidenceError(
            "the newest refresh was made without the protocol's lock",
            where=f"study {study.name}",
            advice="run `rwe analyse`, and release that",
        )


def _kept(workspace: Workspace, study: str) -> tuple[LockEntry, ...] | None:
    """The log that is kept; None where none is yet."""
    path = kept_path(workspace, study)
    try:
        entries = decode_log(path.read_bytes(), study)
    except FileNotFoundError:
        return None
    except OSError:
        entries = None
    if entries is None:
        raise StudyError(
            "what is kept of the protocol's lock is damaged or was changed",
            where=str(path),
            advice="restore it from a backup; removed, the refreshes are asked instead",
        )
    return entries


def _goes_on_from(own: Sequence[LockEntry], before: LockSummary) -> bool:
    """Whether a log begins with the one that a refresh tells of."""
    begin = own[: len(before.log)]
    told = [(e.locked_at, e.version, e.protocol_sha256, e.reason) for e in before.log]
    here = [(e.locked_at, e.version, e.protocol_sha256, e.reason) for e in begin]
    return here == told and ProtocolLock("locked", tuple(begin)).registration == before.registration


def _before(workspace: Workspace, study: str) -> LockSummary | None:
    """The lock of the newest refresh that has one. What is altered is passed over, as the log that is kept
    speaks for it, and manifests, which are small, are believed."""
    for folder in reversed(refresh_folders(workspace, study)):
        try:
            manifest = read_manifest(folder)
            if manifest is not None and manifest.inputs.lock_sha256 == _UNLOCKED:
                continue
            lock = None if verify(folder).problems else _lock_in(folder)
        except EvidenceError:
            continue
        if lock is not None:
            return lock
    return None


def _strictly_before(workspace: Workspace, study: str) -> LockSummary | None:
    """The lock of the newest refresh that has one, by its evidence. Raises EvidenceError where that refresh,
    or one after it, is altered or cannot be read: it may be the one that had a lock."""
    later: tuple[str, str | None] | None = None  # what the refresh after says of the one before it
    for folder in reversed(_every_folder(workspace, study)):
        found = verify(folder)
        is_other = later is not None and later[0] == folder.name and later[1] != manifest_sha256(folder)
        if found.problems or is_other:
            what = found.problems[0] if found.problems else f"refresh {folder.name} was written anew"
            raise EvidenceError(
                f"{what.rstrip('.')}: whether it was made under a lock cannot be told",
                where=str(folder),
                advice="restore the folder from a backup",
            )
        lock = _lock_in(folder)
        if lock is not None:
            return lock
        manifest = found.manifest
        later = (manifest.before_refresh, manifest.before) if manifest and manifest.before_refresh else None
    return None


def _every_folder(workspace: Workspace, study: str) -> list[Path]:
    """The refreshes, also those that lack one of their files, oldest first."""
    root: Path = workspace.evidence / study
    found = {p.parent for name in (EVIDENCE, MANIFEST) for p in root.glob(f"*/{name}")}
    return sorted(f for f in found if not f.is_symlink() and not f.name.startswith(UNFINISHED))


def _lock_in(folder: Path) -> LockSummary | None:
    """The lock that a refresh was made under; None without. Raises EvidenceError where it cannot be read."""
    found = lenient_evidence(folder).get("protocol_lock")
    if found is None:
        return None
    try:
        lock = LockSummary.model_validate(found)
    except ValidationError:
        raise EvidenceError(
            "the protocol's lock in the evidence cannot be read",
            where=str(folder / EVIDENCE),
            advice="restore the folder from a backup",
        ) from None
    return lock if lock.log else None
