"""What the benchmarks of whole extractions share: a hospital server, and a workspace that knows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwe.config import Site, Workspace, init_workspace, open_workspace
from rwe.study import Study, load_study

HERE = Path(__file__).parent
SITE = "bench"


@contextmanager
def hospital_server(*, patients: int, observations: int, latency: float = 0.0) -> Iterator[str]:
    """A hospital as a process of its own; yields its base URL."""
    size = ["--patients", str(patients), "--observations", str(observations), "--latency", str(latency)]
    command = [sys.executable, str(HERE / "hospital_server.py"), *size]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=10)


def workspace_at(folder: Path, base_url: str, **settings: Any) -> Workspace:
    """A new workspace of one site. `settings` are fields of `Site`."""
    made = init_workspace(folder / "workspace", folder / "keys" / "key")
    return _with_site(made, base_url, settings)


def study() -> Study:
    """The study that comes with the project."""
    return load_study(HERE.parent / "studies" / "lenalidomide_after_car_t.yaml")


def workspace_again(folder: Path, base_url: str, **settings: Any) -> Workspace:
    """The workspace that `workspace_at` made there, for another night."""
    return _with_site(open_workspace(folder / "workspace"), base_url, settings)


def _with_site(made: Workspace, base_url: str, settings: dict[str, Any]) -> Workspace:
    fields = {
        "base_url": base_url,
        "allow_plain_http": "loopback only",
        "min_export_interval_hours": 0,
        **settings,
    }
    sites = {SITE: Site.model_validate(fields)}
    return Workspace(made.root, made.settings.model_copy(update={"sites": sites}))
