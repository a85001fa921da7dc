"""Lands files as a hospital would hand them over, for the tests of lake and build."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rwe.config import Workspace, init_workspace
from rwe.landing import Run, RunFacts, new_run


def new_workspace(folder: Path) -> Workspace:
    """A workspace of its own with a key beside it."""
    return init_workspace(folder / "workspace", folder / "pseudonyms.key")


def land_lines(
    workspace: Workspace,
    site: str,
    lines: Iterable[tuple[str, bytes]],
    time_zone: str = "UTC",
) -> Run:
    """Land (type, line) pairs as one run."""
    with new_run(workspace.landing, site) as run:
        for resource_type, line in lines:
            run.write(resource_type, line)
        return run.commit(RunFacts(route="import", time_zone=time_zone))


def land(workspace: Workspace, site: str, *resources: dict[str, Any], time_zone: str = "UTC") -> Run:
    """Land resources given as dicts as one run."""
    lines = ((r["resourceType"], json.dumps(r).encode()) for r in resources)
    return land_lines(workspace, site, lines, time_zone)


def land_ndjson(workspace: Workspace, site: str, folder: Path, *, backwards: bool = False) -> Run:
    """Land every line of the *.ndjson files in a folder, byte by byte, if asked the last line first."""
    lines = [(p.stem, line) for p in sorted(folder.glob("*.ndjson")) for line in p.read_bytes().splitlines()]
    return land_lines(workspace, site, reversed(lines) if backwards else lines)
