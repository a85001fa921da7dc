"""The report in a real browser: it renders without network and without script."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import matplotlib.image
import pytest

from rwe.report import render_report
from tests.support import missing
from tests.unit import evidence_example as example


def chromium(*arguments: str, profile: Path) -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("chromium")
    fixed = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
    )
    done = subprocess.run(
        [str(program), *fixed, f"--user-data-dir={profile}", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render_report(example.evidence()), encoding="utf-8")
    return path


def test_the_browser_reads_the_key_sentences_and_runs_nothing(report: Path, tmp_path: Path) -> None:
    dom = chromium("--dump-dom", report.as_uri(), profile=tmp_path / "profile")
    assert "<script" not in dom
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", dom)).replace("\u202f", " "))
    assert "was 0.71 times that under" in text
    assert "patients had to live long enough to start, and that immortal time counts as treated" in text
    assert example.ODD_LABEL in text
    assert "Nobody who was going to start could die in these days" in text
    assert dom.count("<svg") == 10


@pytest.mark.parametrize("width", [1200, 600])
def test_the_page_is_painted_with_both_strategies_colours(report: Path, tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    chromium(
        f"--screenshot={picture}",
        f"--window-size={width},5000",
        report.as_uri(),
        profile=tmp_path / "profile",
    )
    pixels = matplotlib.image.imread(picture)[..., :3] * 255
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        near = (abs(pixels - colour) < 12).all(axis=2)
        assert near.sum() > 200, colour
    assert (pixels.mean(axis=2) < 120).mean() > 0.005, "there is text"
