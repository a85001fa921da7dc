"""The protocol of a study: the specification of a target trial, and the analyses asked for."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rwe.study.parts import (
    Censoring,
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
    ValueCriterion,
    Washout,
    refuse_repeats,
)

AnalysisName = Literal[
    "naive_kaplan_meier",
    "naive_logrank",
    "naive_cox",
    "landmark_kaplan_meier",
    "landmark_logrank",
    "landmark_cox",
    "mantel_byar",
    "simon_makuch",
    "time_dependent_cox",
]


class Analysis(Part):
    """One analysis asked for. `stratify_by: [site]` gives each site a baseline hazard of its own."""

    analysis: AnalysisName
    role: Literal["primary", "sensitivity", "contrast"] = "sensitivity"
    adjusted_for: list[Name] = Field(default=[])
    stratify_by: list[Literal["site"]] = Field(default=[])
    ties: Literal["efron", "breslow"] = "efron"
    variance: Literal["model", "robust"] = "model"
    landmarks: list[DayAfter] | None = Field(
        default=None, description="Days; the study's landmarks if absent."
    )
    by_site: bool = Field(default=False, description="Also one estimate for each site.")
    status_after_start: Literal["follow", "freeze"] = Field(
        default="follow",
        description="time_dependent_cox only. follow: adjusts for disease status as it changes, also after "
        "the start. freeze: each start is compared with those not yet started on that day, both with the "
        "status of that day (one stratum a start day; later starters stay unexposed), so that an effect "
        "through progression stays in the ratio.",
    )

    @model_validator(mode="after")
    def _freezes_what_changes(self) -> Self:
        if self.status_after_start == "follow":
            return self
        if self.analysis != "time_dependent_cox":
            raise ValueError(f"{self.analysis} takes no status_after_start: only time_dependent_cox does")
        if self.variance != "robust":
            raise ValueError(
                "status_after_start: freeze needs variance: robust, for patients come up repeatedly"
            )
        return self

    @model_validator(mode="after")
    def _adjusts_only_models(self) -> Self:
        if self.adjusted_for and not self.analysis.endswith("_cox"):
            raise ValueError(f"{self.analysis} takes no adjusted_for: only Cox models do")
        if self.analysis.startswith("naive_") and self.role != "contrast":
            raise ValueError(f"{self.analysis} gives immortal time away: its role can only be contrast")
        if self.role == "primary" and not self.analysis.endswith("_cox"):
            raise ValueError(f"{self.analysis} gives no hazard ratio, so it cannot be primary")
        return self


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
    outcome: Outcome = Outcome()
    censoring: Censoring = Censoring()
    covariates: list[Covariate] = Field(default=[])
    landmarks: list[DayAfter] = Field(default=[])
    horizons: list[DayAfter] = Field(default=[])
    analyses: list[Analysis] = Field(min_length=1)
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
        for i, a in enumerate(self.analyses):
            refuse_repeats(f"analyses[{i}].adjusted_for", a.adjusted_for)
            for name in a.adjusted_for:
                if name not in known:
                    raise ValueError(
                        f"analyses[{i}] adjusts for {name!r}, which is no covariate of this study"
                    )
            if a.status_after_start == "freeze" and not self.statuses() & set(a.adjusted_for):
                raise ValueError(f"analyses[{i}] freezes the disease status but adjusts for none")
            if a.analysis.startswith("landmark_") and not (a.landmarks or self.landmarks):
                raise ValueError(f"analyses[{i}] needs landmarks")
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
            if a.analysis == "landmark_cox" and len(a.landmarks or self.landmarks) != 1:
                raise ValueError("a primary landmark_cox needs exactly one day in its own landmarks")
        if self.strategies.treated.name == self.strategies.control.name:
            raise ValueError("strategies.treated and strategies.control have one name")
        return self

    def statuses(self) -> frozenset[str]:
        """The covariates that follow the disease status: they change over time."""
        return frozenset(c.name for c in self.covariates if isinstance(c, StatusCovariate))

    def composite_events(self) -> list[str]:
        """The intercurrent events that count as the outcome besides death."""
        return [e.name for e in self.intercurrent_events if e.handling == "composite"]

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
        return list(dict.fromkeys(names))

    def observation_codelists(self) -> list[str]:
        """The code lists that select Observations by their code: what extraction must ask a server for."""
        names = [c.codelist for c in self.eligibility if isinstance(c, ValueCriterion)]
        if self.disease_status:
            names.append(self.disease_status.codelist)
        names += [c.codelist for c in self.covariates if isinstance(c, ObservationCovariate)]
        return list(dict.fromkeys(names))
