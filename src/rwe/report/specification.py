"""The protocol in words: target trial beside its emulation (TARGET 2025, items 6 and 7)."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.evidence.contract import Estimate, Evidence
from rwe.report.formats import count, humanise, inside, listing, titled
from rwe.report.names import ANALYSES, names_of
from rwe.report.words import after_grace, how_made, posthoc_answer, primary_estimate, status_sentences
from rwe.study import (
    AgeCovariate,
    AgeCriterion,
    Analysis,
    CalendarCovariate,
    Covariate,
    Criterion,
    EventCriterion,
    ObservationCovariate,
    PeriodCriterion,
    Protocol,
    SexCovariate,
    StatusCovariate,
    ValueCriterion,
    Window,
)


@dataclass(frozen=True)
class Element:
    """One element of the protocol: what the trial would do, and what these data do instead."""

    name: str
    trial: tuple[str, ...]
    emulation: tuple[str, ...]


def specification(evidence: Evidence, protocol: Protocol) -> list[Element]:
    """Every element of the target trial in the order of TARGET 2025."""
    return [
        _eligibility(evidence, protocol),
        _time_zero(protocol),
        _strategies(evidence, protocol),
        _assignment(evidence, protocol),
        _outcome(protocol),
        _follow_up(protocol),
        _intercurrent(protocol),
        _contrast(evidence, protocol),
        _covariates(protocol),
    ]


def window_words(window: Window) -> str:
    """A window in days relative to time zero."""
    start, end = window.from_day, window.to_day
    if start is None and end is None:
        return "at any time"
    if start is None:
        return f"up to day {_day(end)}"
    return f"from day {_day(start)} on" if end is None else f"from day {_day(start)} to day {_day(end)}"


def _day(day: int | None) -> str:
    return str(day).replace("-", "\u2212")


def _bounds(low: object, high: object, unit: str = "") -> str:
    if low is None and high is None:
        return "of any value"
    if high is None:
        return f"at least {low}{unit}"
    return f"at most {high}{unit}" if low is None else f"{low} to {high}{unit}"


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def criterion_words(criterion: Criterion) -> str:
    """One eligibility criterion as a clause."""
    match criterion:
        case AgeCriterion():
            return "Age at time zero " + _bounds(
                _plain(criterion.min_years), _plain(criterion.max_years), " years"
            )
        case EventCriterion():
            be = "Recorded" if criterion.must_be == "present" else "Not recorded"
            what = f"{criterion.kind} of code list {criterion.codelist}"
            return f"{be}: {what}, {window_words(criterion.window)}"
        case ValueCriterion():
            bounds = _bounds(_plain(criterion.min_value), _plain(criterion.max_value))
            unit = f" {criterion.unit}" if criterion.unit else ""
            where = window_words(criterion.window)
            return f"Code list {criterion.codelist} {bounds}{unit}, nearest value {where}"
        case PeriodCriterion():
            if criterion.not_before is None:
                return f"Time zero not after {criterion.not_after}"
            until = f" and not after {criterion.not_after}" if criterion.not_after else ""
            return f"Time zero not before {criterion.not_before}{until}"


def _eligibility(evidence: Evidence, protocol: Protocol) -> Element:
    rules = [criterion_words(c) for c in protocol.eligibility]
    washout = protocol.new_user_washout
    if washout:
        reach = f"in the {washout.days} days before" if washout.days else "at any time before"
        rules.append(
            f"New users: no record (orders included) of code list {protocol.exposure.codelist} {reach} "
            "time zero"
        )
    return Element(
        "Eligibility",
        tuple(rules) or ("Everyone with the index event",),
        (f"Read off coded records; {count(evidence.cohort.n)} patients are left (see attrition)",),
    )


def _time_zero(protocol: Protocol) -> Element:
    index = protocol.index_event
    return Element(
        "Time zero",
        (f"The {index.occurrence} event of code list {index.codelist} (day 0)",),
        (
            f"Earliest record in {listing(list(index.sources), 'or')}; records within "
            f"{index.same_event_days} days are one event",
        ),
    )


def _strategies(evidence: Evidence, protocol: Protocol) -> Element:
    treated, control = protocol.strategies.treated, protocol.strategies.control
    unless = ", unless the disease has progressed first" if treated.unless_progressed else ""
    exposure = protocol.exposure
    emulation = [
        f"A start is the first record of code list {exposure.codelist} by "
        f"{listing(list(exposure.tiers), 'or')}",
        "Patients count as unexposed until the day they start, and as exposed after it",
    ]
    if treated.unless_progressed:
        c = evidence.cohort
        emulation += [
            f"{count(c.started_after_progression)} first started after progression: salvage, not counted as "
            "started",
            f"{count(c.resumed_after_progression)} started before progression and continued or resumed after "
            "it: counted as started",
        ]
    late = after_grace(evidence, protocol)
    graced = [ANALYSES[e.analysis] for e in evidence.estimates if e.parameters.grace_days is not None]
    if not graced:
        emulation.append(
            "No estimate of this report applies the grace period: they compare started with not (yet) "
            f"started. {late}"
        )
    else:
        emulation.append(
            f"The grace period is applied in: {listing(sorted(set(graced)))}. The other analyses compare "
            f"started with not (yet) started. {late}"
        )
    return Element(
        "Treatment strategies",
        (
            f"{treated.label}: start by day {treated.grace_days} (inclusive){unless}",
            f"{control.label}: no start by day {treated.grace_days}",
        ),
        tuple(emulation),
    )


def _assignment(evidence: Evidence, protocol: Protocol) -> Element:
    answer, asked, names = _answer(evidence), _asked(protocol), names_of(protocol)
    used = answer.parameters.adjusted_for if answer else asked.adjusted_for if asked else []
    given = [inside(names.covariate(n)) for n in used]
    assumed = "Not at random, and no analysis is primary"
    if given:
        assumed = f"Not at random. Taken as comparable given {listing(given)}"
    elif answer or asked:
        assumed = "Not at random, and the primary analysis adjusts for nothing"
    return Element("Assignment", ("At random at time zero, not blinded",), (assumed,))


def _answer(evidence: Evidence) -> Estimate | None:
    """The estimate of the primary analysis, also where it is outside the lock."""
    return primary_estimate(evidence) or posthoc_answer(evidence)


def _asked(protocol: Protocol) -> Analysis | None:
    return next((a for a in protocol.analyses if a.role == "primary"), None)


def _outcome(protocol: Protocol) -> Element:
    outcome, composite = protocol.outcome, protocol.composite_events()
    what = f"{titled(outcome.name)}: death from any cause"
    if composite:
        others = listing([humanise(c) for c in composite], "or")
        what = f"Event-free survival: death from any cause or {others}, whichever is first"
    undated = {
        "exclude": "A death on no known day: the patient is excluded",
        "last_contact": "A death on no known day is placed on the last contact",
    }
    partial = {
        "exclude": "A death known only to the month or year: the patient is excluded",
        "midpoint": "A death known only to the month or year is placed in its middle, "
        "not before the last contact",
    }
    return Element(
        "Outcome",
        (what,),
        (undated[outcome.death_without_date], partial[outcome.incomplete_death_date]),
    )


def _follow_up(protocol: Protocol) -> Element:
    rules = {
        "last_activity": "The living are censored at their last recorded care",
        "data_cutoff": f"The living are censored at the data cut-off {protocol.censoring.data_cutoff}",
    }
    until = listing([names_of(protocol).outcome, "loss to follow-up"], "or")
    return Element("Follow-up", (f"From time zero to {until}",), (rules[protocol.censoring.rule],))


def _intercurrent(protocol: Protocol) -> Element:
    handling = {
        "treatment_policy": "follow-up goes on whatever happens (treatment policy)",
        "composite": "counts as the outcome (composite)",
        "censored_with_weights": "follow-up ends, who goes on is weighted for it (hypothetical strategy)",
    }
    events = tuple(f"{titled(e.name)}: {handling[e.handling]}" for e in protocol.intercurrent_events)
    sources = tuple(
        f"{titled(e.name)}: code list {e.codelist} in {listing(list(e.sources), 'or')}"
        for e in protocol.intercurrent_events
    )
    return Element("Intercurrent events", events or ("None named",), sources or ("None looked for",))


def _contrast(evidence: Evidence, protocol: Protocol) -> Element:
    answer, asked, names = _answer(evidence), _asked(protocol), names_of(protocol)
    how = "No analysis is primary"
    if answer is not None:
        kind = f" ({answer.effect_type} effect)" if answer.effect_type else ""
        outside = "Post hoc, for the protocol was changed after its lock: " if answer.is_posthoc else ""
        how = f"{outside}{how_made(answer, names)}{kind}"
    elif asked is not None:
        how = f"{ANALYSES[asked.analysis]}; this refresh shows no estimate of it"
    extra = list(status_sentences(answer, names)) if answer is not None else []
    if protocol.landmarks:
        extra.append("Landmarks: days " + listing([str(d) for d in protocol.landmarks]))
    if protocol.horizons:
        extra.append("Horizons: days " + listing([str(d) for d in protocol.horizons]))
    return Element(
        "Contrast and analysis", (f"Hazard of {names.outcome} between the strategies",), (how, *extra)
    )


def _covariates(protocol: Protocol) -> Element:
    return Element(
        "Covariates",
        tuple(c.label for c in protocol.covariates) or ("None",),
        tuple(_covariate_words(c) for c in protocol.covariates) or ("None",),
    )


def _covariate_words(covariate: Covariate) -> str:
    match covariate:
        case AgeCovariate():
            how = "(index − birth) / 365.25, not floored"
        case SexCovariate():
            how = "administrative gender, " + ", ".join(f"{k} {v:g}" for k, v in covariate.values.items())
        case ObservationCovariate():
            unit = f", in {covariate.unit}" if covariate.unit else ""
            logs = {"log": ", natural logarithm", "log1p": ", natural logarithm of one more"}
            log = logs.get(covariate.transform, "")
            nearest = f"value nearest to time zero, {window_words(covariate.window)}{unit}{log}"
            then = "from a landmark on, the last value by then"
            how = f"code list {covariate.codelist}, {nearest}; {then}"
            how += "; followed over time" if covariate.over_time else ""
        case CalendarCovariate():
            how = f"years from {covariate.origin} to time zero"
        case StatusCovariate():
            how = "from the first progression on, for good; from a landmark, as known at it"
            if covariate.status == "responding":
                how = "while the last known disease status is a response; from a landmark, as known at it"
    return f"{covariate.label}: {how}"
