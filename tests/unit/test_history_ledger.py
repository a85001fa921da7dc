"""Ledgers that cannot be read: only one that nothing could read again is given up."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import zstandard

from rwe.analyse import analyse
from rwe.blocklist import open_blocklist
from rwe.crypt import SUFFIX, Cipher, place
from rwe.errors import EvidenceError
from rwe.history.ledger import forget_erased, read_release_ledger, release_ledger_path, seal_open
from rwe.history.release import release
from tests.integration.cohort_nights import STUDY, people
from tests.unit.history_tables import Nights, tables

FIRST = people(40)
KEY = "ab" * 32


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    made = Nights(tmp_path, monkeypatch)
    monkeypatch.setattr("rwe.history.release.write_report", lambda _, page: page.write_text("a report"))
    made.now = tables(FIRST)
    return made


@pytest.fixture
def ledger(nights: Nights) -> Path:
    """The open ledger of a release."""
    analyse(nights.workspace, nights.study)
    return release_ledger_path(nights.workspace, STUDY, release(nights.workspace, STUDY).release)


def failing_once(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The disk does not give the file, the first time that it is asked."""
    read, failures = Path.read_bytes, [OSError(errno.EIO, "Input/output error")]

    def once(self: Path) -> bytes:
        if self == path and failures:
            raise failures.pop()
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", once)


def test_a_disk_that_fails_once_costs_no_ledger_of_a_release(
    nights: Nights, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = ledger.name.split(".json")[0], ledger.read_bytes()
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", KEY)
    with monkeypatch.context() as broken:
        failing_once(broken, ledger)
        seal_open(nights.workspace, STUDY)
    assert ledger.read_bytes() == content
    seal_open(nights.workspace, STUDY)
    assert not ledger.exists()
    kept = read_release_ledger(nights.workspace, STUDY, name)
    assert kept is not None
    assert len(kept.survival) == len(FIRST)
    nights.now = tables([*FIRST, *people(40, seed=9, first=900)])
    analyse(nights.workspace, nights.study)
    assert release(nights.workspace, STUDY).number == 2


def test_an_erasure_on_a_disk_that_fails_once_gives_up_no_ledger(
    nights: Nights, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ledger.read_bytes()
    assert open_blocklist(nights.workspace, make=True) is not None
    failing_once(monkeypatch, ledger)
    forget_erased(nights.workspace)
    assert ledger.read_bytes() == content


def of_a_newer_rwe(content: bytes) -> bytes:
    """The next format: its rows are told otherwise."""
    stored = json.loads(zstandard.decompress(content))
    return zstandard.compress(json.dumps({**stored, "version": 2, "survival": ["rows"]}).encode())


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_ledger_of_a_newer_rwe_is_left_to_it(
    nights: Nights, ledger: Path, monkeypatch: pytest.MonkeyPatch, is_sealed: bool
) -> None:
    name, newer = ledger.name.split(".json")[0], of_a_newer_rwe(ledger.read_bytes())
    if is_sealed:
        monkeypatch.setenv("RWE_ENCRYPTION_KEY", KEY)
        sealed = ledger.with_name(ledger.name + SUFFIX)
        ledger.unlink()
        ledger, newer = sealed, Cipher(bytes.fromhex(KEY)).seal(newer, place(sealed))
    ledger.write_bytes(newer)
    assert read_release_ledger(nights.workspace, STUDY, name) is None
    assert open_blocklist(nights.workspace, make=True) is not None
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", KEY)
    seal_open(nights.workspace, STUDY)
    forget_erased(nights.workspace)
    assert ledger.read_bytes() == newer


def test_a_damaged_ledger_is_given_up_when_it_is_to_be_sealed(
    nights: Nights, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays as an empty file: that there was a release is not forgotten, and nothing more is released."""
    ledger.write_bytes(ledger.read_bytes()[:50])
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", KEY)
    seal_open(nights.workspace, STUDY)
    assert ledger.read_bytes() == b""
    nights.now = tables([*FIRST, *people(40, seed=9, first=900)])
    analyse(nights.workspace, nights.study)
    with pytest.raises(EvidenceError, match="cannot be told"):
        release(nights.workspace, STUDY)
