"""The hospitals are made once for a run of the tests; each file of tests has a copy of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rwe.scratch import locked
from tests.federate.hospitals import STUDY_TEXTS, Hospitals, make_hospitals


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent  # one folder for all workers of a run
    folder = base / "pristine-hospitals"
    with locked(base / "pristine-hospitals.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make_hospitals(folder, STUDY_TEXTS)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="module")
def copied(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    folder = tmp_path_factory.mktemp("hospitals") / "of_this_file"
    shutil.copytree(pristine, folder, symlinks=True)
    return Hospitals(folder)


@pytest.fixture
def hospitals(copied: Hospitals) -> Hospitals:
    """Nothing asked, approved or answered yet; the settings are the defaults."""
    copied.forget()
    return copied


@pytest.fixture
def post(tmp_path: Path) -> Path:
    """The folder of the files that go between hub and sites."""
    folder = tmp_path / "post"
    folder.mkdir()
    return folder
