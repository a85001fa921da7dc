"""The last builds, kept beside the current one: each a private and a published database, and what they are.

    private/builds/BUILD.duckdb      0400, as analyses read it
    private/builds/BUILD.json        0600, written last: the build is whole
    published/builds/BUILD.duckdb    0444, as researchers read it

`private/rwe.duckdb` and `published/rwe.duckdb` are second names of one of them. Names sort by time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rwe.config import Workspace
from rwe.durable import write_whole
from rwe.errors import BuildError
from rwe.warehouse.publish import OWNERS_FILE, READERS_FILE, point, publish


@dataclass(frozen=True)
class KeptBuild:
    """A build that is kept. `content_sha256` is the private build's; the other hashes are of the files."""

    build: str
    built_at: datetime
    content_sha256: str
    code_version: str
    studies: tuple[str, ...]
    private_sha256: str
    published_sha256: str


@dataclass(frozen=True)
class Finished:
    """Two databases, made and closed, and what they are."""

    private: Path
    published: Path
    built_at: datetime
    content_sha256: str
    code_version: str
    studies: tuple[str, ...]


def keep(workspace: Workspace, finished: Finished) -> KeptBuild:
    """Move a finished build in, make it the current one, and remove the oldest beyond `keep_builds`, and
    those that lie open where the settings now name a key.

    Killed at any moment, the current databases are whole, each the one of before or the new one.
    """
    name = f"{finished.built_at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{finished.content_sha256[:8]}"
    kept = KeptBuild(
        build=name,
        built_at=finished.built_at,
        content_sha256=finished.content_sha256,
        code_version=finished.code_version,
        studies=finished.studies,
        private_sha256=file_sha256(finished.private),
        published_sha256=file_sha256(finished.published),
    )
    _remove_unfinished(workspace)
    publish(finished.private, workspace.private_builds / f"{name}.duckdb", OWNERS_FILE)
    publish(finished.published, workspace.published_builds / f"{name}.duckdb", READERS_FILE)
    write_whole(workspace.private_builds / f"{name}.json", msgspec.json.encode(kept))
    make_current(workspace, kept)
    _remove_plain(workspace)
    for old in kept_builds(workspace)[workspace.settings.published.keep_builds :]:
        remove(workspace, old.build)
    return kept


def kept_builds(workspace: Workspace) -> tuple[KeptBuild, ...]:
    """The builds that are kept whole, newest first."""
    found = []
    for path in workspace.private_builds.glob("*.json"):
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=KeptBuild)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            continue
        if all(p.is_file() for p in _files(workspace, kept.build)[:2]):
            found.append(kept)
    return tuple(sorted(found, key=lambda k: k.build, reverse=True))


def current_build(workspace: Workspace) -> KeptBuild | None:
    """The build that is published; None where nothing is, or it is not kept."""
    if not workspace.database.is_file():
        return None
    kept = kept_builds(workspace)
    for one in kept:
        if _files(workspace, one.build)[1].samefile(workspace.database):
            return one
    sha256 = file_sha256(workspace.database)  # on a file system without second names
    return next((k for k in kept if k.published_sha256 == sha256), None)


def make_current(workspace: Workspace, kept: KeptBuild) -> None:
    """Publish a kept build: the private database first, then the published one, each in one step.

    Raises BuildError where its files are not what they were when it was built.
    """
    private, published, _ = _files(workspace, kept.build)
    hashes = (file_sha256(private), file_sha256(published))
    if hashes != (kept.private_sha256, kept.published_sha256):
        raise BuildError(
            "the kept build is not the one that was made: a file was changed",
            where=f"build {kept.build}",
            advice="go back to another one, or run `rwe build`",
        )
    point(private, workspace.private_database)
    point(published, workspace.database)


def remove(workspace: Workspace, build: str) -> None:
    """Forget a kept build; the current databases stay as they are."""
    for path in reversed(_files(workspace, build)):  # the note first: then it is no build any more
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".wal").unlink(missing_ok=True)


def _files(workspace: Workspace, build: str) -> tuple[Path, Path, Path]:
    return (
        workspace.private_builds / f"{build}.duckdb",
        workspace.published_builds / f"{build}.duckdb",
        workspace.private_builds / f"{build}.json",
    )


def _remove_unfinished(workspace: Workspace) -> None:
    """What a killed build moved in and did not note."""
    noted = {p.stem for p in workspace.private_builds.glob("*.json")}
    for folder in (workspace.private_builds, workspace.published_builds):
        for path in folder.glob("*.duckdb"):
            if path.stem not in noted:
                path.unlink(missing_ok=True)


def _remove_plain(workspace: Workspace) -> None:
    """Builds of before there was a key, each with both its databases."""
    folders = {
        workspace.private_builds: workspace.private_database_key(),
        workspace.published_builds: workspace.published_key(),
    }
    for folder, key in folders.items():
        for path in folder.glob("*.duckdb") if key else ():
            if not _is_encrypted(path):
                remove(workspace, path.stem)


def _is_encrypted(path: Path) -> bool:
    """Whether the header of a DuckDB file says so: a checksum, `DUCK`, the version, then flags, of which this
    is the first bit (duckdb, src/storage/storage_info.cpp, MainHeader)."""
    try:
        with path.open("rb") as f:
            header = f.read(28)
    except FileNotFoundError:
        return True  # nothing is left to remove
    return header[8:12] == b"DUCK" and int.from_bytes(header[20:28], "little") & 1 == 1


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
