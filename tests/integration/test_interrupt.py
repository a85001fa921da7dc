"""Ctrl-C is obeyed at once, with a sentence, and nothing half done is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def interrupted(sign: Path, folder: Path) -> tuple[int, str, float]:
    """Run a demo as a terminal would, press Ctrl-C once `sign` is there; status, stderr, seconds to stop."""
    command = [sys.executable, "-c", "from rwe.cli import main; main()", "demo", "--dir", str(folder)]
    process = subprocess.Popen(
        [*command, "--patients", "150"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob(str(sign))) and process.poll() is None:
        assert time.monotonic() < deadline, "the demo never came so far"
        time.sleep(0.02)
    pressed = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole foreground group
    _, err = process.communicate(timeout=90)
    return process.returncode, " ".join(err.split()), time.monotonic() - pressed


@pytest.mark.parametrize(
    "sign",
    ["workspace/landing/site=*/.run=*.part/*.zst", "workspace/lake/_runs/site=*/*.json"],
    ids=["while extracting", "while building"],
)
def test_the_demo_stops_at_once_and_says_so(tmp_path: Path, sign: str) -> None:
    folder = tmp_path / "demo"
    code, err, seconds = interrupted(Path(sign), folder)
    assert code == 130, err
    assert "Stopped; what was complete is kept." in err
    assert "Traceback" not in err
    assert seconds < 25
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in listing
    assert not list((folder / "workspace" / "published").glob("*.duckdb"))
