"""Keeping workspaces that were not built: backups that lead out, erasures whose build fails, versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rwe.config import Workspace, open_workspace
from rwe.errors import BuildError, ConfigError, PartialError, UsageError
from rwe.keeping.backup import MANIFEST, back_up, restore
from rwe.keeping.erase import erase
from rwe.keeping.landed import finish_interrupted
from rwe.landing import list_runs
from tests.integration.landed import land, new_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = new_workspace(tmp_path)
    made.private.mkdir(mode=0o700, exist_ok=True)
    return made


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


def test_a_link_that_leads_to_itself_is_backed_up_as_it_is(workspace: Workspace, tmp_path: Path) -> None:
    circle = workspace.evidence / "s" / "circle"
    circle.parent.mkdir(parents=True)
    circle.symlink_to("circle")
    folder, _ = back_up(workspace, tmp_path / "backups")
    again = restore(folder, tmp_path / "again").root
    assert (again / "evidence" / "s" / "circle").readlink() == Path("circle")


def test_a_workspace_of_another_version_is_refused_with_a_sentence(workspace: Workspace) -> None:
    path = workspace.root / "rwe.yaml"
    path.write_text(path.read_text().replace("version: 1", "version: 2"))
    with pytest.raises(ConfigError, match="this rwe reads version 1; use the rwe that wrote the file"):
        open_workspace(workspace.root)


def test_a_run_that_was_between_two_names_is_put_in_place(workspace: Workspace) -> None:
    for name in ("anna", "bela"):
        land(workspace, "north", {"resourceType": "Patient", "id": name})
    first, second = list_runs(workspace.landing)
    first.path.rename(first.path.with_name(f".{first.path.name}.erased"))
    half = second.path.with_name(f".{second.path.name}.erased")
    half.mkdir()
    finish_interrupted(workspace.landing, "north")
    assert [r.run for r in list_runs(workspace.landing)] == [first.run, second.run]
    assert not half.exists()
