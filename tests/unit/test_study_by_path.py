"""A study given by path: evidence and lock are kept by name, so no other file may stand in for a study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rwe.analyse.outside_lock import describe_lock
from rwe.cli import main
from rwe.config import Workspace, init_workspace
from rwe.errors import StudyError
from rwe.history.inputs import lock_sha256
from rwe.history.kept_lock import keep_lock, require_lock_kept, require_made_under_lock
from rwe.history.manifest import sealed
from rwe.resources import bundled
from rwe.study import find_study, load_study
from rwe.study.lock import ProtocolLock, lock_path, lock_study, read_lock

NAME = "lenalidomide_after_car_t"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = init_workspace(tmp_path / "ws", key_file=tmp_path / "key")
    shutil.copytree(bundled("studies"), made.studies, dirs_exist_ok=True)
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A copy of the study elsewhere, as whoever writes a study has it."""
    shutil.copytree(bundled("studies"), tmp_path / "drafts")
    return tmp_path / "drafts" / f"{NAME}.yaml"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    out = capsys.readouterr()
    return int(stop.value.code or 0), " ".join((out.out + out.err).split())


def changed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "grace_days: 180" in text
    path.write_text(text.replace("grace_days: 180", "grace_days: 90"), encoding="utf-8")


def kept(workspace: Workspace) -> Path:
    return workspace.studies / f"{NAME}.yaml"


def test_a_copy_of_the_workspaces_study_is_that_study_with_its_lock(
    workspace: Workspace, outside: Path
) -> None:
    lock_study(load_study(kept(workspace)), registration="EUPAS100000")
    found = find_study(str(outside), workspace.studies)
    assert found.path == kept(workspace)
    assert read_lock(found).registration == "EUPAS100000"


@pytest.mark.parametrize("by", ["symlink", "hard link"])
def test_a_link_to_the_workspaces_study_is_that_study_with_its_lock(
    workspace: Workspace, outside: Path, by: str
) -> None:
    lock_study(load_study(kept(workspace)), registration="EUPAS100000")
    outside.unlink()
    outside.symlink_to(kept(workspace)) if by == "symlink" else outside.hardlink_to(kept(workspace))
    found = find_study(str(outside), workspace.studies)
    assert found.path == kept(workspace)
    assert read_lock(found).registration == "EUPAS100000"


def test_a_lock_beside_a_link_to_the_workspaces_study_is_not_taken_for_its_own(
    workspace: Workspace, outside: Path
) -> None:
    outside.unlink()
    outside.symlink_to(kept(workspace))
    lock_study(load_study(outside))
    with pytest.raises(StudyError, match="is not the one that the workspace has"):
        find_study(str(outside), workspace.studies)


def test_another_protocol_of_the_name_is_refused_and_writes_nothing(
    workspace: Workspace, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(outside)
    for words in (["analyse"], ["analyse", "--blind"], ["refresh"], ["report"], ["study", "lock"]):
        status, text = run(capsys, "-w", str(workspace.root), *words, str(outside))
        assert status == 2, words
        assert "another protocol of the name" in text, words
        assert "give this one another name, or copy it" in text, words
    assert not workspace.evidence.exists() or not list(workspace.evidence.iterdir())
    assert not lock_path(load_study(outside)).exists()
    assert not lock_path(load_study(kept(workspace))).exists()


def test_a_changed_code_list_makes_it_another_protocol_too(workspace: Workspace, outside: Path) -> None:
    with (outside.parent / "codelists" / "ldh.csv").open("a", encoding="utf-8") as f:
        f.write("http://loinc.org,14804-9,another assay,LOINC,,\n")
    with pytest.raises(StudyError, match="another protocol"):
        find_study(str(outside), workspace.studies)


def test_check_explains_the_draft_and_then_refuses_it(
    workspace: Workspace, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(outside)
    status, text = run(capsys, "-w", str(workspace.root), "study", "check", str(outside))
    assert status == 2
    assert "by day 90" in text
    assert "another protocol of the name" in text


@pytest.mark.parametrize("words", [["study", "check"], ["study", "lock"], ["analyse"]])
def test_a_file_that_is_not_called_as_its_study_is_refused(
    workspace: Workspace, outside: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = outside.rename(outside.with_name("wrongname.yaml"))
    status, text = run(capsys, "-w", str(workspace.root), *words, str(wrong))
    assert status == 2
    assert f"the file is called wrongname.yaml, its study {NAME}" in text
    assert f"call the file {NAME}.yaml" in text


def test_a_draft_is_checked_where_there_is_no_workspace(
    outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RWE_WORKSPACE", raising=False)
    monkeypatch.chdir(outside.parent)
    changed(outside)  # unlike the bundled one of the name
    status, text = run(capsys, "study", "check", outside.name)
    assert status == 0
    assert "Not locked" in text


def test_a_lock_beside_the_copy_alone_is_not_lost_silently(workspace: Workspace, outside: Path) -> None:
    lock_study(load_study(outside))
    with pytest.raises(StudyError, match="is not the one that the workspace has") as caught:
        find_study(str(outside), workspace.studies)
    assert str(lock_path(load_study(kept(workspace)))) in str(caught.value)
    shutil.copy(lock_path(load_study(outside)), workspace.studies)
    assert read_lock(find_study(str(outside), workspace.studies)).status == "locked"
    kept_lock = lock_path(load_study(kept(workspace)))
    kept_lock.write_bytes(kept_lock.read_bytes() + b"\n")
    with pytest.raises(StudyError, match="is not the one that the workspace has"):
        find_study(str(outside), workspace.studies)


def test_a_lock_whose_study_file_left_the_workspace_still_counts(workspace: Workspace, outside: Path) -> None:
    lock_study(load_study(kept(workspace)))
    kept(workspace).unlink()
    with pytest.raises(StudyError, match="holds a lock of"):
        find_study(str(outside), workspace.studies)
    shutil.copy(outside, workspace.studies)
    assert read_lock(find_study(str(outside), workspace.studies)).status == "locked"


def refreshed(workspace: Workspace, name: str, lock: ProtocolLock, *, with_manifest: bool = True) -> None:
    """A refresh as far as its lock goes."""
    folder = workspace.evidence / NAME / name
    folder.mkdir(parents=True)
    told = {"protocol_lock": describe_lock(lock).model_dump(mode="json")}
    (folder / "evidence.json").write_text(json.dumps(told))
    if with_manifest:
        inputs = dict.fromkeys(("tables_sha256", "protocol_sha256", "code_version", "code_sha256"), "0")
        manifest = {
            "study": NAME, "refresh": name, "created_at": "2026-01-01T00:00:00Z", "content_sha256": "0",
            "inputs": {**inputs, "lock_sha256": lock_sha256(lock)}, "look": {},
            "files": [msgspec.to_builtins(f) for f in sealed(folder, ["evidence.json"])],
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_lock_that_evidence_was_made_under_must_be_there(
    workspace: Workspace, with_manifest: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(kept(workspace))
    refreshed(workspace, "20260101T000000000000Z-0", read_lock(study))
    require_lock_kept(workspace, study)
    lock_study(study)
    refreshed(workspace, "20260102T000000000000Z-0", read_lock(study), with_manifest=with_manifest)
    # A refresh after it, of an rwe that let a stray file take the name.
    refreshed(workspace, "20260103T000000000000Z-0", ProtocolLock("unlocked"))
    require_lock_kept(workspace, study)
    log = lock_path(study).read_bytes()
    lock_path(study).unlink()
    for words in (["analyse", NAME], ["refresh", NAME], ["study", "lock", NAME], ["study", "check", NAME]):
        status, text = run(capsys, "-w", str(workspace.root), *words)
        assert status == 2, words
        assert "made under a lock that is not here" in text, words
    # Locked anew with another protocol it is no longer the log of then; amended, it is.
    changed(kept(workspace))
    lock_study(load_study(kept(workspace)))
    with pytest.raises(StudyError, match="made under a lock"):
        require_lock_kept(workspace, load_study(kept(workspace)))
    lock_path(study).write_bytes(log)
    text = kept(workspace).read_text().replace("version: 1.2.0", "version: 1.3.0")
    kept(workspace).write_text(text)
    lock_study(load_study(kept(workspace)), amendment="a shorter grace period")
    require_lock_kept(workspace, load_study(kept(workspace)))


def test_refreshes_without_a_lock_are_told_by_their_small_manifests(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed(workspace, "20260101T000000000000Z-0", ProtocolLock("unlocked"))
    keep_lock(workspace, load_study(kept(workspace)))
    read = SimpleNamespace(times=0)

    def count(folder: Path) -> dict[str, object]:
        read.times += 1
        return {}

    monkeypatch.setattr("rwe.history.kept_lock.lenient_evidence", count)
    require_lock_kept(workspace, load_study(kept(workspace)))
    assert read.times == 0


def test_what_was_made_before_the_lock_is_not_released_after_it(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(kept(workspace))
    refreshed(workspace, "20260101T000000000000Z-0", read_lock(study))
    require_made_under_lock(workspace, study)  # never locked: the evidence says so
    lock_study(study)
    status, text = run(capsys, "-w", str(workspace.root), "release", NAME)
    assert status == 1
    assert "made without the protocol's lock" in text
    assert not (workspace.evidence / NAME / "releases").exists()
    refreshed(workspace, "20260102T000000000000Z-0", read_lock(study))
    require_made_under_lock(workspace, study)
