"""Parts of evidence.json that stand beside the estimates: diagnostics, bias autopsy, lock."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


def is_none(value: object) -> bool:
    """For fields that came to the contract later: what does not apply is left out of the document."""
    return value is None


def is_empty(value: object) -> bool:
    """As `is_none`, for lists."""
    return not value


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AutopsyStep(Part):
    """One hazard ratio on the way from the naive analysis to the best one, and what changed from the step
    before: a bias was removed, or another question is answered (the estimand changed)."""

    step: Literal["naive", "immortal_days_dropped", "time_dependent", "adjusted", "weighted", "answer"]
    label: str
    change: Literal["naive", "bias_removed", "estimand_changed"]
    words: str = Field(description="What changed, in a sentence.")
    hazard_ratio: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    events: int
    warnings: list[str]


class BiasAutopsy(Part):
    """How many days the naive analysis gives to the treated in which nobody could die, and to whom."""

    starters: int
    immortal_days: float
    share_of_treated_days: float | None = Field(
        description="Of the days that the naive analysis counts as treated, how many were before the start."
    )
    days_q1: float | None
    days_median: float | None
    days_q3: float | None
    days_by_site: dict[str, float]
    starters_by_site: dict[str, int]
    steps: list[AutopsyStep]


class HazardsTest(Part):
    """Whether a coefficient of the primary model is the same at all times (scaled Schoenfeld residuals)."""

    covariate: str
    chi_square: float
    df: int
    p_value: float


class ArmWeights(Part):
    """The weights of one arm. `effective` is Kish's effective sample size."""

    strategy: str
    model: str
    patients: int | None = Field(
        description="Those whose weight is final: followed beyond the grace period. Null before the lock: "
        "with it deaths by strategy could be counted."
    )
    mean: float | None
    maximum: float | None
    percentiles: dict[str, float]
    effective: float


class PositivityCell(Part):
    """A kind of patient, and how many of them started within the grace period. A zero is no positivity."""

    covariate: str
    level: str
    started: int
    not_started: int


class OverlapAtLandmark(Part):
    """Propensities of having started by a landmark, by what was then known; of one strategy.

    `outside` patients have a propensity that nobody of the other strategy reaches; `effective` is what the
    strategy's patients are worth under inverse-probability weights (Kish). `overlap` is the share of the two
    distributions that coincides (0: disjoint, 1: alike), by tenths of the propensity.
    """

    landmark_day: int
    strategy: str
    patients: int
    q1: float
    median: float
    q3: float
    outside: int
    effective: float
    overlap: float


class EmptyCell(Part):
    """A kind of patient that one strategy alone has at a landmark: one covariate's level, or two together."""

    landmark_day: int
    kind: dict[str, str] = Field(description="Level or range by covariate.")
    started: int
    not_started: int


class NegativeControlEstimate(Part):
    """What the model of the primary analysis finds for an outcome on which no effect is expected."""

    outcome: str
    patients: int
    events: int
    hazard_ratio: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    refused: str | None = Field(description="Why there is no estimate.")
    is_posthoc: bool = Field(
        default=False, exclude_if=is_empty, description="Whether it was locked otherwise, or not at all."
    )


class CalibratedEstimate(Part):
    """The primary hazard ratio among the systematic errors that the negative controls show."""

    error_mean: float = Field(description="Of the log hazard ratios of the controls.")
    error_sd: float = Field(description="Beyond what their standard errors explain.")
    share_excluding_null: float = Field(description="Controls whose nominal interval excludes 1.")
    hazard_ratio: float
    ci_low: float
    ci_high: float
    ci_level: float
    p_value: float
    warnings: list[str]
    is_posthoc: bool = Field(
        default=False, exclude_if=is_empty, description="Whether it was locked otherwise, or not at all."
    )


class NegativeControls(Part):
    """Negative controls named in the protocol. Without calibration, `not_calibrated` says why."""

    controls: list[NegativeControlEstimate]
    fewest: int = Field(description="Controls with an estimate that a calibration needs.")
    calibrated: CalibratedEstimate | None
    not_calibrated: str | None


class CorrectedEstimate(Part):
    """The primary hazard ratio without a binary confounder of this strength and these prevalences."""

    confounder_hazard_ratio: float
    prevalence_treated: float
    prevalence_control: float
    hazard_ratio: float
    ci_low: float | None
    ci_high: float | None


class ConfoundingTippingPoint(Part):
    """The hazard ratio of a binary confounder at which nothing is left of the primary estimate, and at which
    its interval reaches 1. Null: no strength would do at these prevalences."""

    prevalence_treated: float
    prevalence_control: float
    for_estimate: float | None
    for_limit: float | None


class UnmeasuredConfounding(Part):
    """How strong an unmeasured confounder had to be to explain the primary estimate away."""

    e_value: float
    e_value_limit: float | None
    array: list[CorrectedEstimate]
    tipping_points: list[ConfoundingTippingPoint] = Field(default=[])


class TippingPoint(Part):
    """How many of the censored had to have died when lost, until the log-rank test finds nothing."""

    group: str
    deaths: int | None
    censored: int


class Misclassification(Part):
    """The primary hazard ratio, corrected for what a review of charts found."""

    what: Literal["exposure", "death"]
    confirmed: int
    reviewed: int
    hazard_ratio: float | None
    median: float
    ci_low: float
    ci_high: float
    is_posthoc: bool = Field(
        default=False, exclude_if=is_empty, description="Whether it was locked otherwise, or not at all."
    )


class Detectable(Part):
    """The hazard ratios nearest to 1 that so many events would show with this power."""

    events: int
    share_exposed: float
    power: float
    protective: float
    harmful: float


class SubgroupEstimate(Part):
    level: str
    n: int
    events: int
    hazard_ratio: float | None
    ci_low: float | None
    ci_high: float | None


class Subgroup(Part):
    """The effect by level of a covariate known at index; whether it differs is `interaction_p`'s question."""

    name: str
    levels: list[SubgroupEstimate]
    interaction_p: float | None
    warnings: list[str]
    is_posthoc: bool = Field(
        default=False, exclude_if=is_empty, description="Whether it was locked otherwise, or not at all."
    )


class Diagnostics(Part):
    """What a reader checks before believing the primary estimate. A part that does not apply is empty, and
    `notes` say why."""

    proportional_hazards: list[HazardsTest] = Field(default=[])
    weights: list[ArmWeights] = Field(default=[])
    positivity: list[PositivityCell] = Field(default=[])
    unmeasured_confounding: UnmeasuredConfounding | None = None
    lost_deaths: TippingPoint | None = None
    misclassification: list[Misclassification] = Field(default=[])
    detectable: Detectable | None = None
    subgroups: list[Subgroup] = Field(default=[])
    notes: list[str] = Field(default=[])
    overlap: list[OverlapAtLandmark] = Field(default=[], exclude_if=is_empty)
    empty_cells: list[EmptyCell] = Field(default=[], exclude_if=is_empty)
    balance_by: str | None = Field(
        default=None,
        exclude_if=is_none,
        description="Whose weights the standardised differences after weighting are of.",
    )
    negative_controls: NegativeControls | None = Field(default=None, exclude_if=is_none)


class EventRate(Part):
    """First events of a kind per person-time, while exposed or while not; the interval is exact (Poisson)."""

    event: str
    strategy: str
    patients_at_risk: int
    events: int
    person_years: float
    rate_per_100_years: float | None
    ci_low: float | None
    ci_high: float | None


class Safety(Part):
    """Events by exposure at the time, not adjusted. Who had one before the start is at risk no more."""

    rates: list[EventRate]
    notes: list[str]


class ExpansionSummary(Part):
    """Expansion of the infused cells in those who ever started and those who never did."""

    strategy: str
    patients: int
    peak_q1: float | None
    peak_median: float | None
    peak_q3: float | None
    peak_day_median: float | None
    auc_median: float | None = Field(description="Days 0 to 28, copies times days.")
    last_detectable_day_median: float | None


class CopiesTrace(Part):
    """One patient's copies over time, without a name: days from index, values, and what happened when."""

    strategy: str
    days: list[int]
    copies: list[float]
    start_day: int | None
    progression_day: int | None


class CaseReport(Part):
    """Relapse, a start of the exposure after it, then a response again; with copies around the start."""

    relapse_day: int
    start_day: int
    response_day: int
    copies_before: float | None
    copies_after: float | None
    is_rising: bool | None


class Kinetics(Part):
    """Copies of the transgene over time. Strategies are by ever started, which looks ahead: it describes."""

    unit: str
    summaries: list[ExpansionSummary]
    traces: list[CopiesTrace]
    case_series: list[CaseReport]
    notes: list[str]
    traces_apart: int | None = Field(
        default=None,
        exclude_if=is_none,
        description="Traces that are not in `traces`, but at most in the folder reproduce of the site.",
    )
    cases_apart: int | None = Field(
        default=None, exclude_if=is_none, description="As traces_apart, of `case_series`."
    )


class Amendment(Part):
    """An entry of the lock's log: the lock itself, or an amendment, which differs from the entry before."""

    locked_at: datetime
    version: str
    protocol_sha256: str
    reason: str | None
    registration: str | None = Field(
        default=None, exclude_if=is_none, description="The registration of this version."
    )
    refreshes_before: int | None = Field(
        default=None,
        exclude_if=is_none,
        description="Refreshes of the study before this entry: they had shown the outcome. As far as the "
        "history goes.",
    )
    changed: list[str] = Field(
        default=[], exclude_if=is_empty, description="Fields that differ from the entry before."
    )
    has_other_answer: bool = Field(
        default=False,
        exclude_if=is_empty,
        description="Whether the primary analysis, or what it rests on, is another than in the entry before.",
    )
    dropped: list[str] = Field(
        default=[], exclude_if=is_empty, description="What the entry before asked for and this does not."
    )
    added: list[str] = Field(
        default=[], exclude_if=is_empty, description="What this entry asks for and the one before did not."
    )


class LockSummary(Part):
    """The protocol against its lock: what was planned before the outcome was seen."""

    status: Literal["unlocked", "locked", "changed"]
    registration: str | None
    log: list[Amendment]
    changed: list[str] = Field(description="Fields of the protocol that differ from the locked one.")
    dropped: list[str] = Field(
        default=[], exclude_if=is_empty, description="What was locked and is not asked for any more."
    )
    added: list[str] = Field(
        default=[], exclude_if=is_empty, description="What is asked for and was not locked."
    )
