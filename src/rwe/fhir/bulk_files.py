"""Files of an export on this machine: stored as they came over the wire, counted while they come.

A file that came compressed stays so on disk; a file is never held in memory. One whose name ends in `.enc` is
encrypted (`rwe.crypt`).
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from rwe.crypt import SUFFIX, Cipher, OtherKeyError, SealingWriter, place

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_BUFFER = 1 << 20
_NEWLINE, _BLANK = 10, 32
_HEAD, _TAIL = 64, 4096


class IncompleteFileError(Exception):
    """The file is not all that it should be. `what` says why; it holds no content."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class Stored:
    """A stored file: its resources (lines that are not blank), its bytes on disk and their checksum."""

    lines: int
    bytes: int
    crc32: int


class _LineCounter:
    """Counts lines in chunks. `blank` is True if there may be blank lines, which count for nothing."""

    def __init__(self) -> None:
        self.newlines = 0
        self.first = self.last = self.tail = b""
        self.blank = False

    def feed(self, data: bytes) -> None:
        if not data:
            return
        if len(self.first) < _HEAD:
            self.first += data[: _HEAD - len(self.first)]
        if not self.last:
            self.blank = data[0] <= _BLANK
        elif self.last == b"\n" and data[0] <= _BLANK:
            self.blank = True
        # numpy counts five times as fast as bytes.count, and looks for blank lines at little cost.
        octets = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(octets == _NEWLINE)
        self.newlines += len(ends)
        following = octets[ends[ends < len(data) - 1] + 1]
        self.blank = self.blank or bool((following <= _BLANK).any())
        self.last = data[-1:]
        self.tail = (data if len(data) >= _TAIL else self.tail + data)[-_TAIL:]

    @property
    def lines(self) -> int:
        return self.newlines + (self.last not in (b"", b"\n"))


class _Unpacker:
    """Unpacks gzip for counting only; several members one after another are one file."""

    def __init__(self) -> None:
        self._engine = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._engine.eof:
                if not data.strip(b"\0"):  # padding
                    return
                self._engine = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                # Bounded, so that a small chunk cannot unpack into all the memory.
                piece = self._engine.decompress(data, _BUFFER)
                yield piece
                while self._engine.unconsumed_tail or len(piece) == _BUFFER:
                    piece = self._engine.decompress(self._engine.unconsumed_tail, _BUFFER)
                    yield piece
            except zlib.error:
                raise IncompleteFileError("its compressed data is damaged") from None
            data = self._engine.unused_data

    @property
    def is_complete(self) -> bool:
        return self._engine.eof


class _Disk:
    """Writes to a file and keeps the size and the checksum of what lies in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.size, self.crc32 = file, 0, 0

    def write(self, chunk: bytes) -> None:
        _write_all(self._file, chunk)
        self.size += len(chunk)
        self.crc32 = zlib.crc32(chunk, self.crc32)


class _Intake:
    """Takes a file's chunks in order: to the disk, encrypted where there is a key, unpacked for counting."""

    def __init__(self, disk: _Disk, sealing: SealingWriter | None) -> None:
        self._disk, self._sealing = disk, sealing
        self._unpacker: _Unpacker | None = None
        self._first: bytes | None = b""
        self.counter = _LineCounter()

    @property
    def is_packed(self) -> bool:
        return self._unpacker is not None

    def take(self, chunk: bytes) -> None:
        if self._first is not None:
            chunk = self._first + chunk
            if len(chunk) < len(_GZIP):  # too short to tell what it is
                self._first = chunk
                return
            self._first = None
            self._unpacker = _Unpacker() if chunk.startswith(_GZIP) else None
        self._put(chunk)

    def _put(self, chunk: bytes) -> None:
        (self._sealing or self._disk).write(chunk)
        for data in self._unpacker.feed(chunk) if self._unpacker else (chunk,):
            self.counter.feed(data)

    def finish(self) -> None:
        """Raises IncompleteFileError where compressed data ends too early."""
        if self._first:
            self._put(self._first)
        if self._sealing:
            self._sealing.finish()
        if self._unpacker and not self._unpacker.is_complete:
            raise IncompleteFileError("its compressed data ends too early")


def _take_beside(chunks: Iterable[bytes], take: Callable[[bytes], None]) -> None:
    """Take each chunk while the next one comes: disk, checksum and count leave Python's lock to the socket.

    Never more than two chunks are held.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="store") as beside:
        taking: Future[None] | None = None
        for chunk in chunks:
            if taking is not None:
                taking.result()
            taking = beside.submit(take, chunk)
        if taking is not None:
            taking.result()


def store(
    chunks: Iterable[bytes], path: Path, *, expected: int | None, cipher: Cipher | None = None
) -> Stored:
    """Write chunks to a new private file (0600), count its lines, and compare with `expected`.

    A file of which some is there already is begun anew. It is not synced, which would cost as much as the
    download: after a crash of the machine its checksum tells (`is_intact`). With a cipher, `path` ends in
    `.enc`. Raises IncompleteFileError if the count differs, the file is cut short, or it does not begin as
    NDJSON does; OSError.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as f:
        disk = _Disk(f)
        intake = _Intake(disk, cipher.writer(disk, place(path)) if cipher else None)
        _take_beside(chunks, intake.take)
        intake.finish()
    counter = intake.counter
    beginning = counter.first.removeprefix(_BOM).lstrip()
    if beginning and not beginning.startswith(b"{"):
        raise IncompleteFileError("it is no NDJSON")
    lines = sum(1 for _ in read_lines(path, cipher)) if counter.blank else counter.lines
    if expected is not None and lines != expected:
        raise IncompleteFileError(f"it has {lines} resources, and the manifest says {expected}")
    _check_end(counter, intake.is_packed)
    return Stored(lines, disk.size, disk.crc32)


def is_intact(path: Path, stored: Stored) -> bool:
    """Whether the file is still what was stored."""
    crc = size = 0
    try:
        with path.open("rb") as f:
            while chunk := f.read(_BUFFER):
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    except OSError:
        return False
    return (size, crc) == (stored.bytes, stored.crc32)


def _write_all(f: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        written = f.write(view)
        view = view[written:]


def _check_end(counter: _LineCounter, is_packed: bool) -> None:
    """Half a last line is half a file, also where nobody said how long it is."""
    if counter.last in (b"", b"\n", b"}") or is_packed:
        return
    if not counter.tail.rstrip().endswith(b"}"):
        raise IncompleteFileError("it ends within a resource")


def read_lines(path: Path, cipher: Cipher | None = None) -> Iterator[bytes]:
    """The lines of a stored file that are not blank, without newline and byte order mark, as served.

    Raises OSError, EOFError, zlib.error and UnsealError where the disk has damaged it since, or the key is
    not the one it was encrypted with.
    """
    with _opened(path, cipher) as raw:
        is_packed = raw.read(2) == _GZIP
        raw.seek(0)
        lines = cast("Iterable[bytes]", gzip.GzipFile(fileobj=raw, mode="rb") if is_packed else raw)
        first = True
        for line in lines:
            content = line.removeprefix(_BOM) if first else line
            first = False
            stripped = content.strip(b" \t\r\n")
            if stripped:
                yield stripped


def _opened(path: Path, cipher: Cipher | None) -> IO[bytes]:
    if path.suffix != SUFFIX:
        return path.open("rb")
    if cipher is None:
        raise OtherKeyError
    return io.BufferedReader(cipher.open(path), _BUFFER)
