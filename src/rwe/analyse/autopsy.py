"""The bias autopsy: what the hazard ratio becomes, step by step, once immortal time is seen."""

from __future__ import annotations

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
from rwe.survival.immortal import immortal_time, without_immortal_days

_Step = Literal["naive", "immortal_days_dropped", "time_dependent", "adjusted", "weighted"]
_Change = Literal["naive", "bias_removed", "estimand_changed"]


_MEDIATED = (
    " Disease status after the start is among them: what the treatment does through it is not in here."
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
    return BiasAutopsy(
        starters=found.patients,
        immortal_days=found.days,
        share_of_treated_days=found.share,
        days_q1=found.q1,
        days_median=found.median,
        days_q3=found.q3,
        days_by_site=found.days_by_site,
        starters_by_site=found.patients_by_site,
        steps=[*steps, *([weighted] if weighted else [])],
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
        statuses = protocol.statuses()
        fixed = [n for n in model.adjusted_for if n not in statuses]
        varying = [n for n in model.adjusted_for if n in statuses]
        named = {c.name: c.label for c in protocol.covariates}
        labels = [named.get(n, n) for n in model.adjusted_for]
        stages.append(
            _Stage(
                "adjusted",
                "Adjusted",
                "estimand_changed" if varying else "bias_removed",
                "Patients are compared with their like: confounding by "
                f"{', '.join(labels)} is taken into account. The ratio is now conditional on these."
                + (_MEDIATED if varying else ""),
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
