"""Which analysis of a protocol answers its own question, and which estimate an analysis gave."""

from __future__ import annotations

from collections.abc import Iterable

from rwe.analyse.run_imputed import is_imputed
from rwe.analyse.tasks import Task
from rwe.evidence.contract import Estimate
from rwe.study import Analysis, Protocol
from rwe.study.analyses import OPTIONS, AnalysisName

#: What every estimate of a task has in common with the task, also where it was refused.
_ASKED = (
    *("landmark_day", "adjusted_for", "stratified_by", "status_after_start"),
    *("salvage", "endpoint", "variant"),
)


def is_as_planned(analysis: Analysis) -> bool:
    """Whether an analysis is of the protocol's own question: the primary one, or a sensitivity that changes
    neither outcome, nor whose starts count, nor with whom is compared, nor any weight."""
    a = analysis
    asked = (a.endpoint, a.salvage, a.compared_with, a.truncate_percentile)
    return a.role == "primary" or asked == ("outcome", "apart", "no_start_by_grace", None)


def planned(protocol: Protocol, kind: AnalysisName) -> list[Analysis]:
    """The analyses of a kind that are of the protocol's own question, the primary one first."""
    found = [a for a in protocol.analyses if a.analysis == kind and is_as_planned(a)]
    return sorted(found, key=lambda a: a.role != "primary")


def adjusted_cox(protocol: Protocol) -> Analysis | None:
    """The adjusted time-dependent Cox model of the protocol's own question, the primary one first."""
    asked = planned(protocol, "time_dependent_cox")
    return next((a for a in asked if a.adjusted_for and a.status_after_start == "follow"), None)


def grace_days(protocol: Protocol, analysis: Analysis) -> int:
    """The grace period of an analysis: its own before the protocol's."""
    return protocol.strategies.treated.grace_days if analysis.grace_days is None else analysis.grace_days


def hazard_ratio_of(estimates: Iterable[Estimate], task: Task) -> Estimate | None:
    """The hazard ratio that a task gave. A refused estimate knows few of its options: others go before it."""
    found = [e for e in estimates if e.estimand == "hazard_ratio" and is_of(e, task)]
    return min(found, key=lambda e: e.status == "refused", default=None)


def is_of(e: Estimate, task: Task) -> bool:
    """Whether a task gave this estimate, whatever its estimand and role (a downgraded one has another)."""
    own = task.parameters()
    is_asked = (e.analysis, e.site) == (task.analysis.analysis, task.site)
    is_asked = is_asked and all(getattr(e.parameters, n) == getattr(own, n) for n in _ASKED)
    return is_asked and (e.status == "refused" or _is_run_so(e, task))


def _is_run_so(e: Estimate, task: Task) -> bool:
    a, p = task.analysis, e.parameters
    options = {
        "ties": a.ties,
        "compared_with": a.compared_with,
        "weight_for_loss": a.weight_for_loss,
        "truncate_percentile": a.truncate_percentile,
        "replicates": a.replicates or None,
    }
    models = {"clone_censor_weight": a.weight_model, "landmark_weighting": a.weights}
    return (
        all(getattr(p, n) == value for n, value in options.items() if a.analysis in OPTIONS[n])
        and models.get(a.analysis) in (None, p.weight_model)
        and p.grace_days in (None, grace_days(task.protocol, a))
        and (p.imputations is not None) == _imputes(task)
        and _has_its_variance(e, task)
    )


def _imputes(task: Task) -> bool:
    """Whether values are imputed: where none is missing, the analysis is simply run."""
    return is_imputed(task) and bool(task.table.patients[task.at_index].isna().to_numpy().any())


def _has_its_variance(e: Estimate, task: Task) -> bool:
    """Weights for intercurrent events make the variance robust, whatever was asked for."""
    if e.variance_method is None or task.analysis.analysis not in OPTIONS["variance"]:
        return True
    is_robust = task.analysis.variance == "robust" or bool(task.censoring_events)
    return e.variance_method.startswith("robust") == is_robust
