"""A second demo begins anew, and never over what somebody put into the folder of the first."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from rwe import demo_folder
from rwe.demo_folder import MARK, remember
from rwe.errors import UsageError
from rwe.resources import bundled

STUDY = "the_study"
OF_RWE = "lenalidomide_after_car_t.yaml"
RUN = "run=20260101T030000Z-79fc"
BUILD = "20260101T040000033034Z-8997e316"
REFRESH = "20260101T050000169294Z-8997e316"
#: What lies in a demo's folder after it, and after `rwe extract`, `rwe refresh`, `rwe sql` there;
#: also after a process that was killed.
WRITTEN = (
    "demo.key",
    "prefect.log",
    "prefect/storage/a/b",
    "workspace/.rwe.yaml.lock",
    "workspace/audit.ndjson",
    "workspace/landing/site=north/.lock",
    f"workspace/landing/site=north/{RUN}/Patient.ndjson.zst.enc",
    f"workspace/landing/site=summit/.{RUN}.part/Patient.ndjson.zst",
    f"workspace/lake/Patient/site=river/{RUN}.parquet",
    f"workspace/lake/_runs/site=river/{RUN}.json",
    f"workspace/quarantine/site=river/{RUN}.parquet.enc",
    "workspace/private/build.lock",
    "workspace/private/rwe.duckdb",
    f"workspace/private/builds/{BUILD}.json",
    f"workspace/private/builds/{BUILD}.duckdb",
    "workspace/private/build-cgcc_5h8/.held",
    f"workspace/private/history/{STUDY}/.lock",
    f"workspace/private/history/{STUDY}/lock.json",
    f"workspace/private/history/{STUDY}/{REFRESH}.json.zst",
    "workspace/published/rwe.duckdb",
    f"workspace/published/builds/{BUILD}.duckdb",
    f"workspace/evidence/{STUDY}/{REFRESH}/evidence.json",
    f"workspace/evidence/{STUDY}/{REFRESH}/manifest.json",
    f"workspace/evidence/{STUDY}/{REFRESH}/report.html",
    f"workspace/evidence/{STUDY}/{REFRESH}/reproduce/analysis.R",
)
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
    for name in WRITTEN:
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made by the demo\n")
    (workspace / "evidence" / STUDY / "latest").symlink_to(REFRESH, target_is_directory=True)
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
        f"workspace/evidence/{STUDY}/manuscript.docx",
        f"workspace/evidence/{STUDY}/{REFRESH}/notes.docx",
        f"workspace/evidence/{STUDY}/{REFRESH}/reproduce/mine.R",
        "workspace/private/notes.txt",
        "workspace/private/history/mine/20260101T050000169294Z-8997e316.json.zst",
        "workspace/published/mine.parquet",
        "workspace/published/builds/mine.duckdb",
        "workspace/landing/notes.txt",
        f"workspace/landing/site=real/{RUN}/Patient.ndjson.zst",
        f"workspace/lake/Patient/site=real/{RUN}.parquet",
        f"workspace/quarantine/site=northern/{RUN}.parquet",
        "workspace/lake/figure.png",
        "prefect.txt",
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


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A demo that was killed as it copied the studies, before it wrote down what it made."""
    folder = fresh_folder(tmp_path / "rwe-demo", anew=False)
    (folder / "workspace" / "studies").mkdir(parents=True)
    content = (bundled("studies") / OF_RWE).read_bytes()
    (folder / "workspace" / "studies" / OF_RWE).write_bytes(content[: len(content) // 2])
    return folder


def test_a_demo_that_was_stopped_while_it_set_up_is_begun_anew(stopped: Path) -> None:
    assert fresh_folder(stopped, anew=False) == stopped


@pytest.mark.parametrize("path", ["rwe.yaml", "studies/mine.yaml", f"studies/{OF_RWE}"])
def test_what_somebody_wrote_where_a_demo_was_stopped_is_not_deleted(stopped: Path, path: str) -> None:
    (stopped / "workspace" / path).write_text("name: mine\n")
    assert of_others(stopped) == (f"workspace/{path}",)


def test_with_a_mark_that_says_nothing_every_study_may_be_somebodys(folder: Path) -> None:
    (folder / MARK).write_text("Made by `rwe demo`.\n")
    assert f"workspace/studies/{STUDY}.yaml" in of_others(folder)


def test_no_flag_deletes_a_folder_that_no_demo_made(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="no demo made it"):
        fresh_folder(tmp_path, anew=True)
    assert (tmp_path / "precious.txt").exists()
