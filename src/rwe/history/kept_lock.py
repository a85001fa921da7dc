"""A study's lock against its own refreshes: a lock that evidence was made under does not go away."""

from __future__ import annotations

from pathlib import Path

from rwe.config import Workspace
from rwe.errors import EvidenceError, StudyError
from rwe.history.inputs import lock_sha256
from rwe.history.manifest import read_manifest
from rwe.history.past import lenient_evidence, refresh_folders
from rwe.study import Study
from rwe.study.lock import ProtocolLock, lock_path, read_lock


def require_lock_kept(workspace: Workspace, study: Study) -> None:
    """Raises StudyError where refreshes of this study's name were made under a lock that is not this study's.

    Its own lock must be the log of the newest locked refresh, or go on from there. A lock that was deleted,
    or began anew, would make what came after it look as if it had never been planned otherwise.
    """
    before = _locked_before(workspace, study.name)
    own = [entry.protocol_sha256 for entry in read_lock(study).entries]
    if own[: len(before)] != before:
        raise StudyError(
            f"refreshes of {study.name} were made under a lock that is not here",
            where=str(lock_path(study)),
            advice="restore the lock from your version control, or give the study another name",
        )


def require_made_under_lock(workspace: Workspace, study: Study) -> None:
    """Raises EvidenceError where the study is locked and its newest refresh knows of no lock: made before it
    was locked, or of a file that was not this study's. Evidence says so itself; what leaves should not have
    to. Raises StudyError as `require_lock_kept`."""
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


def _locked_before(workspace: Workspace, study: str) -> list[str]:
    """The protocol hashes in the log of the newest refresh that has a lock; none where no refresh has."""
    for folder in reversed(refresh_folders(workspace, study)):
        try:
            found = lenient_evidence(folder).get("protocol_lock") if _may_be_locked(folder) else None
        except EvidenceError:  # `rwe history` tells it
            continue
        log = found.get("log") if isinstance(found, dict) else None
        if log:
            return [str(entry.get("protocol_sha256")) for entry in log]
    return []


def _may_be_locked(folder: Path) -> bool:
    """False where the manifest, which is small, says by its hash that there was no lock."""
    manifest = read_manifest(folder)
    return manifest is None or manifest.inputs.lock_sha256 != lock_sha256(ProtocolLock("unlocked"))
