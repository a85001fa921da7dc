"""What a protocol alone tells of an analysis: that it can never run, whatever the data are."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.study.analyses import Analysis, AnalysisName
from rwe.study.protocol import Protocol

CARRY_WEIGHTS: tuple[AnalysisName, ...] = (
    "time_dependent_cox",
    "clone_censor_weight",
    "marginal_structural_model",
)
"""Analyses that can weigh those who go on for an event that ended the follow-up of others."""
_NEED_HORIZON: frozenset[AnalysisName] = frozenset(
    {"naive_rmst", "landmark_rmst", "clone_censor_weight", "landmark_weighting", "landmark_aiptw"}
)


@dataclass(frozen=True)
class Impossible:
    """Why, and what to do instead: clauses, as those of an error."""

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


NO_HORIZON = Impossible("the study names no horizon", "give horizon_days, or horizons in the study file")
ENDS_AT_PROGRESSION = Impossible(
    "the strategy ends at progression, so whoever progressed could not start: a structural model of starting "
    "needs that everybody could",
    "use clone_censor_weight, or salvage: counts_as_start",
)


def never_runs(protocol: Protocol, analysis: Analysis) -> Impossible | None:
    """Why an analysis of the protocol is refused with any data; None where the data decide."""
    kind = analysis.analysis
    if protocol.censoring_events():
        unweighted = _without_weights(protocol, analysis)
        if unweighted is not None:
            return unweighted
    if kind in _NEED_HORIZON and not (analysis.horizon_days or protocol.horizons):
        return NO_HORIZON
    excuses = protocol.strategies.treated.unless_progressed and analysis.salvage == "apart"
    return ENDS_AT_PROGRESSION if kind == "marginal_structural_model" and excuses else None


def _without_weights(protocol: Protocol, analysis: Analysis) -> Impossible | None:
    names = ", ".join(e.name for e in protocol.censoring_events())
    if analysis.analysis not in CARRY_WEIGHTS:
        return Impossible(
            f"follow-up ends at {names}, which is weighted for, and this analysis carries no such weights",
            f"ask for {', '.join(CARRY_WEIGHTS[:-1])} or {CARRY_WEIGHTS[-1]}, or for the handling "
            "treatment_policy",
        )
    if analysis.status_after_start == "freeze":
        return Impossible(
            f"follow-up ends at {names}, which is weighted for, and comparisons that each begin at a start "
            "carry no such weights",
            "leave status_after_start out",
        )
    return None


def refused_words(protocol: Protocol) -> list[str]:
    """A sentence for each reason for which analyses of the protocol will be refused."""
    by_reason: dict[str, list[str]] = {}
    for a in protocol.analyses:
        found = never_runs(protocol, a)
        if found is not None:
            by_reason.setdefault(str(found), []).append(a.analysis)
    return [
        f"Note: {', '.join(dict.fromkeys(names))} will be refused: {reason}."
        for reason, names in by_reason.items()
    ]
