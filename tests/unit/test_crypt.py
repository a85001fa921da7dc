"""An encrypted file comes back as it was written, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rwe.crypt import CHUNK, HEADER, TAG, Cipher, DamagedError, OtherKeyError, UnsealError, content_size
from rwe.errors import LandingError
from rwe.landing import Run, RunFacts, list_runs, new_run, open_run

KEY = bytes(range(32))
CIPHER = Cipher(KEY)
WHERE = "site=a/run=r/Patient.ndjson.zst.enc"
LINE = b'{"resourceType":"Patient","id":"ann"}'
PIECE = CHUNK + TAG
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7)


def some(size: int) -> bytes:
    """Bytes of which no two chunks are alike."""
    return b"".join(i.to_bytes(8, "big") for i in range(-(-size // 8)))[:size]


def unsealed_every_way(sealed: bytes, folder: Path, where: str = WHERE) -> list[bytes | type[UnsealError]]:
    """What the stream and the file that is read anywhere make of it."""
    path = folder / "file.enc"
    path.write_bytes(sealed)
    results: list[bytes | type[UnsealError]] = []
    try:
        results.append(CIPHER.unseal(sealed, where))
    except UnsealError as e:
        results.append(type(e))
    try:
        with CIPHER.open(path, where) as file:
            results.append(file.read())
    except UnsealError as e:
        results.append(type(e))
    return results


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("portion", [CHUNK * 4, 300_001])
def test_content_of_any_length_comes_back(size: int, portion: int, tmp_path: Path) -> None:
    content, sink = some(size), io.BytesIO()
    writer = CIPHER.writer(sink, WHERE)
    for start in range(0, size, portion):
        writer.write(content[start : start + portion])
    writer.finish()
    sealed = sink.getvalue()
    assert unsealed_every_way(sealed, tmp_path) == [content, content]
    assert content_size(len(sealed)) == size
    if size > 64:
        assert content[:64] not in sealed


def test_the_form_is_the_one_described() -> None:
    """Decrypted by the description alone, with the library that others would take."""
    content = some(CHUNK + 5)
    sealed = CIPHER.seal(content, WHERE)
    header, body = sealed[:HEADER], sealed[HEADER:]
    assert header[:4] == b"RWE1"
    assert header[4:12] == HKDF(SHA256(), 8, b"", b"rwe key id").derive(KEY)
    engine = AESGCM(HKDF(SHA256(), 32, header[12:], b"rwe file").derive(KEY))
    bound_to = header + WHERE.encode()
    first = engine.decrypt(bytes(12), body[:PIECE], bound_to)
    last = engine.decrypt((1).to_bytes(11, "big") + b"\x01", body[PIECE:], bound_to)
    assert first + last == content


def test_the_same_content_never_looks_the_same() -> None:
    first, second = (CIPHER.seal(b"the same", WHERE) for _ in range(2))
    assert first[HEADER:] != second[HEADER:]


@pytest.mark.parametrize("at", [0, 5, 20, HEADER, HEADER + PIECE, HEADER + 2 * PIECE - 1, -1])
def test_a_flipped_bit_is_noticed(at: int, tmp_path: Path) -> None:
    sealed = bytearray(CIPHER.seal(some(2 * CHUNK + 5), WHERE))
    sealed[at] ^= 1
    expected = OtherKeyError if at == 5 else DamagedError  # the id of the key begins at byte 4
    assert unsealed_every_way(bytes(sealed), tmp_path) == [expected, expected]


def tampered() -> dict[str, bytes]:
    sealed = CIPHER.seal(some(2 * CHUNK + 5), WHERE)
    header, first, second, last = (
        sealed[:HEADER],
        sealed[HEADER : HEADER + PIECE],
        sealed[HEADER + PIECE : HEADER + 2 * PIECE],
        sealed[HEADER + 2 * PIECE :],
    )
    other = CIPHER.seal(some(2 * CHUNK + 5), WHERE)
    return {
        "nothing": b"",
        "half a header": sealed[:10],
        "header alone": header,
        "last chunk cut away": header + first + second,
        "last chunk cut short": sealed[:-1],
        "middle chunk cut away": header + first + last,
        "chunks swapped": header + second + first + last,
        "chunk repeated": header + first + first + last,
        "something appended": sealed + b"x",
        "itself appended": sealed + first + second + last,
        "chunk of another file": header + first + other[HEADER + PIECE : HEADER + 2 * PIECE] + last,
    }


@pytest.mark.parametrize("damage", tampered())
def test_what_was_cut_moved_or_added_is_noticed(damage: str, tmp_path: Path) -> None:
    assert unsealed_every_way(tampered()[damage], tmp_path) == [DamagedError, DamagedError]


def test_a_file_cannot_stand_in_for_another(tmp_path: Path) -> None:
    sealed = CIPHER.seal(b"ann", WHERE)
    other = WHERE.replace("run=r", "run=s")
    assert unsealed_every_way(sealed, tmp_path, other) == [DamagedError, DamagedError]


def test_a_file_never_finished_is_known_as_such(tmp_path: Path) -> None:
    sink = io.BytesIO()
    CIPHER.writer(sink, WHERE).write(some(2 * CHUNK + 5))
    assert unsealed_every_way(sink.getvalue(), tmp_path) == [DamagedError, DamagedError]


def test_the_wrong_key_is_told_from_damage() -> None:
    with pytest.raises(OtherKeyError):
        Cipher(bytes(32)).unseal(CIPHER.seal(b"ann", WHERE), WHERE)


def test_the_key_is_in_no_representation() -> None:
    assert KEY.hex() not in repr(CIPHER)
    assert repr(KEY)[2:20] not in repr(CIPHER)


def test_any_part_of_a_file_can_be_read(tmp_path: Path) -> None:
    content, path = some(3 * CHUNK + 7), tmp_path / "file.enc"
    path.write_bytes(CIPHER.seal(content, WHERE))
    with CIPHER.open(path, WHERE) as file:
        for start, size in (
            (CHUNK - 3, 6),
            (2 * CHUNK, CHUNK),
            (len(content) - 4, 99),
            (0, 1),
            (5, 2 * CHUNK),
        ):
            file.seek(start)
            assert file.read(size) == content[start : start + size]
        assert file.seek(-2, os.SEEK_END) == len(content) - 2
        assert file.read() == content[-2:]


_TWO_HUNDRED_MB = """
import resource, sys, hashlib, os, pathlib
from rwe.crypt import Cipher
from rwe.landing import RunFacts, new_run, open_run
folder, cipher = pathlib.Path(sys.argv[1]), Cipher(bytes(range(32)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wanted = hashlib.sha256()
with new_run(folder, "a", cipher=cipher) as writer:
    for _ in range(200):
        line = os.urandom(1 << 19).hex().encode()  # what does not compress away
        wanted.update(line)
        writer.write("Binary", line)
    run = writer.commit(RunFacts(route="import", time_zone="UTC"))
found = hashlib.sha256()
for line in open_run(run.path, cipher=cipher).open("Binary"):
    found.update(line)
assert found.digest() == wanted.digest()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, run.resources["Binary"])
"""


def test_memory_stays_constant_whatever_the_size_of_the_file(tmp_path: Path) -> None:
    """200 MB are landed and read back within 40 MB more than the interpreter takes."""
    done = subprocess.run(
        [sys.executable, "-c", _TWO_HUNDRED_MB, str(tmp_path)], capture_output=True, text=True, check=True
    )
    megabytes, lines = map(int, done.stdout.split())
    (file,) = tmp_path.rglob("Binary.ndjson.zst.enc")
    assert lines == 200
    assert file.stat().st_size > 90_000_000
    assert megabytes < 40


def land(folder: Path, cipher: Cipher | None) -> Run:
    with new_run(folder, "a", cipher=cipher) as writer:
        writer.write("Patient", LINE)
        writer.write_cohort({"pseudonym-of-ann"})
        return writer.commit(RunFacts(route="import", time_zone="UTC"))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_runs_from_before_the_key_stay_readable(tmp_path: Path) -> None:
    before, after = land(tmp_path, None), land(tmp_path, CIPHER)
    runs = list_runs(tmp_path, cipher=CIPHER)
    assert {r.run for r in runs} == {before.run, after.run}
    for run in runs:
        assert list(run.open("Patient")) == [LINE]
        assert run.cohort() == frozenset({"pseudonym-of-ann"})
    assert sorted(p.name for p in after.path.iterdir()) == [
        "Patient.ndjson.zst.enc",
        "_cohort.zst.enc",
        "manifest.json",
    ]


@pytest.mark.parametrize(
    ("cipher", "sentence"), [(None, "encrypted, and no key is set"), (Cipher(bytes(32)), "another key")]
)
def test_without_its_key_nothing_is_read_and_nothing_is_landed(
    tmp_path: Path, cipher: Cipher | None, sentence: str
) -> None:
    run = land(tmp_path, CIPHER)
    before = everything(tmp_path)
    again = open_run(run.path, cipher=cipher)
    assert again.resources == {"Patient": 1}  # the manifest is plain
    for deed in (lambda: list(again.open("Patient")), again.cohort, lambda: land(tmp_path, cipher)):
        with pytest.raises(LandingError, match=sentence) as caught:
            deed()
        assert caught.value.advice is not None
        assert "key_file" in caught.value.advice
    assert everything(tmp_path) == before


def test_an_encrypted_landed_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Also where whoever changed it wrote the manifest anew: the hash there is no secret."""
    run, other = land(tmp_path, CIPHER), land(tmp_path, CIPHER)
    (name,) = [f.name for f in run.manifest.files]
    swapped = (other.path / name).read_bytes()
    (run.path / name).write_bytes(swapped)
    manifest = run.path / "manifest.json"
    digest = hashlib.sha256(swapped).hexdigest()
    manifest.write_text(manifest.read_text().replace(run.manifest.files[0].sha256, digest))
    with pytest.raises(LandingError, match="damaged"):
        list(open_run(run.path, cipher=CIPHER).open("Patient"))
