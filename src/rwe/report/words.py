"""Sentences: how the report says what the evidence holds."""

from __future__ import annotations

from rwe.evidence.contract import AnalysisKind, Estimate, Evidence, Parameters
from rwe.report.formats import (
    NOT_ESTIMABLE,
    count,
    humanise,
    inside,
    interval,
    level,
    listing,
    percent,
    ratio,
    sentence,
)
from rwe.report.names import (
    ANALYSES,
    EMULATIONS,
    MODELS,
    PROGRESSION_FREE,
    WEIGHTED,
    Names,
    cause_name,
    names_of,
)
from rwe.study import Protocol
from rwe.study_words import STATUS_ADJUSTED, STATUS_ADJUSTED_AT_LANDMARK, STATUS_FROZEN

_WEIGHT_MODELS = {
    "cox": "weights by a Cox model",
    "cox_of_events": "weighted for intercurrent events",
    "logistic": "weights by a logistic model",
    "overlap": "overlap weights",
    "iptw": "inverse-probability weights",
}
MOST_NAMED = 3
"""Beside the primary estimate, more covariates than this are counted instead of named."""


def hazard_ratios(evidence: Evidence) -> list[Estimate]:
    return [e for e in evidence.estimates if e.estimand == "hazard_ratio"]


def primary_estimate(evidence: Evidence) -> Estimate | None:
    """The primary hazard ratio over all sites, whether or not it has a number."""
    found = [e for e in hazard_ratios(evidence) if e.role == "primary" and e.site is None]
    return found[0] if found else None


def is_as_planned(parameters: Parameters) -> bool:
    """Whether an estimate is of the protocol's outcome and rules, no sensitivity that changes them."""
    p = parameters
    return p.endpoint is None and p.salvage is None and p.variant is None


def crude_estimate(evidence: Evidence) -> Estimate | None:
    """The unadjusted time-dependent hazard ratio over all sites: without immortal time, but confounded."""
    found = [
        e
        for e in hazard_ratios(evidence)
        if e.analysis == "time_dependent_cox"
        and e.site is None
        and not e.parameters.adjusted_for
        and is_as_planned(e.parameters)
    ]
    return found[0] if found else None


def naive_estimate(evidence: Evidence) -> Estimate | None:
    """The naive hazard ratio over all sites: one with a number, unadjusted, without a penalty if there is."""
    found = [
        e
        for e in hazard_ratios(evidence)
        if e.analysis in {"naive_cox", "naive_firth"} and e.site is None and is_as_planned(e.parameters)
    ]

    def rank(e: Estimate) -> tuple[bool, int, bool]:
        return e.estimate is None, len(e.parameters.adjusted_for), e.analysis == "naive_firth"

    return min(found, key=rank, default=None)


def posthoc_answer(evidence: Evidence) -> Estimate | None:
    """The estimate that would be the primary one, had its analysis stood in the locked protocol."""
    return next((e for e in evidence.estimates if e.is_the_answer and e.is_posthoc), None)


def ratio_with_interval(estimate: Estimate) -> str:
    """0.71 (0.52 to 0.98), or why there is no such number."""
    if estimate.estimate is None:
        return NOT_ESTIMABLE
    limits = interval(ratio(estimate.ci_low), ratio(estimate.ci_high))
    return f"{ratio(estimate.estimate)} ({limits})"


def _adjusted(parameters: Parameters, names: Names, analysis: AnalysisKind | None = None) -> str:
    given = [inside(names.covariate(n)) for n in parameters.adjusted_for]
    if analysis in WEIGHTED:
        return f"weighted for {listing(given)}" if given else "no covariates in the weights"
    return f"adjusted for {listing(given)}" if given else "unadjusted"


def _stratified(parameters: Parameters, analysis: AnalysisKind | None = None) -> str:
    by = listing([humanise(n) for n in parameters.stratified_by])
    return f"{by} in the weights" if analysis in WEIGHTED else f"stratified by {by}"


def adjustment(parameters: Parameters, names: Names, analysis: AnalysisKind | None = None) -> str:
    """What a model holds besides the strategy: "adjusted for …; stratified by site"."""
    parts = [_adjusted(parameters, names, analysis)]
    return "; ".join([*parts, *([_stratified(parameters, analysis)] if parameters.stratified_by else [])])


def how_made(estimate: Estimate, names: Names) -> str:
    """The analysis that gave an estimate, with its covariates and all else that was chosen in it."""
    p, analysis = estimate.parameters, estimate.analysis
    day = "" if p.landmark_day is None else f", day {p.landmark_day}"
    frozen = ["status as on the day of each start"] if p.status_after_start == "freeze" else []
    chosen = [adjustment(p, names, analysis), *strategy_rules(p), *frozen]
    return f"{ANALYSES[analysis]}{day}, {'; '.join(chosen)}"


def description(estimate: Estimate, names: Names, primary: Estimate | None = None) -> str:
    """What distinguishes an estimate from its neighbours, in one line.

    Given the `primary` estimate, what it shares with that one is said shortly or left out.
    """
    p, analysis = estimate.parameters, estimate.analysis
    parts = [] if p.endpoint is None else [PROGRESSION_FREE]
    parts += [] if p.cause is None else [f"event: {inside(cause_name(p.cause))}"]
    parts += [] if p.landmark_day is None else [f"landmark day {p.landmark_day}"]
    if analysis in MODELS:
        is_other = primary is not None and estimate is not primary
        as_primary = is_other and primary is not None and p.adjusted_for == primary.parameters.adjusted_for
        verb = "weighted" if analysis in WEIGHTED else "adjusted"
        is_short = as_primary and p.adjusted_for
        is_long = primary is not None and is_other and len(p.adjusted_for) > MOST_NAMED
        many = f"{verb} for {len(p.adjusted_for)} covariates"
        whole = many if is_long else _adjusted(p, names, analysis)
        parts.append(f"{verb} as primary" if is_short else whole)
    if p.stratified_by:
        parts.append(_stratified(p, analysis))
    parts += strategy_rules(p)
    if p.status_after_start == "freeze":
        parts.append("status as at the start")
    if p.time_days is not None:
        parts.append(_when(p))
    elif p.time_origin_day:
        parts.append("days after the landmark")
    parts += [] if p.horizon_days is None else [f"horizon {p.horizon_days} days"]
    is_told = "ties" in estimate.method or (primary is not None and p.ties == primary.parameters.ties)
    parts += [] if p.ties is None or is_told else [f"{p.ties.capitalize()} ties"]
    if p.replicates is not None and primary is None:
        parts.append(f"bootstrap of {count(p.replicates)} replicates")
    if estimate.variance_method and estimate.variance_method.startswith("robust"):
        parts.append("robust variance")
    return "; ".join(parts)


def strategy_rules(p: Parameters) -> list[str]:
    """The grace period, the control strategy, the weights and what else changes who counts as treated."""
    parts = [] if p.grace_days is None else [f"grace {p.grace_days} days"]
    parts += ["against never starting"] if p.compared_with == "never" else []
    if p.weight_model is not None:
        parts.append(_WEIGHT_MODELS.get(p.weight_model, f"weights: {humanise(p.weight_model)}"))
    parts += ["also weighted for loss to follow-up"] if p.weight_for_loss else []
    if p.truncate_percentile is not None:
        parts.append(f"weights cut at percentile {p.truncate_percentile:g}")
    parts += ["salvage counts as a start"] if p.salvage == "counts_as_start" else []
    return parts + ([] if p.variant is None else [humanise(p.variant)])


def _when(p: Parameters) -> str:
    return f"{p.time_days} days after the landmark" if p.time_origin_day else f"at day {p.time_days}"


def _change(hazard_ratio: float) -> str:
    if hazard_ratio >= 2:
        return f"{ratio(hazard_ratio)} times as high"
    side, share = "lower" if hazard_ratio < 1 else "higher", abs(1 - hazard_ratio)
    if share < 0.01:
        return f"less than {percent(0.01)} {side}"
    return f"more than {percent(0.99)} {side}" if hazard_ratio < 0.01 else f"{percent(share)} {side}"


def _reading(e: Estimate) -> str:
    low, high = e.ci_low, e.ci_high
    if low is None and high is None:
        return "No interval can be given, so nothing can be said about what the data exclude."
    if low is None or high is None:
        return "The interval is open to one side, so the data exclude little there."
    if high < 1 or low > 1:
        first, second = (high, low) if high < 1 else (low, high)
        return f"The data are consistent with a hazard from {_change(first)} to {_change(second)}."
    return (
        f"The data are consistent with anything from a hazard {_change(low)} to one {_change(high)}: "
        "they show neither a benefit nor its absence."
    )


def _reasons(estimate: Estimate) -> str:
    return " ".join(sentence(w) for w in estimate.warnings)


def posthoc_sentences(evidence: Evidence, protocol: Protocol) -> tuple[str, ...]:
    """What the analysis meant as primary gives where the protocol's lock does not cover it."""
    e, names = posthoc_answer(evidence), names_of(protocol)
    if e is None:
        return ()
    if e.estimate is None:
        why = f" {_reasons(e)}" if e.warnings else ""
        return (
            "The protocol was changed after its lock, so the analysis meant as the primary one is post hoc; "
            f"its hazard ratio is {NOT_ESTIMABLE}.{why}",
        )
    return (
        "The protocol was changed after its lock, so the analysis meant as the primary one is post hoc: it "
        f"gives a hazard ratio of {ratio_with_interval(e)} ({how_made(e, names)}).",
        *status_sentences(e, names),
    )


def answer(evidence: Evidence, names: Names, posthoc: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The sentences that answer the question, from the primary estimate; careful by construction.

    Without one, `posthoc` is said instead.
    """
    e = primary_estimate(evidence)
    if e is None:
        return ("There is no primary estimate in this refresh, so the question stays unanswered.", *posthoc)
    cohort = evidence.cohort
    if e.estimate is None:
        n, events = cohort.n, sum(cohort.events_by_strategy.values())
        reasons = _reasons(e) or "No reason was recorded."
        return (
            f"In the cohort of {count(n)} patients with {count(events)} {names.events}, the primary hazard "
            f"ratio is {NOT_ESTIMABLE}. {reasons}",
        )
    of = f" of the cohort's {count(cohort.n)}" if e.n < cohort.n else ""
    who = f"Among {count(e.n)}{of} patients with {count(e.events)} {names.events}"
    group, reference = (
        names.group(name, e.contrast, e.parameters)
        for name in (e.contrast.strategy, e.contrast.reference or names.control)
    )
    limits = interval(ratio(e.ci_low), ratio(e.ci_high))
    first = (
        f"{who}, the hazard of {names.outcome} under “{group}” was "
        f"{ratio(e.estimate)} times that under “{reference}” ({level(e.ci_level)} {limits})"
    )
    stands_in = f", in place of: {ANALYSES[e.downgraded_from]}" if e.downgraded_from else ""
    how = f"{how_made(e, names)}{stands_in}."
    caution = (
        "This is an observational comparison: it holds only as far as what decided who started is "
        f"among the covariates {'in the weights' if e.analysis in WEIGHTED else 'adjusted for'}."
        if e.parameters.adjusted_for
        else "This is an observational comparison without adjustment: who started may differ from the others."
    )
    warned = (f"Warning: {_reasons(e)}",) if e.warnings else ()
    return (f"{first}.", _reading(e), how, *status_sentences(e, names), caution, *warned)


def status_sentences(e: Estimate, names: Names) -> tuple[str, ...]:
    """What adjusting for the disease status does to a ratio; empty where it is not adjusted for."""
    if e.is_biased or not names.statuses & set(e.parameters.adjusted_for):
        return ()
    if e.parameters.landmark_day is not None:
        return (STATUS_ADJUSTED_AT_LANDMARK,)
    if e.parameters.status_after_start == "freeze":
        return (STATUS_FROZEN,)
    if e.analysis in EMULATIONS:
        return ()
    return (STATUS_ADJUSTED,)


def after_grace(evidence: Evidence, protocol: Protocol) -> str:
    """How many of the starters started later than the strategy allows."""
    c, treated = evidence.cohort, protocol.strategies.treated
    started = c.n_by_strategy.get(treated.name, 0)
    return (
        f"{count(c.started_after_grace)} of the {count(started)} who started did so after the grace period "
        f"(day {treated.grace_days})"
    )


def naive_sentences(evidence: Evidence) -> tuple[str, ...]:
    """The naive figure, named as biased, and the way from it to the primary one; empty without it."""
    e = naive_estimate(evidence)
    if e is None:
        return ()
    if e.estimate is None:
        return (f"The naive comparison is {NOT_ESTIMABLE}. {_reasons(e)}".strip(),)
    limits = interval(ratio(e.ci_low), ratio(e.ci_high))
    steps = [
        f"The naive comparison of ever with never started gives {ratio(e.estimate)} "
        f"({level(e.ci_level)} {limits}): patients had to live long enough to start, and that immortal time "
        "counts as treated."
    ]
    crude, primary = crude_estimate(evidence), primary_estimate(evidence)
    if crude is not None and crude.estimate is not None:
        steps.append(
            f"Without immortal time it is {ratio(crude.estimate)}, still confounded by what decided who "
            "started."
        )
    if primary is not None and primary.estimate is not None and primary.parameters.adjusted_for:
        verb = "Weighted" if primary.analysis in WEIGHTED else "Adjusted"
        steps.append(f"{verb}, in the primary analysis: {ratio(primary.estimate)}.")
    return (*steps, "The naive figure is shown as a warning, not as a result.")
