"""Several sites put together: the estimates of an analysis by site, their meta-analyses, and what of a site
without an estimate still counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import numpy as np

from rwe.analyse.planned import hazard_ratio_of
from rwe.analyse.run_imputed import is_imputed
from rwe.analyse.tasks import Findings, Task, defined, prepared
from rwe.errors import RweError
from rwe.evidence.contract import Estimate
from rwe.evidence.synthesis import (
    Counted,
    Interaction,
    LeftOut,
    MetaResult,
    PooledEffect,
    Pooling,
    SiteEffect,
    SiteSource,
    Synthesis,
    WithEverySite,
)
from rwe.study import Analysis, Protocol
from rwe.survival.cox import EXPOSURE
from rwe.survival.data import CohortTable, CountingProcess, FloatArray
from rwe.survival.logrank import logrank
from rwe.survival.meta_analysis import (
    Interval,
    MetaEstimate,
    Model,
    PooledCounts,
    leave_one_out,
    mantel_haenszel_rates,
    meta_analysis,
    peto,
)
from rwe.survival.site_effects import CommonEffect, common_effect, risk_set_counts, site_interaction

_T = TypeVar("_T")
_WITH_ROWS: Final = frozenset({"time_dependent_cox", "landmark_cox"})
"""Analyses whose rows and likelihood are at hand, so that a site without an estimate still counts."""
_RATIOS: Final = _WITH_ROWS | {
    *("time_dependent_firth", "landmark_firth", "landmark_weighting"),
    *("clone_censor_weight", "sequential_trials", "marginal_structural_model"),
}
"""Analyses that give a hazard ratio which is not biased by its groups."""
_PENALISED: Final = frozenset({"time_dependent_firth", "landmark_firth"})
_NO_EVENT: Final = (
    "A group has no event here: Firth's penalty alone keeps the estimate finite, and its standard error does "
    "not say how far it may lie."
)
_ASKED: Final[tuple[tuple[Model, Interval], ...]] = (
    ("common", "wald"),
    *((m, i) for m in ("dl", "reml", "pm") for i in ("wald", "hksj", "hksj_adhoc")),
)
FEW_SITES: Final = 5


def synthesise(
    protocol: Protocol,
    table: CohortTable,
    findings: Findings,
    pooling: Pooling | None = None,
) -> Synthesis | None:
    """Put the sites together for the primary analysis, or the first that asks `by_site`.

    None where no analysis with a hazard ratio asks for it, or there is one site only. What the data cannot
    carry is a note, not an error.
    """
    asked = _asked(protocol)
    names = sorted(str(s) for s in table.patients["site"].unique())
    if asked is None or len(names) < 2:
        return None
    day = (asked.landmarks or protocol.landmarks)[0] if asked.analysis.startswith("landmark_") else None
    task = Task(protocol, asked, table, None, day)
    by_site = [Task(protocol, asked, table.restrict(s), s, day) for s in names]
    found = [hazard_ratio_of(findings.estimates, t) for t in by_site]
    estimates = [e for e in found if e is not None]
    if len(estimates) != len(names):
        return None
    said = list[str]()
    rows = _rows(task, said)
    common = _common(task, rows, said)
    pooled = hazard_ratio_of(findings.estimates, task)
    level = protocol.confidence_level
    usable = [e for e in estimates if _is_usable(e)]
    y, se = (np.array([getattr(e, f) for e in usable]) for f in ("log_estimate", "se"))
    meta = _meta(y, se, level, said)
    return Synthesis(
        analysis=asked.analysis,
        role=asked.role if pooled is None else pooled.role,
        adjusted_for=asked.adjusted_for,
        ci_level=level,
        pooled=_pooled(pooled),
        sites=_sites(estimates, meta, common),
        meta=[as_result(m) for m in meta],
        leave_one_out=_left_out(usable, y, se, level),
        with_every_site=list(_with_every_site(task, rows, common)),
        interaction=_interaction(task, rows, said),
        sources=list(pooling.sources) if pooling else [_extracted(s, table) for s in names],
        counted_once=pooling.counted_once if pooling else None,
        notes=[*said, *_unheard(estimates, common)],
    )


def _asked(protocol: Protocol) -> Analysis | None:
    """The analysis to put together: primary first; never a naive one."""
    by_site = [a for a in protocol.analyses if a.by_site and a.analysis in _RATIOS]
    return min(by_site, key=lambda a: a.role != "primary", default=None)


def _is_usable(e: Estimate) -> bool:
    """Whether it may enter by its inverse variance: not where only a penalty keeps it finite."""
    is_known = e.log_estimate is not None and e.se is not None and e.se > 0 and e.se_scale == "log"
    return is_known and e.status == "ok" and not _is_held_by_penalty(e)


def _is_held_by_penalty(e: Estimate) -> bool:
    is_one_sided = len(e.events_by_strategy) < 2 or min(e.events_by_strategy.values()) == 0
    return e.analysis in _PENALISED and e.estimate is not None and is_one_sided


def _rows(task: Task, notes: list[str]) -> CountingProcess | None:
    if task.analysis.analysis not in _WITH_ROWS:
        notes.append(
            "This analysis has no likelihood of its rows to combine: a site without an estimate counts in "
            "the pooled one only, and differences between sites are judged by Q alone."
        )
        return None
    if is_imputed(task):
        notes.append(
            "Missing covariates are imputed in the sites' estimates; the likelihoods and counts combined "
            "here are of patients without any missing."
        )
    return _try("The rows of all sites", notes, lambda: prepared(task).rows())


def _common(task: Task, rows: CountingProcess | None, notes: list[str]) -> CommonEffect | None:
    if rows is None:
        return None
    a, level = task.analysis, task.protocol.confidence_level
    return _try(
        "The common effect",
        notes,
        lambda: common_effect(rows, ties=a.ties, robust=a.variance == "robust", level=level),
    )


def _meta(y: FloatArray, se: FloatArray, level: float, notes: list[str]) -> list[MetaEstimate]:
    if len(y) < 2:
        notes.append("Fewer than two sites have an estimate, so there is no meta-analysis of estimates.")
        return []
    if len(y) < FEW_SITES:
        notes.append(
            f"Only {len(y)} sites: tau² is hardly known. Ad hoc HKSJ intervals allow for that, Wald's do "
            "not. Untruncated HKSJ can be narrower than the common effect where sites agree by chance; ad "
            "hoc cannot."
        )
    return [meta_analysis(y, se, model=model, interval=interval, level=level) for model, interval in _ASKED]


def as_result(m: MetaEstimate) -> MetaResult:
    """A meta-analysis as the evidence has it."""
    h = m.heterogeneity
    return MetaResult(
        model=m.model,
        interval=m.interval,
        sites=m.sites,
        estimate=m.estimate,
        log_estimate=m.log_estimate,
        se=m.se,
        ci_low=m.ci_low,
        ci_high=m.ci_high,
        ci_level=m.ci_level,
        p_value=m.p_value,
        df=m.df,
        tau2=h.tau2,
        i2=h.i2,
        h2=h.h2,
        q=h.q,
        q_df=h.df,
        q_p_value=h.p_value,
        prediction_low=m.prediction_low,
        prediction_high=m.prediction_high,
    )


def _left_out(usable: Sequence[Estimate], y: FloatArray, se: FloatArray, level: float) -> list[LeftOut]:
    left = leave_one_out(y, se, model="reml", interval="hksj_adhoc", level=level) if len(usable) > 2 else ()
    return [
        LeftOut(
            site=usable[one.position].site or "",
            estimate=one.without.estimate,
            ci_low=one.without.ci_low,
            ci_high=one.without.ci_high,
            tau2=one.without.heterogeneity.tau2,
            i2=one.without.heterogeneity.i2,
        )
        for one in left
    ]


def _sites(
    estimates: Sequence[Estimate], meta: Sequence[MetaEstimate], common: CommonEffect | None
) -> list[SiteEffect]:
    weights = {m.model: iter(m.weights) for m in meta if m.interval == "wald"}

    def share(model: Model, is_usable: bool) -> float | None:
        return float(next(weights[model])) if is_usable and model in weights else None

    return [
        SiteEffect(
            site=e.site or "",
            n=e.n,
            events=e.events,
            events_by_strategy=e.events_by_strategy,
            estimate=e.estimate,
            log_estimate=e.log_estimate,
            se=e.se,
            ci_low=e.ci_low,
            ci_high=e.ci_high,
            counted=_counted(e, common),
            weight_common=share("common", _is_usable(e)),
            weight_random=share("reml", _is_usable(e)),
            reason=_reason(e),
        )
        for e in estimates
    ]


def _reason(e: Estimate) -> str | None:
    if _is_usable(e):
        return None
    return _NO_EVENT if _is_held_by_penalty(e) else " ".join(e.warnings) or e.status


def _counted(e: Estimate, common: CommonEffect | None) -> Counted:
    if _is_usable(e):
        return "inverse_variance"
    if common is None:
        return "pooled_only"
    return "likelihood" if e.site in common.contributing else "not_at_all"


def _unheard(estimates: Sequence[Estimate], common: CommonEffect | None) -> Iterator[str]:
    if any(e.analysis in _PENALISED for e in estimates):
        yield (
            "Firth's estimates enter the meta-analyses by Wald's standard errors, though each site's own "
            "interval is of its profile likelihood."
        )
    for e in estimates:
        if _is_held_by_penalty(e):
            yield (
                f"Site {e.site} has no event in one group. Its estimate, finite by Firth's penalty alone, is "
                "not in the meta-analyses; the site counts in the pooled one only."
            )
            continue
        match _counted(e, common):
            case "likelihood":
                yield (
                    f"Site {e.site} has no estimate of its own. It is not in the meta-analyses of estimates; "
                    "it counts in the pooled one, in the profile likelihood and in the sums of events."
                )
            case "not_at_all":
                yield (f"Site {e.site} says nothing about the effect: at no event were both groups at risk.")
            case _:
                pass


def _with_every_site(
    task: Task, rows: CountingProcess | None, common: CommonEffect | None
) -> Iterator[WithEverySite]:
    if rows is None:
        return
    level = task.protocol.confidence_level
    if common is not None:
        hr = common.fit.hazard_ratio(EXPOSURE)
        yield WithEverySite(
            method="profile_likelihood",
            adjusted_for=task.analysis.adjusted_for,
            sites=len(common.contributing),
            estimate=hr.estimate,
            log_estimate=hr.log_estimate,
            se=hr.se,
            ci_low=defined(hr.ci_low),
            ci_high=defined(hr.ci_high),
            ci_level=level,
            p_value=hr.p_value,
        )
    if rows.trial is not None:  # a patient's event is in several trials: counts of them are no counts
        return
    tests = [_logrank(rows, s) for s in np.unique(rows.site.astype(str))]
    yield _counts(peto([t[0] for t in tests], [t[1] for t in tests], level=level))
    strata = risk_set_counts(rows)
    yield _counts(mantel_haenszel_rates(strata.events, strata.at_risk, sites=strata.sites, level=level))


def _logrank(rows: CountingProcess, site: str) -> tuple[float, float]:
    here = rows.site.astype(str) == site
    test = logrank(rows.stop[here], rows.event[here], rows.exposed[here], entry=rows.start[here])
    return test.observed[1] - test.expected[1], test.variance


def _counts(found: PooledCounts) -> WithEverySite:
    return WithEverySite(
        method=found.method,
        adjusted_for=[],
        sites=found.sites,
        estimate=found.estimate,
        log_estimate=found.log_estimate,
        se=found.se,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        ci_level=found.ci_level,
        p_value=found.p_value,
    )


def _interaction(task: Task, rows: CountingProcess | None, notes: list[str]) -> Interaction | None:
    if rows is None:
        return None
    a = task.analysis
    found = _try(
        "Whether sites differ",
        notes,
        lambda: site_interaction(rows, ties=a.ties, robust=a.variance == "robust"),
    )
    if found is None:
        return None
    test = found.test
    return Interaction(
        method=test.method,
        chi_square=test.chi_square,
        df=test.df,
        p_value=test.p_value,
        sites=list(found.sites),
    )


def _pooled(e: Estimate | None) -> PooledEffect | None:
    if e is None:
        return None
    return PooledEffect(
        method=e.method,
        is_stratified="site" in e.parameters.stratified_by,
        estimate=e.estimate,
        ci_low=e.ci_low,
        ci_high=e.ci_high,
    )


def _extracted(site: str, table: CohortTable) -> SiteSource:
    return SiteSource(site=site, source="extracted", patients=int((table.patients["site"] == site).sum()))


def _try(what: str, notes: list[str], ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except RweError as e:
        notes.append(f"{what}: {e}")
        return None
