"""The bytes and lines of a file that may be packed, within bounds.

What somebody else packed may unpack to anything: a few kilobytes to terabytes, all of it one line. So
unpacking goes in small steps, stops at a ratio no honest file has, and a line that is too long is counted
and not kept.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import zstandard

#: The longest line, or document over several lines, that is held in memory.
LONGEST_BYTES: Final = 256 << 20
#: Packed NDJSON has a ratio of 10 to 30. Below LONGEST_BYTES any ratio is taken.
HIGHEST_RATIO: Final = 1000

_PIECE = 1 << 16
# So much is unpacked at once: gzip makes at most 1,032 bytes of one, Zstandard 128 KiB of four. 16 MiB both.
_PACKED_READ = {".gz": 1 << 14, ".zst": 1 << 9}
_BOM = b"\xef\xbb\xbf"


class DamagedFileError(Exception):
    """A compressed file is damaged. `what` says how; it holds no content.

    Where a file merely ends too early (`is_cut`), what comes before is as it was packed. Otherwise nothing
    of it can be believed: damaged data may unpack into resources that look right and are not.
    """

    def __init__(self, what: str, *, is_cut: bool) -> None:
        super().__init__(what)
        self.what, self.is_cut = what, is_cut


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _decompressor(suffix: str) -> _Decompressor:
    if suffix == ".gz":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    return zstandard.ZstdDecompressor().decompressobj()


def _pieces(path: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked, at most 64 KiB at once. Raises DamagedFileError after all it could read."""
    suffix = path.suffix.lower()
    if suffix in _PACKED_READ:
        yield from _unpacked(path, suffix)
        return
    with path.open("rb") as f:
        while data := f.read(_PIECE):
            yield data


def _unpacked(path: Path, suffix: str) -> Iterator[bytes]:
    engine, started, pending = _decompressor(suffix), False, b""
    size, largest = 0, max(LONGEST_BYTES, HIGHEST_RATIO * path.stat().st_size)
    with path.open("rb") as f:
        while data := pending or f.read(_PACKED_READ[suffix]):
            pending = b""
            if engine.eof:  # several members one after another are one file
                data = data.lstrip(b"\0")  # padding of tapes
                if not data:
                    continue
                engine = _decompressor(suffix)
            try:
                content = engine.decompress(data)
            except (zlib.error, zstandard.ZstdError):
                what = "the compressed data is damaged, so none of it is used"
                raise DamagedFileError(what, is_cut=False) from None
            started = True
            pending = engine.unused_data if engine.eof else b""
            size += len(content)
            if size > largest:
                what = f"the compressed data unpacks to more than {HIGHEST_RATIO} times its size"
                raise DamagedFileError(f"{what}, so none of it is used", is_cut=False)
            for at in range(0, len(content), _PIECE):
                yield content[at : at + _PIECE]
    if not started or not engine.eof:
        raise DamagedFileError("the compressed data ends too early", is_cut=True)


def check_packing(path: Path) -> None:
    """Unpack a packed file once, keeping nothing. Raises DamagedFileError if none of it can be believed."""
    if path.suffix.lower() not in _PACKED_READ:
        return
    try:
        for _ in _pieces(path):
            pass
    except DamagedFileError as e:
        if not e.is_cut:
            raise


class _Line:
    """A line under way: its pieces, joined once it ends."""

    def __init__(self) -> None:
        self._buffer, self.size = io.BytesIO(), 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= LONGEST_BYTES:
            self._buffer.write(part)
        elif self._buffer.tell():
            self._buffer = io.BytesIO()

    def end(self, part: bytes) -> bytes | None:
        if not self.size:
            return part
        self.add(part)
        content = self._buffer.getvalue() if self.size <= LONGEST_BYTES else None
        self._buffer, self.size = io.BytesIO(), 0
        return content


def split_lines(path: Path) -> Iterator[bytes | None]:
    """The lines of a file, unpacked, without newline and byte order mark. None: one over LONGEST_BYTES.

    What follows damage is lost, and said. Raises DamagedFileError, after the last line, and OSError.
    """
    line, is_first = _Line(), True
    damage: DamagedFileError | None = None
    pieces = _pieces(path)
    while True:
        try:
            piece = next(pieces, None)
        except DamagedFileError as e:
            damage, piece = e, None
        if piece is None:
            break
        *ended, rest = piece.split(b"\n")
        for part in ended:
            whole = line.end(part)
            yield whole.removeprefix(_BOM) if is_first and whole else whole
            is_first = False
        line.add(rest)
    if line.size:
        whole = line.end(b"")
        yield whole.removeprefix(_BOM) if is_first and whole else whole
    if damage:
        raise damage
