"""The pseudonyms' key: rotated, everything is brought in anew under other pseudonyms; lost, it is told."""

from __future__ import annotations

import secrets
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from rwe.config import Workspace, init_workspace, open_workspace
from rwe.errors import ConfigError, LakeError
from rwe.intake import import_folder
from rwe.study import load_studies
from rwe.warehouse.build import build
from rwe.warehouse.opening import open_private
from tests.golden.test_whole_way import CASES, STUDIES

Cohort = list[tuple[object, ...]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Sixteen patients, landed and built under the first key, which is at `tmp_path`/key."""
    made = init_workspace(tmp_path / "workspace", key_file=tmp_path / "key")
    shutil.rmtree(made.studies)
    shutil.copytree(STUDIES / "codelists", made.studies / "codelists")
    shutil.copy(STUDIES / "tiny_7v9.yaml", made.studies)
    import_folder(made, CASES / "d_tiny_7v9" / "fhir", "one")
    declared = open_workspace(made.root)
    build(declared, load_studies(declared.studies))
    return declared


def cohort(workspace: Workspace) -> tuple[set[str], Cohort]:
    """The pseudonyms, and everything of the cohort but them."""
    with closing(open_private(workspace)) as db:
        patients = {p for (p,) in db.execute("select patient_id from cohort.survival").fetchall()}
        query = "select time_days, is_event, start_day from cohort.survival order by all"
        return patients, db.execute(query).fetchall()


def put(key_file: Path, key: str) -> None:
    key_file.write_text(key + "\n", encoding="ascii")
    key_file.chmod(0o600)


def test_a_rotated_key_gives_other_pseudonyms_and_the_same_cohort(
    workspace: Workspace, tmp_path: Path
) -> None:
    before, rows = cohort(workspace)
    put(tmp_path / "key", secrets.token_hex(32))
    build(workspace, load_studies(workspace.studies))
    after, rows_after = cohort(workspace)
    assert len(after) == 16
    assert not before & after
    assert rows == rows_after


def test_a_lost_key_is_told_and_a_copy_of_it_gives_the_same_pseudonyms(
    workspace: Workspace, tmp_path: Path
) -> None:
    before, _ = cohort(workspace)
    copy = (tmp_path / "key").read_text(encoding="ascii")
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError, match="restore it"):
        build(workspace, load_studies(workspace.studies))
    assert cohort(workspace)[0] == before  # what was built stays
    put(tmp_path / "key", copy.strip())
    build(workspace, load_studies(workspace.studies))
    assert cohort(workspace)[0] == before


def test_where_landed_runs_are_gone_what_lands_under_another_key_is_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Else one patient would have two pseudonyms in one lake."""
    before, _ = cohort(workspace)
    for run in workspace.landing.glob("site=one/run=*"):
        shutil.rmtree(run)
    put(tmp_path / "key", secrets.token_hex(32))
    import_folder(workspace, CASES / "d_tiny_7v9" / "fhir", "one")
    with pytest.raises(LakeError, match="landed runs are gone"):
        build(workspace, load_studies(workspace.studies))
    assert cohort(workspace)[0] == before
