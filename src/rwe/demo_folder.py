"""The folder of a demo: made anew each time, but never over what somebody put there.

Its mark names the files a reader may edit, with their hashes as the demo wrote them. What else the demo
makes, the next one makes again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import msgspec

from rwe.errors import UsageError
from rwe.wording import counted

MARK = ".rwe-demo"
#: What a demo and the commands that only read or rerun it make: in its folder, and in its workspace.
_MADE = frozenset({MARK, f"{MARK}.part", "demo.key", "prefect", "prefect.log", "workspace"})
_MADE_INSIDE = frozenset(
    {"studies", "rwe.yaml", ".rwe.yaml.lock", "landing", "lake", "quarantine", "private", "published"}
    | {"evidence", "audit.ndjson"}
)


class _Mark(msgspec.Struct, frozen=True):
    """`files`: SHA-256 by path in the workspace, as the demo wrote them; None until it has."""

    note: str = "Made by `rwe demo`, which makes this folder anew, unless something of yours is in it."
    files: dict[str, str] | None = None


def fresh_folder(folder: Path, *, study: str, anew: bool) -> Path:
    """An empty folder with a demo's mark. `study` is the demo's.

    Raises UsageError where the folder is not a demo's, or where it holds something that the demo did not
    write, unless `anew` says to delete that, too.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("it is a file, not a folder", where=str(folder), advice="name a folder with --dir")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise UsageError(
            "the folder is not empty and no demo made it", where=str(folder), advice="name another with --dir"
        )
    found = () if anew else of_others(folder, study=study)
    if found:
        more = f" and {counted(len(found) - 1, 'more file')}" if found[1:] else ""
        raise UsageError(
            f"the demo did not write {found[0]}{more}, and would delete it",
            where=str(folder),
            advice="move it away, name another folder with --dir, or delete all with `rwe demo --anew`",
        )
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError:
        raise UsageError(
            "the folder cannot be made", where=str(folder), advice="name another with --dir"
        ) from None
    _write(folder, _Mark())
    return folder


def remember(folder: Path) -> None:
    """Write into the mark what the demo wrote: the settings and the studies of its workspace."""
    workspace = folder / "workspace"
    _write(folder, _Mark(files={_name(workspace, p): _sha256(p) for p in _editable(workspace)}))


def of_others(folder: Path, *, study: str) -> tuple[str, ...]:
    """What in a demo's folder the demo did not write, as paths in it, sorted.

    Studies, locks, settings that were edited, evidence of other studies, releases, and what else is there.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return ()
    workspace = folder / "workspace"
    evidence = workspace / "evidence"
    found = chain(
        _unknown(folder, _MADE),
        _unknown(workspace, _MADE_INSIDE),
        _unknown(evidence, {study}),
        (evidence / study).glob("releases"),
        _edited(workspace, _read(folder)),
    )
    return tuple(sorted(_name(folder, p) for p in found))


def _edited(workspace: Path, mark: _Mark) -> Iterator[Path]:
    if mark.files is None:
        return
    for path in _editable(workspace):
        if path.is_symlink() or mark.files.get(_name(workspace, path)) != _sha256(path):
            yield path


def _editable(workspace: Path) -> Iterator[Path]:
    paths = chain([workspace / "rwe.yaml"], (workspace / "studies").rglob("*"))
    return (p for p in paths if p.is_file() or p.is_symlink())


def _unknown(folder: Path, known: Iterable[str]) -> list[Path]:
    return [p for p in folder.iterdir() if p.name not in known] if folder.is_dir() else []


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(folder: Path, mark: _Mark) -> None:
    part = folder / f"{MARK}.part"
    part.write_bytes(msgspec.json.encode(mark) + b"\n")
    part.replace(folder / MARK)


def _read(folder: Path) -> _Mark:
    """The mark; one that says nothing of files counts every one as somebody's."""
    try:
        return msgspec.json.decode((folder / MARK).read_bytes(), type=_Mark)
    except (OSError, msgspec.DecodeError):
        return _Mark(files={})
