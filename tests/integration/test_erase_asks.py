"""`rwe erase` asks before, and counts without changing anything: as it is typed, on a real workspace."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from rwe.audit import entries
from rwe.config import Workspace, add_site, open_workspace
from rwe.keeping.erase import erase, would_erase
from rwe.landing import list_runs
from rwe.study import load_study
from rwe.warehouse.build import build
from tests.integration.landed import land, new_workspace
from tests.integration.test_keeping import RAW, pseudonym, records
from tests.support import ROOT


def studies() -> list:
    return [load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two runs of one site: the second mentions the patient in another's record."""
    made = add_site(new_workspace(tmp_path), "north", {})
    land(made, "north", *records(RAW), *records("anna"))
    link = [{"other": {"reference": f"Patient/{RAW}"}, "type": "seealso"}]
    land(made, "north", *records("bela", link=link))
    return made


def typed(workspace: Workspace, *words: str, answer: str | None = None) -> tuple[int, str]:
    """The command in a process of its own; with an `answer` on a terminal, else with stdin closed."""
    command = [sys.executable, "-c", "from rwe.cli import main; main()", "-w", str(workspace.root), *words]
    if answer is None:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.returncode, " ".join((done.stdout + done.stderr).split())
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def held(workspace: Workspace) -> dict[str, str]:
    """Every file with its hash, without the audit log, which tells of the look, and empty lock files."""
    return {
        str(p.relative_to(workspace.root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in workspace.root.rglob("*")
        if p.is_file() and p.name != "audit.ndjson" and p.stat().st_size
    }


def listed(tmp_path: Path) -> str:
    path = tmp_path / "withdrawn.txt"
    path.write_text(f"{RAW}\n")
    return str(path)


def test_without_a_terminal_it_wants_yes_and_touches_nothing(workspace: Workspace, tmp_path: Path) -> None:
    before = held(workspace)
    words = ("erase", "--site", "north", "--patient-file", listed(tmp_path))
    status, text = typed(workspace, *words)
    assert status == 2
    assert "erased for good, so it is asked before" in text
    assert "--dry-run" in text
    assert held(workspace) == before
    status, text = typed(workspace, *words, "--yes")
    assert status == 0
    assert "Erased 1 patient of north. 4 lines of 2 runs went" in text
    left = [line for run in list_runs(workspace.landing) for t in run.types for line in run.open(t)]
    assert left
    assert not [line for line in left if RAW.encode() in line]


@pytest.mark.parametrize(("answer", "status"), [("n", 130), ("y", 0)])
def test_on_a_terminal_it_asks(workspace: Workspace, tmp_path: Path, answer: str, status: int) -> None:
    before = held(workspace)
    words = ("erase", "--site", "north", "--patient-file", listed(tmp_path))
    done, text = typed(workspace, *words, answer=answer)
    assert done == status
    assert "Erase 1 patient of north for good" in text
    assert (held(workspace) == before) == (answer == "n")


def test_a_dry_run_counts_what_goes_and_changes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    build(workspace, studies())
    before = held(workspace)
    status, text = typed(
        workspace, "erase", "--site", "north", "--patient-file", listed(tmp_path), "--dry-run"
    )
    assert status == 0
    assert "1 patient of north: 4 lines of 2 runs would go, 1 reference in records of others" in text
    assert "Patient: 1" in text
    assert "1 kept build would go" in text
    assert held(workspace) == before
    last = list(entries(workspace.root))[-1]
    assert (last.command, last.outcome) == ("erase --dry-run", "done")
    assert last.counts == {"patients": 1, "lines": 4, "rows": 0}


def test_it_counts_what_the_erasure_then_takes(workspace: Workspace) -> None:
    build(workspace, studies())
    (gone,) = (run for run in list_runs(workspace.landing) if run.resources["Patient"] == 2)  # RAW and anna
    gone.path.rename(workspace.root.parent / gone.run)  # its raw bytes are gone: of it, the lake's rows count
    secret = pseudonym(workspace, RAW)
    counted = would_erase(workspace, "north", pseudonyms=[secret])
    taken = erase(workspace, "north", studies(), pseudonyms=[secret])
    assert counted.rows == taken.rows > 0
    assert (counted.lines, counted.blanked) == ({t: n for t, n in taken.lines.items() if n}, taken.blanked)
    again = would_erase(open_workspace(workspace.root), "north", pseudonyms=[secret])
    assert (again.was_found, again.knows_ids) == (False, False)
