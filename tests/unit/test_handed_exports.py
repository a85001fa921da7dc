"""The files of a bulk export, handed over with its manifest: deletions are deletions, errors no records."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rwe.config import Workspace, init_workspace
from rwe.intake import PartlyImportedError, import_folder
from rwe.landing import DELETED

PATIENT = '{"resourceType":"Patient","id":"p1"}\n'
OUTCOME = '{"resourceType":"OperationOutcome","issue":[]}\n'
BASE = "https://fhir.example.org/files"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "ws", tmp_path / "keys" / "key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def gone(*urls: str) -> str:
    entries = [{"request": {"method": "DELETE", "url": url}} for url in urls]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}) + "\n"


def manifest(at: str = "2026-03-01T02:00:00Z", **names: list[str]) -> str:
    """A manifest as a server writes it; lists of file names by kind."""
    types = {"output": "Patient", "deleted": "Bundle", "error": "OperationOutcome"}
    content: dict[str, Any] = {
        "transactionTime": at,
        "request": f"{BASE}/$export",
        "requiresAccessToken": True,
    }
    for kind, type_ in types.items():
        content[kind] = [{"type": type_, "url": f"{BASE}/{n}?sig=1"} for n in names.get(kind, [])]
    return json.dumps(content, indent=1)


def tombstones(workspace: Workspace, folder: Path) -> list[tuple[str, str, str]]:
    run = import_folder(workspace, folder, "a").run
    lines = [json.loads(line) for line in run.open(DELETED)]
    return [(t["resourceType"], t["id"], t["deletedAt"][:10]) for t in lines]


def test_counts_are_honest(workspace: Workspace, folder: Path) -> None:
    (folder / "Patient.ndjson").write_text(PATIENT)
    (folder / "gone.ndjson").write_text(gone("Encounter/e1", "Encounter/e2"))
    (folder / "errors.ndjson").write_text(OUTCOME)
    (folder / "manifest.json").write_text(
        manifest(output=["Patient.ndjson"], deleted=["gone.ndjson"], error=["errors.ndjson"])
    )
    result = import_folder(workspace, folder, "a")
    assert (result.resources, result.tombstones, result.unreadable) == ({"Patient": 1}, 2, 0)
    assert result.run.resources == {"Patient": 1, DELETED: 2}
    for said in ("deletions, landed as such: 2", "own errors, not landed: 1", "read and not landed: 1"):
        assert any(said in w for w in result.warnings), said


@pytest.mark.parametrize(
    ("listed", "saved"),
    [
        ("gone.ndjson.gz", "gone.ndjson"),
        ("gone.ndjson", "gone.ndjson.gz"),
        ("gone", "gone.ndjson"),
        ("gone%20away.ndjson", "gone away.ndjson"),
    ],
)
def test_a_file_is_known_again_however_it_was_saved(
    workspace: Workspace, folder: Path, listed: str, saved: str
) -> None:
    content = gone("Encounter/e1").encode()
    (folder / saved).write_bytes(gzip.compress(content) if saved.endswith(".gz") else content)
    (folder / "m.json").write_text(manifest(deleted=[listed]))
    assert tombstones(workspace, folder) == [("Encounter", "e1", "2026-03-01")]


def test_each_export_has_its_own_manifest(workspace: Workspace, folder: Path) -> None:
    """Two exports number their files alike: what one lists as deletions are patients in the other."""
    for name in ("first", "second/output"):
        (folder / name).mkdir(parents=True)
    (folder / "first" / "1.ndjson").write_text(gone("Encounter/e1"))
    (folder / "first" / "manifest.json").write_text(manifest(deleted=["1.ndjson"]))
    (folder / "second" / "output" / "1.ndjson").write_text(PATIENT)
    (folder / "second" / "output" / "2.ndjson").write_text(gone("Encounter/e2"))
    (folder / "second" / "manifest.json").write_text(
        manifest("2026-04-01T00:00:00Z", output=["1.ndjson"], deleted=["2.ndjson"])
    )
    run = import_folder(workspace, folder, "a").run
    assert run.resources == {"Patient": 1, DELETED: 2}
    assert [json.loads(line)["deletedAt"][:10] for line in run.open(DELETED)] == ["2026-03-01", "2026-04-01"]


def test_a_manifest_of_several_pages_is_one(workspace: Workspace, folder: Path) -> None:
    (folder / "g1.ndjson").write_text(gone("Encounter/e1"))
    (folder / "g2.ndjson").write_text(gone("Encounter/e2"))
    (folder / "page1.json").write_text(manifest(deleted=["g1.ndjson"]))
    (folder / "page2.json").write_text(manifest(deleted=["g2.ndjson"]))
    assert [t[1] for t in tombstones(workspace, folder)] == ["e1", "e2"]


def test_what_a_manifest_leaves_open_is_told_and_not_guessed(workspace: Workspace, folder: Path) -> None:
    (folder / "1.ndjson").write_text(gone("Encounter/e1"))
    (folder / "Patient.ndjson").write_text(PATIENT)
    (folder / "manifest.json").write_text(
        manifest(output=["a/1.ndjson", "Patient.ndjson"], deleted=["b/1.ndjson"])
    )
    (folder / "other").mkdir()
    (folder / "other" / "manifest.json").write_text(manifest(at="last night"))
    with pytest.raises(PartlyImportedError) as caught:
        import_folder(workspace, folder, "a")
    assert caught.value.result.run.resources == {"Patient": 1}
    assert "file 1 of 4 (.ndjson): the export's manifest lists its name as" in str(caught.value)
    assert "file 4 of 4 (.json): a bulk export's manifest that cannot be read" in str(caught.value)


def test_a_line_that_is_no_deletion_is_told(workspace: Workspace, folder: Path) -> None:
    (folder / "g.ndjson").write_text(gone("Encounter/e1") + "{nope\n" + gone("Encounter/e2"))
    (folder / "manifest.json").write_text(manifest(deleted=["g.ndjson"]))
    with pytest.raises(PartlyImportedError, match=r"file 1 of 2 \(.ndjson\), line 2: it is no deletion"):
        import_folder(workspace, folder, "a")
