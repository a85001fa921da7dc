"""The protocol of a study: the specification of a target trial, and the analyses asked for."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rwe.near import or_nearest
from rwe.study.analyses import Analysis
from rwe.study.grid import (
    CensoringChange,
    GapChange,
    GraceChange,
    LandmarkChange,
    RuleChange,
    SalvageChange,
    TiersChange,
    UndatedDeathChange,
    analysis_of,
)
from rwe.study.parts import (
    CartCopies,
    Censoring,
    ChartReviews,
    Covariate,
    Criterion,
    DayAfter,
    DiseaseStatus,
    EventCriterion,
    Exposure,
    IndexEvent,
    IntercurrentEvent,
    Name,
    ObservationCovariate,
    Outcome,
    Part,
    StatusCovariate,
    Strategies,
    Subgroup,
    Toxicity,
    ValueCriterion,
    Washout,
    refuse_repeats,
)

#: Columns that estimators read; a covariate of such a name would stand in their place.
RESERVED_NAMES = frozenset(
    {"study", "patient_id", "site", "index_date", "time_days", "is_event", "start_day", "salvage_start_day"}
    | {"progression_day", "strategy", "end_reason", "exposed"}
)


class Protocol(Part):
    """A study file, validated. Field by field this is the specification of a target trial."""

    schema_version: Literal[1] = 1
    name: Name
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    title: str = Field(min_length=1)
    question: str = Field(min_length=1)
    index_event: IndexEvent
    eligibility: list[Criterion] = Field(default=[])
    new_user_washout: Washout | None = None
    exposure: Exposure
    strategies: Strategies
    disease_status: DiseaseStatus | None = None
    intercurrent_events: list[IntercurrentEvent] = Field(default=[])
    toxicities: list[Toxicity] = Field(default=[])
    cart_copies: CartCopies | None = None
    outcome: Outcome = Outcome()
    censoring: Censoring = Censoring()
    covariates: list[Covariate] = Field(default=[])
    landmarks: list[DayAfter] = Field(default=[])
    horizons: list[DayAfter] = Field(default=[])
    analyses: list[Analysis] = Field(min_length=1)
    sensitivity_grid: list[RuleChange] = Field(
        default=[],
        description="Rules of this protocol with another value, one changed at a time. The primary analysis "
        "is rerun under each; a rule that it does not know is tried on the first analysis that does.",
    )
    subgroups: list[Subgroup] = Field(default=[])
    negative_controls: list[Name] = Field(
        default=[],
        description="Intercurrent events (treatment_policy) on which no effect is expected: the primary "
        "analysis is run on each, and calibrated by what it finds.",
    )
    chart_review: ChartReviews | None = None
    confidence_level: float = Field(default=0.95, gt=0.5, lt=1)
    min_events_per_parameter: float = Field(
        default=5, ge=0, description="A Cox model with fewer events a parameter carries a warning."
    )
    seed: int = 20220331

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        known = [c.name for c in self.covariates]
        refuse_repeats("covariates", known)
        for name in known:
            if name in RESERVED_NAMES:
                raise ValueError(f"covariates: {name!r} is a column of cohort.survival; choose another name")
        refuse_repeats("landmarks", self.landmarks)
        refuse_repeats("horizons", self.horizons)
        refuse_repeats("exposure.tiers", self.exposure.tiers)
        refuse_repeats("eligibility", [c.name for c in self.eligibility])
        refuse_repeats("intercurrent_events", [e.name for e in self.intercurrent_events])
        refuse_repeats("subgroups", [g.name for g in self.subgroups])
        for g in self.subgroups:
            if g.covariate not in known or g.covariate in self.statuses():
                raise ValueError(
                    f"subgroups: {g.covariate!r} is no covariate that is known at index"
                    + or_nearest(g.covariate, {*known} - self.statuses())
                )
        refuse_repeats("toxicities", [t.name for t in self.toxicities])
        refuse_repeats("outcome.death_sources", self.outcome.death_sources)
        for i, a in enumerate(self.analyses, start=1):  # `--analysis` counts from 1, too
            refuse_repeats(f"analyses #{i}.adjusted_for", a.adjusted_for)
            for name in a.adjusted_for:
                if name not in known:
                    raise ValueError(
                        f"analyses #{i} adjusts for {name!r}, which is no covariate of this study"
                        + or_nearest(name, known)
                    )
            if a.status_after_start == "freeze" and not self.followed() & set(a.adjusted_for):
                raise ValueError(f"analyses #{i} freezes the disease status but adjusts for none")
            if a.analysis.startswith("landmark_") and not (a.landmarks or self.landmarks):
                raise ValueError(f"analyses #{i} needs landmarks")
        if self.disease_status is None:
            if self.strategies.treated.unless_progressed:
                raise ValueError("strategies.treated.unless_progressed needs disease_status")
            if any(isinstance(c, StatusCovariate) for c in self.covariates):
                raise ValueError("a covariate of kind disease_status needs disease_status")
        return self

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        primary = [a for a in self.analyses if a.role == "primary"]
        if len(primary) > 1:
            raise ValueError("more than one analysis has the role primary")
        for a in primary:
            if a.analysis.startswith("landmark_") and len(a.landmarks or self.landmarks) != 1:
                raise ValueError(f"a primary {a.analysis} needs exactly one day in its own landmarks")
        if self.strategies.treated.name == self.strategies.control.name:
            raise ValueError("strategies.treated and strategies.control have one name")
        return self

    @model_validator(mode="after")
    def _intercurrent_events_fit(self) -> Self:
        known = {c.name for c in self.covariates}
        for e in self.intercurrent_events:
            unknown = [n for n in e.weighted_for if n not in known]
            if unknown:
                raise ValueError(
                    f"intercurrent_events: {e.name} is weighted for {unknown[0]!r}, no covariate"
                    + or_nearest(unknown[0], known)
                )
        refuse_repeats("negative_controls", self.negative_controls)
        policy = {e.name for e in self.intercurrent_events if e.handling == "treatment_policy"}
        for control in self.negative_controls:
            if control not in policy:
                raise ValueError(
                    f"negative_controls: {control!r} is no intercurrent event handled as treatment_policy"
                    + or_nearest(control, policy)
                )
        return self

    @model_validator(mode="after")
    def _grid_changes_something(self) -> Self:
        refuse_repeats("sensitivity_grid", [c.label for c in self.sensitivity_grid])
        for i, c in enumerate(self.sensitivity_grid, start=1):
            where = f"sensitivity_grid #{i}"
            if analysis_of(c.rule, self.analyses) is None:
                raise ValueError(f"{where}: no analysis of this study with a hazard ratio knows {c.rule}")
            if self._is_own_rule(c):
                raise ValueError(f"{where}: {c.label} is the protocol's own rule")
            if isinstance(c, SalvageChange) and not self.strategies.treated.unless_progressed:
                raise ValueError(f"{where}: without unless_progressed no start is salvage")
        return self

    def _is_own_rule(self, change: RuleChange) -> bool:
        match change:
            case TiersChange():
                return set(change.value) == set(self.exposure.tiers)
            case CensoringChange():
                days = (None, self.censoring.data_cutoff)
                return change.value == self.censoring.rule and change.data_cutoff in days
            case UndatedDeathChange():
                return change.value == self.outcome.death_without_date
            case GapChange():
                return change.value == self.exposure.gap_days
            case GraceChange():
                tried = analysis_of(change.rule, self.analyses)
                own = None if tried is None else tried.grace_days
                return change.value == (self.strategies.treated.grace_days if own is None else own)
            case _:
                return False

    def statuses(self) -> frozenset[str]:
        """The covariates that follow the disease status: they change over time."""
        return frozenset(c.name for c in self.covariates if isinstance(c, StatusCovariate))

    def measured(self) -> frozenset[str]:
        """The covariates that are measured values."""
        return frozenset(c.name for c in self.covariates if isinstance(c, ObservationCovariate))

    def followed(self) -> frozenset[str]:
        """The covariates that are followed over time in every analysis: statuses, and what says so."""
        over_time = (c.name for c in self.covariates if isinstance(c, ObservationCovariate) and c.over_time)
        return self.statuses() | frozenset(over_time)

    def changing(self, a: Analysis) -> frozenset[str]:
        """The covariates that the analysis takes as they change: from a landmark on every measured value."""
        if a.analysis.startswith("naive_"):  # as known at index
            return self.statuses()
        return self.followed() | (self.measured() if a.analysis.startswith("landmark_") else frozenset())

    def needed_until(self) -> dict[str, int | None]:
        """Of which measured covariates values after index are taken, and up to which day (None: all)."""
        asked = [a for a in self.analyses if not a.analysis.startswith("naive_")]
        used = {name for a in asked for name in a.adjusted_for} & self.measured()
        weighted_for = {name for e in self.censoring_events() for name in e.weighted_for}
        used |= weighted_for & self.measured() & self.followed()
        days = [*self.landmarks, max(self.strategies.treated.grace_days, 1)]  # where overlap is looked at
        days += [day for a in asked for day in a.landmarks or ()]
        days += [c.value for c in self.sensitivity_grid if isinstance(c, LandmarkChange)]
        return {name: None if name in self.followed() else max(days) for name in sorted(used)}

    def composite_events(self) -> list[str]:
        """The intercurrent events that count as the outcome besides death."""
        return [e.name for e in self.intercurrent_events if e.handling == "composite"]

    def censoring_events(self) -> list[IntercurrentEvent]:
        """The intercurrent events at which follow-up ends, and whose censoring is weighted for."""
        return [e for e in self.intercurrent_events if e.handling == "censored_with_weights"]

    def codelist_names(self) -> list[str]:
        """Every code list the protocol names, in order of appearance."""
        names = [self.index_event.codelist]
        names += [c.codelist for c in self.eligibility if isinstance(c, EventCriterion | ValueCriterion)]
        names.append(self.exposure.codelist)
        if self.disease_status:
            names += [
                self.disease_status.codelist,
                self.disease_status.responding,
                self.disease_status.progressed,
            ]
        names += [e.codelist for e in self.intercurrent_events]
        names += [c.codelist for c in self.covariates if isinstance(c, ObservationCovariate)]
        return list(dict.fromkeys(names + self._laboratory_codelists()))

    def observation_codelists(self) -> list[str]:
        """The code lists that select Observations by their code: what extraction must ask a server for."""
        names = [c.codelist for c in self.eligibility if isinstance(c, ValueCriterion)]
        if self.disease_status:
            names.append(self.disease_status.codelist)
        names += [c.codelist for c in self.covariates if isinstance(c, ObservationCovariate)]
        return list(dict.fromkeys(names + self._laboratory_codelists()))

    def medication_codelists(self) -> list[str]:
        """The code lists that medication records are matched with."""
        names = [self.exposure.codelist]
        if "MedicationAdministration" in self.index_event.sources:
            names.append(self.index_event.codelist)
        names += [e.codelist for e in self.intercurrent_events if "medication" in e.sources]
        names += [
            c.codelist for c in self.eligibility if isinstance(c, EventCriterion) and c.kind == "medication"
        ]
        return list(dict.fromkeys(names))

    def _laboratory_codelists(self) -> list[str]:
        names = [t.codelist for t in self.toxicities]
        return [*names, self.cart_copies.codelist] if self.cart_copies else names
