"""Files that are whole or absent, and on disk when the call returns: what a power cut must not take back.

Written beside the target and moved over it. What a killed process leaves is called `.NAME.part`; the next
writer removes it. Nothing is written through a link. All functions raise OSError where the disk refuses.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Final

OWNER_ONLY: Final = 0o600
AS_UMASK: Final = 0o666
"""Readable by whom the process' umask lets read."""


def part_of(path: Path) -> Path:
    """Where a file is written before it takes its name."""
    return path.with_name(f".{path.name}.part")


def write_whole(path: Path, content: bytes, mode: int = OWNER_ONLY) -> None:
    """Put a file at `path`, over what was there: readers see the old one or the new one."""
    part = part_of(path)
    part.unlink(missing_ok=True)
    write_new(part, content, mode)
    part.replace(path)
    sync_path(path.parent)


def write_new(path: Path, content: bytes, mode: int = OWNER_ONLY) -> None:
    """Write a file where none is. Raises FileExistsError. Killed meanwhile it may be cut: meant for folders
    that take their name when they are whole, and for keys."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as f:
        f.write(content)
        sync(f)


def move_whole(part: Path, target: Path, mode: int = OWNER_ONLY) -> None:
    """Give a finished file its place, over what was there, as `write_whole`."""
    part.chmod(mode)
    sync_path(part)
    part.replace(target)
    sync_path(target.parent)


def append(path: Path, line: bytes) -> None:
    """Add a line to a log of the owner's, made where missing; one process at a time.

    What a full disk cut before is ended first, so that it does not take the next line with it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, OWNER_ONLY)
    try:
        if line:
            fcntl.flock(handle, fcntl.LOCK_EX)  # else the end of another's line, half written, looks cut
            size = os.fstat(handle).st_size
            is_cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            whole = b"\n" + line if is_cut else line
            if os.write(handle, whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
    finally:
        os.close(handle)


def sync(file: IO[bytes]) -> None:
    """Bring what was written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_path(path: Path) -> None:
    """Bring a closed file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
