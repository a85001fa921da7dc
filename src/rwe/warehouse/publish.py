"""The swap: a finished database takes the place of yesterday's in one step.

Readers keep the file they opened; whoever opens next sees the new one. The published file is read-only, and
a stray write-ahead log is moved aside first: a crashed reader's log would be replayed into the new file.
"""

from __future__ import annotations

import os
from pathlib import Path

from rwe.errors import BuildError

_READ_ONLY = 0o444
_READERS = 0o755  # they open what is there, and write nothing


def publish(finished: Path, target: Path) -> None:
    """Move the closed database `finished` to `target`, both on one file system.

    Raises BuildError if the folder cannot be written; what stood at `target` is untouched then.
    """
    try:
        if not target.parent.exists():
            target.parent.mkdir(parents=True)
            target.parent.chmod(_READERS)
        _sync(finished)
        finished.chmod(_READ_ONLY)
        _move_stray_log_aside(target)
        finished.replace(target)
        _sync(target.parent)
    except OSError as e:
        raise BuildError(
            "the database could not be published",
            where=str(target),
            advice="check the folder's owner and the disk; the database of before is untouched",
        ) from e


def _move_stray_log_aside(target: Path) -> None:
    log = target.with_name(target.name + ".wal")
    if log.exists():
        log.replace(log.with_name(log.name + ".stray"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
