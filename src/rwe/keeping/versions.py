"""Is this workspace one that this rwe can work with? An older one is upgraded, a newer one refused."""

from __future__ import annotations

from rwe.config import Workspace
from rwe.errors import ConfigError
from rwe.lake.schema import LAKE_VERSION
from rwe.lake.write import runs_in_lake
from rwe.landing import list_runs


def check_versions(workspace: Workspace) -> tuple[str, ...]:
    """What the next build upgrades, a sentence each.

    rwe.yaml says its version and is refused when it is read; landed runs say theirs (`list_runs`). Evidence
    is never rewritten: a refresh stays as the version that made it left it. Raises ConfigError where the lake
    was made by a newer rwe, LandingError where a run was.
    """
    notes = []
    list_runs(workspace.landing)
    versions = {_lake_version(r.fingerprint) for r in runs_in_lake(workspace)}
    newer = [v for v in versions if v is not None and v > LAKE_VERSION]
    if newer:
        raise ConfigError(
            f"the lake is of version {max(newer)}, and this rwe knows version {LAKE_VERSION}",
            where=str(workspace.lake),
            advice="use the rwe that made it, or a newer one",
        )
    if any(v != LAKE_VERSION for v in versions):
        notes.append("The lake is of an older version: the next build brings the landed runs in anew.")
    if workspace.database.is_file() and not workspace.private_database.is_file():
        notes.append("The published database is of an older version: the next build makes the private one.")
    return tuple(notes)


def _lake_version(fingerprint: str) -> int | None:
    text = fingerprint.partition("|")[0]
    return int(text) if text.isdigit() else None
