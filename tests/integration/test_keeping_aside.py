"""Backups that lead out of their folder, and an erasure whose build fails: on workspaces without a build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rwe.config import Workspace
from rwe.errors import BuildError, PartialError, UsageError
from rwe.keeping.backup import MANIFEST, back_up, restore
from rwe.keeping.erase import erase
from tests.integration.landed import land, new_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_workspace(tmp_path)


def test_what_analyses_keep_aside_goes_after_the_build_even_where_that_fails(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(workspace, "north", {"resourceType": "Patient", "id": "zq7secretid"})
    workspace.database.parent.mkdir(exist_ok=True)
    workspace.database.write_bytes(b"of the build before")
    aside = workspace.evidence / "s" / "r1" / "reproduce"

    def analysed_meanwhile(*_: Any, **__: Any) -> None:
        aside.mkdir(parents=True)
        (aside / "analysis.csv").write_text("time,event\n")
        raise BuildError("the disk is full")

    monkeypatch.setattr("rwe.keeping.erase.build", analysed_meanwhile)
    with pytest.raises(PartialError, match="is erased from landing and lake"):
        erase(workspace, "north", [], patient_ids=["zq7secretid"])
    assert not aside.exists()
    assert not workspace.database.exists()


@pytest.mark.parametrize(
    ("entries_", "message"),
    [
        ([("evidence/out", "../landing"), ("evidence/out/planted", None)], "behind a link"),
        ([("evidence/out", "{outside}")], "leads out of it"),
        ([("evidence/out", "../../../outside")], "leads out of it"),
        ([("a/b/up", "../.."), ("evidence/out", "../a/b/up/../outside")], "leads out of it"),
        ([("../planted", None)], "outside itself"),
    ],
)
def test_a_backup_that_leads_out_of_its_folder_is_refused(
    entries_: list[tuple[str, str | None]], message: str, workspace: Workspace, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder, _ = back_up(workspace, tmp_path / "backups")
    manifest = json.loads((folder / MANIFEST).read_text())
    some = next(f for f in manifest["files"] if f["path"] == "rwe.yaml")
    for path, link in entries_:
        linked = {"link": link.format(outside=outside), "sha256": ""} if link else {}
        manifest["files"].append({**some, "path": path, **linked})
    planted = folder / "files" / "evidence" / "out" / "planted"
    planted.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "files" / "rwe.yaml", planted)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=message):
        restore(folder, tmp_path / "again")
    assert list(outside.iterdir()) == []
    assert not list(tmp_path.glob("*again*"))


def test_links_within_the_workspace_come_back_and_others_are_not_backed_up(
    workspace: Workspace, tmp_path: Path
) -> None:
    latest = workspace.evidence / "s" / "latest"
    (latest.parent / "r1").mkdir(parents=True)
    (latest.parent / "r1" / "evidence.json").write_text("{}")
    latest.symlink_to("r1", target_is_directory=True)
    folder, _ = back_up(workspace, tmp_path / "backups")
    again = restore(folder, tmp_path / "again").root
    assert (again / "evidence" / "s" / "latest").readlink() == Path("r1")
    assert (again / "evidence" / "s" / "latest" / "evidence.json").read_text() == "{}"
    (workspace.evidence / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="leads out of the workspace"):
        back_up(workspace, tmp_path / "backups-of-tomorrow")
