"""What flows hand from step to step, inside one process. Nothing here is stored by Prefect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rwe.config import Workspace
from rwe.evidence.contract import Evidence


@dataclass(frozen=True)
class Order:
    """What is asked of each site of a run. Fields as of `rwe.extract.extract_site` and its `Limits`."""

    workspace: Workspace
    full: bool = False
    types: tuple[str, ...] = ()
    since: datetime | None = None

    @property
    def is_night(self) -> bool:
        """Whether a site has all that is new after it."""
        return not self.types and self.since is None


@dataclass(frozen=True)
class Refreshed:
    """A study's newest refresh, and the one before it (None: this is the first)."""

    before: Evidence | None
    after: Evidence
    page: Path
