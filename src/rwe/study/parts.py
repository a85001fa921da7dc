"""The parts of a protocol: who is eligible, time zero, strategies, what ends follow-up, covariates.

All windows and days are whole days relative to the index event (day 0), both ends inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

EvidenceTier = Literal["administration", "dispense", "statement", "request"]
IndexSource = Literal["MedicationAdministration", "Procedure"]
DeathSource = Literal["patient", "registry"]
Handling = Literal["treatment_policy", "composite", "censored_with_weights"]
AdverseEvent = Literal["neutropenia", "thrombocytopenia", "anaemia"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
_CENTURY = 36_525
Day = Annotated[int, Field(strict=True, ge=-_CENTURY, le=_CENTURY)]
DayAfter = Annotated[int, Field(strict=True, ge=1, le=_CENTURY)]
Span = Annotated[int, Field(strict=True, ge=0, le=_CENTURY)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def refuse_reversed(low_name: str, low: Any, high_name: str, high: Any) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"{low_name} {low} is above {high_name} {high}")


def refuse_repeats(where: str, names: Sequence[object]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where} has {name!r} twice")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Window(Part):
    """Days relative to index, both inclusive. A missing from_day is open.

    It ends on day 0 at the latest: what is known only later may not decide who is eligible or what a baseline
    covariate is. Whoever has it has survived until then, and that is immortal time.
    """

    from_day: Day | None = None
    to_day: Day = 0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.to_day > 0:
            raise ValueError("the window reaches beyond day 0: it would count what only survivors have")
        if self.from_day is not None and self.from_day > self.to_day:
            raise ValueError(f"from_day {self.from_day} is after to_day {self.to_day}")
        return self


class AgeCriterion(Part):
    """Age at index, in years: (index - birth) / 365.25, not floored."""

    kind: Literal["age_at_index"]
    name: Name
    min_years: Number | None = None
    max_years: Number | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        refuse_reversed("min_years", self.min_years, "max_years", self.max_years)
        return self


class EventCriterion(Part):
    """A coded event that must (or must not) be recorded in the window."""

    kind: Literal["condition", "procedure", "medication"]
    name: Name
    codelist: Name
    window: Window = Window()
    must_be: Literal["present", "absent"] = "present"


class PlausibleRange(Part):
    """What a measured value can be, in the unit of the protocol, both inclusive."""

    low: Number
    high: Number

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        refuse_reversed("low", self.low, "high", self.high)
        return self


class ValueCriterion(Part):
    """The observed value nearest to index in the window lies between two bounds (inclusive)."""

    kind: Literal["observation"]
    name: Name
    codelist: Name
    window: Window
    unit: str | None = Field(default=None, description="UCUM code; a value in another unit is missing.")
    min_value: Number | None = None
    max_value: Number | None = None
    plausible: PlausibleRange | None = Field(default=None, description="A check reports values outside.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        refuse_reversed("min_value", self.min_value, "max_value", self.max_value)
        return self


class PeriodCriterion(Part):
    """The index date lies in a calendar period (inclusive)."""

    kind: Literal["index_period"]
    name: Name
    not_before: date | None = None
    not_after: date | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        refuse_reversed("not_before", self.not_before, "not_after", self.not_after)
        return self


Criterion = Annotated[
    AgeCriterion | EventCriterion | ValueCriterion | PeriodCriterion, Field(discriminator="kind")
]


class IndexEvent(Part):
    """Time zero: the first event of a code list. Its days count from 0."""

    codelist: Name
    sources: list[IndexSource] = Field(default=["MedicationAdministration", "Procedure"], min_length=1)
    occurrence: Literal["first"] = "first"
    same_event_days: Span = Field(
        default=14, description="Records this close together are one event (two bags of one dose)."
    )


class Washout(Part):
    """New users only: whoever took the exposure in the `days` before index is excluded."""

    days: DayAfter | None = Field(default=None, description="None reaches back over the whole record.")


class Exposure(Part):
    """The treatment under study and the evidence that counts for it."""

    codelist: Name
    tiers: list[EvidenceTier] = Field(
        min_length=1, description="Evidence that counts; a start is the earliest over these tiers."
    )
    gap_days: Span = Field(
        default=60, description="Records of one tier at most this far apart are one episode."
    )
    start_without_day: Literal["exclude", "latest_day"] = Field(
        default="exclude",
        description="A first record after index known only to the month or year: the patient is excluded, or "
        "starts on its latest possible day.",
    )


class TreatedStrategy(Part):
    """Start the exposure within the grace period, unless the disease has progressed first."""

    name: Name
    label: str
    grace_days: Span = Field(description="A start on this day still counts (inclusive).")
    unless_progressed: bool = Field(
        default=True, description="A start on or after progression is salvage, not this strategy."
    )


class ControlStrategy(Part):
    """No start of the exposure within the grace period."""

    name: Name
    label: str


class Strategies(Part):
    treated: TreatedStrategy
    control: ControlStrategy


class DiseaseStatus(Part):
    """How response and progression are read off Observations: the question's codes and the answers' codes."""

    codelist: Name
    responding: Name = Field(description="Code list of the values that mean a response.")
    progressed: Name = Field(description="Code list of the values that mean progression or relapse.")


class IntercurrentEvent(Part):
    """An event after index that changes what the outcome means (ICH E9 R1)."""

    name: Name
    codelist: Name
    sources: list[Literal["medication", "procedure", "condition"]] = Field(min_length=1)
    handling: Handling = Field(
        description="treatment_policy: follow-up goes on; composite: the event counts as the outcome; "
        "censored_with_weights: follow-up ends at the event, and who is left is weighted by the inverse "
        "probability of not having had it."
    )
    weighted_for: list[Name] = Field(
        default=[],
        description="censored_with_weights: the covariates of the model of the event. They must tell who has "
        "the event as far as it goes with prognosis.",
    )

    @model_validator(mode="after")
    def _names_what_it_weighs_for(self) -> Self:
        if (self.handling == "censored_with_weights") != bool(self.weighted_for):
            raise ValueError("weighted_for goes with the handling censored_with_weights, which needs it")
        refuse_repeats("weighted_for", self.weighted_for)
        return self


class Toxicity(Part):
    """An adverse event that is graded by a laboratory value (CTCAE v5.0), day by day from index on."""

    name: Name
    adverse_event: AdverseEvent
    codelist: Name
    from_day: Span = Field(
        default=0,
        description="Rates are of the first event from this day on. An earlier one neither counts nor takes "
        "anybody out, and person-time begins with this day.",
    )


class CartCopies(Part):
    """Expansion of the infused cells: copies of the transgene after index, over days 0 to 28."""

    codelist: Name
    unit: str = Field(
        min_length=1, max_length=60, description="UCUM code, such as {copies}/ug; a value in another is none."
    )


class Outcome(Part):
    name: Literal["overall_survival"] = "overall_survival"
    death_without_date: Literal["exclude", "last_contact"] = Field(
        default="last_contact", description="What becomes of a patient known to be dead on no known day."
    )
    incomplete_death_date: Literal["midpoint", "exclude"] = Field(
        default="midpoint",
        description="A death known to the month or year: its middle, but never before the last contact.",
    )
    death_sources: list[DeathSource] = Field(
        default=["patient", "registry"],
        min_length=1,
        description="Who is believed about a death, the first before the second: the Patient record, an "
        "imported death registry. A day comes before a month or year, and any date before none. A source "
        "that is not named does not count.",
    )


class Censoring(Part):
    """Until when the living count: the last recorded care, or a day on which all records were complete."""

    rule: Literal["last_activity", "data_cutoff"] = "last_activity"
    data_cutoff: date | None = None

    @model_validator(mode="after")
    def _has_day(self) -> Self:
        if self.rule == "data_cutoff" and self.data_cutoff is None:
            raise ValueError("rule data_cutoff needs the day data_cutoff")
        return self


class AgeCovariate(Part):
    kind: Literal["age_at_index"]
    name: Name
    label: str = "Age at index (years)"


class SexCovariate(Part):
    """Administrative gender as a number; a gender not listed is missing."""

    kind: Literal["sex"]
    name: Name
    label: str = "Sex"
    values: dict[Literal["female", "male", "other"], float] = {"female": 1.0, "male": 0.0}


class ObservationCovariate(Part):
    """A measured value: the one nearest to index inside the window, the later of two equally near.

    Of several on one day it is their mean. A value after index takes its place from the end of its day on: in
    every analysis from a landmark, as known then, and where `over_time` says so, in the others, too.
    """

    kind: Literal["observation"]
    name: Name
    label: str
    codelist: Name
    window: Window = Window(from_day=-30, to_day=0)
    unit: str | None = Field(default=None, description="UCUM code; a value in another unit is missing.")
    transform: Literal["none", "log", "log1p"] = Field(
        default="none",
        description="log: the natural logarithm (a value of 0 is then missing); log1p: that of 1 + value.",
    )
    over_time: bool = Field(
        default=False,
        description="Followed as it changes, also in analyses from day 0: in the models of starting of "
        "weighted and emulated ones, as a time-dependent covariate in the others. What the treatment itself "
        "changes belongs into weights only: a Cox model adjusts that part of the effect away.",
    )
    before_first: Number | None = Field(
        default=None,
        description="With over_time: the value (before transform) of who has none in the window, until the "
        "first one later, such as 0 copies of a transgene before its infusion. Absent: missing.",
    )
    plausible: PlausibleRange | None = Field(default=None, description="A check reports values outside.")

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Self:
        if self.before_first is None:
            return self
        if not self.over_time:
            raise ValueError("before_first needs over_time: true; else what is missing stays missing")
        if self.before_first <= {"log": 0.0, "log1p": -1.0}.get(self.transform, float("-inf")):
            raise ValueError(f"before_first {self.before_first:g} has no {self.transform}")
        return self


class CalendarCovariate(Part):
    """Years (365.25 days) from a fixed day to index."""

    kind: Literal["years_since"]
    name: Name
    label: str
    origin: date


class StatusCovariate(Part):
    """1 while in the status, else 0; it changes over time. Only statuses after index count.

    `responding`: the last known status is a response. `progressed`: from the first progression on, for good.
    """

    kind: Literal["disease_status"]
    name: Name
    label: str
    status: Literal["responding", "progressed"]


Covariate = Annotated[
    AgeCovariate | SexCovariate | ObservationCovariate | CalendarCovariate | StatusCovariate,
    Field(discriminator="kind"),
]


class Subgroup(Part):
    """Patients below `cut` and from it on, by a covariate known at index; the effect is given for both."""

    name: Name
    covariate: Name
    cut: Number


class Review(Part):
    """Of so many charts that people read, so many showed what the record says."""

    confirmed: Span
    reviewed: DayAfter

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        refuse_reversed("confirmed", self.confirmed, "reviewed", self.reviewed)
        return self


class ChartReviews(Part):
    """What a review of charts found: recorded starts, and recorded deaths by strategy."""

    starts: Review | None = None
    deaths_treated: Review | None = None
    deaths_control: Review | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.deaths_treated is None) != (self.deaths_control is None):
            raise ValueError("deaths_treated and deaths_control go together")
        return self
