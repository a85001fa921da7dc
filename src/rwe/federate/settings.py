"""What a workspace's rwe.yaml may say about federation. A request cannot change any of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rwe.site_settings import EnvironmentName, Part, SettingsPath


class Drop(Part):
    """A folder on a web server that hub and sites put files into and get them from, by https only."""

    url: str = Field(
        pattern=r"^https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$",
        description="The folder, as https://drop.example.org/study-1",
    )
    token_file: SettingsPath | None = Field(default=None, description="A bearer token; mode 0600.")
    token_env: EnvironmentName | None = Field(
        default=None, description="The variable that holds it, instead."
    )
    ca_file: SettingsPath | None = Field(
        default=None, description="PEM file of the authorities to trust, instead of the public ones."
    )

    @model_validator(mode="after")
    def _one_token(self) -> Drop:
        if self.token_file and self.token_env:
            raise ValueError("give token_file or token_env, not both")
        return self


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
    drop: Drop | None = Field(
        default=None, description="Where `rwe federate send` and `fetch` exchange files; unset: by hand."
    )
