"""Sets of resource ids that do not grow in memory: to tell what was known and did not come.

A big site has millions of ids, of both nights. Each is kept as a digest of 15 bytes, under a key that nothing
but this process ever holds, in a file without a name: it is gone with the process, however that ends. Sets
are compared one slice of the digests' range after the other.

Two ids are taken for one with a chance of 1 in 10^20 at a thousand million ids, and not again the next night.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rwe.errors import LandingError

_HELD = 1 << 16  # entries of a set in memory before they go to disk: 1 MiB
_COMPARED = 1 << 16  # entries compared at once: 1 MiB, and some copies of it
_PORTION = 1 << 17  # digests handed out at once: some 15 MiB
_TOPS = 256  # the slices there can be: by a digest's first byte
_DIGEST_BYTES = 15
_ENTRY_BYTES = 16  # the digest, and whether it came in or went out
_IN, _OUT = b"\1", b"\0"
_STATE_BITS = np.uint64(8)

#: Entries: two words each, the state in the last byte.
_Rows = npt.NDArray[np.uint64]


class IdShelf:
    """Makes sets that can be compared with each other. They spill into `folder`, made if it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._key = folder, secrets.token_bytes(32)

    def new(self, ids: Iterable[str] = ()) -> IdSet:
        """A set of these ids."""
        made = IdSet(self)
        made.add(ids)
        return made

    def digest(self, resource_id: str) -> bytes:
        """What stands for an id in `IdSet.portions`."""
        return blake2b(resource_id.encode(), digest_size=_DIGEST_BYTES, key=self._key).digest()

    def open_file(self) -> int:
        """A file without a name, which only this process can read: its descriptor. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".ids-")
        Path(name).unlink()
        return handle


@dataclass(frozen=True)
class _Stretch:
    """Sorted entries, each digest once: where they begin in the file, and where each slice begins in them."""

    at: int
    bounds: npt.NDArray[np.int64] = field(repr=False)


class IdSet:
    """A set of ids; the last of several `add` and `discard` of an id counts. One thread at a time.

    All methods raise LandingError where the disk fails.
    """

    def __init__(self, shelf: IdShelf) -> None:
        self._shelf = shelf
        self._buffer = bytearray()
        self._file: int | None = None
        self._stretches: list[_Stretch] = []
        self._written = 0
        self._tail: tuple[_Rows, _Stretch] | None = None

    def add(self, ids: Iterable[str]) -> None:
        """Put ids in."""
        for each in ids:
            self._note(self._shelf.digest(each) + _IN)

    def discard(self, resource_id: str) -> None:
        """Take an id out, if it is in."""
        self._note(self._shelf.digest(resource_id) + _OUT)

    def __len__(self) -> int:
        return sum(len(self._present(*part)) for part in _slices((self,), _COMPARED))

    def __bool__(self) -> bool:
        return any(len(self._present(*part)) for part in _slices((self,), _COMPARED))

    def minus(self, *others: IdSet) -> IdSet:
        """A new set of what is in this one and in none of the others, all of one shelf."""
        left = IdSet(self._shelf)
        for part in _slices((self, *others), _COMPARED):
            mine = self._present(*part)
            rows = np.concatenate([mine, *(other._present(*part) for other in others)])
            order, is_first, is_last = _grouped(rows)
            is_alone = is_first & is_last & (order < len(mine))
            left._note(rows[order[is_alone]].astype(">u8").tobytes())
        return left

    def portions(self) -> Iterator[frozenset[bytes]]:
        """The digests, so many at a time as memory holds with ease."""
        for part in _slices((self,), _PORTION):
            raw = self._present(*part).astype(">u8").tobytes()
            if raw:
                yield frozenset(raw[at : at + _DIGEST_BYTES] for at in range(0, len(raw), _ENTRY_BYTES))

    @property
    def entries(self) -> int:
        """How much there is to read, ids that are noted several times included."""
        return (self._written + len(self._buffer)) // _ENTRY_BYTES

    def _note(self, entries: bytes) -> None:
        self._buffer += entries
        self._tail = None
        if len(self._buffer) >= _HELD * _ENTRY_BYTES:
            self._spill()

    def _spill(self) -> None:
        rows, bounds = _sorted(self._buffer)
        try:
            if self._file is None:
                self._file = self._shelf.open_file()
                weakref.finalize(self, os.close, self._file)  # the space is free as soon as the set is
            data = memoryview(rows.tobytes())
            at = self._written
            while data:
                self._written += (count := os.pwrite(self._file, data, self._written))
                data = data[count:]
        except OSError as e:
            raise _disk_error() from e
        self._stretches.append(_Stretch(at, bounds))
        self._buffer = bytearray()

    def _present(self, low: int, high: int) -> _Rows:
        """The entries of what is in the set and in the slices from `low` to before `high`, each once."""
        rows = np.concatenate([*(self._read(s, low, high) for s in self._stretches), self._held(low, high)])
        order, _, is_last = _grouped(rows)
        last = rows[order[is_last]]
        is_in = (last[:, 1] & np.uint64(0xFF)) == _IN[0]
        return np.compress(is_in, last, axis=0)

    def _read(self, stretch: _Stretch, low: int, high: int) -> _Rows:
        begin, end = (int(stretch.bounds[i]) * _ENTRY_BYTES for i in (low, high))
        if begin == end or self._file is None:
            return np.empty((0, 2), np.uint64)
        try:
            raw = os.pread(self._file, end - begin, stretch.at + begin)
        except OSError as e:
            raise _disk_error() from e
        if len(raw) < end - begin:
            raise _disk_error()
        return np.frombuffer(raw, np.uint64).reshape(-1, 2)

    def _held(self, low: int, high: int) -> _Rows:
        if self._tail is None:
            rows, bounds = _sorted(self._buffer)
            self._tail = rows, _Stretch(0, bounds)
        rows, stretch = self._tail
        return rows[stretch.bounds[low] : stretch.bounds[high]]


def _sorted(buffer: bytearray) -> tuple[_Rows, npt.NDArray[np.int64]]:
    """The entries in order, of each digest the last; and where each slice begins, and the last one ends."""
    rows = np.frombuffer(bytes(buffer), ">u8").astype(np.uint64).reshape(-1, 2)
    order, _, is_last = _grouped(rows)
    rows = rows[order[is_last]]
    tops = np.arange(_TOPS, dtype=np.uint64) << np.uint64(56)
    return rows, np.append(np.searchsorted(rows[:, 0], tops), len(rows)).astype(np.int64)


def _grouped(rows: _Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """An order that puts equal digests side by side, the earlier first; and, in that order, whether an entry
    is the first and the last of its digest."""
    high, low = rows[:, 0], rows[:, 1] >> _STATE_BITS
    order = np.lexsort((low, high))  # it is stable
    high, low = high[order], low[order]
    is_new = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    edge = np.ones(min(len(rows), 1), np.bool_)
    return order, np.concatenate([edge, is_new]), np.concatenate([is_new, edge])


def _slices(sets: Sequence[IdSet], most: int) -> Iterator[tuple[int, int]]:
    """The slices of the digests' range: as wide as keeps the entries in one of them under `most`, if any."""
    entries = sum(one.entries for one in sets)
    step = _TOPS
    while step > 1 and entries * step > most * _TOPS:
        step //= 2
    return ((low, low + step) for low in range(0, _TOPS, step))


def _disk_error() -> LandingError:
    return LandingError("the ids of the night could not be noted on disk", advice="check the disk's space")
