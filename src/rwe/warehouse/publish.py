"""The swap: a finished database takes the place of yesterday's in one step.

Readers keep the file they opened; whoever opens next sees the new one. The published file is read-only, and
a stray write-ahead log is moved aside first: a crashed reader's log would be replayed into the new file.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rwe.durable import sync_path
from rwe.errors import BuildError

READERS_FILE = 0o444
OWNERS_FILE = 0o400
_READERS = 0o755  # they open what is there, and write nothing
_OWNERS = 0o700


def publish(finished: Path, target: Path, mode: int = READERS_FILE) -> None:
    """Move the closed database `finished` to `target`, both on one file system.

    Raises BuildError if the folder cannot be written; what stood at `target` is untouched then.
    """
    try:
        _make_folder(target.parent, mode)
        sync_path(finished)
        finished.chmod(mode)
        _move_stray_log_aside(target)
        finished.replace(target)
        sync_path(target.parent)
    except OSError as e:
        raise _not_published(target) from e


def point(kept: Path, target: Path) -> None:
    """Let `target` be the kept database `kept`, in one step: one file under two names, else a copy of it.

    Raises BuildError as `publish`.
    """
    aside = target.with_name(f".{target.name}.new")
    try:
        aside.unlink(missing_ok=True)
        try:
            os.link(kept, aside)
        except OSError:  # a file system without a second name for a file
            shutil.copyfile(kept, aside)
            aside.chmod(kept.stat().st_mode)
            sync_path(aside)
        _move_stray_log_aside(target)
        if target.exists() and target.samefile(aside):
            aside.unlink()  # a rename onto the same file would leave both names
            return
        aside.replace(target)
        sync_path(target.parent)
    except OSError as e:
        raise _not_published(target) from e


def _make_folder(folder: Path, mode: int) -> None:
    """Folders that are there keep their mode: it is their owner's."""
    for one in reversed([folder, *folder.parents]):
        if not one.exists():
            one.mkdir()
            one.chmod(_READERS if mode == READERS_FILE else _OWNERS)


def _not_published(target: Path) -> BuildError:
    return BuildError(
        "the database could not be published",
        where=str(target),
        advice="check the folder's owner and the disk; the database of before is untouched",
    )


def _move_stray_log_aside(target: Path) -> None:
    log = target.with_name(target.name + ".wal")
    if log.exists():
        log.replace(log.with_name(log.name + ".stray"))
