"""The folder of a demo: made anew each time, but never over what somebody put there.

Its mark names the files a reader may edit, with their hashes as the demo wrote them. Everything else is known
by its place and name: what a demo and the commands that only read or rerun it make, of the demo's hospitals
and its study. What has another name is somebody's.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import msgspec

from rwe.durable import AS_UMASK, write_whole
from rwe.errors import UsageError
from rwe.resources import bundled
from rwe.sandbox.hospital import demo_specs
from rwe.wording import counted

MARK = ".rwe-demo"
#: A run, a build, a refresh or a blind look: when it was made, and what tells two of one moment apart.
_STAMP = r"\d{8}T\d{6,12}Z(-[0-9a-f]+)?"
_DATABASE = r"rwe\.duckdb(\.wal(\.stray)?)?|\.rwe\.duckdb\.new"
#: What a demo and the commands that only read or rerun it make, by folder: the names in it. `{sites}` and
#: `{study}` are the demo's. Only runs, what Prefect keeps, and folders under way are known as a whole.
_MADE = {
    "": rf"\.?{re.escape(MARK)}(\.part)?|demo\.key|prefect\.log|prefect(/.+)?|workspace",
    "workspace": r"\.?rwe\.yaml(\.part)?|\.rwe\.yaml\.lock|audit\.ndjson|studies(/.+)?"
    r"|landing|lake|quarantine|private|published|evidence",
    "workspace/landing": rf"site={{sites}}(/(\.lock|run={_STAMP}(/.+)?|\.run={_STAMP}\.part(/.+)?))?",
    "workspace/lake": rf"\w+(/site={{sites}}(/\.?run={_STAMP}[^/]*)?)?|\.site={{sites}}\.[^/]+\.part(/.+)?",
    "workspace/quarantine": rf"site={{sites}}(/run={_STAMP}[^/]*)?",
    "workspace/private": rf"{_DATABASE}|build\.lock|backups\.ndjson"
    rf"|builds(/\.?{_STAMP}\.(duckdb|json)(\.part)?)?"
    r"|\.ids-\w+|(build|analyse|erase)-\w+(/.+)?"
    rf"|history(/\.lock|/{{study}}(/\.lock|/\.?({_STAMP}\.json\.zst|lock\.json)(\.part)?)?)?",
    "workspace/published": rf"{_DATABASE}|builds(/{_STAMP}\.duckdb)?",
    "workspace/evidence": rf"{{study}}(/latest|/\.latest\.new|/\.part-[^/]+(/.+)?"
    rf"|/{_STAMP}(/\.?(evidence|manifest)\.json(\.part)?|/\.?report\.html(\.part)?"
    r"|/reproduce(/(analysis|columns|expected)\.csv|/analysis\.R)?)?)?",
}


class _Mark(msgspec.Struct, frozen=True):
    """`files`: SHA-256 by path in the workspace, as the demo wrote them; None until it has. Until then all
    settings, and all studies but those that rwe came with, count as somebody's."""

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

    Studies, locks, settings that were edited, evidence of other studies, releases, runs of other sites, and
    what else is there. A folder that is somebody's stands for all in it.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return ()
    workspace = folder / "workspace"
    found = chain(_unknown(folder, folder, _known(study)), _edited(workspace, _read(folder)))
    return tuple(sorted(_name(folder, p) for p in found))


def _known(study: str) -> re.Pattern[str]:
    """What the path of a file or a folder that a demo makes matches, in the demo's folder."""
    sites = "|".join(re.escape(spec.name) for spec in demo_specs(seed=0))
    made = (
        (re.escape(f"{place}/" if place else ""), names.replace("{sites}", f"({sites})"))
        for place, names in _MADE.items()
    )
    return re.compile("|".join(f"{p}({n.replace('{study}', re.escape(study))})" for p, n in made))


def _unknown(folder: Path, root: Path, known: re.Pattern[str]) -> Iterator[Path]:
    for path in folder.iterdir():
        if not known.fullmatch(_name(root, path)):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _unknown(path, root, known)


def _edited(workspace: Path, mark: _Mark) -> Iterator[Path]:
    written = mark.files or {}
    for path in _editable(workspace):
        name = _name(workspace, path)
        if path.is_symlink() or not (written.get(name) == _sha256(path) or _is_bundled(workspace, path)):
            yield path


def _is_bundled(workspace: Path, path: Path) -> bool:
    """Whether a file is a bundled study's, or its beginning: of a demo that was killed as it copied."""
    if not path.is_relative_to(workspace / "studies"):
        return False
    source = bundled("studies") / path.relative_to(workspace / "studies")
    return source.is_file() and source.read_bytes().startswith(path.read_bytes())


def _editable(workspace: Path) -> Iterator[Path]:
    paths = chain([workspace / "rwe.yaml"], (workspace / "studies").rglob("*"))
    return (p for p in paths if p.is_file() or p.is_symlink())


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(folder: Path, mark: _Mark) -> None:
    write_whole(folder / MARK, msgspec.json.encode(mark) + b"\n", AS_UMASK)


def _read(folder: Path) -> _Mark:
    """The mark; one that cannot be read says nothing of files."""
    try:
        return msgspec.json.decode((folder / MARK).read_bytes(), type=_Mark)
    except (OSError, msgspec.DecodeError):
        return _Mark()
