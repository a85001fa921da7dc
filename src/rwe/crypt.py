"""Files encrypted at rest: AES-256-GCM in chunks, so that a file of any size streams both ways.

    RWE1 · key id (8 bytes) · salt (16 bytes) · chunk · chunk · … · last chunk

Each file has a key of its own, HKDF-SHA256 (RFC 5869) of the workspace's key and the file's salt. Each chunk
is 1 MiB of content and 16 bytes of tag; its nonce is its number and whether it is the last one (the STREAM
construction of Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015), so that a chunk taken away, repeated or
moved is noticed. The header and the file's place (`place`) are authenticated with every chunk: one file
cannot stand in for another. Lengths are not hidden.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

#: The ending of an encrypted file's name.
SUFFIX = ".enc"
CHUNK = 1 << 20
HEADER = 28
TAG = 16

_MAGIC = b"RWE1"
_KEY_BYTES = 32
_CACHED_CHUNKS = 2  # Parquet is read by ranges: the one under way and the one before


class UnsealError(Exception):
    """An encrypted file cannot be read. `what` says why, as a clause; it holds no content."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class OtherKeyError(UnsealError):
    """The file is whole as far as one can tell, but the key at hand is not the one it was encrypted with."""

    def __init__(self) -> None:
        super().__init__("it is encrypted with another key")


class DamagedError(UnsealError):
    """The file is not what was written."""

    def __init__(self) -> None:
        super().__init__("it is damaged, cut short or not an encrypted file")


class Sink(Protocol):
    """Whatever takes bytes."""

    def write(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """Whatever gives bytes in order; none is the end."""

    def read(self, size: int, /) -> bytes: ...


def place(path: Path) -> str:
    """What a file is bound to: its name and the two folders above it. A workspace may move as a whole."""
    return "/".join(path.parts[-3:])


def content_size(stored: int) -> int:
    """How many bytes of content an encrypted file of `stored` bytes holds, if it is whole."""
    return max(0, stored - HEADER - _chunk_count(stored) * TAG)


def _chunk_count(stored: int) -> int:
    return -(-(stored - HEADER) // (CHUNK + TAG))


class Cipher:
    """Encrypts and decrypts with one key of 32 bytes. `key_id` tells keys apart and gives nothing away."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"the key is not {_KEY_BYTES} bytes")
        self._key = key
        self.key_id = _derive(key, b"", b"rwe key id", HEADER - len(_MAGIC) - 16).hex()

    def __repr__(self) -> str:
        return f"Cipher({self.key_id})"

    def writer(self, sink: Sink, where: str) -> SealingWriter:
        """A writer that encrypts into `sink`, for a file at `where` (see `place`)."""
        header = _MAGIC + bytes.fromhex(self.key_id) + os.urandom(16)
        sink.write(header)
        return SealingWriter(sink, self.chunks(header, where))

    def reader(self, source: Source, where: str) -> OpeningReader:
        """The content of an encrypted file, in order. Raises UnsealError, here or while it is read."""
        return OpeningReader(source, self, where)

    def open(self, path: Path, where: str | None = None) -> SealedFile:
        """An encrypted file to be read anywhere. Raises UnsealError, OSError."""
        return SealedFile(path, self, where or place(path))

    def seal(self, content: bytes, where: str) -> bytes:
        """Small content, encrypted."""
        sink = io.BytesIO()
        writer = self.writer(sink, where)
        writer.write(content)
        writer.finish()
        return sink.getvalue()

    def unseal(self, content: bytes, where: str) -> bytes:
        """What `seal` was given. Raises UnsealError."""
        reader = self.reader(io.BytesIO(content), where)
        return b"".join(iter(lambda: reader.read(CHUNK), b""))

    def check(self, path: Path) -> None:
        """Whether this key encrypted the file, by its header alone. Raises UnsealError, OSError."""
        with path.open("rb") as f:
            self.check_header(f.read(HEADER))

    def check_header(self, header: bytes) -> None:
        """Raise DamagedError where it is no header, OtherKeyError where it names another key."""
        if len(header) != HEADER or not header.startswith(_MAGIC):
            raise DamagedError
        if header[4:12].hex() != self.key_id:
            raise OtherKeyError

    def chunks(self, header: bytes, where: str) -> _Chunks:
        """The chunks of the file with this header."""
        key = _derive(self._key, header[12:], b"rwe file", _KEY_BYTES)
        return _Chunks(AESGCM(key), header + where.encode())


def _derive(key: bytes, salt: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(key)


class _Chunks:
    """Encrypts and decrypts the chunks of one file by their numbers."""

    def __init__(self, engine: AESGCM, bound_to: bytes) -> None:
        self._engine, self._bound_to = engine, bound_to

    def close(self, number: int, content: bytes, *, is_last: bool) -> bytes:
        return self._engine.encrypt(_nonce(number, is_last), content, self._bound_to)

    def open(self, number: int, data: bytes, *, is_last: bool) -> bytes:
        try:
            return self._engine.decrypt(_nonce(number, is_last), data, self._bound_to)
        except InvalidTag:
            raise DamagedError from None


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


class SealingWriter:
    """Encrypts what is written. Without `finish` the file is cut short, and known to be."""

    def __init__(self, sink: Sink, chunks: _Chunks) -> None:
        self._sink, self._chunks = sink, chunks
        self._number, self._held = 0, bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes; whole chunks go on to the sink. Returns how many were taken: all."""
        self._held += data
        if len(self._held) > CHUNK:  # a full one is held back: it may be the last
            whole = (len(self._held) - 1) // CHUNK * CHUNK
            with memoryview(self._held) as held:
                for start in range(0, whole, CHUNK):
                    self._put(bytes(held[start : start + CHUNK]), is_last=False)
            del self._held[:whole]
        return len(data)

    def finish(self) -> None:
        """Write the last chunk, which may be empty."""
        self._put(bytes(self._held), is_last=True)
        self._held.clear()

    def _put(self, content: bytes, *, is_last: bool) -> None:
        self._sink.write(self._chunks.close(self._number, content, is_last=is_last))
        self._number += 1


class OpeningReader:
    """Decrypts while it reads on: at most two chunks are in memory."""

    def __init__(self, source: Source, cipher: Cipher, where: str) -> None:
        self._source = source
        header = _exactly(source, HEADER)
        cipher.check_header(header)
        self._chunks = cipher.chunks(header, where)
        self._number, self._open, self._at = 0, b"", 0
        self._next = _exactly(source, CHUNK + TAG)
        self._is_over = False

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (-1: of the chunk under way); none is the end. Raises DamagedError."""
        while self._at == len(self._open):
            if self._is_over:
                return b""
            self._advance()
        end = len(self._open) if size < 0 else self._at + size
        piece = self._open[self._at : end]
        self._at += len(piece)
        return piece

    def _advance(self) -> None:
        data = self._next
        self._next = _exactly(self._source, CHUNK + TAG) if len(data) == CHUNK + TAG else b""
        self._is_over = not self._next
        self._open = self._chunks.open(self._number, data, is_last=self._is_over)
        self._number, self._at = self._number + 1, 0


def _exactly(source: Source, size: int) -> bytes:
    """As many bytes as asked for, fewer only at the end."""
    found = source.read(size)
    if 0 < len(found) < size:
        pieces = [found]
        missing = size - len(found)
        while missing and (piece := source.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        found = b"".join(pieces)
    return found


class SealedFile(io.RawIOBase):
    """The content of an encrypted file, to be read anywhere and by several threads (`read_at`).

    The last chunk is decrypted at once: a file that was cut short does not open.
    """

    def __init__(self, path: Path, cipher: Cipher, where: str) -> None:
        super().__init__()
        self._handle, self._position, self._lock = -1, 0, threading.Lock()
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._handle = os.open(path, os.O_RDONLY)
        try:
            header = os.pread(self._handle, HEADER, 0)
            cipher.check_header(header)
            self._chunks = cipher.chunks(header, where)
            stored = os.fstat(self._handle).st_size
            self._count, self.size = _chunk_count(stored), content_size(stored)
            self._chunk(self._count - 1)
        except BaseException:
            self.close()
            raise

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from `position` on, fewer only at the end. Raises DamagedError, OSError."""
        end = min(position + size, self.size)
        pieces = []
        while position < end:
            number, start = divmod(position, CHUNK)
            piece = self._chunk(number)[start : start + end - position]
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _chunk(self, number: int) -> bytes:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        if number < 0:
            raise DamagedError
        data = os.pread(self._handle, CHUNK + TAG, HEADER + number * (CHUNK + TAG))
        content = self._chunks.open(number, data, is_last=number == self._count - 1)
        with self._lock:
            self._cache[number] = content
            while len(self._cache) > _CACHED_CHUNKS:
                self._cache.popitem(last=False)
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        with memoryview(buffer).cast("B") as view:  # type: ignore[arg-type]
            found = self.read_at(self._position, len(view))
            view[: len(found)] = found
        self._position += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed and self._handle >= 0:
            os.close(self._handle)
            self._cache.clear()
        super().close()
