"""What a protocol asks for that no data can carry, and what it does not ask for: told before any run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rwe.errors import StudyError
from rwe.report.page import render_report
from rwe.study import load_study
from rwe.study.possible import ENDS_AT_PROGRESSION, NO_HORIZON
from rwe.study.unasked import not_asked
from rwe.study_words import explain
from tests.support import ROOT
from tests.unit.evidence_example import evidence
from tests.unit.test_plan import WITH_STATUS, registry, run
from tests.unit.test_report_new_evidence import plain
from tests.unit.test_study_words import study_with

STRUCTURAL = {"analysis": "marginal_structural_model", "adjusted_for": ["age"]}
CLONES = {"analysis": "clone_censor_weight", "adjusted_for": ["age"], "replicates": 0}
GRID = [
    {"rule": "exposure_tiers", "value": ["administration"]},
    {"rule": "censoring", "value": "data_cutoff"},
    {"rule": "death_without_date", "value": "exclude"},
    {"rule": "salvage", "value": "counts_as_start"},
    {"rule": "lag_days", "value": 30},
]


def _file(folder: Path, *analyses: dict[str, Any], **fields: Any) -> Path:
    """The bundled study with other analyses, as a file."""
    studies = ROOT / "studies"
    content = yaml.safe_load((studies / "lenalidomide_after_car_t.yaml").read_text())
    content |= {"sensitivity_grid": [], "subgroups": [], "analyses": list(analyses), **fields}
    (folder / "codelists").symlink_to(studies / "codelists")
    path = folder / "lenalidomide_after_car_t.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("analysis", "fields", "reason"),
    [(STRUCTURAL, {}, ENDS_AT_PROGRESSION), (CLONES, {"horizons": []}, NO_HORIZON)],
)
def test_a_primary_analysis_that_can_never_run_is_refused_with_the_runs_own_sentence(
    tmp_path: Path, analysis: dict[str, Any], fields: dict[str, Any], reason: Any
) -> None:
    path = _file(tmp_path, analysis | {"role": "primary"}, **fields)
    with pytest.raises(StudyError) as refused:
        load_study(path)
    assert "analyses #1 is primary, and" in str(refused.value)
    (of_run,) = run(registry(), analysis, **(WITH_STATUS | fields)).refused
    assert of_run.reason == f"{reason}."
    assert str(refused.value).endswith(of_run.reason)


def test_what_can_run_is_read(tmp_path: Path) -> None:
    own_horizon = CLONES | {"role": "primary", "horizon_days": 400}
    assert load_study(_file(tmp_path, own_horizon, horizons=[])).protocol.analyses[0].role == "primary"


def test_a_sensitivity_that_can_never_run_is_told_and_read(tmp_path: Path) -> None:
    study = load_study(_file(tmp_path, {"analysis": "mantel_byar"}, STRUCTURAL, CLONES, horizons=[]))
    told = [w for w in explain(study)["Analyses"] if "will be refused" in w]
    assert told == [
        f"Note: marginal_structural_model will be refused: {ENDS_AT_PROGRESSION}.",
        f"Note: clone_censor_weight will be refused: {NO_HORIZON}.",
    ]


def test_sensitivities_that_nobody_asked_for_are_named() -> None:
    cox = {"analysis": "time_dependent_cox", "adjusted_for": ["age"], "role": "primary"}
    bare, full = study_with(cox), study_with(cox, sensitivity_grid=GRID)
    assert not_asked(bare.protocol) == [
        "grace_days", "landmark", "exposure_tiers", "salvage", "censoring", "death_without_date", "lag_days",
    ]  # fmt: skip
    assert not_asked(full.protocol) == ["grace_days", "landmark"]
    assert explain(full)["Analyses"][-1] == (
        "Note: no sensitivity was asked for on another grace period and another landmark (no analysis of "
        "this study has such a rule)."
    )
    assert "salvage counted as a start" in explain(bare)["Analyses"][-1]


def test_an_analysis_of_its_own_asks_as_well() -> None:
    others = [
        {"analysis": "landmark_cox", "landmarks": [60, 90]},
        CLONES | {"grace_days": 90},
        {"analysis": "time_dependent_cox", "salvage": "counts_as_start"},
    ]
    assert not_asked(study_with(*others).protocol) == [
        "exposure_tiers", "censoring", "death_without_date", "lag_days",
    ]  # fmt: skip


def test_the_report_names_them_also_without_a_grid() -> None:
    page = plain(render_report(evidence(sensitivity_grid=None)))
    assert "Had a rule been another" in page
    assert "Not asked for by this protocol: another grace period" in page
