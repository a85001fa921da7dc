"""What a workspace's rwe.yaml may say about federation. A request cannot change any of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rwe.site_settings import Part


class Federation(Part):
    """How this site takes part in federated analyses (docs/federation.md)."""

    hub: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")] = Field(
        default="hub", description="The name under which the hub's key is pinned."
    )
    plain_sums: Literal["refused", "allowed"] = Field(
        default="refused",
        description="allowed: this site's own sums may leave it unmasked. They give its small cells away.",
    )
    min_new_patients: int = Field(
        default=10, ge=0, description="New patients since the last refresh that was answered, before another."
    )
    min_new_events: int = Field(default=5, ge=0, description="New events since then, before another.")
    counts: Literal["midpoint_6", "exact"] = Field(
        default="midpoint_6", description="How the counts that leave are rounded."
    )
