"""Reading files that a hospital handed over: plain, gzip or Zstandard; NDJSON, one resource, or a Bundle.

Nothing here knows workspaces or runs. A file becomes a stream of items, each the verbatim bytes of one
resource or of something that is none, with the place it was found at.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import zstandard

from rwe.fhir.bundle import NotAResourceError, Resource, read_bundle, read_resource

FORMATS = (".ndjson", ".json")
COMPRESSIONS = (".gz", ".zst")
_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_PEEK_LINES = 20
_DEEPEST_BUNDLE = 10
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)


class DamagedFileError(Exception):
    """A compressed file is damaged. `what` says how; it holds no content.

    Where a file merely ends too early (`is_cut`), what comes before is as it was packed. Otherwise nothing
    of it can be believed: damaged data may unpack into resources that look right and are not.
    """

    def __init__(self, what: str, *, is_cut: bool) -> None:
        super().__init__(what)
        self.what, self.is_cut = what, is_cut


@dataclass(frozen=True)
class Item:
    """One resource, or (resource None) bytes that are none. `line` counts from 1; None: the whole file."""

    raw: bytes
    resource: Resource | None
    line: int | None


@dataclass(frozen=True)
class FolderContent:
    """The files of a folder: those that may hold FHIR, sorted, and how many others there are by suffix."""

    files: tuple[Path, ...]
    others: dict[str, int]


def find_files(folder: Path) -> FolderContent:
    """Walk a folder in a fixed order. Hidden files and links that lead out of it count as others."""
    root = folder.resolve()
    files: list[Path] = []
    others: dict[str, int] = {}
    for place, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        for name in names:
            path = Path(place) / name
            inside = path.resolve().is_relative_to(root)
            if inside and path.is_file() and not name.startswith(".") and _format(path):
                files.append(path)
            else:
                kind = path.suffix or "no suffix"
                others[kind] = others.get(kind, 0) + 1
    return FolderContent(tuple(sorted(files)), dict(sorted(others.items())))


def _format(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _decompressor(path: Path) -> _Decompressor | None:
    match path.suffix.lower():
        case ".gz":
            return zlib.decompressobj(zlib.MAX_WBITS | 16)
        case ".zst":
            return zstandard.ZstdDecompressor().decompressobj()
    return None


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, decompressed. Raises DamagedFileError after all that could be read."""
    engine = _decompressor(path)
    with path.open("rb") as f:
        if engine is None:
            while data := f.read(_CHUNK):
                yield data
            return
        pending, started = b"", False
        while data := pending or f.read(_CHUNK):
            if engine.eof:  # several members one after another are one file
                engine = _decompressor(path) or engine
            try:
                yield engine.decompress(data)
            except (zlib.error, zstandard.ZstdError):
                raise DamagedFileError(
                    "the compressed data is damaged, so none of it is used", is_cut=False
                ) from None
            started = True
            pending = engine.unused_data if engine.eof else b""
            if pending and not pending.strip(b"\0"):  # padding of tapes
                pending = b""
                if not f.read(1):
                    break
        if not started or not engine.eof:
            raise DamagedFileError("the compressed data ends too early", is_cut=True)


def _check_packing(path: Path) -> None:
    if path.suffix.lower() not in COMPRESSIONS:
        return
    try:
        for _ in _chunks(path):
            pass
    except DamagedFileError as e:
        if not e.is_cut:
            raise


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without newline and byte order mark. What follows damage is lost, and said."""
    rest, first = b"", True
    damage: DamagedFileError | None = None
    chunks = _chunks(path)
    while damage is None:
        try:
            chunk = next(chunks, None)
        except DamagedFileError as e:
            damage, chunk = e, None
        if chunk is None:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removeprefix(_BOM) if first else line
            first = False
    if rest:
        yield rest.removeprefix(_BOM) if first else rest
    if damage:
        raise damage


def read_items(path: Path) -> Iterator[Item]:
    """Every resource in a file, those inside Bundles and arrays singly, in order.

    Lines are streamed; only a file that is one pretty-printed document is held whole. Packed files are
    unpacked once beforehand to check them. Raises DamagedFileError, before the first item or, where the file
    is cut short, after the last; and OSError.
    """
    _check_packing(path)
    lines = _lines(path)
    head: list[bytes] = []
    damage: DamagedFileError | None = None
    try:
        for line in lines:
            head.append(line)
            if len(head) >= _PEEK_LINES or _is_json(line):
                break
    except DamagedFileError as e:
        damage = e
    if _is_by_line(head):
        for number, line in enumerate(head, start=1):
            yield from _line_items(line, number)
        if damage is None:
            for number, line in enumerate(lines, start=len(head) + 1):
                yield from _line_items(line, number)
    else:
        rest: list[bytes] = []
        if damage is None:
            try:
                rest.extend(lines)
            except DamagedFileError as e:
                damage = e
        yield from _document_items(head + rest, _format(path) == ".ndjson")
    if damage:
        raise damage


def _is_json(line: bytes) -> bool:
    """Whether a line is a JSON object or array of its own: then the file is NDJSON (or all on one line)."""
    if line.strip()[:1] not in (b"{", b"["):
        return False
    try:
        _ANY.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _is_by_line(head: list[bytes]) -> bool:
    """NDJSON, or one document over many lines? The content decides, not the name.

    A document's first line is no JSON by itself; neither is a damaged line of NDJSON, but then whole
    resources follow it. (A document may also hold a whole resource in one line, a contained one: so its
    opening line is looked at.)
    """
    first = next((line.strip() for line in head if line.strip()), b"")
    return _is_json(first) or (any(_is_whole_resource(line) for line in head) and not _opens(first))


def _opens(line: bytes) -> bool:
    return line.endswith((b"{", b"[", b","))


def _is_whole_resource(line: bytes) -> bool:
    try:
        read_resource(line)
    except NotAResourceError:
        return False
    return True


def _line_items(line: bytes, number: int) -> Iterator[Item]:
    if line.strip():
        yield from _items(line.strip(b" \t\r"), number)


def _document_items(lines: list[bytes], is_ndjson: bool) -> Iterator[Item]:
    """The resources of a document. If it is none, a file called .ndjson is read line by line after all,
    and so is one of which most lines are resources."""
    document = b"\n".join(lines).strip()
    items = list(_items(document, None)) if document else []
    if len(items) == 1 and items[0].resource is None:
        filled = [line for line in lines if line.strip()]
        if is_ndjson or 2 * sum(map(_is_whole_resource, filled)) >= len(filled):
            for number, line in enumerate(lines, start=1):
                yield from _line_items(line, number)
            return
    yield from items


def _items(raw: bytes, line: int | None, depth: int = 0) -> Iterator[Item]:
    """The resources in one JSON value: itself, a Bundle's entries, an array's elements."""
    try:
        raw.decode("utf-8")
        if raw.startswith(b"["):
            for element in _ITEMS.decode(raw):
                yield from _items(bytes(element), line, depth + 1)
            return
        resource = read_resource(raw)
        if resource.type != "Bundle" or depth > _DEEPEST_BUNDLE:
            yield Item(raw, resource, line)
            return
        entries = read_bundle(raw).entries
    except (NotAResourceError, UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        yield Item(raw, None, line)
        return
    for entry in entries:
        if entry.mode != "outcome":
            yield from _items(entry.raw, line, depth + 1)
