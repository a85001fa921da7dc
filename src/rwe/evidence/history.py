"""The part of evidence.json that tells how a study got here: every look at its data, what changed last."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import Field

from rwe.evidence.parts import Part


class SiteNews(Part):
    """What a site brought since the look before. Of the first look: all of it. Null: it cannot be told."""

    site: str
    new_patients: int | None
    new_events: int | None


class Corrections(Part):
    """Old records that were corrected, in patients. What is new in a grown follow-up is no correction."""

    moved_to_treated: int = Field(description="A start inside the follow-up known before has appeared.")
    moved_to_control: int = Field(description="A start that was known before is no more.")
    start_day_changed: int = Field(description="Started then and now, on another day.")
    event_withdrawn: int = Field(description="The event known before is no more.")
    follow_up_shortened: int
    progression_changed: int = Field(
        default=0,
        description="A progression or a salvage start within the follow-up known before has appeared, is no "
        "more, or is of another day.",
    )
    covariates_changed: int = Field(description="A covariate known at index has another value.")
    status_changed: int = Field(description="A status within the follow-up known before is another.")


class Look(Part):
    """One refresh of the study, as its history remembers it.

    `number` counts looks at data: a refresh of the same tables with another code or protocol has the number
    of the one before. `corrections` is null where the look before kept no ledger, or the pseudonyms' key
    changed.
    """

    number: int
    refresh: str
    created_at: datetime
    data_cutoff: date | None
    code_version: str
    protocol_version: str
    protocol_sha256: str
    n: int
    events: int
    analysis: str | None = Field(description="What gave the answer; null where there is none.")
    adjusted_for: list[str] | None = Field(
        default=None, description="What the answer is adjusted for; null where that is not known."
    )
    estimate: float | None = Field(description="The primary hazard ratio of all sites.")
    ci_low: float | None
    ci_high: float | None
    naive: float | None = Field(description="The naive hazard ratio beside it: biased by immortal time.")
    always_low: float | None = Field(
        default=None, description="The confidence sequence at this look: see `repeated`."
    )
    always_high: float | None = None
    has_sequence: bool = Field(
        default=False, description="Whether there was one: without limits it is every hazard ratio."
    )
    sites: list[SiteNews] = Field(default=[])
    left: int | None = None
    corrections: Corrections | None = None
    protocol_changed: list[str] = Field(default=[], description="Fields of the protocol that changed.")
    code_changed: bool = False


class EstimateStep(Part):
    """The primary hazard ratio after one more class of change was made to the rows of the look before."""

    what: Literal["before", "analysis", "left", "covariates", "moved", "outcome", "follow_up", "entered"]
    patients: int | None = Field(description="Whom the change concerns; null where it is of no patient.")
    estimate: float | None


class Change(Part):
    """This look against the one before, in counts of patients."""

    since: str
    n_before: int
    n_after: int
    entered: int
    left: dict[str, int] = Field(description="By the step of the attrition that excludes them now.")
    erased: int = Field(description="Erased at their wish since; they are not among those who left.")
    outcome_known: int = Field(description="In the study before, and the event came to be known since.")
    started_since: int = Field(description="In the study before, and started in follow-up that is new.")
    follow_up_grown: int
    follow_up_days: float = Field(description="Days that those followed before were followed longer.")
    unchanged: int
    corrections: Corrections
    sites: list[SiteNews]
    protocol_changed: list[str]
    code_changed: bool
    steps: list[EstimateStep] = Field(
        default=[], description="From the estimate before to that of now; the order is one of several."
    )
    notes: list[str] = Field(default=[])


class Repeated(Part):
    """The confidence sequence of the unweighted score of the log-rank test by exposure at the time,
    stratified by site: hazard ratios, approximate, for all looks together."""

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    one_look_low: float | None
    one_look_high: float | None
    level: float
    score: float | None = Field(description="Observed minus expected events of the exposed.")
    information: float | None
    planned_information: float
    is_stratified: bool


class History(Part):
    """All looks so far, this one last."""

    look: int
    looks: list[Look]
    change: Change | None = Field(description="Null at the first look, or where nobody can tell.")
    repeated: Repeated | None
    notes: list[str] = Field(default=[])
