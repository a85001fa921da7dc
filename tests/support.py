"""What several tests lean on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def missing(what: str) -> None:
    """Skip because a newcomer may lack `what`; in CI that is a failure, for CI installs all it needs."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must not skip")
    pytest.skip(f"needs {what}")


def shared(name: str) -> Path:
    """A file or folder of the shared references beside the project."""
    path = SHARED / name
    if not path.exists():
        missing(f"../shared/{name}")
    return path
