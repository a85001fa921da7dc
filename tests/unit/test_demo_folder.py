"""A second demo begins anew, and never over what somebody put into the folder of the first."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from rwe import demo_folder
from rwe.demo_folder import MARK, remember
from rwe.errors import UsageError

STUDY = "the_study"
fresh_folder = partial(demo_folder.fresh_folder, study=STUDY)
of_others = partial(demo_folder.of_others, study=STUDY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As a finished demo leaves it."""
    made = fresh_folder(tmp_path / "rwe-demo", anew=False)
    workspace = made / "workspace"
    (workspace / "studies" / "codelists").mkdir(parents=True)
    (workspace / "rwe.yaml").write_text("version: 1\n")
    (workspace / "studies" / f"{STUDY}.yaml").write_text("name: the study\n")
    (workspace / "studies" / "codelists" / "car_t.csv").write_text("code\n")
    remember(made)
    (workspace / "evidence" / STUDY / "20260101T000000Z-ab").mkdir(parents=True)
    for name in ("landing", "published"):
        (workspace / name).mkdir()
        (workspace / name / "file").write_text("made by the demo\n")
    (made / "demo.key").write_text("00\n")
    return made


def test_what_the_demo_made_it_makes_anew(folder: Path) -> None:
    assert of_others(folder) == ()
    again = fresh_folder(folder, anew=False)
    assert [p.name for p in again.iterdir()] == [MARK]


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "workspace/my_question.sql",
        "workspace/studies/mine.yaml",
        f"workspace/studies/{STUDY}.lock.json",
        "workspace/studies/codelists/mine.csv",
        "workspace/evidence/mine/20260101T000000Z-ab/evidence.json",
        f"workspace/evidence/{STUDY}/releases/1/report.html",
    ],
)
def test_what_somebody_put_there_is_refused_by_name_and_stays(folder: Path, path: str) -> None:
    mine = folder / path
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    (told,) = of_others(folder)
    assert mine.is_relative_to(folder / told)
    with pytest.raises(UsageError) as refused:
        fresh_folder(folder, anew=False)
    assert told in str(refused.value)
    assert mine.read_text() == "mine"
    fresh_folder(folder, anew=True)
    assert not mine.exists()


@pytest.mark.parametrize("path", ["rwe.yaml", f"studies/{STUDY}.yaml", "studies/codelists/car_t.csv"])
def test_what_somebody_edited_is_not_deleted(folder: Path, path: str) -> None:
    file = folder / "workspace" / path
    file.write_text(file.read_text() + "# mine\n")
    assert of_others(folder) == (f"workspace/{path}",)


def test_several_are_counted(folder: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).write_text("mine")
    with pytest.raises(UsageError, match=r"did not write a\.txt and 2 more files"):
        fresh_folder(folder, anew=False)


def test_a_demo_that_was_stopped_while_it_set_up_is_begun_anew(tmp_path: Path) -> None:
    folder = fresh_folder(tmp_path / "rwe-demo", anew=False)
    (folder / "workspace" / "studies").mkdir(parents=True)
    (folder / "workspace" / "studies" / f"{STUDY}.yaml").write_text("half a st")
    assert fresh_folder(folder, anew=False) == folder


def test_with_a_mark_that_says_nothing_every_study_may_be_somebodys(folder: Path) -> None:
    (folder / MARK).write_text("Made by `rwe demo`.\n")
    assert f"workspace/studies/{STUDY}.yaml" in of_others(folder)


def test_no_flag_deletes_a_folder_that_no_demo_made(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="no demo made it"):
        fresh_folder(tmp_path, anew=True)
    assert (tmp_path / "precious.txt").exists()
