"""What things are called: analyses, estimands, strategies, covariates, the outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import ValidationError

from rwe import study_words
from rwe.errors import EvidenceError
from rwe.evidence.contract import AnalysisKind, Contrast, Estimand, Evidence, Parameters
from rwe.report.formats import humanise, listing, titled
from rwe.study import Protocol

ANALYSES: dict[AnalysisKind, str] = {
    "naive_kaplan_meier": "Naive Kaplan–Meier",
    "naive_logrank": "Naive log-rank test",
    "naive_permutation": "Naive permutation test",
    "naive_cox": "Naive Cox model",
    "naive_firth": "Naive Cox model, Firth penalty",
    "naive_rmst": "Naive restricted means",
    "landmark_kaplan_meier": "Landmark Kaplan–Meier",
    "landmark_logrank": "Landmark log-rank test",
    "landmark_permutation": "Landmark permutation test",
    "landmark_cox": "Landmark Cox model",
    "landmark_firth": "Landmark Cox model, Firth penalty",
    "landmark_rmst": "Landmark restricted means",
    "landmark_weighting": "Landmark weighting",
    "landmark_aiptw": "Landmark AIPTW",
    "landmark_competing_risks": "Landmark competing risks",
    "mantel_byar": "Mantel–Byar test",
    "simon_makuch": "Simon–Makuch curves",
    "time_dependent_cox": "Time-dependent Cox model",
    "time_dependent_firth": "Time-dependent Cox model, Firth penalty",
    "clone_censor_weight": "Clone-censor-weight",
    "sequential_trials": "Sequential target trials",
    "marginal_structural_model": "Marginal structural model",
}
ESTIMANDS: dict[Estimand, str] = {
    "hazard_ratio": "Hazard ratio",
    "chi_square": "χ²",
    "p_value": "Permutation p",
    "median_days": "Median survival",
    "survival": "Survival",
    "survival_difference": "Difference in survival",
    "survival_ratio": "Ratio of survival",
    "rmst_days": "Restricted mean survival",
    "rmst_difference_days": "Difference in restricted mean survival",
    "cumulative_incidence": "Cumulative incidence",
    "cause_specific_hazard_ratio": "Cause-specific hazard ratio",
    "subdistribution_hazard_ratio": "Subdistribution hazard ratio",
}
BIAS = "biased: immortal time"
PROGRESSION_FREE = "progression-free survival"
EMULATIONS: frozenset[AnalysisKind] = frozenset(
    {"clone_censor_weight", "sequential_trials", "marginal_structural_model"}
)
"""Analyses that emulate strategies from time zero on: no starts are compared as they happened."""
WEIGHTED: frozenset[AnalysisKind] = study_words.WEIGHTED
MODELS: tuple[AnalysisKind, ...] = (
    "naive_cox",
    "naive_firth",
    "landmark_cox",
    "landmark_firth",
    "landmark_competing_risks",
    "time_dependent_cox",
    "time_dependent_firth",
    *sorted(EMULATIONS | WEIGHTED),
)
"""Analyses that can take covariates, so that taking none is worth a word."""


@dataclass(frozen=True)
class Names:
    """The readable names of a protocol's strategies and covariates; an unknown name stands as words.

    `composite`: the events that count as the outcome besides death. `statuses`: the covariates that follow
    the disease status.
    """

    treated: str
    control: str
    strategies: dict[str, str]
    covariates: dict[str, str]
    composite: tuple[str, ...] = ()
    statuses: frozenset[str] = frozenset()

    @property
    def events(self) -> str:
        """What the outcome's counts are called."""
        return "events" if self.composite else "deaths"

    @property
    def outcome(self) -> str:
        """The outcome inside a sentence: death, or death or …"""
        return listing(["death", *(humanise(c) for c in self.composite)], "or")

    @property
    def survival(self) -> str:
        """What a curve shows."""
        return "event-free survival" if self.composite else "survival"

    @property
    def progression_free(self) -> str:
        """What a curve to the first progression shows: a composite outcome ends it, too."""
        if not self.composite:
            return PROGRESSION_FREE
        return f"survival free of {listing(['progression', *(humanise(c) for c in self.composite)])}"

    def group(
        self, strategy: str, contrast: Contrast | None = None, parameters: Parameters | None = None
    ) -> str:
        """Who stands for a strategy in an analysis: who follows it only where copies emulate that.

        Without a contrast: by exposure at the time.
        """
        if strategy not in (self.treated, self.control):
            return humanise(strategy)
        label = self.strategies.get(self.treated, humanise(self.treated))
        return f"{label}: {self.rule(strategy, contrast, parameters)}"

    def rule(
        self, strategy: str, contrast: Contrast | None = None, parameters: Parameters | None = None
    ) -> str:
        """What makes a patient (or a copy) count for the treated strategy or the control."""
        is_treated = strategy == self.treated
        landmark = parameters.landmark_day if parameters else None
        match contrast.groups if contrast else "started_so_far":
            case "ever_started":
                return "ever started" if is_treated else "never started"
            case "started_by_landmark":
                by = "the landmark" if landmark is None else f"day {landmark}"
                return f"started by {by}" if is_treated else f"not started by {by}"
            case "follows_strategy":
                grace = parameters.grace_days if parameters else None
                by = "the end of grace" if grace is None else f"day {grace}"
                is_never = parameters is not None and parameters.compared_with == "never"
                against = "never start" if is_never else f"no start by {by}"
                return f"start by {by}" if is_treated else against
            case _:
                return "started" if is_treated else "not (yet) started"

    def covariate(self, name: str) -> str:
        return self.covariates.get(name, humanise(name))

    def strategy_order(self, found: list[str]) -> list[str]:
        """The treated strategy, the control, then whatever else was found, each once."""
        known = [n for n in (self.treated, self.control) if n in found]
        return known + [n for n in dict.fromkeys(found) if n not in known]


def protocol_of(evidence: Evidence) -> Protocol:
    """The protocol inside the evidence. Raises EvidenceError if this version cannot read it."""
    try:
        return Protocol.model_validate(evidence.protocol)
    except ValidationError as e:
        field = ".".join(str(part) for part in e.errors(include_input=False, include_url=False)[0]["loc"])
        raise EvidenceError(
            f"the protocol inside the evidence cannot be read at {field or 'its top'}",
            where=evidence.study.name,
            advice="analyse the study again with this version of rwe",
        ) from e


def names_of(protocol: Protocol) -> Names:
    treated, control = protocol.strategies.treated, protocol.strategies.control
    return Names(
        treated=treated.name,
        control=control.name,
        strategies={treated.name: treated.label, control.name: control.label},
        covariates={c.name: c.label for c in protocol.covariates},
        composite=tuple(protocol.composite_events()),
        statuses=protocol.statuses(),
    )


def analysis_name(analysis: str) -> str:
    """A refusal's analysis in words: its kind may be followed by a place ("landmark_cox, day 60")."""
    kind = re.match(r"[a-z_]*", analysis)
    found = kind.group() if kind else ""
    known: dict[str, str] = dict(ANALYSES.items())
    return known.get(found, humanise(found)) + analysis[len(found) :]


def cause_name(cause: str) -> str:
    """A competing event as a label."""
    known = {"relapse": "Relapse", "non_relapse_death": "Death without relapse"}
    return known.get(cause, titled(cause))
