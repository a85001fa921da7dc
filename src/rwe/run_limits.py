"""What one extraction is limited to: some types, an instant to go back to, an instant to end at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from rwe.night import Memory
from rwe.watermarks import REFERRING_TO_MEDICATIONS


@dataclass(frozen=True)
class Limits:
    """What one run is limited to.

    `types`: only these resource types (the Patients always come with them); empty is all. `since` (aware): go
    back at least to what changed since then, though earlier runs asked for it; a watermark is never moved
    ahead by it. `until` (aware): no request starts after it; what is complete by then is landed.
    """

    types: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def admits(self, resource_type: str) -> bool:
        """Whether the type is to be landed: Medications come with what refers to them."""
        if resource_type == "Medication" and self.types & REFERRING_TO_MEDICATIONS:
            return True
        return not self.types or resource_type in self.types or resource_type == "Patient"

    def going_back(self, memory: Memory) -> Memory:
        """The memory of earlier runs, as if their watermarks had not come further than `since`."""
        since = self.since
        if since is None:
            return memory
        earlier = {
            t: replace(b, watermark=min(b.watermark, since)) if b.watermark else b
            for t, b in memory.baselines.items()
        }
        return replace(memory, baselines=earlier)


#: Everything that is new, however long it takes.
UNLIMITED = Limits()
