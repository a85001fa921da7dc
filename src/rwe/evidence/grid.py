"""The part of evidence.json that holds the sensitivity grid: one rule of the protocol changed at a time."""

from __future__ import annotations

from pydantic import Field

from rwe.evidence.parts import Part
from rwe.study.analyses import AnalysisName
from rwe.study.grid import RuleName


class GridRow(Part):
    """The hazard ratio of an analysis under one rule. `rule` is null under the protocol's own rules."""

    analysis: AnalysisName
    landmark_day: int | None
    rule: RuleName | None
    value: str | None = Field(description="The value tried; null under the protocol's own rules.")
    own_value: str | None = Field(description="What the protocol says instead.")
    variant: str | None = Field(description="What Parameters.variant of the estimate holds.")
    note: str | None = Field(default=None, description="What else decides about the value, such as its day.")
    changed: int | None = Field(
        description="Patients whose follow-up, outcome or start the rule changes, or who are in one cohort "
        "only; null where the rule changes no patient but the analysis."
    )
    n: int = Field(description="Patients, not rows.")
    events: int
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float | None
    reason: str | None = Field(description="Why there is no estimate.")
    is_posthoc: bool


class SensitivityGrid(Part):
    """Rows by analysis: first under the protocol's own rules, then one rule changed at a time."""

    rows: list[GridRow]
