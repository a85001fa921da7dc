"""Evidence as it leaves a site: built anew from what may leave, so that a part nobody thought of stays.

Counts are midpoint-6 rounded, curves step by rounded counts, estimates have three significant digits. Out
stay whatever is of one site, of few patients or of the private tables: runs, hashes, resources, quality,
covariates by stratum, weights, single traces, the synthesis of sites, the sensitivity grid (a rule that
changes one patient gives that patient away beside the rule it changes), and sentences that hold a number.
What is withheld beyond that (`rwe.evidence.numbers`) is named among the refused analyses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from rwe.evidence.contract import (
    AttritionStep,
    BaselineRow,
    Cohort,
    Curve,
    CurvePoint,
    Estimate,
    Evidence,
    Refresh,
    Refusal,
    SiteSummary,
)
from rwe.evidence.history import History, Look, Repeated
from rwe.evidence.numbers import (
    FEW,
    FEWEST_IN_A_MEAN,
    WEIGHTED,
    Arms,
    Number,
    is_of_a_curve,
    number_of,
    number_of_curve,
    number_of_days,
    number_of_step,
    rounded_curve_of,
    why_not,
)
from rwe.evidence.parts import (
    AutopsyStep,
    BiasAutopsy,
    Diagnostics,
    EventRate,
    HazardsTest,
    Safety,
    UnmeasuredConfounding,
)
from rwe.evidence.small_cells import rounded_km, significant
from rwe.small_cells import midpoint_6

WITHHELD = "withheld"
ROUNDED = (
    "Prepared to leave the sites: counts are rounded to the midpoints of sixes, curves step by rounded "
    "counts, estimates have three digits, so sums need not add up. Estimates of single sites and of few "
    "patients are left out."
)
TOO_FEW = "Withheld from this release, in whole or in part: an arm has few patients."
TOO_NEAR = (
    "Withheld from this release, in whole or in part: too few of its patients or events are new since an "
    "earlier release."
)
_RATIOS = ("estimate", "ci_low", "ci_high", "naive", "always_low", "always_high")
_KEPT = (
    "analysis estimand effect_type role contrast site method parameters se_scale variance_method ci_level"
    " ci_method status is_biased downgraded_from"
)


@dataclass(frozen=True)
class _Shown:
    """What of the estimates leaves, and a sentence for each analysis of which something does not."""

    exact: tuple[Estimate, ...]
    estimates: list[Estimate]
    refused: list[Refusal]


def outward(
    evidence: Evidence,
    name: str,
    at: datetime,
    earlier: History | None,
    withheld: Collection[Number] = frozenset(),
) -> Evidence:
    """The evidence as a release called `name`.

    `earlier`: the history of the release before. `withheld`: numbers of which too little is new since an
    earlier release (of `rwe.evidence.numbers.numbers_that_leave`).
    """
    arms = Arms.of(evidence.cohort, evidence.protocol)
    shown = _shown(evidence, arms, withheld)
    curves, hidden = _curves(evidence.curves, arms, withheld)
    is_few = arms.started <= FEW
    has_answer = any(e.role == "primary" and e.estimand == "hazard_ratio" for e in shown.exact)
    told = [_refusal(r) for r in evidence.refused if " at site " not in r.analysis]
    return Evidence(
        schema_version=evidence.schema_version,
        audience="release",
        seed=evidence.seed,
        study=evidence.study,
        protocol=evidence.protocol,
        codelists=evidence.codelists,
        refresh=Refresh(
            id=name,
            created_at=at,
            data_cutoff=_whole_months(evidence.refresh.data_cutoff),
            code_version=evidence.refresh.code_version,
            content_sha256=WITHHELD,
        ),
        sites=[
            SiteSummary(name=s.name, patients=midpoint_6(s.patients), resources={}, last_updated=None)
            for s in evidence.sites
        ],
        runs=[],
        quality=[],
        cohort=_cohort(evidence.cohort, arms),
        attrition=[_step(s) for s in evidence.attrition],
        baseline=_baselines(evidence.baseline),
        estimates=shown.estimates,
        curves=curves,
        refused=_each_once([*told, *shown.refused, *hidden]),
        warnings=[ROUNDED, *_without_numbers(evidence.warnings)],
        diagnostics=_diagnostics(evidence.diagnostics) if has_answer else None,
        history=_history(evidence.history, name, at, earlier, shown=shown.exact, is_few=is_few),
        safety=_safety(evidence.safety),
        bias_autopsy=_autopsy(evidence.bias_autopsy, arms, withheld),
        protocol_lock=evidence.protocol_lock,
    )


def _shown(evidence: Evidence, arms: Arms, withheld: Collection[Number]) -> _Shown:
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
    return _Shown(tuple(exact), out, refused)


def _curves(
    curves: Sequence[Curve], arms: Arms, withheld: Collection[Number]
) -> tuple[list[Curve], list[Refusal]]:
    shown, refused = list[Curve](), list[Refusal]()
    for c in curves:
        if c.site is not None:
            continue
        if c.analysis not in WEIGHTED:
            shown.append(c.model_copy(update={"points": [*_begin(c.points), *_stepped(c.points)]}))
        elif arms.of_curve(c) < FEWEST_IN_A_MEAN:
            refused.append(Refusal(analysis=c.analysis, reason=TOO_FEW))
        elif number_of_curve(c) in withheld:
            refused.append(Refusal(analysis=c.analysis, reason=TOO_NEAR))
        else:
            shown.append(c.model_copy(update={"points": _thinned(c.points)}))
    return shown, refused


def _each_once(refused: Sequence[Refusal]) -> list[Refusal]:
    return list({(r.analysis, r.reason): r for r in refused}.values())


def _whole_months(day: date | None) -> date | None:
    """The last day of the month before: the last day of care is one patient's."""
    return day.replace(day=1) - timedelta(days=1) if day else None


def _estimate(e: Estimate) -> Estimate:
    """Explicitly what may leave: coefficients, expected events and variances would give counts back. What is
    of a curve has two digits; of one arm it has no error either, for with the error it gives counts back."""
    kept = e.model_dump(include=set(_KEPT.split()))
    names = ("estimate", "log_estimate", "se", "ci_low", "ci_high")
    digits = 2 if is_of_a_curve(e) else 3
    numbers = {k: _number(getattr(e, k), digits) for k in names}
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
            "n_by_strategy": _counts(e.n_by_strategy),
            "events_by_strategy": _counts(e.events_by_strategy),
            "warnings": _without_numbers(e.warnings),
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


def _cohort(c: Cohort, arms: Arms) -> Cohort:
    days = {k: v for k, v in c.person_days_by_strategy.items() if not _is_few(k, c, arms)}
    return Cohort(
        n=midpoint_6(c.n),
        n_by_strategy=_counts(c.n_by_strategy),
        outcome=c.outcome,
        events_by_strategy=_counts(c.events_by_strategy),
        deaths_by_strategy=_counts(c.deaths_by_strategy),
        person_days_by_strategy={k: significant(v, 2) for k, v in days.items()},
        started_after_grace=midpoint_6(c.started_after_grace),
        started_after_progression=midpoint_6(c.started_after_progression),
        resumed_after_progression=midpoint_6(c.resumed_after_progression),
        end_of_follow_up=_counts(c.end_of_follow_up),
        median_follow_up_days=_number(c.median_follow_up_days, 2),
    )


def _is_few(strategy: str, c: Cohort, arms: Arms) -> bool:
    """Days of a few, or of all but a few: with the cohort's follow-up they are the same."""
    return min(arms.started, c.n_by_strategy.get(strategy, c.n)) <= FEW


def _step(s: AttritionStep) -> AttritionStep:
    return AttritionStep(
        step=s.step,
        n_before=midpoint_6(s.n_before),
        n_excluded=midpoint_6(s.n_excluded),
        n_after=midpoint_6(s.n_after),
    )


def _baselines(rows: Sequence[BaselineRow]) -> list[BaselineRow]:
    """Means and differences only where both arms have many; of a level the share as rounded counts give it."""
    of_few = {(r.variable, r.level) for r in rows if r.n < FEWEST_IN_A_MEAN}
    return [_baseline(r, is_compared=(r.variable, r.level) not in of_few) for r in rows]


def _baseline(r: BaselineRow, *, is_compared: bool = False) -> BaselineRow:
    n = midpoint_6(r.n)
    is_share = r.level is not None or _is_yes_or_no(r)
    mean = None if r.mean is None or r.n < FEWEST_IN_A_MEAN else _number(r.mean, 2)
    if is_share and r.mean is not None:
        has_share = r.n > FEW and n > 0
        mean = min(1.0, significant(midpoint_6(round(r.mean * r.n)) / n, 2)) if has_share else None
    is_told = not is_share and r.n >= FEWEST_IN_A_MEAN
    spread = {k: _number(getattr(r, k), 2) if is_told else None for k in ("sd", "median", "q1", "q3")}
    return BaselineRow(
        variable=r.variable,
        label=r.label,
        level=r.level,
        strategy=r.strategy,
        n=n,
        missing=midpoint_6(r.missing),
        mean=mean,
        smd_before=_number(r.smd_before, 2) if is_compared else None,
        smd_after=_number(r.smd_after, 2) if is_compared else None,
        **spread,
    )


def _is_yes_or_no(r: BaselineRow) -> bool:
    """A covariate of nought and one: its mean is a count in disguise."""
    quartiles = (r.q1, r.median, r.q3)
    return r.mean is not None and 0 <= r.mean <= 1 and all(q in (None, 0, 1, 0.5) for q in quartiles)


def _diagnostics(d: Diagnostics | None) -> Diagnostics | None:
    if d is None:
        return None
    strength = d.unmeasured_confounding
    return Diagnostics(
        proportional_hazards=[
            HazardsTest(
                covariate=t.covariate,
                chi_square=significant(t.chi_square),
                df=t.df,
                p_value=round(t.p_value, 3),
            )
            for t in d.proportional_hazards
        ],
        unmeasured_confounding=UnmeasuredConfounding(
            e_value=significant(strength.e_value), e_value_limit=_number(strength.e_value_limit), array=[]
        )
        if strength
        else None,
    )


def _safety(s: Safety | None) -> Safety | None:
    """Rates as the rounded events and person-years give them; none of few patients."""
    if s is None:
        return None
    rates = []
    for r in s.rates:
        if r.patients_at_risk <= FEW:
            continue
        events, years = midpoint_6(r.events), significant(r.person_years, 2)
        rates.append(
            EventRate(
                event=r.event,
                strategy=r.strategy,
                patients_at_risk=midpoint_6(r.patients_at_risk),
                events=events,
                person_years=years,
                rate_per_100_years=significant(100 * events / years) if years else None,
                ci_low=None,
                ci_high=None,
            )
        )
    hidden = ["Withheld from this release: rates of few patients."] if len(rates) < len(s.rates) else []
    return Safety(rates=rates, notes=[*_without_numbers(s.notes), *hidden])


def _autopsy(
    found: BiasAutopsy | None, arms: Arms, withheld: Collection[Number] = frozenset()
) -> BiasAutopsy | None:
    """Whole or not at all: a step is told by its neighbours. A weighted last step alone may be left out."""
    if found is None or min(found.starters, arms.started) <= FEW or number_of_days(found) in withheld:
        return None
    is_few = arms.within_grace <= FEW
    steps = [s for s in found.steps if not (s.step == "weighted" and is_few)]
    steps = [s for s in steps if number_of_step(s) not in withheld]
    return BiasAutopsy(
        starters=midpoint_6(found.starters),
        immortal_days=significant(found.immortal_days, 2),
        share_of_treated_days=_number(found.share_of_treated_days, 2),
        days_q1=None,
        days_median=None,
        days_q3=None,
        days_by_site={},
        starters_by_site={},
        steps=[
            AutopsyStep(
                step=s.step,
                label=s.label,
                change=s.change,
                words=s.words if not _has_number(s.words) else "",
                hazard_ratio=_number(s.hazard_ratio),
                ci_low=_number(s.ci_low),
                ci_high=_number(s.ci_high),
                n=midpoint_6(s.n),
                events=midpoint_6(s.events),
                warnings=_without_numbers(s.warnings),
            )
            for s in steps
        ],
    )


def _history(
    h: History | None,
    name: str,
    at: datetime,
    earlier: History | None,
    *,
    shown: Sequence[Estimate],
    is_few: bool,
) -> History | None:
    """The releases so far, as the looks of a reader outside; the number of the look is the true one. A ratio
    that is withheld among the estimates is withheld here."""
    if h is None:
        return None
    own = _look(h.looks[-1], shown, is_few=is_few)
    inside: dict[str, object] = {
        "sites": [],
        "left": None,
        "corrections": None,
        "protocol_changed": [],
        "code_changed": False,
    }
    look = own.model_copy(update={"refresh": name, "created_at": at, **inside})
    return History(
        look=h.look,
        looks=[*(earlier.looks if earlier else []), look],
        change=None,
        repeated=None if is_few else _repeated(h.repeated),
    )


def _look(look: Look, shown: Sequence[Estimate], *, is_few: bool) -> Look:
    """A look with rounded counts and three digits."""
    ratios = [e for e in shown if e.estimand == "hazard_ratio"]
    numbers = {k: _number(getattr(look, k)) for k in _RATIOS}
    if not any(e.analysis == look.analysis and e.estimate == look.estimate for e in ratios):
        numbers |= dict.fromkeys(("estimate", "ci_low", "ci_high"))
    if not any(e.is_biased and e.estimate == look.naive for e in ratios):
        numbers["naive"] = None
    if is_few:
        numbers |= dict.fromkeys(("always_low", "always_high"))
    update = {
        "data_cutoff": _whole_months(look.data_cutoff),
        "n": midpoint_6(look.n),
        "events": midpoint_6(look.events),
        **numbers,
    }
    return look.model_copy(update=update)


def _repeated(r: Repeated | None) -> Repeated | None:
    """Score and information are counts in disguise, and two of estimate and limits would give them back."""
    if r is None:
        return None
    hidden = dict.fromkeys(("estimate", "one_look_low", "one_look_high", "score", "information"))
    limits = {k: _number(getattr(r, k), 2) for k in ("ci_low", "ci_high")}
    return r.model_copy(update={**limits, **hidden})


def _refusal(r: Refusal) -> Refusal:
    reason = r.reason if not _has_number(r.reason) else "The data cannot carry it."
    return Refusal(analysis=r.analysis, reason=reason)


def _counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {k: midpoint_6(v) for k, v in counts.items()}


def _number(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else significant(value, digits)


def _has_number(text: str) -> bool:
    return re.search(r"\d", text) is not None


def _without_numbers(sentences: Sequence[str]) -> list[str]:
    """Sentences that hold a number may hold a count; they stay inside."""
    return [s for s in sentences if not _has_number(s)]
