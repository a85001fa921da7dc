"""The wheel works outside the checkout: SQL, studies and flows travel inside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel was unpacked, as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        z.extractall(folder / "site-packages")
    return folder / "site-packages"


def rwe(installed: Path, *words: str | Path) -> str:
    code = "import rwe, sys; sys.stderr.write(rwe.__file__); from rwe.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=False,
    )
    assert str(installed) in done.stderr, "the checkout answered, not the wheel"
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_sql_studies_flows_and_deployments(installed: Path) -> None:
    bundled = installed / "rwe" / "_bundled"
    for name in ("sql", "studies", "flows", "deploy"):
        files = {p.relative_to(ROOT / name) for p in (ROOT / name).rglob("*") if p.is_file()}
        assert {f for f in files if "__pycache__" not in f.parts} == {
            p.relative_to(bundled / name) for p in (bundled / name).rglob("*") if p.is_file()
        }


def test_the_whole_way_runs_from_the_wheel(installed: Path) -> None:
    root = installed.parent / "ws"
    rwe(installed, "init", root, "--key-file", installed.parent / "key")
    rwe(installed, "import", ROOT / "tests" / "cases" / "d_tiny_7v9" / "fhir", "--site", "one", "-w", root)
    study = ROOT / "tests" / "cases_studies" / "tiny_7v9.yaml"
    assert "Naive" in rwe(installed, "analyse", study, "-w", root)
    rwe(installed, "report", study, "-w", root)
    assert (root / "evidence" / "tiny_7v9" / "latest" / "report.html").is_file()


def test_the_flows_load_from_the_wheel(installed: Path) -> None:
    assert "Time zero" in rwe(installed, "study", "check", "lenalidomide_after_car_t")
    code = "from rwe.resources import load_flow as f; print(f('nightly_extraction').nightly_extraction.name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed), "PREFECT_HOME": str(installed.parent / "prefect")},
        check=False,
    )
    assert done.stdout.strip() == "nightly-extraction", done.stderr
