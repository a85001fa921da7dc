"""A study file explained back in words: every code list, window and rule that decides the result."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from rwe.over_time_words import later_words, mediated, transformed_words
from rwe.study import (
    AgeCovariate,
    AgeCriterion,
    Analysis,
    AnalysisName,
    CalendarCovariate,
    Covariate,
    Criterion,
    EventCriterion,
    ObservationCovariate,
    PeriodCriterion,
    Protocol,
    SexCovariate,
    StatusCovariate,
    Study,
    ValueCriterion,
    Window,
)
from rwe.study.analyses import OPTIONS
from rwe.study.grid import (
    CensoringChange,
    RuleChange,
    TiersChange,
    analysis_of,
)
from rwe.study.parts import ChartReviews
from rwe.study.possible import refused_words
from rwe.study.unasked import unasked_words

_TIERS = {
    "administration": "administrations (MedicationAdministration)",
    "dispense": "dispensings (MedicationDispense)",
    "statement": "statements (MedicationStatement)",
    "request": "orders (MedicationRequest)",
}
_ANALYSES: dict[AnalysisName, str] = {
    "naive_kaplan_meier": "Kaplan-Meier curves of ever against never started",
    "naive_logrank": "log-rank test of ever against never started",
    "naive_permutation": "permutation log-rank test of ever against never started",
    "naive_cox": "Cox model of ever against never started",
    "naive_firth": "Cox model with Firth's penalty of ever against never started",
    "naive_rmst": "restricted mean survival of ever against never started",
    "landmark_kaplan_meier": "Kaplan-Meier curves from landmarks",
    "landmark_logrank": "log-rank tests from landmarks",
    "landmark_permutation": "exact permutation log-rank tests from landmarks",
    "landmark_cox": "Cox models from landmarks",
    "landmark_firth": "Cox models with Firth's penalty from landmarks",
    "landmark_rmst": "restricted mean survival from landmarks",
    "landmark_weighting": "weighted Cox models from landmarks",
    "landmark_aiptw": "augmented weighting (AIPTW: treatment and outcome modelled) from landmarks",
    "landmark_competing_risks": "competing risks (relapse, death without it) from landmarks",
    "mantel_byar": "Mantel-Byar test of the time-dependent exposure",
    "simon_makuch": "Simon-Makuch curves (the exposed enter when they start)",
    "time_dependent_cox": "Cox model of the time-dependent exposure",
    "time_dependent_firth": "Cox model with Firth's penalty of the time-dependent exposure",
    "clone_censor_weight": "clone-censor-weight (copies of everybody follow each strategy from day 0)",
    "sequential_trials": "sequential target trials (one begins on each day that somebody starts)",
    "marginal_structural_model": "marginal structural model (weighted for what changes over time)",
}
_UNDATED = {
    "exclude": "are excluded, and counted in the attrition",
    "last_contact": "count as deaths on their last contact",
}
WEIGHTED: frozenset[AnalysisName] = frozenset(
    {"clone_censor_weight", "marginal_structural_model", "landmark_weighting", "landmark_aiptw"}
)
"""Analyses in which the covariates enter weights."""
STATUS_ADJUSTED = (
    "Status after the start is adjusted for: an effect through delaying progression is not part of this "
    "ratio."
)
STATUS_ADJUSTED_AT_LANDMARK = (
    "Status at the landmark is adjusted for: what a start before it did to that status is not part of this "
    "ratio."
)
STATUS_FROZEN = (
    "Status is adjusted for as on the day of each start, in both groups; whoever starts later stays among "
    "those not (yet) started, which draws the ratio towards 1."
)


def explain(study: Study) -> dict[str, list[str]]:
    """Headings with sentences, in the order of the field: population, time zero, strategies, … , analyses."""
    p = study.protocol
    sources = " or ".join(p.index_event.sources)
    sections: dict[str, list[str]] = {
        "Question": [p.question],
        "Time zero": [
            f"Day 0 is the first {sources} with a code of {_codes(study, p.index_event.codelist)}.",
            f"Records at most {_days(p.index_event.same_event_days)} apart are one event.",
        ],
        "Who is eligible": [_criterion(study, c) for c in p.eligibility]
        or ["Everyone with the index event."],
        "Strategies": _strategies(study),
    }
    if p.new_user_washout:
        reach = (
            f"in the {_days(p.new_user_washout.days)} before" if p.new_user_washout.days else "ever before"
        )
        sections["Who is eligible"].append(
            f"New users only: no {p.exposure.codelist} {reach} day 0, in a record of any kind."
        )
    if p.disease_status:
        d = p.disease_status
        sections["Response and progression"] = [
            f"Read from Observations of {_codes(study, d.codelist)}.",
            f"Response is a value of {_codes(study, d.responding)}.",
            f"Progression is a value of {_codes(study, d.progressed)}; on one day it wins over response, and "
            "a patient who has progressed stays so.",
        ]
    sections["Outcome"] = _outcome(study)
    sections |= _laboratory(study)
    sections["Covariates"] = [_covariate(study, c) for c in p.covariates] or ["None."]
    if p.subgroups:
        sections["Subgroups"] = [
            f"{g.name}: {g.covariate} below {g.cut:g}, and {g.cut:g} and above; with a test of interaction."
            for g in p.subgroups
        ]
    if p.sensitivity_grid:
        sections["Sensitivity grid"] = [_change(c, p) for c in p.sensitivity_grid]
    if p.negative_controls:
        sections["Negative controls"] = _negative_controls(p)
    if p.chart_review:
        sections["Chart review"] = _reviews(p.chart_review)
    sections["Analyses"] = [analysis_words(a, p) for a in p.analyses]
    sections["Analyses"] += _caveats(study)
    return sections


def _strategies(study: Study) -> list[str]:
    p = study.protocol
    treated, control = p.strategies.treated, p.strategies.control
    undated = {
        "exclude": "is excluded, and counted in the attrition.",
        "latest_day": "starts on its latest possible day.",
    }
    said = [
        f"{treated.label} ({treated.name}): start of {_codes(study, p.exposure.codelist)} by day "
        f"{treated.grace_days}"
        + (", unless the disease has progressed first." if treated.unless_progressed else "."),
        f"{control.label} ({control.name}): no such start by day {treated.grace_days}.",
        "Evidence that counts: " + ", ".join(_TIERS[t] for t in p.exposure.tiers) + ".",
        f"Records of one kind at most {_days(p.exposure.gap_days)} apart are one episode.",
        "A first record known only to the month or year: the patient "
        + undated[p.exposure.start_without_day],
    ]
    if treated.unless_progressed:
        said.append("A start on or after the day of progression is salvage and counts apart.")
    return said


def _outcome(study: Study) -> list[str]:
    p = study.protocol
    incomplete = {
        "exclude": "are excluded",
        "midpoint": "lie in its middle, but never before the last contact",
    }
    composite = p.composite_events()
    words = [
        f"Event-free survival: days from day 0 to death from any cause or {' or '.join(composite)}, "
        "whichever is first."
        if composite
        else "Overall survival: days from day 0 to death from any cause.",
        f"Deaths on no known day {_UNDATED[p.outcome.death_without_date]}.",
        f"Deaths known to the month or year {incomplete[p.outcome.incomplete_death_date]}.",
        "The living are censored at their last recorded care (encounters, procedures, medication)."
        if p.censoring.rule == "last_activity"
        else f"The living are censored on {p.censoring.data_cutoff}.",
    ]
    for e in p.intercurrent_events:
        handled = {
            "treatment_policy": "follow-up goes on (treatment policy)",
            "composite": "it counts as the outcome (composite)",
            "censored_with_weights": "follow-up ends, and whoever goes on is weighted by the inverse "
            f"probability of not having had it, given exposure and {', '.join(e.weighted_for)}",
        }[e.handling]
        words.append(f"After {e.name} ({_codes(study, e.codelist)} as {' or '.join(e.sources)}) {handled}.")
    return words


def _change(change: RuleChange, p: Protocol) -> str:
    """One entry of the sensitivity grid, and the analysis that is rerun under it."""
    rerun = analysis_of(change.rule, p.analyses)
    kind = "" if rerun is None else rerun.analysis.replace("_", " ")
    which = f"the primary analysis ({kind})" if rerun is not None and rerun.role == "primary" else kind
    return f"{_changed_rule(change, p)}: {which} is rerun."


def _changed_rule(change: RuleChange, p: Protocol) -> str:
    if isinstance(change, TiersChange):
        return "Only " + ", ".join(_TIERS[t] for t in change.value) + " count as evidence"
    if isinstance(change, CensoringChange):
        return _censored_otherwise(change, p)
    value = change.words()
    days = "1 day" if value == "1" else f"{value} days"
    rerun = analysis_of(change.rule, p.analyses)
    own = None if rerun is None else rerun.grace_days
    grace = p.strategies.treated.grace_days if own is None else own
    return {
        "death_without_date": f"Deaths on no known day {_UNDATED.get(value, '')}",
        "gap_days": f"Records at most {days} apart are one episode",
        "grace_days": f"Grace of {days} instead of {_days(grace)}",
        "landmark": f"From the landmark of day {value}",
        "salvage": "A first start after progression counts as a start",
        "lag_days": f"Exposed only from {days} after the start on",
    }[change.rule]


def _censored_otherwise(change: CensoringChange, p: Protocol) -> str:
    if change.value == "last_activity":
        return "The living are censored at their last recorded care"
    day = change.data_cutoff or p.censoring.data_cutoff
    until = f"on {day}" if day else "on the day until which the records of every site reach"
    return f"The living are censored {until}, and whoever is not recorded as dead by then is alive"


def _criterion(study: Study, c: Criterion) -> str:
    match c:
        case AgeCriterion():
            return f"{c.name}: age at index {_bounds(c.min_years, c.max_years)} years."
        case EventCriterion():
            verb = "with" if c.must_be == "present" else "without"
            return f"{c.name}: {verb} a {c.kind} of {_codes(study, c.codelist)} {_window(c.window)}."
        case ValueCriterion():
            return (
                f"{c.name}: the value of {_codes(study, c.codelist)} nearest to day 0 {_window(c.window)} is "
                f"{_bounds(c.min_value, c.max_value)}{_unit(c.unit)}."
            )
        case PeriodCriterion():
            return f"{c.name}: day 0 is {_bounds(c.not_before, c.not_after)}."


def _covariate(study: Study, c: Covariate) -> str:
    match c:
        case AgeCovariate():
            return f"{c.name}: years from birth to day 0, not rounded down."
        case SexCovariate():
            coding = ", ".join(f"{sex} = {value:g}" for sex, value in c.values.items())
            return f"{c.name}: administrative gender ({coding})."
        case ObservationCovariate():
            return (
                f"{c.name}: {transformed_words(c)} of {_codes(study, c.codelist)} nearest to day 0 "
                f"{_window(c.window)}{_unit(c.unit)}, of several on one day their mean.{later_words(c)}"
            )
        case CalendarCovariate():
            return f"{c.name}: years from {c.origin} to day 0."
        case StatusCovariate():
            if c.status == "progressed":
                return f"{c.name}: 1 from the first progression after day 0 on, for good."
            return f"{c.name}: 1 while the last known disease status after day 0 is a response."


def _laboratory(study: Study) -> dict[str, list[str]]:
    """Headings for what laboratory values show after day 0, where the study asks for it."""
    p, sections = study.protocol, dict[str, list[str]]()
    if p.toxicities:
        sections["Toxicities"] = [
            f"{t.name}: {t.adverse_event}, graded day by day from {_codes(study, t.codelist)} (CTCAE 5.0)"
            + (f"; rates from day {t.from_day} on, earlier events do not count." if t.from_day else ".")
            for t in p.toxicities
        ] + ["Rates are of the first event of grade 3 or 4, by exposure at the time, not adjusted."]
    if p.cart_copies:
        c = p.cart_copies
        sections["Kinetics"] = [
            f"Copies of the transgene from {_codes(study, c.codelist)}{_unit(c.unit)}: peak and area over "
            "days 0 to 28, persistence, single courses."
        ]
    return sections


def _negative_controls(p: Protocol) -> list[str]:
    """On what no effect is expected, what ends follow-up there, and what the controls are for."""
    if not any(a.role == "primary" for a in p.analyses):
        return [f"{', '.join(p.negative_controls)}: not run, for no analysis is primary."]
    ends = ", ".join(["death", *p.composite_events(), *(e.name for e in p.censoring_events())])
    return [
        f"{', '.join(p.negative_controls)}: no effect is expected on them. The primary analysis is run on "
        f"the first record of each; whatever ends follow-up before it ({ends}) censors.",
        "From three of them with an estimate on, the primary ratio is also shown calibrated by them.",
    ]


def _reviews(found: ChartReviews) -> list[str]:
    """How many of the charts read confirmed the record, and what for."""
    kinds = {
        "recorded starts": found.starts,
        "recorded deaths of the treated": found.deaths_treated,
        "recorded deaths of the control": found.deaths_control,
    }
    words = [f"Of {r.reviewed} {what}, {r.confirmed} confirmed." for what, r in kinds.items() if r]
    return [*words, "The primary estimate is also shown corrected for it."] if words else []


def analysis_words(a: Analysis, protocol: Protocol) -> str:
    """One analysis of a protocol with its role and options, as a sentence."""
    words, composite = f"{a.role}: {_ANALYSES[a.analysis]}", protocol.composite_events()
    if a.analysis == "landmark_competing_risks" and composite:
        others = ", ".join(f"{name} without it" for name in composite)
        words = words.replace("death without it", f"{others}, death without any of these")
    if a.analysis.startswith("landmark_"):
        words += f" at days {', '.join(str(d) for d in a.landmarks or protocol.landmarks)}"
    if a.endpoint == "progression_free_survival":
        ends = " or ".join(["death", *composite, "progression"])
        words += f", of progression-free survival ({ends}, whichever is first)"
    if a.adjusted_for:
        verb = "weighted" if a.analysis in WEIGHTED else "adjusted"
        words += f", {verb} for {', '.join(a.adjusted_for)}"
    if a.stratify_by:
        by = ", ".join(a.stratify_by)
        words += f", with {by} in the weights" if a.analysis in WEIGHTED else f", stratified by {by}"
    words += "".join(f", {rule}" for rule in _options(a, protocol))
    if a.analysis.endswith("_cox"):
        words += f" ({a.ties.capitalize()} ties, {a.variance} variance)"
    if a.status_after_start == "freeze":
        words += (
            "; each start against those not yet started on that day, disease status as it was then in both; "
            "later starters stay unexposed, which draws the ratio towards 1"
        )
    return words + "."


def _options(a: Analysis, protocol: Protocol) -> Iterable[str]:
    """What an analysis was asked with, where it takes the option."""

    def takes(option: str) -> bool:
        return a.analysis in OPTIONS[option]

    if takes("grace_days"):
        grace = protocol.strategies.treated.grace_days if a.grace_days is None else a.grace_days
        against = {"no_start_by_grace": f"no start by day {grace}", "never": "never starting"}
        yield f"start by day {grace} against {against[a.compared_with]}"
    if takes("weight_model"):
        yield f"treated weights by a {'Cox' if a.weight_model == 'cox' else 'logistic'} model"
    if takes("weights"):
        weights = {"overlap": "overlap weights", "iptw": "weights by the inverse probability of treatment"}
        yield weights[a.weights]
    if a.weight_for_loss:
        yield "weighted for loss to follow-up, too"
    if a.truncate_percentile is not None:
        yield f"weights cut at percentile {a.truncate_percentile:g}"
    if takes("horizon_days"):
        horizon = a.horizon_days or max(protocol.horizons, default=None)
        yield "no horizon named" if horizon is None else f"up to day {horizon}"
    if takes("replicates"):
        yield f"{a.replicates} bootstrap replicates" if a.replicates else "no bootstrap"
    if takes("missing") and set(a.adjusted_for) - protocol.statuses():
        yield (
            f"missing baseline covariates imputed {a.imputations} times"
            if a.missing == "impute"
            else "without patients who lack a baseline covariate"
        )
    if a.salvage == "counts_as_start":
        yield "a first start after progression counts, too"


def _caveats(study: Study) -> list[str]:
    """What an author should know before defending this protocol."""
    p, words = study.protocol, list[str]()
    words += _grace(p)
    if any(a.analysis.startswith("time_dependent_") and _follows_status(study, a) for a in p.analyses):
        words.append(f"Note: {STATUS_ADJUSTED}")
    words += mediated(p)
    if any(a.analysis.startswith("landmark_") and _follows_status(study, a) for a in p.analyses):
        words.append(f"Note: {STATUS_ADJUSTED_AT_LANDMARK}")
    if not any(a.role == "primary" for a in p.analyses):
        words.append("Note: no analysis is primary; the report will show all of them as equals.")
    if all(a.role == "contrast" for a in p.analyses):
        words.append("Note: every analysis asked for gives immortal time away.")
    if p.censoring.rule == "data_cutoff":
        words.append(
            "Note: censoring on one known day lets a reader of anchored dates find the calendar again."
        )
    words += refused_words(p)
    if "request" in p.exposure.tiers:
        words.append("Note: orders count as exposure; an order does not show that the drug was taken.")
    return words + unasked_words(p)


def _grace(p: Protocol) -> list[str]:
    """Which analyses apply the grace period, and what a start after it is in the others."""
    treated = p.strategies.treated
    graced = {a.analysis for a in p.analyses if a.analysis in {"sequential_trials", *OPTIONS["grace_days"]}}
    if all(a.analysis in graced for a in p.analyses):
        return []
    who = f"only {' and '.join(sorted(graced))}" if graced else "no analysis"
    verb = "apply" if len(graced) > 1 else "applies"
    others = "the others" if graced else "they"
    return [
        f"Note: {who} {verb} the grace period: {others} compare started with not (yet) started, and in a "
        f"time-dependent one a start after day {treated.grace_days} counts as {treated.label} from then on."
    ]


def _follows_status(study: Study, a: Analysis) -> bool:
    return a.status_after_start == "follow" and bool(study.protocol.statuses() & set(a.adjusted_for))


def _unit(unit: str | None) -> str:
    return f" in {unit} (another unit is missing)" if unit else ""


def _codes(study: Study, name: str) -> str:
    count = len(study.codes(name))
    return f"{name} ({count} code{'s' if count != 1 else ''})"


def _days(count: int | None) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _window(w: Window) -> str:
    if w.from_day is None:
        return "at any time" if w.to_day is None else f"up to day {w.to_day}"
    return f"from day {w.from_day}" + ("" if w.to_day is None else f" to day {w.to_day}")


def _bounds(low: float | date | None, high: float | date | None) -> str:
    shown_low, shown_high = (f"{x:g}" if isinstance(x, int | float) else x for x in (low, high))
    if low is not None and high is not None:
        return f"from {shown_low} to {shown_high}"
    if low is not None:
        return f"on or after {low}" if isinstance(low, date) else f"at least {shown_low}"
    if high is not None:
        return f"on or before {high}" if isinstance(high, date) else f"at most {shown_high}"
    return "known"
