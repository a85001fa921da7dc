"""Reading files that a hospital handed over: plain, gzip or Zstandard; NDJSON, one resource, or a Bundle.

Nothing here knows workspaces or runs. A file becomes a stream of items, each the verbatim bytes of one
resource or of something that is none, with the place it was found at. Files have numbers, for their names
may name patients.
"""

from __future__ import annotations

import codecs
import io
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Literal

import msgspec

from rwe.fhir.bundle import NotAResourceError, Resource, read_bundle, read_resource
from rwe.resource_types import R4_RESOURCE_TYPES
from rwe.unpacking import LONGEST_BYTES, DamagedFileError, check_packing, split_lines

FORMATS: Final = (".ndjson", ".json")
COMPRESSIONS: Final = (".gz", ".zst")
#: How a user finds the name that belongs to a file's number.
NUMBERING: Final = "files are numbered as `find DIR/ ! -type d | LC_ALL=C sort` lists them"

# A suffix can be a name, too ("scan.mueller"): only these are told.
_TOLD = (
    ".7z .bz2 .csv .dcm .doc .docx .gz .hl7 .html .jpg .json .log .md .ndjson .parquet .pdf .png .rar .tar"
    " .tgz .tsv .txt .xls .xlsx .xml .xz .yaml .yml .zip .zst"
)
_TOLD_SUFFIXES = frozenset(_TOLD.split())
_PEEK_LINES = 20
_DEEPEST = 10
_LARGE = 16 << 20
_DENSEST = 12  # bytes a comma
_UTF8_PIECE = 1 << 20
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)

#: Why bytes are no resource to land: no JSON object with a resourceType; a type that R4 does not have; a
#: value too long to be kept; a whole file that is a JSON object of another kind (a package.json).
Problem = Literal["no_resource", "unknown_type", "too_long", "other_json"]
_Numbered = tuple[int, bytes | None]


class _Typed(msgspec.Struct):
    type: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="resourceType")


_TYPED = msgspec.json.Decoder(_Typed)


@dataclass(frozen=True)
class Item:
    """One resource, or (resource None) bytes that are none, and why.

    `line` counts from 1; None: the whole file. `raw` is empty for what is `too_long` or `other_json`.
    """

    raw: bytes
    resource: Resource | None
    line: int | None
    problem: Problem | None = None


@dataclass(frozen=True)
class FoundFile:
    """A file that may hold FHIR. `kind` is its format and compression, such as `.ndjson.gz`."""

    path: Path
    number: int
    kind: str

    @property
    def is_ndjson(self) -> bool:
        return self.kind.startswith(".ndjson")


@dataclass(frozen=True)
class FolderContent:
    """The files of a folder: those that may hold FHIR, and how many others there are by suffix.

    `total` counts all; numbers start at 1 and follow the paths' bytes (see NUMBERING).
    """

    files: tuple[FoundFile, ...]
    others: dict[str, int]
    total: int

    def name(self, file: FoundFile) -> str:
        """What messages call a file: its number and kind, never its name."""
        return f"file {file.number} of {self.total} ({file.kind})"


def find_files(folder: Path) -> FolderContent:
    """Walk a folder. Hidden files and links that lead out of it count as others."""
    root = folder.resolve()
    paths: list[Path] = []
    for place, folders, names in os.walk(root, followlinks=False):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        paths.extend(Path(place) / name for name in (*names, *links))
    paths.sort(key=os.fsencode)
    files: list[FoundFile] = []
    others: dict[str, int] = {}
    for number, path in enumerate(paths, start=1):
        kind = _kind(path)
        if kind and not path.name.startswith(".") and _is_file_inside(path, root):
            files.append(FoundFile(path, number, kind))
        else:
            suffix = path.suffix.lower() or "no suffix"
            told = suffix if suffix in _TOLD_SUFFIXES or not path.suffix else "other"
            others[told] = others.get(told, 0) + 1
    return FolderContent(tuple(files), dict(sorted(others.items())), len(paths))


def _is_file_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root) and path.is_file()
    except (OSError, RuntimeError):  # a link to itself
        return False


def _kind(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return suffixes[-1] + packing if suffixes and suffixes[-1] in FORMATS else None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line of a file that is not blank, unpacked, and its number (from 1).

    An empty line stands for one that is too long or too dense to be read. Raises DamagedFileError, as
    `read_items` does, and OSError.
    """
    check_packing(path)
    for number, line in enumerate(split_lines(path), start=1):
        if line is None or line.strip():
            yield number, line if line and _is_credible(line, 0) else b""


class _Source:
    """The numbered lines of a file, the first of which can be looked at. `damage` is known after the last."""

    def __init__(self, path: Path) -> None:
        self.damage: DamagedFileError | None = None
        self._rest = self._read(path)
        self._head: deque[_Numbered] = deque()

    def _read(self, path: Path) -> Iterator[_Numbered]:
        try:
            yield from enumerate(split_lines(path), start=1)
        except DamagedFileError as e:
            self.damage = e

    def head(self) -> list[bytes | None]:
        """The first lines, up to one that is JSON by itself or too long."""
        size = 0
        for number, line in self._rest:
            self._head.append((number, line))
            size += len(line or b"")
            if len(self._head) >= _PEEK_LINES or size > LONGEST_BYTES or line is None or _is_json(line):
                break
        return [line for _, line in self._head]

    def lines(self) -> Iterator[_Numbered]:
        while self._head:
            yield self._head.popleft()
        yield from self._rest


def read_items(file: FoundFile) -> Iterator[Item]:
    """Every resource in a file, those inside Bundles and arrays singly, in order.

    Lines are streamed; only a file that is one pretty-printed document is held whole, and that up to
    LONGEST_BYTES. Packed files are unpacked once beforehand to check them. Raises DamagedFileError, before
    the first item or, where the file is cut short, after the last; and OSError.
    """
    check_packing(file.path)
    source = _Source(file.path)
    if _is_by_line(source.head()):
        yield from _by_line(source.lines(), file)
    else:
        yield from _document_items(source.lines(), file)
    if source.damage:
        raise source.damage


def _is_json(line: bytes) -> bool:
    """Whether a line is a JSON object or array of its own: then the file is NDJSON (or all on one line)."""
    if line.strip()[:1] not in (b"{", b"["):
        return False
    try:
        _ANY.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _is_by_line(head: list[bytes | None]) -> bool:
    """NDJSON, or one document over many lines? The content decides, not the name.

    A document's first line is no JSON by itself; neither is a damaged line of NDJSON, but then whole
    resources follow it. (A document may also hold a whole resource in one line, a contained one: so its
    opening line is looked at.) No document has a line that is too long.
    """
    if None in head:
        return True
    filled = [line.strip() for line in head if line and line.strip()]
    if not filled:
        return False
    return _is_json(filled[0]) or (any(map(_is_whole_resource, filled)) and not _opens(filled[0]))


def _opens(line: bytes) -> bool:
    return line.endswith((b"{", b"[", b","))


def _is_whole_resource(line: bytes) -> bool:
    try:
        return _is_credible(line, 0) and read_resource(line) is not None
    except NotAResourceError:
        return False


def _is_other_json(raw: bytes) -> bool:
    """A JSON object without a resourceType, well formed."""
    try:
        return not bytes(_TYPED.decode(raw).type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _by_line(lines: Iterator[_Numbered], file: FoundFile) -> Iterator[Item]:
    if not file.is_ndjson:
        filled = ((n, line) for n, line in lines if line is None or line.strip())
        first, second = next(filled, None), next(filled, None)
        if first and second is None and first[1] and _is_other_json(first[1]):
            yield Item(b"", None, None, "other_json")
            return
        lines = chain((n for n in (first, second) if n), filled)
    for number, line in lines:
        yield from _line_items(line, number)


def _line_items(line: bytes | None, number: int) -> Iterator[Item]:
    if line is None:
        yield Item(b"", None, number, "too_long")
    elif line.strip():
        yield from _items(line.strip(b" \t\r"), number)


def _document_items(lines: Iterator[_Numbered], file: FoundFile) -> Iterator[Item]:
    """The resources of a document. If it is none, or too long for one, a file called .ndjson is read line by
    line after all; if it is none, so is one of which most lines are resources."""
    document = io.BytesIO()
    for number, line in lines:
        if line is None or document.tell() + len(line) > LONGEST_BYTES:
            if file.is_ndjson:
                yield from _held_lines(document)
                yield from _line_items(line, number)
                for later, content in lines:
                    yield from _line_items(content, later)
            else:
                yield Item(b"", None, None, "too_long")
            return
        document.write(line + b"\n")
    raw = document.getvalue().strip()
    if not file.is_ndjson and _is_other_json(raw):
        yield Item(b"", None, None, "other_json")
        return
    items = _items(raw, None) if raw else iter(())
    first = next(items, None)
    if first and first.problem == "no_resource" and first.raw == raw:
        if file.is_ndjson or _is_mostly_resources(document):
            yield from _held_lines(document)
        else:
            yield first
        return
    if first:
        yield first
        yield from items


def _held_lines(document: io.BytesIO) -> Iterator[Item]:
    document.seek(0)
    for number, line in enumerate(document, start=1):
        yield from _line_items(line.removesuffix(b"\n"), number)


def _is_mostly_resources(document: io.BytesIO) -> bool:
    document.seek(0)
    filled = whole = 0
    for line in document:
        if line.strip():
            filled += 1
            whole += _is_whole_resource(line.strip())
    return 2 * whole >= filled


def _items(raw: bytes, line: int | None, depth: int = 0) -> Iterator[Item]:
    """The resources in one JSON value: itself, a Bundle's entries, an array's elements."""
    if not _is_credible(raw, depth) or (depth == 0 and not _is_utf8(raw)):
        yield Item(raw, None, line, "no_resource")
        return
    parts: Iterator[bytes]
    try:
        if raw.startswith(b"["):
            parts = (bytes(element) for element in _ITEMS.decode(raw))
        else:
            resource = read_resource(raw)
            if resource.type not in R4_RESOURCE_TYPES:
                yield Item(raw, None, line, "unknown_type")
                return
            if resource.type != "Bundle":
                yield Item(raw, resource, line)
                return
            parts = (entry.raw for entry in read_bundle(raw).entries if entry.mode != "outcome")
    except (NotAResourceError, UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        yield Item(raw, None, line, "no_resource")
        return
    for part in parts:
        yield from _items(part, line, depth + 1)


def _is_credible(raw: bytes, depth: int) -> bool:
    """Whether a value can be cut into parts without filling the memory.

    A Bundle of a hundred million empty entries, or one wrapped in another ten times, is no record. FHIR has
    some 30 bytes a comma.
    """
    if depth > _DEEPEST:
        return False
    return len(raw) <= _LARGE or (depth <= 2 and raw.count(b",") * _DENSEST <= len(raw))


def _is_utf8(raw: bytes) -> bool:
    """Whether bytes are UTF-8, without making a text of up to four times their size."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(raw), _UTF8_PIECE):
            decoder.decode(raw[at : at + _UTF8_PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
