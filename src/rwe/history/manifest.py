"""A refresh is a folder that is written once. Its manifest says what was written, from what, and after what.

    evidence/STUDY/REFRESH/evidence.json    0444
    evidence/STUDY/REFRESH/report.html      0444, made of it once
    evidence/STUDY/REFRESH/manifest.json    0444, the hashes of both, of code, protocol, tables and lock, the
                                            look itself, and the hash of the refresh before

What stands beside them in `reproduce` is of single patients, can be made again, and is in no hash: `rwe
erase` removes it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
from pydantic import ValidationError

from rwe.durable import write_whole
from rwe.errors import EvidenceError
from rwe.evidence.history import Look
from rwe.resources import bundled

MANIFEST, EVIDENCE, REPORT = "manifest.json", "evidence.json", "report.html"
UNFINISHED = ".part-"
"""How the name of a folder begins that is being written."""
_SEALED = 0o444
_PACKAGE = Path(__file__).resolve().parents[1]
_CODE = (".py", ".sql", ".j2", ".css", ".json")


class SealedFile(msgspec.Struct, frozen=True):
    """A file of the refresh as it was written."""

    name: str
    sha256: str
    size: int


class Inputs(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a refresh is made of: the same inputs give the same numbers.

    `tables_sha256` is of the study's tables as they were analysed (see `rwe.history.inputs`), `lock` of the
    protocol's lock: its status and its log. `federated_sha256` is of the hub's federated estimates; without
    any it is left out, so that the chain of older manifests keeps its hashes.
    """

    tables_sha256: str
    protocol_sha256: str
    code_version: str
    code_sha256: str
    lock_sha256: str
    federated_sha256: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What a refresh is. `look` is as in the evidence; `before` is the manifest's hash of the refresh that
    was the newest then, by name in `before_refresh`."""

    study: str
    refresh: str
    created_at: datetime
    content_sha256: str
    inputs: Inputs
    look: dict[str, object]
    files: tuple[SealedFile, ...]
    before_refresh: str | None = None
    before: str | None = None
    version: Literal[1] = 1

    def the_look(self) -> Look | None:
        """The look; None where another version of this software described it otherwise."""
        try:
            return Look.model_validate_json(msgspec.json.encode(self.look))
        except ValidationError:
            return None


@dataclass(frozen=True)
class Verified:
    """A refresh that was read: its manifest (None where it has none) and what is wrong with it, a sentence
    each."""

    folder: Path
    manifest: Manifest | None
    problems: tuple[str, ...]


@cache
def code_sha256() -> str:
    """A hash of the code that analyses and reports: every Python, SQL and template file of this software."""
    digest = hashlib.sha256()
    for root in (_PACKAGE, bundled("sql")):
        files = [p for p in root.rglob("*") if p.suffix in _CODE and "_bundled" not in p.parts]
        for path in sorted(files, key=lambda p: p.relative_to(root).as_posix()):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            digest.update(f"{name}\0{_sha256(path)}\n".encode())
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Seal a refresh: its files read-only, its manifest written last. Complete or absent."""
    write_sealed(folder, manifest.files, msgspec.json.encode(manifest))


def write_sealed(folder: Path, files: Sequence[SealedFile], manifest: bytes) -> None:
    """Make the files of a folder read-only and write its manifest, JSON, as the last one."""
    for entry in files:
        (folder / entry.name).chmod(_SEALED)
    content = msgspec.json.format(manifest, indent=1) + b"\n"
    write_whole(folder / MANIFEST, content, _SEALED)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` on the way out: whole or absent.

    A killed process leaves a hidden one, which the next removes.
    """
    for stale in folder.parent.glob(f"{UNFINISHED}*"):
        shutil.rmtree(stale)
    part = folder.with_name(f"{UNFINISHED}{folder.name}")
    part.mkdir(parents=True)
    yield part
    part.rename(folder)


def sealed(folder: Path, names: Sequence[str]) -> tuple[SealedFile, ...]:
    """Files of a folder with their hashes."""
    return tuple(SealedFile(n, _sha256(folder / n), (folder / n).stat().st_size) for n in names)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a refresh; None where it was made before there were any.

    Raises EvidenceError where it cannot be read.
    """
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise EvidenceError(
            "the manifest of the refresh is damaged or of a newer rwe",
            where=str(folder / MANIFEST),
            advice="restore the folder from a backup, or look at it with the rwe that made it",
        ) from None


def manifest_sha256(folder: Path) -> str | None:
    """The hash that the next refresh keeps of this one; None without a manifest."""
    path = folder / MANIFEST
    return _of_first_seal(path) if path.is_file() else None


def _of_first_seal(path: Path) -> str:
    """The report may be sealed after the next refresh was made: it is in no hash of the chain."""
    content = path.read_bytes()
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return hashlib.sha256(content).hexdigest()  # of no manifest that was ever made
    files = tuple(f for f in manifest.files if f.name != REPORT)
    first = msgspec.structs.replace(manifest, files=files)
    return hashlib.sha256(msgspec.json.encode(first, order="deterministic")).hexdigest()


def verify(folder: Path) -> Verified:
    """Compare a refresh with its manifest. What is not as written is told, not raised: a history with one
    altered refresh is still a history."""
    try:
        manifest = read_manifest(folder)
    except EvidenceError as e:
        return Verified(folder, None, (str(e),))
    if manifest is None:
        return Verified(folder, None, ())
    problems = [
        f"{entry.name} of refresh {folder.name} {what}"
        for entry in manifest.files
        if (what := _difference(folder / entry.name, entry))
    ]
    if manifest.refresh != folder.resolve().name:
        problems.append(
            f"the folder {folder.resolve().name} holds the manifest of refresh {manifest.refresh}"
        )
    return Verified(folder, manifest, tuple(problems))


def require_unaltered(folder: Path) -> Manifest | None:
    """The manifest of a refresh that is as it was written. Raises EvidenceError where it is not."""
    found = verify(folder)
    if found.problems:
        raise EvidenceError(
            found.problems[0].rstrip("."),
            where=str(folder),
            advice="restore it from a backup, or make a new refresh with `rwe analyse --force`",
        )
    return found.manifest


def _difference(path: Path, entry: SealedFile) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.size or _sha256(path) != entry.sha256:
        return "was changed since it was written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
