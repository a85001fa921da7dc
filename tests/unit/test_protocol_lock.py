"""The protocol lock: what was planned before anybody saw the outcome is told from what was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rwe.errors import StudyError
from rwe.resources import bundled
from rwe.study import Study, load_study
from rwe.study.lock import lock_path, lock_study, read_lock

NAME = "lenalidomide_after_car_t"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(bundled("studies"), tmp_path / "studies")
    return tmp_path / "studies"


def study(folder: Path, *changes: tuple[str, str]) -> Study:
    path = folder / f"{NAME}.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return load_study(path)


def test_without_a_lock_nothing_is_posthoc(folder: Path) -> None:
    found = study(folder)
    assert read_lock(found).status == "unlocked"
    assert not any(read_lock(found).is_posthoc(a) for a in found.protocol.analyses)


def test_a_locked_protocol_is_known_by_its_hash(folder: Path) -> None:
    found = study(folder)
    entry = lock_study(found, registration="EUPAS100000")
    lock = read_lock(found)
    assert (lock.status, lock.registration) == ("locked", "EUPAS100000")
    assert entry.protocol_sha256 == found.protocol_sha256
    assert not any(lock.is_posthoc(a) for a in found.protocol.analyses)


def test_an_analysis_added_after_the_lock_is_posthoc_and_the_planned_ones_are_not(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("analyses:\n", "analyses:\n  - {analysis: landmark_cox, landmarks: [200]}\n"))
    lock = read_lock(later)
    assert (lock.status, lock.changed) == ("changed", ("analyses",))
    first, *planned = later.protocol.analyses
    assert lock.is_posthoc(first)
    assert not any(lock.is_posthoc(a) for a in planned)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("grace_days: 180", "grace_days: 90", "strategies"),
        ("min_years: 18", "min_years: 60", "eligibility"),
        ("incomplete_death_date: midpoint", "incomplete_death_date: exclude", "outcome"),
    ],
)
def test_after_any_other_change_no_analysis_is_as_planned(
    folder: Path, old: str, new: str, field: str
) -> None:
    lock_study(study(folder))
    later = study(folder, (old, new))
    lock = read_lock(later)
    assert lock.changed == (field,)
    assert all(lock.is_posthoc(a) for a in later.protocol.analyses)


def test_another_title_changes_no_estimate(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("title: Lenalidomide", "title: On lenalidomide"))
    assert read_lock(later).status == "changed"
    assert not any(read_lock(later).is_posthoc(a) for a in later.protocol.analyses)


def test_a_changed_code_list_is_a_changed_protocol(folder: Path) -> None:
    lock_study(study(folder))
    codes = folder / "codelists" / "lenalidomide.csv"
    lines = codes.read_text(encoding="utf-8").splitlines()
    codes.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    later = study(folder)
    assert read_lock(later).changed == ("codelists",)
    assert all(read_lock(later).is_posthoc(a) for a in later.protocol.analyses)


def test_an_amendment_needs_a_reason_and_a_version_and_keeps_the_lock_of_before(folder: Path) -> None:
    first = lock_study(study(folder), registration="EUPAS100000")
    later = study(folder, ("grace_days: 180", "grace_days: 90"))
    with pytest.raises(StudyError, match="--amendment"):
        lock_study(later)
    with pytest.raises(StudyError, match="version"):
        lock_study(later, amendment="the steering committee asked for 90 days")
    later = study(folder, ("version: 1.2.0", "version: 1.3.0"))
    lock_study(later, amendment="the steering committee asked for 90 days")
    lock = read_lock(later)
    assert lock.status == "locked"
    assert [e.version for e in lock.entries] == ["1.2.0", "1.3.0"]
    assert lock.entries[0] == first
    assert lock.registration == "EUPAS100000"
    with pytest.raises(StudyError, match="as it stands"):
        lock_study(later, amendment="again")


def test_a_log_changed_by_hand_is_refused(folder: Path) -> None:
    found = study(folder)
    lock_study(found)
    path = lock_path(found)
    log = json.loads(path.read_text(encoding="utf-8"))
    log["entries"][0]["content"]["protocol"]["strategies"]["treated"]["grace_days"] = 30
    path.write_text(json.dumps(log), encoding="utf-8")
    with pytest.raises(StudyError, match="changed by hand"):
        read_lock(found)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="damaged"):
        lock_study(found)


def test_an_entry_of_before_cannot_be_dropped(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("grace_days: 180", "grace_days: 90"), ("version: 1.2.0", "version: 1.3.0"))
    lock_study(later, amendment="a shorter grace period")
    path = lock_path(later)
    log = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**log, "entries": log["entries"][1:]}), encoding="utf-8")
    with pytest.raises(StudyError, match="damaged"):
        read_lock(later)
