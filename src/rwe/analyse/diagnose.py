"""What a reader checks before believing the primary estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy.special import ndtri

from rwe.analyse.negative import follow_up_of_controls, negative_controls
from rwe.analyse.planned import adjusted_cox, is_as_planned
from rwe.analyse.positivity import positivity_at_landmarks
from rwe.analyse.run_imputed import is_imputed
from rwe.analyse.tasks import Findings, Task, prepared
from rwe.errors import RweError
from rwe.evidence.contract import Estimate
from rwe.evidence.parts import (
    ArmWeights,
    ConfoundingTippingPoint,
    CorrectedEstimate,
    Detectable,
    Diagnostics,
    HazardsTest,
    Misclassification,
    PositivityCell,
    Subgroup,
    SubgroupEstimate,
    TippingPoint,
    UnmeasuredConfounding,
)
from rwe.study import Analysis, Protocol
from rwe.study.parts import Review
from rwe.survival.cox import EXPOSURE
from rwe.survival.data import CohortTable, CountingProcess, exposure_split
from rwe.survival.emulation import CloneCensorWeight
from rwe.survival.misclassification import (
    ChartReview,
    MisclassificationAnalysis,
    misclassified_deaths,
    misclassified_exposure,
)
from rwe.survival.power import minimum_detectable_effect, share_at_deaths
from rwe.survival.proportional_hazards import exposure_proportional_hazards
from rwe.survival.sensitivity import (
    confounding_array,
    confounding_tipping_point,
    e_value,
    lost_deaths_tipping_point,
)
from rwe.survival.subgroups import subgroup_effects
from rwe.survival.tables import numbers
from rwe.survival.weight_diagnostics import WeightDiagnostics

_T = TypeVar("_T")
_RATIOS, _PREVALENCES = (1.5, 2.0, 3.0), (0.1, 0.3, 0.5)


def diagnose(
    protocol: Protocol, table: CohortTable, findings: Findings, intercurrent: pd.DataFrame | None = None
) -> Diagnostics:
    """All diagnostics of the primary analysis. What the data cannot carry is a note, not an error.

    `intercurrent`: patient_id, event, day of the events among which the negative controls are.
    """
    notes: list[str] = []
    primary = answer_of(findings.estimates)
    model = _model(protocol, notes)
    rows = _try("The model's rows", notes, lambda: _rows(protocol, model, table)) if model else None
    hazards: list[HazardsTest] = []
    subgroups: list[Subgroup] = []
    if rows is not None and model is not None:
        hazards = _try("Proportional hazards", notes, partial(_hazards, model, rows)) or []
        subgroups = list(_subgroups(protocol, model, table, rows, notes))
    positivity = positivity_at_landmarks(protocol, table)
    notes += positivity.notes
    balance = findings.balanced()
    # Of the question's own analyses: a sensitivity of another endpoint weighs other patients.
    weighted = [w for w in findings.weights if is_as_planned(w[0].analysis)]
    weighted = sorted(weighted, key=lambda w: w[0].analysis.role != "primary")[:1]
    of_events = [w for w in findings.event_weights if is_as_planned(w[0].analysis)]
    of_events = sorted(of_events, key=lambda w: w[0].analysis.role != "primary")[:1]
    notes += _of_first_table([task for task, _ in (*weighted, *of_events)], table)
    if intercurrent is not None and findings.answer is not None:
        notes += follow_up_of_controls(protocol)
    return Diagnostics(
        proportional_hazards=hazards,
        weights=[
            *(w for task, found in weighted for w in arm_weights(task, found)),
            # The weights for intercurrent events of a Cox model: of all patients.
            *(_summary("all_patients", found) for _, found in of_events),
        ],
        positivity=[
            PositivityCell(covariate=s.covariate, level=s.level, started=s.started, not_started=s.not_started)
            for _, found in weighted
            for s in found.positivity
        ],
        unmeasured_confounding=_try("Unmeasured confounding", notes, partial(_confounding, primary))
        if primary
        else None,
        lost_deaths=_lost_deaths(protocol, findings.answer, table, notes),
        misclassification=list(_misclassified(protocol, primary, notes)) if primary else [],
        detectable=_try(
            "The detectable effect",
            notes,
            lambda: detectable_effect(table, primary, level=protocol.confidence_level),
        ),
        subgroups=subgroups,
        notes=notes,
        overlap=list(positivity.overlap),
        empty_cells=list(positivity.empty_cells),
        balance_by=balance.words if balance else None,
        negative_controls=None if intercurrent is None else negative_controls(findings, intercurrent),
    )


def answer_of(estimates: Iterable[Estimate]) -> Estimate | None:
    """The hazard ratio that answers the question, also outside the lock; None where it has no number."""
    return next((e for e in estimates if e.is_the_answer and e.log_estimate is not None), None)


def _model(protocol: Protocol, notes: list[str]) -> Analysis | None:
    """The Cox model that is looked into: the primary analysis if it is one, else the first adjusted one of
    the same question, and a note says so."""
    model = adjusted_cox(protocol)
    if model is None:
        notes.append(
            "There is no adjusted time-dependent Cox model whose hazards and subgroups could be shown."
        )
    elif model.role != "primary":
        notes.append(
            "Proportional hazards and subgroups are of the time-dependent Cox model adjusted for "
            f"{', '.join(model.adjusted_for)}, not of the primary analysis."
        )
    if model is not None and protocol.censoring_events():
        notes.append(
            "Proportional hazards and subgroups are of the model without the weights for the events at which "
            "follow-up ends."
        )
    return model


def _rows(protocol: Protocol, model: Analysis, table: CohortTable) -> CountingProcess:
    return prepared(Task(protocol, model, table, None)).rows()


def _try(what: str, notes: list[str], ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except RweError as e:
        notes.append(f"{what}: {e}")
        return None


def _hazards(model: Analysis, rows: CountingProcess) -> list[HazardsTest]:
    by_site = "site" in model.stratify_by
    found = exposure_proportional_hazards(rows, stratify_by_site=by_site, ties=model.ties)
    return [
        HazardsTest(
            covariate="exposure" if t.name == EXPOSURE else t.name,
            chi_square=t.chi_square,
            df=t.df,
            p_value=t.p_value,
        )
        for t in (*found.tests, found.together)
    ]


def _of_first_table(tasks: Iterable[Task], table: CohortTable) -> list[str]:
    """That weights are of one imputed table; `table` is the cohort as it was recorded."""
    counts = {t.analysis.imputations for t in tasks if is_imputed(t) and _lacks_some(t, table)}
    return [
        f"The weights, and who can start by them, are shown for the first of {m} imputed tables; the "
        "estimates are pooled over all."
        for m in sorted(counts)
    ]


def _lacks_some(task: Task, table: CohortTable) -> bool:
    mine = table if task.site is None else table.restrict(task.site)
    return bool(mine.patients[task.at_index].isna().to_numpy().any())


def arm_weights(task: Task, found: CloneCensorWeight) -> Iterable[ArmWeights]:
    """The weights of both arms, summarised."""
    for strategy, w in zip(task.strategies(), found.weights, strict=True):
        yield _summary(strategy, w)


def _summary(strategy: str, w: WeightDiagnostics) -> ArmWeights:
    return ArmWeights(
        strategy=strategy,
        model=w.model,
        patients=w.n_weighted,
        mean=w.mean,
        maximum=w.maximum,
        percentiles={f"{q:g}": v for q, v in w.percentiles},
        effective=w.effective_sample_size,
    )


def _confounding(primary: Estimate) -> UnmeasuredConfounding | None:
    if primary.estimate is None:
        return None
    found = e_value(primary.estimate, primary.ci_low, primary.ci_high)
    array = confounding_array(
        primary.estimate,
        primary.ci_low,
        primary.ci_high,
        confounder_ratios=_RATIOS,
        prevalences_exposed=_PREVALENCES,
        prevalences_unexposed=_PREVALENCES,
    )
    return UnmeasuredConfounding(
        e_value=found.estimate,
        e_value_limit=found.limit,
        array=[
            CorrectedEstimate(
                confounder_hazard_ratio=c.confounder_ratio,
                prevalence_treated=c.prevalence_exposed,
                prevalence_control=c.prevalence_unexposed,
                hazard_ratio=c.estimate,
                ci_low=c.ci_low,
                ci_high=c.ci_high,
            )
            for c in array
        ],
        tipping_points=[
            _tips(primary.estimate, primary, treated=p1, control=p0)
            for p1 in _PREVALENCES
            for p0 in _PREVALENCES
            if p1 != p0
        ],
    )


def _tips(ratio: float, primary: Estimate, *, treated: float, control: float) -> ConfoundingTippingPoint:
    found = confounding_tipping_point(
        ratio, primary.ci_low, primary.ci_high, prevalence_exposed=treated, prevalence_unexposed=control
    )
    return ConfoundingTippingPoint(
        prevalence_treated=treated,
        prevalence_control=control,
        for_estimate=found.for_estimate,
        for_limit=found.for_limit,
    )


def _lost_deaths(
    protocol: Protocol, answer: Task | None, table: CohortTable, notes: list[str]
) -> TippingPoint | None:
    """Only beside an unadjusted answer: the log-rank test it rests on is not adjusted either."""
    if answer is not None and answer.analysis.adjusted_for:
        notes.append(
            "How many of the lost had to have died is not told: the test for it is not adjusted, and the "
            "primary analysis is."
        )
        return None
    level = protocol.confidence_level
    found = _try(
        "Deaths among the lost", notes, lambda: lost_deaths_tipping_point(exposure_split(table), level=level)
    )
    if found is None:
        return None
    return TippingPoint(group=found.group, deaths=found.deaths, censored=found.censored)


def detectable_effect(
    table: CohortTable, primary: Estimate | None = None, *, level: float = 0.95
) -> Detectable:
    """What this study could show at this level: by the standard error of its estimate, else by its events.

    Raises NotEstimableError without events, or with one group only.
    """
    rows = exposure_split(table)
    counts = rows.counts()
    events, share = counts.events_exposed + counts.events_unexposed, share_at_deaths(rows)
    found = minimum_detectable_effect(events, share, level=level)
    low, high = found.protective, found.harmful
    if primary is not None and primary.se and primary.se_scale == "log":
        reach = float(ndtri(0.5 + level / 2) + ndtri(found.power)) * primary.se
        low, high = math.exp(-reach), math.exp(reach)
    return Detectable(
        events=found.events, share_exposed=share, power=found.power, protective=low, harmful=high
    )


def _misclassified(protocol: Protocol, primary: Estimate, notes: list[str]) -> Iterable[Misclassification]:
    review = protocol.chart_review
    if review is None or primary.log_estimate is None or not primary.se:
        return
    log_hr, se, seed, level = primary.log_estimate, primary.se, protocol.seed, protocol.confidence_level
    if review.starts is not None:
        starts = review.starts
        found = _try(
            "Misclassified starts",
            notes,
            lambda: misclassified_exposure(log_hr, se, _chart(starts), level=level, seed=seed),
        )
        yield from _told("exposure", starts, found)
    if review.deaths_treated is not None and protocol.composite_events():
        notes.append(
            "Misclassified deaths: the outcome holds events that are no deaths, so a review of deaths cannot "
            "correct it."
        )
    elif review.deaths_treated is not None and review.deaths_control is not None:
        treated, control = review.deaths_treated, review.deaths_control
        found = _try(
            "Misclassified deaths",
            notes,
            lambda: misclassified_deaths(
                log_hr, se, exposed=_chart(treated), unexposed=_chart(control), level=level, seed=seed
            ),
        )
        both = Review(
            confirmed=treated.confirmed + control.confirmed, reviewed=treated.reviewed + control.reviewed
        )
        yield from _told("death", both, found)


def _chart(review: Review) -> ChartReview:
    return ChartReview(review.confirmed, review.reviewed)


def _told(what: str, review: Review, found: MisclassificationAnalysis | None) -> Iterable[Misclassification]:
    if found is not None:
        yield Misclassification.model_validate(
            {
                "what": what,
                "confirmed": review.confirmed,
                "reviewed": review.reviewed,
                "hazard_ratio": found.point,
                "median": found.median,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
            }
        )


def _subgroups(
    protocol: Protocol, model: Analysis, table: CohortTable, rows: CountingProcess, notes: list[str]
) -> Iterable[Subgroup]:
    for asked in protocol.subgroups:
        values = numbers(table.patients, asked.covariate, "patients")
        labels = np.where(values < asked.cut, f"below {asked.cut:g}", f"{asked.cut:g} and above")
        named = [None if np.isnan(v) else str(label) for v, label in zip(values, labels, strict=True)]
        ask = partial(
            subgroup_effects,
            rows,
            named,
            name=asked.covariate,
            stratify_by_site="site" in model.stratify_by,
            ties=model.ties,
            robust=model.variance == "robust",
            level=protocol.confidence_level,
        )
        found = _try(f"Subgroup {asked.name}", notes, ask)
        if found is None:
            continue
        yield Subgroup(
            name=asked.name,
            levels=[
                SubgroupEstimate(
                    level=e.level,
                    n=sum(e.patients),
                    events=sum(e.events),
                    hazard_ratio=e.ratio.estimate if e.ratio else None,
                    ci_low=e.ratio.ci_low if e.ratio else None,
                    ci_high=e.ratio.ci_high if e.ratio else None,
                )
                for e in found.effects
            ],
            interaction_p=found.interaction.p_value,
            warnings=list(found.warnings),
        )
