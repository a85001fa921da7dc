"""Evidence as it leaves a site: built anew from what may leave, so that a part nobody thought of stays.

Counts are midpoint-6 rounded, curves step by rounded counts, estimates have three significant digits. Out
stay whatever is of one site, of few patients or of the private tables: runs, hashes, resources, quality,
covariates by stratum, weights, single traces, the synthesis of sites, the sensitivity grid (a rule that
changes one patient gives that patient away beside the rule it changes), and sentences that hold a number.
What is withheld beyond that (`rwe.evidence.numbers`) is named among the refused analyses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from rwe.evidence.contract import (
    AttritionStep,
    BaselineRow,
    Cohort,
    Evidence,
    Refresh,
    Refusal,
    SiteSummary,
)
from rwe.evidence.history import History
from rwe.evidence.numbers import (
    FEW,
    FEWEST_IN_A_MEAN,
    Arms,
    Number,
    number_of_days,
    number_of_step,
)
from rwe.evidence.outward_estimates import outward_curves, shown_estimates
from rwe.evidence.outward_history import outward_history
from rwe.evidence.parts import (
    AutopsyStep,
    BiasAutopsy,
    Diagnostics,
    EventRate,
    HazardsTest,
    Safety,
    UnmeasuredConfounding,
)
from rwe.evidence.small_cells import (
    digits_of,
    has_number,
    rounded_counts,
    significant,
    whole_months,
    without_numbers,
)
from rwe.small_cells import midpoint_6

WITHHELD = "withheld"
ROUNDED = (
    "Prepared to leave the sites: counts are rounded to the midpoints of sixes, curves step by rounded "
    "counts, estimates have three digits, so sums need not add up. Estimates of single sites and of few "
    "patients are left out."
)


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
    shown = shown_estimates(evidence, arms, withheld)
    curves, hidden = outward_curves(evidence.curves, arms, withheld)
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
            data_cutoff=whole_months(evidence.refresh.data_cutoff),
            code_version=evidence.refresh.code_version,
            content_sha256=WITHHELD,
        ),
        sites=[
            SiteSummary(name=s.name, patients=midpoint_6(s.patients), resources={}, last_updated=None)
            for s in evidence.sites
        ],
        runs=[],
        quality=[],
        is_made_up=evidence.is_made_up,
        cohort=_cohort(evidence.cohort, arms),
        attrition=[_step(s) for s in evidence.attrition],
        baseline=_baselines(evidence.baseline),
        estimates=shown.estimates,
        curves=curves,
        refused=_each_once([*told, *shown.refused, *hidden]),
        warnings=[ROUNDED, *without_numbers(evidence.warnings)],
        diagnostics=_diagnostics(evidence.diagnostics) if has_answer else None,
        history=outward_history(evidence.history, name, at, earlier, shown=shown.exact, is_few=is_few),
        safety=_safety(evidence.safety),
        bias_autopsy=_autopsy(evidence.bias_autopsy, arms, withheld),
        protocol_lock=evidence.protocol_lock,
    )


def _each_once(refused: Sequence[Refusal]) -> list[Refusal]:
    return list({(r.analysis, r.reason): r for r in refused}.values())


def _cohort(c: Cohort, arms: Arms) -> Cohort:
    days = {k: v for k, v in c.person_days_by_strategy.items() if not _is_few(k, c, arms)}
    return Cohort(
        n=midpoint_6(c.n),
        n_by_strategy=rounded_counts(c.n_by_strategy),
        outcome=c.outcome,
        events_by_strategy=rounded_counts(c.events_by_strategy),
        deaths_by_strategy=rounded_counts(c.deaths_by_strategy),
        person_days_by_strategy={k: significant(v, 2) for k, v in days.items()},
        started_after_grace=midpoint_6(c.started_after_grace),
        started_after_progression=midpoint_6(c.started_after_progression),
        resumed_after_progression=midpoint_6(c.resumed_after_progression),
        end_of_follow_up=rounded_counts(c.end_of_follow_up),
        median_follow_up_days=digits_of(c.median_follow_up_days, 2),
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
    """Means, and differences where both arms have many; of a level the share as rounded counts give it."""
    of_few = {(r.variable, r.level) for r in rows if r.n < FEWEST_IN_A_MEAN}
    return [_baseline(r, is_compared=(r.variable, r.level) not in of_few) for r in rows]


def _baseline(r: BaselineRow, *, is_compared: bool) -> BaselineRow:
    n = midpoint_6(r.n)
    is_share = r.level is not None or _is_yes_or_no(r)
    mean = None if r.mean is None or r.n < FEWEST_IN_A_MEAN else digits_of(r.mean, 2)
    if is_share and r.mean is not None:
        has_share = r.n > FEW and n > 0
        mean = min(1.0, significant(midpoint_6(round(r.mean * r.n)) / n, 2)) if has_share else None
    is_told = not is_share and r.n >= FEWEST_IN_A_MEAN
    spread = {k: digits_of(getattr(r, k), 2) if is_told else None for k in ("sd", "median", "q1", "q3")}
    return BaselineRow(
        variable=r.variable,
        label=r.label,
        level=r.level,
        strategy=r.strategy,
        n=n,
        missing=midpoint_6(r.missing),
        mean=mean,
        smd_before=digits_of(r.smd_before, 2) if is_compared else None,
        smd_after=digits_of(r.smd_after, 2) if is_compared else None,
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
            e_value=significant(strength.e_value), e_value_limit=digits_of(strength.e_value_limit), array=[]
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
    return Safety(rates=rates, notes=[*without_numbers(s.notes), *hidden])


def _autopsy(found: BiasAutopsy | None, arms: Arms, withheld: Collection[Number]) -> BiasAutopsy | None:
    """None where few started, or few more than in an earlier release; else the steps that may leave."""
    if found is None or min(found.starters, arms.started) <= FEW or number_of_days(found) in withheld:
        return None
    is_few = arms.within_grace <= FEW
    steps = [s for s in found.steps if not (s.step == "weighted" and is_few)]
    steps = [s for s in steps if number_of_step(s) not in withheld]
    return BiasAutopsy(
        starters=midpoint_6(found.starters),
        immortal_days=significant(found.immortal_days, 2),
        share_of_treated_days=digits_of(found.share_of_treated_days, 2),
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
                words=s.words if not has_number(s.words) else "",
                hazard_ratio=digits_of(s.hazard_ratio),
                ci_low=digits_of(s.ci_low),
                ci_high=digits_of(s.ci_high),
                n=midpoint_6(s.n),
                events=midpoint_6(s.events),
                warnings=without_numbers(s.warnings),
            )
            for s in steps
        ],
    )


def _refusal(r: Refusal) -> Refusal:
    reason = r.reason if not has_number(r.reason) else "The data cannot carry it."
    return Refusal(analysis=r.analysis, reason=reason)
