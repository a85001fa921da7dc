"""A file of an export is on disk what came over the wire, counted, however it was cut into chunks."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.crypt import Cipher
from rwe.fhir.bulk_files import IncompleteFileError, is_intact, read_lines, store

CIPHER = Cipher(bytes(range(32)))
LINES = [b'{"resourceType":"Patient","id":"p%d"}' % n for n in range(40)]


def chunks(content: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(content) + 1) for c in cuts), len(content)]
    return [content[a:b] for a, b in pairwise(edges)]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 10_000), max_size=8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_whatever_the_chunks_the_file_is_the_same(
    cuts: list[int], packed: bool, sealed: bool, ending: bytes, mark: bytes
) -> None:
    text = mark + b"".join(line + ending for line in LINES)
    content = gzip.compress(text, mtime=0) if packed else text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.enc" if sealed else "file")
        cipher = CIPHER if sealed else None
        stored = store(iter(chunks(content, cuts)), path, expected=len(LINES), cipher=cipher)
        assert list(read_lines(path, cipher)) == LINES
        assert is_intact(path, stored)
        assert stored.lines == len(LINES)
        if not sealed:
            assert path.read_bytes() == content
            assert (stored.bytes, stored.crc32) == (len(content), zlib.crc32(content))


def test_a_full_disk_is_an_error_in_whatever_thread_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        store(iter([LINES[0]] * 3), path, expected=None)


def test_damage_is_told_before_the_rest_is_read(tmp_path: Path) -> None:
    read = []

    def coming() -> Iterator[bytes]:
        for number in range(100):
            read.append(number)
            yield gzip.compress(b"{}\n")[:12] if number == 0 else b"no gzip at all"

    with pytest.raises(IncompleteFileError, match="compressed data is damaged"):
        store(coming(), tmp_path / "file", expected=None)
    assert len(read) < 5


def test_an_answer_that_breaks_off_is_told_and_no_thread_stays_behind(tmp_path: Path) -> None:
    class BrokenOffError(Exception):
        pass

    def coming() -> Iterator[bytes]:
        yield LINES[0] + b"\n"
        raise BrokenOffError

    with pytest.raises(BrokenOffError):
        store(coming(), tmp_path / "file", expected=None)
    assert (tmp_path / "file").read_bytes() == LINES[0] + b"\n"


def test_no_more_than_two_chunks_are_ever_held(tmp_path: Path) -> None:
    alive = most = 0

    class Chunk(bytes):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def coming() -> Iterator[bytes]:
        nonlocal alive, most
        for line in LINES:
            chunk: bytes | None = Chunk(line + b"\n")
            alive += 1
            most = max(most, alive)
            assert chunk is not None
            yield chunk
            chunk = None

    store(coming(), tmp_path / "file", expected=len(LINES))
    assert most <= 3  # the one that comes, the one under way, and the one that the loop still names
