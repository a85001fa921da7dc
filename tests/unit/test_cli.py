"""What a user meets on the command line: sentences, exit status, nothing lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rwe.cli
from rwe.config import init_workspace
from rwe.wording import counted


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def run(*words: str | Path, cwd: Path | None = None, **env: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-c", "from rwe.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **env},
        check=False,
    )
    return Ran(done.returncode, done.stdout, " ".join(done.stderr.split()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return init_workspace(tmp_path / "ws", key_file=tmp_path / "ws.key").root


def test_init_says_what_it_made_and_what_comes_next(tmp_path: Path) -> None:
    ran = run("init", tmp_path / "new", "--key-file", tmp_path / "new.key")
    assert ran.code == 0
    assert (tmp_path / "new" / "studies" / "lenalidomide_after_car_t.yaml").is_file()
    assert "rwe extract" in ran.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["frobnicate"], "No such command"),
        (["build", "--colour"], "--colour"),
        (["analyse"], "study"),
        (["study", "check", "no/such/study.yaml"], "there is no such study file"),
        (["study", "check", "nope"], "a path, or the name of a study in a workspace"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_one_sentence(words: list[str], told: str) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert told in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", ["build", "extract", "status"])
def test_a_folder_that_is_no_workspace_is_told(tmp_path: Path, command: str) -> None:
    ran = run(command, cwd=tmp_path)
    assert ran.code == 2
    assert "rwe init" in ran.err


def test_the_workspace_may_stand_before_or_after_the_command(root: Path) -> None:
    assert run("-w", root, "status").code == 0
    assert run("status", "-w", root).code == 0
    assert run("status", RWE_WORKSPACE=str(root)).code == 0


def test_a_traceback_appears_only_with_debug(tmp_path: Path) -> None:
    assert "Traceback" not in run("status", cwd=tmp_path).err
    assert "Traceback" in run("status", "--debug", cwd=tmp_path).err


def test_extract_without_a_server_says_what_to_declare(root: Path) -> None:
    ran = run("extract", "-w", root)
    assert ran.code == 2
    assert "sites:" in ran.err


def test_analysing_before_anything_landed_says_so(root: Path, tmp_path: Path) -> None:
    study = Path(rwe.__file__).parents[2] / "studies" / "lenalidomide_after_car_t.yaml"
    ran = run("analyse", study, "-w", root)
    assert ran.code in {1, 2}
    assert "Traceback" not in ran.err
    assert not (root / "evidence").exists()


def test_help_fits_a_terminal_of_80_columns_and_shows_an_example_of_each_command() -> None:
    top = run("--help")
    assert all(len(line) <= 80 for line in top.out.splitlines())
    commands = re.findall(r"^│ ([a-z]+) ", top.out, flags=re.MULTILINE)
    assert {"init", "extract", "import", "build", "analyse", "report", "refresh", "demo", "study"} <= set(
        commands
    )
    for command in set(commands) - {"study"}:
        shown = run(command, "--help").out
        assert f"Example: rwe {command}" in shown, command
        assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_new_workspace_has_no_site_and_says_what_to_do(root: Path) -> None:
    shown = run("status", "-w", root)
    assert "No site is declared yet" in shown.out
    assert "Published: nothing yet; run `rwe build`" in shown.out


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12282, "12,282 files")]
)
def test_one_is_singular(number: int, told: str) -> None:
    assert counted(number, "file") == told
    assert counted(number, "entry", "entries").endswith("entry" if number == 1 else "entries")


def test_study_schema_is_json() -> None:
    import json

    assert json.loads(run("study", "schema").out)["title"] == "rwe study protocol"
