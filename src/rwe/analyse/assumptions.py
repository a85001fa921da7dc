"""What must hold for an estimate to be what it says, as far as the protocol decides it.

Estimators that weigh, emulate or penalise say the rest: their results have `assumptions`.
"""

from __future__ import annotations

from rwe.analyse.tasks import Task

FAILS = "Who starts is known at time zero. It is not, so this fails: immortal time biases the estimate."
SURVIVORS = "The question is about those who are followed beyond the landmark."
PROPORTIONAL = "The hazard ratio is constant over time (proportional hazards)."
SAME_AT_SITES = "The ratio is the same at every site; the baseline hazards may differ."
LINEAR = "Each covariate multiplies the hazard by the same factor at all times, for each unit of it."
NO_GROUP = "The hazard depends on whether somebody has started, not on when."


def of_time_zero(task: Task) -> list[str]:
    """Whom the estimate is about, and what a naive one takes for known."""
    if task.is_biased:
        return [FAILS]
    if task.landmark is not None:
        return [SURVIVORS]
    return []


def of_one_group(task: Task) -> list[str]:
    """Of a curve, a median or a survival of one strategy."""
    is_of_nobody = task.analysis.analysis == "simon_makuch"
    words = ["Censoring is independent of prognosis within the group.", *([NO_GROUP] if is_of_nobody else [])]
    return [*of_time_zero(task), *words]


def of_test(task: Task) -> list[str]:
    """Of a comparison of two groups as they are."""
    words = [_exchangeable(""), "Censoring is independent of prognosis within each group."]
    return [*of_time_zero(task), *words]


def of_groups(task: Task) -> list[str]:
    """Of a comparison with what the analysis adjusts for, without what is assumed of hazards."""
    return [*of_time_zero(task), _exchangeable(", ".join(task.analysis.adjusted_for))]


def of_model(task: Task) -> list[str]:
    """Of a Cox model with what it adjusts for."""
    if not task.analysis.adjusted_for:
        words = [*of_test(task), PROPORTIONAL]
    else:
        censoring = "Censoring is independent of prognosis, given exposure and these covariates."
        words = [*of_groups(task), censoring, PROPORTIONAL, LINEAR]
    return [*words, *([SAME_AT_SITES] if task.by_site else []), *_by_way_of(task)]


def _exchangeable(adjusted: str) -> str:
    same = "whoever has started has the prognosis of whoever has not, but for the treatment"
    if not adjusted:
        return f"{same[0].upper()}{same[1:]}: nothing is adjusted for."
    return f"Given {adjusted}, {same} (no unmeasured confounding)."


def _by_way_of(task: Task) -> list[str]:
    """A status that is followed after the start lies between treatment and outcome."""
    is_followed = task.landmark is None and task.analysis.status_after_start != "freeze"
    if not task.time_varying or not is_followed or task.is_biased:
        return []
    names = " and ".join(task.time_varying)
    return [f"The treatment does not act by way of {names} after the start: such an effect is adjusted away."]
