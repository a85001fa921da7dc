"""What the manifest of a bulk export says of the files that were handed over beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from rwe.fhir.bulk_manifest import (
    FileKind,
    NotAManifestError,
    is_manifest,
    names_in_manifest,
    read_manifest_page,
)
from rwe.handover import COMPRESSIONS, FORMATS, FoundFile

_LARGEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Listed:
    """How a manifest lists a file. `at` is the export's transactionTime; `is_ambiguous`: as several kinds."""

    kind: FileKind
    at: datetime
    is_ambiguous: bool = False


@dataclass(frozen=True)
class HandedManifests:
    """The manifests in a folder: `files`, those that cannot be read (`broken`), and what they list."""

    files: frozenset[Path] = frozenset()
    broken: tuple[FoundFile, ...] = ()
    _by_folder: Mapping[Path, Mapping[str, Listed]] = field(default_factory=dict)

    def listed(self, file: FoundFile) -> Listed | None:
        """What the nearest manifest, beside the file or in a folder above, lists it as; None: not at all."""
        for folder in file.path.parents:
            if folder in self._by_folder:
                return self._by_folder[folder].get(_key(file.path.name))
        return None


def read_manifests(files: Sequence[FoundFile]) -> HandedManifests:
    """Find the manifests among files: by their content, whatever they are called."""
    found: set[Path] = set()
    broken: list[FoundFile] = []
    by_folder: dict[Path, dict[str, Listed]] = {}
    for file in files:
        raw = _small_json(file)
        if raw is None or not is_manifest(raw):
            continue
        found.add(file.path)
        names = by_folder.setdefault(file.path.parent, {})
        try:
            for name, listed in _listed(raw):
                before = names.get(name)
                differs = before is not None and (before.is_ambiguous or before.kind != listed.kind)
                names[name] = Listed(listed.kind, listed.at, is_ambiguous=differs)
        except NotAManifestError:
            broken.append(file)
    return HandedManifests(frozenset(found), tuple(broken), by_folder)


def _small_json(file: FoundFile) -> bytes | None:
    try:
        if file.kind != ".json" or file.path.stat().st_size > _LARGEST_BYTES:
            return None
        return file.path.read_bytes()
    except OSError:
        return None  # told when the file itself is read


def _listed(raw: bytes) -> Iterator[tuple[str, Listed]]:
    at = read_manifest_page(raw, "").manifest.transaction_time
    kinds: tuple[FileKind, ...] = ("output", "deleted", "error")
    for kind in kinds:
        for key in {_key(unquote(name)) for name in names_in_manifest(raw, kind)}:
            yield key, Listed(kind, at)


def _key(name: str) -> str:
    """A file's name without format and compression: a download adds or takes off either."""
    for endings in (COMPRESSIONS, FORMATS):
        ending = next((e for e in endings if name.lower().endswith(e)), "")
        name = name[: len(name) - len(ending)]
    return name
