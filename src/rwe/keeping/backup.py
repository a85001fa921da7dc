"""Copies a whole workspace, and brings a copy back. No key is in a copy: they lie outside, keep them apart.

DIR/rwe-backup-STAMP/files/…        the workspace's files, 0700 and 0600
DIR/rwe-backup-STAMP/backup.json    what they are: path, size, hash; written last
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rwe import __version__
from rwe.blocklist import Blocklist, open_blocklist
from rwe.config import Workspace, open_workspace
from rwe.durable import append, sync, write_new
from rwe.errors import ConfigError, RweError, UsageError
from rwe.keeping.landed import finish_interrupted, site_lock
from rwe.keeping.versions import check_versions
from rwe.site_settings import Site
from rwe.warehouse.build import only_build

MANIFEST = "backup.json"
_VERSION = 1
_CHUNK = 1 << 20
_SCRATCH = ("build-", "analyse-", "erase-")
_NOT_OURS = "nothing was restored; `rwe backup` makes none like it: find out who changed it"
_LOCKS = frozenset({".lock", "build.lock", ".rwe.yaml.lock"})


@dataclass(frozen=True)
class BackedUp:
    """One file: its path in the workspace. `link` is set for a symbolic link, which has no hash."""

    path: str
    mode: int
    size: int
    sha256: str
    link: str | None = None


@dataclass(frozen=True)
class Backup:
    """A finished backup. `erased` are the HMACs of patients who were erased before it was made, and
    `blocklist` tells their key from others without giving it away. `left_out` are files with secrets."""

    version: int
    created_at: datetime
    code_version: str
    files: tuple[BackedUp, ...]
    erased: tuple[str, ...] = ()
    blocklist: str | None = None
    left_out: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(f.size for f in self.files)


@dataclass(frozen=True)
class KnownBackup:
    """A backup that was made of this workspace, and where."""

    path: Path
    created_at: datetime


@dataclass(frozen=True)
class Restored:
    """A workspace that was restored. `notes` say what the next build upgrades; `came_back` counts lines and
    rows of erased patients that were taken out again."""

    root: Path
    files: int
    notes: tuple[str, ...]


def back_up(workspace: Workspace, folder: Path) -> tuple[Path, Backup]:
    """Copy the workspace into a new folder below `folder`; nobody builds or lands meanwhile.

    Raises UsageError where the folder lies in the workspace, BuildError or LandingError where a build or a
    run is under way, RweError where the disk does not do. What is not finished is removed.
    """
    folder = folder.expanduser().resolve()
    if folder.is_relative_to(workspace.root):
        raise UsageError(
            "the backup would lie inside the workspace", where=str(folder), advice="choose another"
        )
    at = datetime.now(UTC)
    target = folder / f"rwe-backup-{at:%Y%m%dT%H%M%SZ}"
    part = folder / f".{target.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode=0o700)
        with ExitStack() as held:
            held.enter_context(only_build(workspace))
            for site in sorted(p.name.removeprefix("site=") for p in workspace.landing.glob("site=*")):
                held.enter_context(site_lock(workspace.landing, site))
                finish_interrupted(workspace.landing, site)
            secrets = _secrets(workspace)
            files = tuple(_copy_all(workspace.root, part / "files", secrets))
        blocklist = open_blocklist(workspace)
        backup = Backup(
            version=_VERSION,
            created_at=at,
            code_version=__version__,
            files=files,
            erased=tuple(sorted(blocklist.entries)) if blocklist else (),
            blocklist=_fingerprint(blocklist),
            left_out=tuple(sorted(str(p.relative_to(workspace.root)) for p in secrets if p.exists())),
        )
        write_new(part / MANIFEST, msgspec.json.format(msgspec.json.encode(backup), indent=1))
        part.rename(target)
    except OSError as e:
        shutil.rmtree(part, ignore_errors=True)
        raise RweError(
            "the backup could not be written", where=str(folder), advice="check the folder and the disk"
        ) from e
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _note(workspace, target, at)
    return target, backup


def restore(source: Path, target: Path) -> Restored:
    """Bring a backup back into a new folder, after every file has been checked against its hash.

    The erased stay erased: their list is brought up to date, and the caller takes out who came back
    (`rwe.keeping.erase.erase_blocked`). Raises UsageError where `target` is not empty or `source` is no
    backup, ConfigError where it names erased patients and their list's key is not at hand, or is of a newer
    rwe; RweError where a file is damaged: nothing is restored then.
    """
    source, target = source.expanduser().resolve(), target.expanduser().resolve()
    backup = read_backup(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            "the folder to restore into is not empty", where=str(target), advice="name a new one"
        )
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _copy_back(backup, source / "files", part)
        workspace = open_workspace(part)
        notes = check_versions(workspace)
        _merge_blocklist(Workspace(target, workspace.settings), backup)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as e:
        raise RweError(
            "the backup could not be restored", where=str(target), advice="check the folder and the disk"
        ) from e
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Restored(target, len(backup.files), notes)


def read_backup(source: Path) -> Backup:
    """What a backup says of itself. Raises UsageError where the folder is no backup, or of a newer rwe."""
    try:
        backup = msgspec.json.decode((source / MANIFEST).read_bytes(), type=Backup)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(
            "this is no finished backup", where=str(source), advice="name a folder rwe-backup-…"
        ) from None
    if backup.version != _VERSION:
        raise UsageError(
            f"the backup is of version {backup.version}, and this rwe knows version {_VERSION}",
            where=str(source),
            advice="use the rwe that made it",
        )
    return backup


def known_backups(workspace: Workspace) -> tuple[KnownBackup, ...]:
    """The backups that were made of this workspace, oldest first, whether they are still there or not."""
    found = []
    path = workspace.private / "backups.ndjson"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=KnownBackup, dec_hook=lambda kind, v: kind(v)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return tuple(found)


def _note(workspace: Workspace, path: Path, at: datetime) -> None:
    workspace.private.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = msgspec.json.encode(KnownBackup(path, at), enc_hook=str) + b"\n"
    append(workspace.private / "backups.ndjson", line)


def _secrets(workspace: Workspace) -> frozenset[Path]:
    """Files of the settings that hold a secret, as far as they lie in the workspace."""
    settings = workspace.settings
    named = [
        s.key_file for s in (settings.pseudonyms, settings.encryption, settings.published.encryption) if s
    ]
    for site in settings.sites.values():
        named += _secrets_of(site)
    inside = [p.expanduser().resolve() for p in named]
    return frozenset(p for p in inside if p.is_relative_to(workspace.root))


def _secrets_of(site: Site) -> list[Path]:
    fields = ("key_file", "next_key_file", "token_file", "password_file")
    found = [getattr(site.auth, name, None) for name in fields]
    found += [site.client_key_file, site.link.key_file if site.link else None]
    return [p for p in found if p is not None]


def _copy_all(root: Path, target: Path, secrets: frozenset[Path]) -> Iterator[BackedUp]:
    target.mkdir(mode=0o700)
    copied: dict[tuple[int, int], tuple[Path, str]] = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if _is_passing(inside) or _resolved(path) in secrets:
            continue
        new = target / inside
        if path.is_symlink():
            link = str(path.readlink())
            if _leads_out(inside, link):
                raise UsageError(
                    "a link leads out of the workspace, and what it leads to would not be in the backup",
                    where=str(inside),
                    advice="put the file itself in its place, or remove the link",
                )
            new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new.symlink_to(link)
            yield BackedUp(str(inside), 0, 0, "", link=link)
        elif path.is_dir():
            new.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif path.is_file():
            about = path.stat()
            identity = (about.st_dev, about.st_ino)
            if identity in copied:  # the current database has two names
                first, sha256 = copied[identity]
                os.link(first, new)
            else:
                sha256 = _copy(path, new)
                copied[identity] = (new, sha256)
            yield BackedUp(str(inside), stat.S_IMODE(about.st_mode), about.st_size, sha256)


def _is_passing(path: Path) -> bool:
    """Locks, and what is under way."""
    name = path.name
    in_scratch = len(path.parts) > 1 and path.parts[0] == "private" and path.parts[1].startswith(_SCRATCH)
    return in_scratch or name in _LOCKS or any(p.endswith(".part") for p in path.parts)


def _copy(source: Path, target: Path) -> str:
    hashing = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as f, os.fdopen(handle, "wb") as out:
        while chunk := f.read(_CHUNK):
            hashing.update(chunk)
            out.write(chunk)
        sync(out)
    return hashing.hexdigest()


def _copy_back(backup: Backup, files: Path, target: Path) -> None:
    target.mkdir(mode=0o700, parents=True)
    for name in ("landing", "lake", "quarantine", "private"):
        (target / name).mkdir(mode=0o700)
    _refuse_ways_out(backup, files.parent)
    for one in backup.files:
        if one.link is not None:
            continue
        inside = Path(one.path)
        new = target / inside
        if not (files / inside).is_file() or _copy(files / inside, new) != one.sha256:
            raise RweError(
                "a file of the backup is damaged or gone",
                where=one.path,
                advice="restore another backup; nothing was restored",
            )
        new.chmod(one.mode & 0o777)
    _link_back(backup, target, files.parent)
    _open_folders(target)


def _refuse_ways_out(backup: Backup, source: Path) -> None:
    """Raise UsageError where a file or link would lie, or lead, outside the folder it is restored into."""
    links = {Path(f.path) for f in backup.files if f.link is not None}
    for one in backup.files:
        inside = Path(one.path)
        if inside.is_absolute() or ".." in inside.parts or inside == Path():
            raise UsageError("the backup names a file outside itself", where=str(source), advice=_NOT_OURS)
        if links.intersection(inside.parents):
            raise UsageError("the backup names a file behind a link", where=str(source), advice=_NOT_OURS)
        if one.link is not None and _leads_out(inside, one.link):
            raise UsageError("a link of the backup leads out of it", where=str(source), advice=_NOT_OURS)


def _leads_out(inside: Path, link: str) -> bool:
    """Whether a link at a path of the workspace has a target that is absolute or above the workspace."""
    if Path(link).is_absolute():
        return True
    return Path(os.path.normpath(inside.parent / link)).parts[:1] == (os.pardir,)


def _link_back(backup: Backup, target: Path, source: Path) -> None:
    """Links come last: no file is written through one. By way of each other they may lead out even so."""
    made = [(target / f.path, f.link) for f in backup.files if f.link is not None]
    for new, link in made:
        new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.symlink_to(link)
    for new, _ in made:
        if not _resolved(new).is_relative_to(target.resolve()):
            raise UsageError("a link of the backup leads out of it", where=str(source), advice=_NOT_OURS)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:  # links in a circle lead nowhere
        return path


def _open_folders(target: Path) -> None:
    """published/ is for readers, evidence and studies as init makes them; all else is the owner's."""
    for path in target.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            top = path.relative_to(target).parts[0]
            path.chmod(0o755 if top == "published" else 0o750 if top in {"evidence", "studies"} else 0o700)


def _merge_blocklist(workspace: Workspace, backup: Backup) -> None:
    if not backup.erased:
        return
    blocklist = open_blocklist(workspace)
    if blocklist is None or _fingerprint(blocklist) != backup.blocklist:
        raise ConfigError(
            "patients were erased before this backup, and the key of their list is not at hand",
            where=str(workspace.settings.pseudonyms.key_file.parent),
            advice="bring the key back, or name it in pseudonyms.blocklist_key_file",
        )
    blocklist.add(backup.erased)


def _fingerprint(blocklist: Blocklist | None) -> str | None:
    return blocklist.by_pseudonym("rwe blocklist fingerprint") if blocklist else None
