"""Folders for databases under way leave nothing behind, whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rwe.config import add_site, init_workspace, open_workspace
from rwe.scratch import scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from rwe.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "analyse-") as folder:
    (folder / "private.duckdb").write_text("patients")
    print("held", flush=True)
    time.sleep(60)
"""


def holder(parent: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = tmp_path.glob("analyse-*")
    with scratch_folder(tmp_path, "analyse-"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_holds_is_left_alone(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        (held,) = tmp_path.glob("analyse-*")
        with scratch_folder(tmp_path, "analyse-"):
            assert (held / "private.duckdb").exists()
    finally:
        process.kill()
        process.wait()


def test_a_folder_without_its_lock_yet_is_left_for_a_while(tmp_path: Path) -> None:
    new, old = tmp_path / "build-new", tmp_path / "build-old"
    new.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    with scratch_folder(tmp_path, "build-") as mine:
        assert new.exists()
        assert not old.exists()
        assert mine.stat().st_mode & 0o077 == 0


ADD = """
import sys
from pathlib import Path
from rwe.config import add_site, open_workspace
add_site(open_workspace(Path(sys.argv[1])), sys.argv[2], {})
"""


def test_sites_added_at_once_are_all_there(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "ws", key_file=tmp_path / "key")
    (workspace.root / "rwe.yaml").chmod(0o600)
    names = [f"site{i}" for i in range(6)]
    running = [subprocess.Popen([sys.executable, "-c", ADD, str(workspace.root), n]) for n in names]
    assert [p.wait(timeout=60) for p in running] == [0] * len(names)
    assert sorted(open_workspace(workspace.root).settings.sites) == names
    assert (workspace.root / "rwe.yaml").stat().st_mode & 0o777 == 0o600
    add_site(open_workspace(workspace.root), "last", {"time_zone": "Europe/Berlin"})
