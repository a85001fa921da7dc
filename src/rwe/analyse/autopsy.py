"""The bias autopsy: what the hazard ratio becomes from the naive one to the answer, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rwe.analyse.planned import adjusted_cox, hazard_ratio_of, planned
from rwe.analyse.tasks import Task
from rwe.errors import RweError
from rwe.evidence.contract import Estimate
from rwe.evidence.parts import AutopsyStep, BiasAutopsy
from rwe.study import Protocol
from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, CountingProcess, exposure_split, naive_split
from rwe.survival.firth import exposure_firth
from rwe.survival.immortal import immortal_time, without_immortal_days

_Step = Literal["naive", "immortal_days_dropped", "time_dependent", "adjusted", "weighted", "answer"]
_Change = Literal["naive", "bias_removed", "estimand_changed"]


_MEDIATED = (
    " Disease status after the start is among them: what the treatment does through it is not in here."
)
_PENALISED = (
    "The likelihood has no maximum here (a group has no event, say), so this step is by Firth's penalty."
)
#: What an answer that is none of the steps before asks otherwise than they do.
_ANSWERS: dict[str, tuple[_Change, str]] = {
    "time_dependent_cox": (
        "estimand_changed",
        "The study's answer, with the options that the protocol names for it.",
    ),
    "time_dependent_firth": (
        "bias_removed",
        "Firth's penalty takes out the bias that few events bring, and stays finite where a group has none.",
    ),
    "marginal_structural_model": (
        "estimand_changed",
        "Weights instead of adjustment: what the treatment does by way of the disease status is in here.",
    ),
    "sequential_trials": (
        "estimand_changed",
        "On each day those who start are compared with those who do not start on it: the effect of a start.",
    ),
}
_LANDMARK = (
    "estimand_changed",
    "Groups as they are at the landmark, among those followed beyond it; days count from there.",
)


@dataclass(frozen=True)
class _Stage:
    step: _Step
    label: str
    change: _Change
    words: str
    rows: Callable[[], CountingProcess]
    by_site: bool = False


def bias_autopsy(protocol: Protocol, table: CohortTable, estimates: Sequence[Estimate]) -> BiasAutopsy:
    """Count the immortal days, and lead from the naive ratio to the weighted one if `estimates` have it."""
    found = immortal_time(table)
    steps = [_run(stage, protocol) for stage in _stages(protocol, table)]
    weighted = _weighted(protocol, table, estimates)
    steps += [weighted] if weighted else []
    answer = next((e for e in estimates if e.is_the_answer and e.estimate is not None), None)
    # Digits of a likelihood's maximum, found twice: the answer may be one of the steps already.
    if answer is not None and not any(_is_same(s.hazard_ratio, answer.estimate) for s in steps):
        steps.append(_answer(answer))
    return BiasAutopsy(
        starters=found.patients,
        immortal_days=found.days,
        share_of_treated_days=found.share,
        days_q1=found.q1,
        days_median=found.median,
        days_q3=found.q3,
        days_by_site=found.days_by_site,
        starters_by_site=found.patients_by_site,
        steps=steps,
    )


def _stages(protocol: Protocol, table: CohortTable) -> list[_Stage]:
    stages = [
        _Stage(
            "naive",
            "Ever against never started",
            "naive",
            "Whoever started had survived until then, and those days count as treated.",
            lambda: naive_split(table),
        ),
        _Stage(
            "immortal_days_dropped",
            "Immortal days dropped",
            "bias_removed",
            "The days before a start no longer count as treated. They are still missing among the untreated.",
            lambda: without_immortal_days(exposure_split(table)),
        ),
        _Stage(
            "time_dependent",
            "Time-dependent exposure",
            "bias_removed",
            "The days before a start count as untreated, which they were: immortal time is gone.",
            lambda: exposure_split(table),
        ),
    ]
    model = adjusted_cox(protocol)
    if model is not None:
        task = Task(protocol, model, table, None)
        fixed, varying = task.fixed, task.time_varying
        named = {c.name: c.label for c in protocol.covariates}
        labels = [named.get(n, n) for n in model.adjusted_for]
        stages.append(
            _Stage(
                "adjusted",
                "Adjusted",
                "estimand_changed" if varying else "bias_removed",
                "Patients are compared with their like: confounding by "
                f"{', '.join(labels)} is taken into account. The ratio is now conditional on these, and "
                "would differ from the one before without any bias, too." + (_MEDIATED if varying else ""),
                lambda: exposure_split(table, fixed, varying),
                by_site="site" in model.stratify_by,
            )
        )
    return stages


def _run(stage: _Stage, protocol: Protocol) -> AutopsyStep:
    n = events = 0
    ratio: tuple[float | None, float | None, float | None] = (None, None, None)
    warnings: list[str] = []
    try:
        rows = stage.rows()
        counts = rows.counts()
        n, events = rows.n_patients, counts.events_exposed + counts.events_unexposed
        fit = exposure_cox(rows, stratify_by_site=stage.by_site, level=protocol.confidence_level)
        hr = fit.hazard_ratio()
        ratio, warnings = (hr.estimate, hr.ci_low, hr.ci_high), list(fit.warnings)
        if hr.estimate is None:
            penalised = exposure_firth(rows, stratify_by_site=stage.by_site, level=protocol.confidence_level)
            finite = penalised.hazard_ratio()
            ratio = (finite.estimate, finite.ci_low, finite.ci_high)
            warnings = [_PENALISED, *penalised.warnings]
    except RweError as e:
        warnings = [str(e)]
    return AutopsyStep(
        step=stage.step,
        label=stage.label,
        change=stage.change,
        words=stage.words,
        hazard_ratio=ratio[0],
        ci_low=ratio[1],
        ci_high=ratio[2],
        n=n,
        events=events,
        warnings=warnings,
    )


def _weighted(protocol: Protocol, table: CohortTable, estimates: Sequence[Estimate]) -> AutopsyStep | None:
    """The clone-censor-weight ratio of all sites, if the protocol asked its own question by one."""
    asked = planned(protocol, "clone_censor_weight")
    found = hazard_ratio_of(estimates, Task(protocol, asked[0], table, None)) if asked else None
    if found is None:
        return None
    return AutopsyStep(
        step="weighted",
        label="Clone-censor-weight",
        change="estimand_changed",
        words="Two strategies that everybody could follow from day 0 are compared: the ratio is marginal, "
        "and of following a strategy, not of being on the drug.",
        hazard_ratio=found.estimate,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        n=found.n,
        events=found.events,
        warnings=found.warnings,
    )


def _answer(found: Estimate) -> AutopsyStep:
    change, words = _ANSWERS.get(found.analysis, _LANDMARK)
    return AutopsyStep(
        step="answer",
        label="The study's answer",
        change=change,
        words=f"{found.method}. {words}",
        hazard_ratio=found.estimate,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        n=found.n,
        events=found.events,
        warnings=found.warnings,
    )


def _is_same(step: float | None, answer: float | None) -> bool:
    return step is not None and answer is not None and math.isclose(step, answer, rel_tol=1e-6)
