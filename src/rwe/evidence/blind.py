"""What may be seen before the protocol is locked: no outcome by strategy stands in it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import Field

from rwe.durable import AS_UMASK, write_whole
from rwe.evidence.contract import AttritionStep, BaselineRow
from rwe.evidence.parts import ArmWeights, Detectable, LockSummary, Part, PositivityCell


class BlindDiagnostics(Part):
    """Counts by strategy are of patients by whether they ever started; events are of all together."""

    study: str
    version: str
    protocol_sha256: str
    created_at: datetime
    content_sha256: str
    lock: LockSummary
    attrition: list[AttritionStep]
    n: int
    events: int = Field(description="Of both strategies together.")
    n_by_strategy: dict[str, int]
    started_after_progression: int
    median_follow_up_days: float | None = Field(description="Reverse Kaplan-Meier, all patients together.")
    baseline: list[BaselineRow]
    weights: list[ArmWeights]
    positivity: list[PositivityCell]
    detectable: Detectable | None = Field(description="Of the primary analysis, as it adjusts.")
    exposure_r_squared: float | None = Field(
        default=None, description="Of exposure in the risk sets: what the covariates adjusted for explain."
    )
    notes: list[str]


def write_blind(found: BlindDiagnostics, path: Path) -> None:
    """Write it as JSON: complete or absent."""
    write_whole(path, f"{found.model_dump_json(indent=1)}\n".encode(), AS_UMASK)
