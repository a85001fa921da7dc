"""Encrypted files for DuckDB: Parquet and NDJSON in `rwe.crypt` form, read and written without a plain copy.

DuckDB's own Parquet encryption writes only with its httpfs extension. A file system that it calls back does
without, costs little, and gives all encrypted files of a workspace one form.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

import duckdb
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

from rwe.crypt import (
    SUFFIX,
    Cipher,
    OtherKeyError,
    SealedFile,
    SealingWriter,
    UnsealError,
    content_size,
    place,
)
from rwe.errors import LakeError

_PROTOCOL = "sealed"
_PREFIX = f"{_PROTOCOL}://"


def sealed_name(name: str, cipher: Cipher | None) -> str:
    """The name of a file as it is written from now on."""
    return name + SUFFIX if cipher else name


def address(path: Path) -> str:
    """The file as DuckDB is to be asked for it: an encrypted one through the file system of `attach`."""
    return f"{_PREFIX}{path.absolute()}" if path.suffix == SUFFIX else str(path)


def run_of(path: Path) -> str:
    """The run of a file run=R.parquet or run=R.parquet.enc."""
    return path.name.removeprefix("run=").partition(".")[0]


def parquet_files(folder: Path, pattern: str) -> list[Path]:
    """The Parquet files below `folder` whose names without ending match, encrypted or not, sorted."""
    return sorted([*folder.glob(f"{pattern}.parquet"), *folder.glob(f"{pattern}.parquet{SUFFIX}")])


def create_file(path: Path, cipher: Cipher | None) -> IO[bytes]:
    """A new file to be written from its beginning to its end, encrypted if there is a cipher."""
    return cast("IO[bytes]", _Writing(path, cipher, place(path))) if cipher else path.open("wb")


def attach(
    connection: duckdb.DuckDBPyConnection,
    cipher: Cipher | None,
    places: Mapping[Path, Path] = MappingProxyType({}),
) -> None:
    """Let a connection read and write encrypted files. Without a cipher nothing is changed.

    `places` says where a file that is written aside will lie in the end: that is what it is bound to.
    """
    if cipher:
        connection.register_filesystem(SealedFiles(cipher, places))


def check_keys(paths: Iterable[Path], cipher: Cipher | None) -> None:
    """Raise LakeError if one of the files is encrypted, and not with the key at hand."""
    for path in paths:
        if path.suffix != SUFFIX:
            continue
        try:
            if cipher is None:
                raise OtherKeyError
            cipher.check(path)
        except OtherKeyError:
            raise LakeError(
                "a file is encrypted " + ("with another key" if cipher else "and no key is set"),
                where="/".join(path.parts[-3:]),
                advice="give its key back in `encryption.key_file` of rwe.yaml or in RWE_ENCRYPTION_KEY",
            ) from None
        except (OSError, UnsealError):
            raise LakeError(
                "a file is damaged",
                where="/".join(path.parts[-3:]),
                advice="delete lake/_runs of this site, its runs are then brought in again",
            ) from None


class SealedFiles(AbstractFileSystem):  # type: ignore[misc]
    """The file system `sealed://` of one connection: what DuckDB asks of fsspec, and no more."""

    protocol = _PROTOCOL
    cachable = False  # an instance holds a key, and is gone with its connection

    def __init__(self, cipher: Cipher, places: Mapping[Path, Path]) -> None:
        super().__init__()
        self._cipher = cipher
        self._places = {path.absolute(): place(target) for path, target in places.items()}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(_PREFIX)

    def _local(self, path: str) -> Path:
        return Path(self._strip_protocol(path))

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Reading | _Writing:
        local = self._local(path)
        where = self._places.get(local, place(local))
        if mode == "rb":
            return _Reading(self._cipher.open(local, where))
        return _Writing(local, self._cipher, where)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        local = self._local(path)
        return {"name": str(local), "size": self.size(path), "type": "file"}

    def size(self, path: str) -> int:
        return content_size(self._local(path).stat().st_size)

    def exists(self, path: str, **_: Any) -> bool:
        return self._local(path).exists()

    def isfile(self, path: str) -> bool:
        return self._local(path).is_file()

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self._local(path).stat().st_mtime, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The file itself: names are never patterns here."""
        local = self._local(path)
        return [str(local)] if local.is_file() else []


class _Reading:
    """A file that several threads of DuckDB read at once.

    DuckDB seeks and then reads, in two calls of one thread; another thread may come in between. A read after
    a seek of the same thread therefore starts there, any other where the last one ended.
    """

    def __init__(self, file: SealedFile) -> None:
        self._file, self._position = file, 0
        self._sought: dict[int, int] = {}

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = self._sought[threading.get_ident()] = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._sought.pop(threading.get_ident(), self._position)
        found = self._file.read_at(start, self._file.size - start if size < 0 else size)
        self._position = start + len(found)
        return found

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is pending in a file that is read."""

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed


class _Writing(io.RawIOBase):
    """A new private file (0600) under way, from its beginning to its end."""

    def __init__(self, path: Path, cipher: Cipher, where: str) -> None:
        super().__init__()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(handle, "wb")
        self._sealing: SealingWriter = cipher.writer(self._file, where)
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written += len(data)
        return self._sealing.write(data)

    def tell(self) -> int:
        return self._written

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """A chunk is encrypted whole or not yet: nothing to do before `close`."""

    def close(self) -> None:
        if not self.closed:
            self._sealing.finish()
            self._file.close()
        super().close()
