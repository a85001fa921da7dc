"""A lock that evidence was made under: kept aside, compared whole, not lost with an altered refresh."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from rwe.analyse.refresh import analyse
from rwe.cli import main
from rwe.config import open_workspace
from rwe.errors import EvidenceError, RweError, StudyError
from rwe.history.kept_lock import keep_lock, kept_path, require_lock_kept
from rwe.history.past import refresh_folders
from rwe.keeping.backup import back_up, restore
from rwe.study import load_study
from rwe.study.lock import LockEntry, decode_log, encode_log, lock_path, lock_study, read_lock
from tests.integration.cohort_nights import STUDY, people
from tests.unit.history_tables import Nights, tables


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    made = Nights(tmp_path, monkeypatch)
    made.now = tables(people(40))
    return made


def analysed(nights: Nights) -> Path:
    return analyse(nights.workspace, nights.study, force=True).path.parent


def forget_kept(nights: Nights) -> None:
    """As a workspace is whose refreshes are all of an rwe that kept no log aside."""
    kept_path(nights.workspace, STUDY).unlink()


def write_lock(nights: Nights, *entries: LockEntry) -> None:
    lock_path(nights.study).write_bytes(encode_log(STUDY, entries))


def rewritten(folder: Path, name: str, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.chmod(0o644)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("field", ["locked_at", "registration", "reason"])
def test_every_field_of_an_entry_is_compared_also_of_the_last(
    nights: Nights, field: str, is_kept: bool
) -> None:
    lock_study(nights.study, registration="EUPAS100000")
    analysed(nights)
    if not is_kept:
        forget_kept(nights)
    require_lock_kept(nights.workspace, nights.study)
    [entry] = read_lock(nights.study).entries
    other = {"locked_at": entry.locked_at - timedelta(days=400), "registration": "EUPAS1", "reason": "a word"}
    values = {n: getattr(entry, n) for n in entry.__struct_fields__}
    write_lock(nights, LockEntry(**{**values, field: other[field]}))
    assert read_lock(nights.study).status == "locked", "by itself the log is as good as the other"
    with pytest.raises(StudyError, match="a lock that is not here"):
        require_lock_kept(nights.workspace, nights.study)
    write_lock(nights, entry)
    require_lock_kept(nights.workspace, nights.study)


def test_a_refresh_moved_away_does_not_take_the_lock_with_it(nights: Nights, tmp_path: Path) -> None:
    lock_study(nights.study)
    log = lock_path(nights.study).read_bytes()
    shutil.move(analysed(nights), tmp_path / "away")
    assert not refresh_folders(nights.workspace, STUDY)
    lock_path(nights.study).unlink()
    path = kept_path(nights.workspace, STUDY)
    for ask in (require_lock_kept, keep_lock, analyse):
        with pytest.raises(StudyError, match="locked by a lock that is not here") as caught:
            ask(nights.workspace, nights.study)
        assert str(path) in str(caught.value)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shutil.copy(path, lock_path(nights.study))
    assert lock_path(nights.study).read_bytes() == log, "what is kept is the lock itself"
    require_lock_kept(nights.workspace, nights.study)


def test_locking_keeps_the_log_before_anything_is_analysed(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(nights.workspace.root)
    with pytest.raises(SystemExit) as stop:
        main(["-w", root, "study", "lock", STUDY, "--registration", "EUPAS100000"])
    assert not stop.value.code
    lock_path(nights.study).unlink()
    with pytest.raises(SystemExit) as stop:
        main(["-w", root, "study", "lock", STUDY])
    assert stop.value.code == 2
    assert "locked by a lock that is not here" in " ".join(capsys.readouterr().err.split())


def test_an_amendment_goes_on_from_what_is_kept(nights: Nights) -> None:
    lock_study(nights.study)
    analysed(nights)
    nights.asking(version="2.0.0", title="The same in other words")
    lock_study(nights.study, amendment="clearer words")
    analysed(nights)
    own = read_lock(nights.study).entries
    assert len(own) == 2
    assert decode_log(kept_path(nights.workspace, STUDY).read_bytes(), STUDY) == own
    write_lock(nights, own[0])  # the amendment alone taken away
    with pytest.raises(StudyError, match="a lock that is not here"):
        require_lock_kept(nights.workspace, nights.study)


def unreadable(folder: Path) -> None:
    (folder / "evidence.json").chmod(0o644)
    (folder / "evidence.json").write_text("{")


def without_its_lock(folder: Path) -> None:
    rewritten(folder, "evidence.json", lambda e: e.pop("protocol_lock"))


def without_its_evidence(folder: Path) -> None:
    (folder / "evidence.json").unlink()


def with_no_manifest_to_read(folder: Path) -> None:
    (folder / "manifest.json").chmod(0o644)
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    "alter", [unreadable, without_its_lock, without_its_evidence, with_no_manifest_to_read]
)
def test_an_altered_refresh_refuses_where_no_log_is_kept(
    nights: Nights, alter: Callable[[Path], None]
) -> None:
    lock_study(nights.study)
    folder = analysed(nights)
    forget_kept(nights)
    lock_path(nights.study).unlink()
    alter(folder)
    for ask in (require_lock_kept, keep_lock):
        with pytest.raises(EvidenceError, match="whether it was made under a lock cannot be told") as caught:
            ask(nights.workspace, nights.study)
        assert folder.name in str(caught.value)
        assert "restore the folder" in str(caught.value)
    assert not kept_path(nights.workspace, STUDY).exists()


def test_a_manifest_that_says_there_was_no_lock_is_not_believed(nights: Nights) -> None:
    unlocked = analysed(nights)
    said = json.loads((unlocked / "manifest.json").read_text())["inputs"]["lock_sha256"]
    lock_study(nights.study)
    folder = analysed(nights)
    forget_kept(nights)
    lock_path(nights.study).unlink()
    rewritten(folder, "manifest.json", lambda m: m["inputs"].update(lock_sha256=said))
    with pytest.raises(StudyError, match="made under a lock that is not here"):
        require_lock_kept(nights.workspace, nights.study)


def test_a_refresh_written_anew_is_known_by_the_one_after_it(nights: Nights) -> None:
    folder = analysed(nights)
    analysed(nights)
    forget_kept(nights)
    require_lock_kept(nights.workspace, nights.study)
    rewritten(folder, "manifest.json", lambda m: m["inputs"].update(tables_sha256="0"))
    with pytest.raises(EvidenceError, match="was written anew"):
        require_lock_kept(nights.workspace, nights.study)


def test_an_altered_refresh_does_not_stop_a_study_whose_log_is_kept(nights: Nights) -> None:
    """What is kept tells the lock, or that there was none; the history names the altered refresh."""
    unreadable(analysed(nights))
    require_lock_kept(nights.workspace, nights.study)
    lock_study(nights.study)
    analysed(nights)
    require_lock_kept(nights.workspace, nights.study)


def test_refreshes_of_before_are_asked_once_and_then_kept(nights: Nights) -> None:
    lock_study(nights.study)
    analysed(nights)
    forget_kept(nights)
    keep_lock(nights.workspace, nights.study)
    kept = decode_log(kept_path(nights.workspace, STUDY).read_bytes(), STUDY)
    assert kept == read_lock(nights.study).entries


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"another study's"])
def test_a_kept_log_that_was_changed_is_said(nights: Nights, content: bytes) -> None:
    lock_study(nights.study)
    keep_lock(nights.workspace, nights.study)
    path = kept_path(nights.workspace, STUDY)
    if content == b"another study's":
        content = path.read_bytes().replace(STUDY.encode(), b"other", 1)
    path.write_bytes(content)
    with pytest.raises(StudyError, match="kept of the protocol's lock is damaged") as caught:
        require_lock_kept(nights.workspace, nights.study)
    assert str(path) in str(caught.value)


def test_a_restored_workspace_keeps_the_lock(nights: Nights, tmp_path: Path) -> None:
    lock_study(nights.study)
    analysed(nights)
    made, _ = back_up(nights.workspace, tmp_path / "backups")
    root = restore(made, tmp_path / "restored").root
    again = open_workspace(root)
    study = load_study(root / nights.study.path.relative_to(nights.workspace.root))
    require_lock_kept(again, study)
    lock_path(study).unlink()
    with pytest.raises(RweError, match="a lock that is not here"):
        require_lock_kept(again, study)
