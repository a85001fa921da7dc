"""Evidence as it leaves a site: built anew from what may leave, so that a part nobody thought of stays.

Counts are midpoint-6 rounded, curves step by rounded counts, estimates have three significant digits. Out
stay whatever is of one site, of few patients or of the private tables: runs, hashes, resources, quality,
covariates by stratum, weights, single traces, the synthesis of sites, the sensitivity grid (a rule that
changes one patient gives that patient away beside the rule it changes), and sentences that hold a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
from rwe.evidence.history import Change, Corrections, History, Look, Repeated, SiteNews
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
FEW = 5
"""An arm of so few patients or fewer gives no number of its own."""
_WEIGHTED = frozenset(
    {"clone_censor_weight", "landmark_weighting", "marginal_structural_model", "sequential_trials"}
)
_RATIOS = ("estimate", "ci_low", "ci_high", "naive", "always_low", "always_high")
_KEPT = (
    "analysis estimand effect_type role contrast site method parameters se_scale variance_method ci_level"
    " ci_method status is_biased downgraded_from"
)


def outward(evidence: Evidence, name: str, at: datetime, earlier: History | None) -> Evidence:
    """The evidence as a release called `name`. `earlier`: the history of the release before."""
    shown = [e for e in evidence.estimates if e.site is None and not _is_near_another(e, evidence.cohort)]
    estimates = [_estimate(e) for e in shown if not _is_of_few(e)]
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
        cohort=_cohort(evidence.cohort),
        attrition=[_step(s) for s in evidence.attrition],
        baseline=[_baseline(r) for r in evidence.baseline],
        estimates=estimates,
        curves=[_curve(c) for c in evidence.curves if c.site is None],
        refused=[_refusal(r) for r in evidence.refused if " at site " not in r.analysis],
        warnings=[ROUNDED, *_without_numbers(evidence.warnings)],
        diagnostics=_diagnostics(evidence.diagnostics),
        history=_history(evidence.history, name, at, earlier),
        safety=_safety(evidence.safety),
        bias_autopsy=_autopsy(evidence.bias_autopsy),
        protocol_lock=evidence.protocol_lock,
    )


def _whole_months(day: date | None) -> date | None:
    """The last day of the month before: the last day of care is one patient's."""
    return day.replace(day=1) - timedelta(days=1) if day else None


def _estimate(e: Estimate) -> Estimate:
    """Explicitly what may leave: coefficients, expected events and variances would give counts back."""
    kept = e.model_dump(include=set(_KEPT.split()))
    return Estimate.model_validate(
        {
            **kept,
            "estimate": _number(e.estimate),
            "log_estimate": _number(e.log_estimate),
            "se": _number(e.se),
            "ci_low": _number(e.ci_low),
            "ci_high": _number(e.ci_high),
            "df": e.df,
            "p_value": None if e.p_value is None else round(e.p_value, 3),
            "n": midpoint_6(e.n),
            "events": midpoint_6(e.events),
            "n_by_strategy": _counts(e.n_by_strategy),
            "events_by_strategy": _counts(e.events_by_strategy),
            "warnings": _without_numbers(e.warnings),
        }
    )


def _is_near_another(e: Estimate, cohort: Cohort) -> bool:
    """An estimate beside another one from which it differs by the rule for a few patients: their difference
    would be those patients'."""
    is_salvage = e.parameters.salvage == "counts_as_start" and cohort.started_after_progression <= FEW
    return e.parameters.variant is not None or is_salvage


def _is_of_few(e: Estimate) -> bool:
    """A number of one arm that has few patients."""
    if e.contrast.reference is not None:
        return False
    return e.n_by_strategy.get(e.contrast.strategy, e.n) <= FEW


def _curve(c: Curve) -> Curve:
    if c.analysis in _WEIGHTED:
        return c.model_copy(update={"points": _thinned(c.points)})
    steps = rounded_km([p.time_days for p in c.points], [p.at_risk for p in c.points], _events(c.points))
    points = [
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
    return c.model_copy(update={"points": [*_begin(c.points), *points]})


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


def _events(points: Sequence[CurvePoint]) -> list[int]:
    return [p.events for p in points]


def _cohort(c: Cohort) -> Cohort:
    return Cohort(
        n=midpoint_6(c.n),
        n_by_strategy=_counts(c.n_by_strategy),
        outcome=c.outcome,
        events_by_strategy=_counts(c.events_by_strategy),
        deaths_by_strategy=_counts(c.deaths_by_strategy),
        person_days_by_strategy={k: significant(v, 2) for k, v in c.person_days_by_strategy.items()},
        started_after_grace=midpoint_6(c.started_after_grace),
        started_after_progression=midpoint_6(c.started_after_progression),
        resumed_after_progression=midpoint_6(c.resumed_after_progression),
        end_of_follow_up=_counts(c.end_of_follow_up),
        median_follow_up_days=_number(c.median_follow_up_days, 2),
    )


def _step(s: AttritionStep) -> AttritionStep:
    return AttritionStep(
        step=s.step,
        n_before=midpoint_6(s.n_before),
        n_excluded=midpoint_6(s.n_excluded),
        n_after=midpoint_6(s.n_after),
    )


def _baseline(r: BaselineRow) -> BaselineRow:
    """Of few patients no number; of a level the share as the rounded counts give it."""
    n = midpoint_6(r.n)
    is_few = r.n <= FEW
    mean = None if r.mean is None or is_few else _number(r.mean)
    if r.level is not None and mean is not None and r.mean is not None:
        mean = min(1.0, significant(midpoint_6(round(r.mean * r.n)) / n)) if n else None
    quartiles = {k: None if is_few else _number(getattr(r, k), 2) for k in ("sd", "median", "q1", "q3")}
    if r.level is not None:
        quartiles = dict.fromkeys(quartiles)
    return BaselineRow(
        variable=r.variable,
        label=r.label,
        level=r.level,
        strategy=r.strategy,
        n=n,
        missing=midpoint_6(r.missing),
        mean=mean,
        smd_before=_number(r.smd_before, 2),
        smd_after=_number(r.smd_after, 2),
        **quartiles,
    )


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
    """Rates as the rounded events and person-years give them."""
    if s is None:
        return None
    rates = []
    for r in s.rates:
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
    return Safety(rates=rates, notes=_without_numbers(s.notes))


def _autopsy(found: BiasAutopsy | None) -> BiasAutopsy | None:
    if found is None:
        return None
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
            for s in found.steps
        ],
    )


def _history(h: History | None, name: str, at: datetime, earlier: History | None) -> History | None:
    """The releases so far, as the looks of a reader outside; the number of the look is the true one."""
    if h is None:
        return None
    own = outward_look(h.looks[-1])
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
        repeated=_repeated(h.repeated),
    )


def outward_look(look: Look) -> Look:
    """A look with rounded counts and three digits."""
    return look.model_copy(
        update={
            "data_cutoff": _whole_months(look.data_cutoff),
            "n": midpoint_6(look.n),
            "events": midpoint_6(look.events),
            **{k: _number(getattr(look, k)) for k in _RATIOS},
            "sites": [_news(s) for s in look.sites],
            "left": None if look.left is None else midpoint_6(look.left),
            "corrections": _corrections(look.corrections) if look.corrections else None,
        }
    )


def outward_change(change: Change) -> Change:
    """A change with rounded counts; the steps of the estimate stay inside, for one may be of one patient."""
    names = ("n_before", "n_after", "entered", "erased", "outcome_known", "started_since", "follow_up_grown")
    counts = {k: midpoint_6(getattr(change, k)) for k in (*names, "unchanged")}
    return change.model_copy(
        update={
            **counts,
            "left": _counts(change.left),
            "follow_up_days": significant(change.follow_up_days, 2),
            "corrections": _corrections(change.corrections),
            "sites": [_news(s) for s in change.sites],
            "steps": [],
            "notes": _without_numbers(change.notes),
        }
    )


def _news(s: SiteNews) -> SiteNews:
    new = (s.new_patients, s.new_events)
    patients, events = (None if n is None else midpoint_6(n) for n in new)
    return SiteNews(site=s.site, new_patients=patients, new_events=events)


def _corrections(c: Corrections) -> Corrections:
    return Corrections(**_counts(c.model_dump()))


def _repeated(r: Repeated | None) -> Repeated | None:
    """Score and information are counts in disguise."""
    if r is None:
        return None
    names = ("estimate", "ci_low", "ci_high", "one_look_low", "one_look_high")
    numbers = {k: _number(getattr(r, k)) for k in names}
    return r.model_copy(update={**numbers, "score": None, "information": None})


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
