"""`rwe analyse --blind`: what is seen before the lock does not depend on the outcome by strategy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rwe.analyse.blind import blind_diagnostics
from rwe.analyse.refresh import study_tables
from rwe.cli import main
from rwe.config import init_workspace
from rwe.intake import import_folder
from rwe.study import find_study, load_studies
from rwe.warehouse.build import build
from tests.golden.test_whole_way import CASES, STUDIES


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blind")
    workspace = init_workspace(folder / "workspace", key_file=folder / "key")
    shutil.copytree(STUDIES / "codelists", workspace.studies / "codelists", dirs_exist_ok=True)
    shutil.copy(STUDIES / "stanford_heart.yaml", workspace.studies)
    import_folder(workspace, CASES / "a_stanford_heart" / "fhir", "stanford")
    build(workspace, load_studies(workspace.studies))
    return workspace.root


def test_the_command_shows_balance_weights_and_power(heart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["-w", str(heart), "analyse", "stanford_heart", "--blind"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "103 patients" in text
    assert "Age at index" in text
    assert "power" in text
    (path,) = (heart / "evidence" / "stanford_heart").glob("blind-*/blind.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert found["n_by_strategy"] == {"transplant": 69, "no_transplant": 34}  # Crowley and Hu 1977
    assert found["events"] == 75


def test_deaths_dealt_to_other_patients_change_nothing_that_is_shown(heart: Path) -> None:
    from rwe.config import open_workspace

    workspace = open_workspace(heart)
    study = find_study("stanford_heart", workspace.studies)
    tables = study_tables(workspace, study)
    survival = tables.survival.copy()
    # As many deaths, all of them among those who never started: the strongest effect there could be.
    never = survival["start_day"].isna()
    order = [*survival.index[never], *survival.index[~never]]
    dead = set(order[: int(survival["is_event"].sum())])
    survival["is_event"] = [i in dead for i in survival.index]
    shown = [
        blind_diagnostics(study, t).model_dump(exclude={"created_at", "median_follow_up_days"})
        for t in (tables, replace(tables, survival=survival))
    ]
    assert shown[0] == shown[1]
