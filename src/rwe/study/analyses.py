"""The analyses a protocol may ask for, and what each may be asked with."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from rwe.study.parts import DayAfter, Name, Part, Span

AnalysisName = Literal[
    "naive_kaplan_meier",
    "naive_logrank",
    "naive_permutation",
    "naive_cox",
    "naive_firth",
    "naive_rmst",
    "landmark_kaplan_meier",
    "landmark_logrank",
    "landmark_permutation",
    "landmark_cox",
    "landmark_firth",
    "landmark_rmst",
    "landmark_weighting",
    "landmark_aiptw",
    "landmark_competing_risks",
    "mantel_byar",
    "simon_makuch",
    "time_dependent_cox",
    "time_dependent_firth",
    "clone_censor_weight",
    "sequential_trials",
    "marginal_structural_model",
]
Endpoint = Literal["outcome", "progression_free_survival"]
Percentile = Annotated[float, Field(ge=50, le=100)]

#: Analyses that adjust: their covariates enter a model of the outcome, or of the treatment.
_ADJUSTING = frozenset(
    {
        "naive_cox",
        "naive_firth",
        "landmark_cox",
        "landmark_firth",
        "landmark_weighting",
        "landmark_aiptw",
        "landmark_competing_risks",
        "time_dependent_cox",
        "time_dependent_firth",
        "clone_censor_weight",
        "sequential_trials",
        "marginal_structural_model",
    }
)
#: Analyses that give a hazard ratio, so that one of them can be the study's answer.
_RATIOS = _ADJUSTING - {"landmark_aiptw", "landmark_competing_risks"}
_ALL: frozenset[str] = frozenset(get_args(AnalysisName))
_LANDMARKS = frozenset(n for n in _ALL if n.startswith("landmark_"))
_WEIGHTED = frozenset({"clone_censor_weight", "marginal_structural_model"})
_BOOTSTRAPPED = frozenset({"clone_censor_weight", "landmark_weighting", "landmark_aiptw"})
_WITH_HORIZON = frozenset({"naive_rmst", "landmark_rmst", "clone_censor_weight", "landmark_aiptw"})

#: Curves and restricted means of each group as it is: there is no model or test in which a site has a part.
_WITHOUT_SITES = frozenset(n for n in _ALL if n.endswith(("_kaplan_meier", "_rmst")) or n == "simon_makuch")

#: Which analyses an option is for. What is not named here is for all.
OPTIONS: dict[str, frozenset[str]] = {
    "stratify_by": _ALL - _WITHOUT_SITES,
    "landmarks": _LANDMARKS,
    "ties": frozenset({"naive_cox", "landmark_cox", "time_dependent_cox"}),
    "variance": frozenset({"naive_cox", "landmark_cox", "time_dependent_cox"}),
    "status_after_start": frozenset({"time_dependent_cox"}),
    "grace_days": frozenset({"clone_censor_weight"}),
    "compared_with": frozenset({"clone_censor_weight"}),
    "weight_model": frozenset({"clone_censor_weight"}),
    "weight_for_loss": frozenset({"clone_censor_weight"}),
    "truncate_percentile": _WEIGHTED,
    "weights": frozenset({"landmark_weighting"}),
    "horizon_days": _WITH_HORIZON,
    "replicates": _BOOTSTRAPPED,
    "missing": _ADJUSTING,
    "imputations": _ADJUSTING,
}


class Analysis(Part):
    """One analysis asked for. `stratify_by: [site]` gives each site a baseline hazard of its own; in a model
    of the treatment (weights) it gives each site a coefficient, in landmark_aiptw in those of the outcome and
    of censoring, too."""

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
    grace_days: Span | None = Field(
        default=None, description="clone_censor_weight: another grace period than the strategy's."
    )
    compared_with: Literal["no_start_by_grace", "never"] = Field(
        default="no_start_by_grace",
        description="clone_censor_weight: whoever has not started by the end of grace and may start later, "
        "or whoever never starts.",
    )
    weight_model: Literal["cox", "logistic"] = Field(
        default="cox", description="clone_censor_weight: the model of the treated arm's weights."
    )
    weight_for_loss: bool = Field(
        default=False, description="clone_censor_weight: weigh for loss to follow-up, too."
    )
    truncate_percentile: Percentile | None = Field(
        default=None, description="Weights above this percentile are cut to it."
    )
    weights: Literal["overlap", "iptw"] = Field(
        default="overlap",
        description="landmark_weighting: overlap weights, or inverse probability of treatment.",
    )
    horizon_days: DayAfter | None = Field(
        default=None,
        description="Of a restricted mean or a survival difference; the study's longest horizon if absent.",
    )
    replicates: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=500, description="Of the bootstrap; 0: none (not for landmark_aiptw)."
    )
    salvage: Literal["apart", "counts_as_start"] = Field(
        default="apart",
        description="counts_as_start: a first start after progression counts as the strategy (sensitivity).",
    )
    endpoint: Endpoint = Field(
        default="outcome",
        description="The protocol's outcome, or progression-free survival: death or progression, "
        "whichever is first.",
    )
    missing: Literal["complete_case", "impute"] = Field(
        default="complete_case",
        description="Patients without a baseline covariate: left out, or their values imputed several times "
        "(chained equations, with the outcome) and the results pooled by Rubin's rules.",
    )
    imputations: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=20, description="With missing: impute; at least the percentage of incomplete patients."
    )

    @model_validator(mode="after")
    def _takes_its_options(self) -> Self:
        for option, takers in OPTIONS.items():
            default = type(self).model_fields[option].default
            if getattr(self, option) != default and self.analysis not in takers:
                who = ", ".join(sorted(takers))
                raise ValueError(f"{self.analysis} takes no {option}: only {who}")
        return self

    @model_validator(mode="after")
    def _freezes_what_changes(self) -> Self:
        if self.status_after_start == "freeze" and self.variance != "robust":
            raise ValueError(
                "status_after_start: freeze needs variance: robust, for patients come up repeatedly"
            )
        return self

    @model_validator(mode="after")
    def _adjusts_only_models(self) -> Self:
        if self.adjusted_for and self.analysis not in _ADJUSTING:
            raise ValueError(f"{self.analysis} takes no adjusted_for: only models do")
        if self.analysis.startswith("naive_") and self.role != "contrast":
            raise ValueError(f"{self.analysis} gives immortal time away: its role can only be contrast")
        if self.analysis == "landmark_aiptw" and self.replicates == 0:
            raise ValueError(
                "landmark_aiptw needs replicates of the bootstrap: without them its intervals are too narrow"
            )
        if self.role == "primary" and self.analysis not in _RATIOS:
            raise ValueError(f"{self.analysis} gives no hazard ratio, so it cannot be primary")
        if self.missing == "impute" and not self.adjusted_for:
            raise ValueError("missing: impute needs adjusted_for: there is nothing to impute without")
        if self.endpoint != "outcome" and self.role == "primary":
            raise ValueError("the primary analysis is of the protocol's outcome: leave endpoint out")
        if self.salvage != "apart" and self.role == "primary":
            raise ValueError("salvage is not maintenance: salvage: counts_as_start can only be a sensitivity")
        return self

    def later_options(self) -> frozenset[str]:
        """Options that hold their default: a protocol that does not use them keeps its hash without them."""
        blank = type(self).model_fields
        return frozenset(n for n in _LATER if getattr(self, n) == blank[n].default)


#: Options that came to the format after version 1.0.0 of the bundled study.
_LATER = (
    "grace_days",
    "compared_with",
    "weight_model",
    "weight_for_loss",
    "truncate_percentile",
    "weights",
    "horizon_days",
    "replicates",
    "salvage",
    "endpoint",
    "missing",
    "imputations",
)
