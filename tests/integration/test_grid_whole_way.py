"""The sensitivity grid through the whole way: files, build, analyse, evidence.json, report."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

import pytest
import yaml

from rwe.analyse import analyse
from rwe.analyse.read import read_variants
from rwe.analyse.refresh import study_tables
from rwe.config import Encryption, Workspace, init_workspace
from rwe.errors import BuildError
from rwe.evidence.contract import read_evidence
from rwe.intake import import_folder
from rwe.landing import RunFacts, new_run
from rwe.report.page import write_report
from rwe.study import Study, find_study, load_studies, load_study
from rwe.warehouse.build import build
from rwe.warehouse.opening import private_key
from tests.golden.test_whole_way import CASES, STUDIES
from tests.integration.landed import new_workspace
from tests.integration.test_keeping import RAW, records
from tests.support import ROOT

GRID = [
    {"rule": "gap_days", "value": 5},
    {"rule": "death_without_date", "value": "exclude"},
    {"rule": "exposure_tiers", "value": ["request"]},
    {"rule": "lag_days", "value": 30},
    {"rule": "landmark", "value": 45},
]


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The Stanford heart transplants; without a grid as the case has it, and with one as a second study."""
    folder = tmp_path_factory.mktemp("grid")
    workspace = init_workspace(folder / "workspace", key_file=folder / "key")
    shutil.copytree(STUDIES / "codelists", workspace.studies / "codelists", dirs_exist_ok=True)
    content = yaml.safe_load((STUDIES / "stanford_heart.yaml").read_text(encoding="utf-8"))
    for name in [p.name for p in workspace.studies.glob("*.yaml")]:
        (workspace.studies / name).unlink()
    kept = ("time_dependent_cox", "landmark_cox")
    content["analyses"] = [a for a in content["analyses"] if a["analysis"] in kept]
    (workspace.studies / "stanford_heart.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    import_folder(workspace, CASES / "a_stanford_heart" / "fhir", "stanford")
    return workspace


def with_grid(workspace: Workspace) -> Study:
    path = workspace.studies / "stanford_heart.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(content | {"sensitivity_grid": GRID}), encoding="utf-8")
    return find_study("stanford_heart", workspace.studies)


def test_the_grid_stands_in_the_evidence_and_changes_nothing_else(heart: Workspace) -> None:
    build(heart, load_studies(heart.studies))
    before = read_evidence(analyse(heart, find_study("stanford_heart", heart.studies)).path)
    study = with_grid(heart)
    build(heart, [study])
    path = analyse(heart, study).path
    after = read_evidence(path)
    assert before.sensitivity_grid is None
    assert after.refresh.content_sha256 == before.refresh.content_sha256
    assert after.attrition == before.attrition
    assert after.quality == before.quality
    planned = [e for e in after.estimates if e.parameters.variant is None]
    assert planned == before.estimates

    assert after.sensitivity_grid is not None
    own, gap, deaths, tiers, lag, *landmarks = after.sensitivity_grid.rows
    primary = next(e for e in after.estimates if e.role == "primary")
    assert own.estimate == primary.estimate
    # No episode of a transplant has a gap, and every death of this cohort has its day: neither rule bites.
    for row in (gap, deaths):
        assert (row.changed, row.estimate, row.ci_low, row.ci_high) == (
            0,
            own.estimate,
            own.ci_low,
            own.ci_high,
        )
    # Nobody was transplanted by an order alone.
    assert (tiers.changed, tiers.estimate) == (69, None)
    assert "nobody started" in (tiers.reason or "")
    assert lag.changed == 69
    assert lag.estimate not in (None, own.estimate)
    assert [r.landmark_day for r in landmarks] == [30, 45]

    write_report(path, path.with_name("report.html"))
    page = path.with_name("report.html").read_text(encoding="utf-8")
    assert 'id="sensitivity-grid"' in page
    assert "Exposed from, after the start: 30 days; changes 69 patients" in page


def test_variants_of_an_encrypted_build_are_made_in_memory_and_leave_no_file(tmp_path: Path) -> None:
    pytest.importorskip("duckdb_extension_httpfs")
    made = new_workspace(tmp_path)
    key = tmp_path / "rest.key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    settings = made.settings.model_copy(update={"encryption": Encryption(key_file=key)})
    workspace = Workspace(made.root, settings)
    study = load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")
    with new_run(workspace.landing, "north", cipher=workspace.cipher()) as run:
        for r in (*records(RAW), *records("anna")):
            run.write(r["resourceType"], json.dumps(r).encode())
        run.commit(RunFacts(route="import", time_zone="UTC"))
    build(workspace, [study])
    before = sorted(workspace.private.rglob("*"))
    variants = read_variants(workspace.private_database, study, private_key(workspace))
    assert len(variants) == 6
    assert {len(v.survival) for v in variants} == {2}
    assert sorted(workspace.private.rglob("*")) == before
    with pytest.raises(BuildError, match="cannot be opened"):
        read_variants(workspace.private_database, study, secrets.token_hex(32))


def test_only_an_analysis_reads_the_variants(heart: Workspace) -> None:
    study = with_grid(heart)
    build(heart, [study])
    assert study_tables(heart, study).variants == ()
    variants = study_tables(heart, study, with_variants=True).variants
    assert [v.change.rule for v in variants] == ["gap_days", "death_without_date", "exposure_tiers"]
