"""Two short tables that a clinician reads first: days and patients, and which event came first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rwe.evidence.contract import Estimand, Estimate, Evidence
from rwe.report.estimates import limits, natural
from rwe.report.formats import NOT_ESTIMABLE, humanise, p_value
from rwe.report.names import ANALYSES, BIAS, Names, cause_name
from rwe.report.words import description, ratio_with_interval

_ARM_OF: dict[Estimand, Estimand] = {
    "rmst_difference_days": "rmst_days",
    "survival_difference": "survival",
}


@dataclass(frozen=True)
class AbsoluteRow:
    """What happened under both strategies, and by how much it differs. `arms`: treated, control.

    `analysis` and `detail` are blank where they are those of the row above.
    """

    analysis: str
    detail: str
    what: str
    arms: tuple[str, str]
    difference: str
    limits: str
    is_biased: bool
    is_posthoc: bool


def absolute(evidence: Evidence, names: Names) -> list[AbsoluteRow]:
    """Survival and restricted means of both strategies with their difference, over all sites; biased last."""
    found = [
        e for e in evidence.estimates if e.estimand in _ARM_OF and e.site is None and e.estimate is not None
    ]
    rows = [_absolute(e, evidence, names) for e in sorted(found, key=lambda e: e.is_biased)]
    heads = [None, *((r.analysis, r.detail) for r in rows)]
    return [
        replace(r, analysis="", detail="", is_posthoc=False) if (r.analysis, r.detail) == head else r
        for r, head in zip(rows, heads, strict=False)
    ]


def _absolute(e: Estimate, evidence: Evidence, names: Names) -> AbsoluteRow:
    p = e.parameters
    survival = names.survival if p.endpoint is None else names.progression_free
    since = " from the landmark" if p.time_origin_day else ""
    mean = f"Mean {survival} within {p.horizon_days} days{since}"
    share = f"{survival.capitalize()} at day {p.time_days}{since}"
    blank = dict.fromkeys(("time_days", "horizon_days", "time_origin_day", "replicates"))
    said = description(e.model_copy(update={"parameters": p.model_copy(update=blank)}), names)
    return AbsoluteRow(
        analysis=ANALYSES[e.analysis],
        detail="; ".join(part for part in (BIAS if e.is_biased else "", _crude(e), said) if part),
        what=mean if e.estimand == "rmst_difference_days" else share,
        arms=(_arm(e, names.treated, evidence), _arm(e, names.control, evidence)),
        difference=_plain(e),
        limits="no interval" if e.ci_low is None and e.ci_high is None else limits(e),
        is_biased=e.is_biased,
        is_posthoc=e.is_posthoc,
    )


def _crude(e: Estimate) -> str:
    """Restricted means and curves hold no covariate: it is said beside others that do."""
    return "" if e.parameters.adjusted_for or e.is_biased else "not adjusted"


def _arm(e: Estimate, strategy: str, evidence: Evidence) -> str:
    """What the same analysis gave for one strategy; the evidence may not hold it."""
    wanted = _ARM_OF[e.estimand]
    for a in evidence.estimates:
        is_alone = a.contrast.reference is None and a.contrast.strategy == strategy
        is_same = a.analysis == e.analysis and a.site == e.site and a.parameters == e.parameters
        if a.estimand == wanted and is_alone and is_same:
            return _plain(a)
    return "not given"


def _plain(e: Estimate) -> str:
    """Days without the months beside them: the table is narrow, and holds days only."""
    return natural(e, e.estimate).split(" (")[0]


@dataclass(frozen=True)
class CompetingRow:
    """One event from one landmark on: how often by a day in both strategies, and the two hazard ratios."""

    event: str
    landmark: str
    incidence: tuple[str, ...]
    cause_specific: str
    subdistribution: str
    adjusted: str


def competing(evidence: Evidence, names: Names) -> list[CompetingRow]:
    """Relapse and death without it, landmark by landmark, over all sites."""
    found = [e for e in evidence.estimates if e.parameters.cause is not None and e.site is None]
    keys = dict.fromkeys(_key(e) for e in found)
    return [_competing([e for e in found if _key(e) == key], names) for key in keys]


def _key(e: Estimate) -> tuple[str, int | None, str, str]:
    p = e.parameters
    return p.cause or "", p.landmark_day, ",".join(p.adjusted_for), f"{p.salvage} {p.variant}"


def _competing(mine: list[Estimate], names: Names) -> CompetingRow:
    first = mine[0].parameters
    ratios = {e.estimand: e for e in mine if e.contrast.reference is not None and "ratio" in e.estimand}
    shares = [e for e in mine if e.estimand == "cumulative_incidence" and e.contrast.reference is None]
    days = sorted({e.parameters.time_days or 0 for e in shares})
    told = [_incidence(day, shares, names) for day in days]
    tests = [e for e in mine if e.estimand == "chi_square" and e.p_value is not None]
    told += dict.fromkeys(_gray(e) for e in tests)  # once, though several models stand beside it
    shown = next(iter(ratios.values()), mine[0])
    blank = shown.parameters.model_copy(update={"time_days": None, "time_origin_day": None})
    adjusted = description(shown.model_copy(update={"parameters": blank}), names)
    said = ("event:", "landmark", "Efron ties")
    return CompetingRow(
        event=cause_name(first.cause or ""),
        landmark="" if first.landmark_day is None else f"day {first.landmark_day}",
        incidence=tuple(told),
        cause_specific=_ratio(ratios.get("cause_specific_hazard_ratio")),
        subdistribution=_ratio(ratios.get("subdistribution_hazard_ratio")),
        adjusted="; ".join(part for part in adjusted.split("; ") if not part.startswith(said)),
    )


def _gray(e: Estimate) -> str:
    by = " stratified by site" if e.parameters.stratified_by else ""
    return f"Gray’s test{by}: p {p_value(e.p_value)}"  # a release rounds a small one to 0


def _incidence(day: int, shares: list[Estimate], names: Names) -> str:
    """Day 365: 12 % against 20 %."""
    by_arm = {e.contrast.strategy: e for e in shares if e.parameters.time_days == day}
    values = [
        NOT_ESTIMABLE if found is None else natural(found, found.estimate)
        for found in (by_arm.get(names.treated), by_arm.get(names.control))
    ]
    return f"Day {day}: {values[0]} against {values[1]}"


def _ratio(e: Estimate | None) -> str:
    if e is None:
        return "not asked for"
    return ratio_with_interval(e) + (f" ({humanise(e.status)})" if e.status != "ok" else "")
