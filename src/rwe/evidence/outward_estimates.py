"""Estimates and curves as they may leave a site; what is withheld is named among the refused analyses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rwe.evidence.contract import Curve, CurvePoint, Estimate, Evidence, Refusal
from rwe.evidence.numbers import (
    WEIGHTED,
    Arms,
    Number,
    is_of_a_curve,
    number_of,
    number_of_curve,
    rounded_curve_of,
    why_not,
    why_not_curve,
)
from rwe.evidence.small_cells import digits_of, rounded_counts, rounded_km, without_numbers
from rwe.small_cells import midpoint_6

TOO_FEW = "Withheld from this release, in whole or in part: an arm has few patients."
TOO_NEAR = (
    "Withheld from this release, in whole or in part: too few of its patients or events are new since an "
    "earlier release."
)
_KEPT = (
    "analysis estimand effect_type role contrast site method parameters se_scale variance_method ci_level"
    " ci_method status is_biased downgraded_from asked_role"
)


@dataclass(frozen=True)
class Shown:
    """What of the estimates leaves, and a sentence for each analysis of which something does not."""

    exact: tuple[Estimate, ...]
    estimates: list[Estimate]
    refused: list[Refusal]


def shown_estimates(evidence: Evidence, arms: Arms, withheld: Collection[Number]) -> Shown:
    """The estimates that leave, rounded, and those that do not by analysis."""
    exact: list[Estimate] = []
    out: list[Estimate] = []
    refused: list[Refusal] = []
    for e in evidence.estimates:
        reason = why_not(e, arms, evidence.curves)
        curve = rounded_curve_of(e, evidence.curves)
        if reason == "few":
            refused.append(Refusal(analysis=e.analysis, reason=TOO_FEW))
        elif reason is None and curve is None and number_of(e) in withheld:
            refused.append(Refusal(analysis=e.analysis, reason=TOO_NEAR))
        elif reason is None:
            exact.append(e)
            out.append(_estimate(e) if curve is None else _read_off(e, curve))
    return Shown(tuple(exact), out, refused)


def outward_curves(
    curves: Sequence[Curve], arms: Arms, withheld: Collection[Number]
) -> tuple[list[Curve], list[Refusal]]:
    """Unweighted curves step by rounded counts; weighted ones leave of many patients only. None leaves of
    one site, nor one from whose difference to another a few patients could be told."""
    shown, refused = list[Curve](), list[Refusal]()
    for c in curves:
        reason = why_not_curve(c, arms)
        if reason == "near":
            continue
        if c.analysis not in WEIGHTED:
            shown.append(c.model_copy(update={"points": [*_begin(c.points), *_stepped(c.points)]}))
        elif reason == "few":
            refused.append(Refusal(analysis=c.analysis, reason=TOO_FEW))
        elif number_of_curve(c) in withheld:
            refused.append(Refusal(analysis=c.analysis, reason=TOO_NEAR))
        else:
            shown.append(c.model_copy(update={"points": _thinned(c.points)}))
    return shown, refused


def _estimate(e: Estimate) -> Estimate:
    """Explicitly what may leave: coefficients, expected events and variances would give counts back. What is
    of a curve has two digits; of one arm it has no error either, for with the error it gives counts back."""
    kept = e.model_dump(include=set(_KEPT.split()))
    names = ("estimate", "log_estimate", "se", "ci_low", "ci_high")
    digits = 2 if is_of_a_curve(e) else 3
    numbers = {k: digits_of(getattr(e, k), digits) for k in names}
    p_value = None if e.p_value is None else round(e.p_value, 3)
    if e.contrast.reference is None:
        numbers |= dict.fromkeys(names[1:])
        kept |= dict.fromkeys(("se_scale", "variance_method", "ci_level", "ci_method"))
        p_value = None
    return Estimate.model_validate(
        {
            **kept,
            **numbers,
            "df": e.df,
            "p_value": p_value,
            "n": midpoint_6(e.n),
            "events": midpoint_6(e.events),
            "n_by_strategy": rounded_counts(e.n_by_strategy),
            "events_by_strategy": rounded_counts(e.events_by_strategy),
            "warnings": without_numbers(e.warnings),
        }
    )


def _read_off(e: Estimate, curve: Curve) -> Estimate:
    """A survival or a median as the rounded curve says it: no more leaves than the curve shows."""
    steps = _stepped(curve.points)
    if e.estimate is None:
        value = None
    elif e.estimand == "median_days":
        value = next((s.time_days for s in steps if s.survival is not None and s.survival <= 0.5), None)
    else:
        value = _survival_at(float(e.parameters.time_days or 0), steps, curve.points)
    return _estimate(e).model_copy(update={"estimate": value})


def _survival_at(day: float, steps: Sequence[CurvePoint], exact: Sequence[CurvePoint]) -> float | None:
    """None where the rounded curve ended before the day."""
    passed = [s for s in steps if s.time_days <= day]
    if midpoint_6(sum(p.events for p in exact if p.time_days <= day)) != sum(s.events for s in passed):
        return None
    return passed[-1].survival if passed else 1.0


def _stepped(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    steps = rounded_km([p.time_days for p in points], [p.at_risk for p in points], [p.events for p in points])
    return [
        CurvePoint(
            time_days=s.time_days,
            survival=round(s.survival, 4),
            ci_low=None,
            ci_high=None,
            at_risk=s.at_risk,
            events=s.events,
        )
        for s in steps
    ]


def _thinned(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """A weighted curve is no product of counts: it steps where the rounded number of events does, to two
    decimals."""
    kept, total, shown = list[CurvePoint](), 0, 0
    for p in points:
        total += p.events
        new = midpoint_6(total) - shown
        if new and p.survival is not None:
            shown += new
            update = {
                "survival": round(p.survival, 2),
                "ci_low": None,
                "ci_high": None,
                "at_risk": midpoint_6(p.at_risk),
                "events": new,
            }
            kept.append(p.model_copy(update=update))
    return [*_begin(points), *kept]


def _begin(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Day 0 (or the landmark's), everybody alive."""
    if not points or points[0].events:
        return []
    start = {"at_risk": midpoint_6(points[0].at_risk), "ci_low": None, "ci_high": None}
    return [points[0].model_copy(update=start)]
