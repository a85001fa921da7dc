"""Hospitals that kept their patients: what a hub found from their sums, in words, a figure and a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rwe.evidence.contract import Contrast, Evidence, Parameters, groups_of
from rwe.evidence.federated import AT_SITES, OF_TOTALS, FederatedEstimate
from rwe.report.forest import ForestGroup, ForestRow, forest_svg
from rwe.report.formats import (
    NOT_ESTIMABLE,
    count,
    decimal,
    instant,
    interval,
    level,
    listing,
    p_value,
    ratio,
    sentence,
)
from rwe.report.names import ANALYSES, PROGRESSION_FREE, Names, names_of
from rwe.report.words import adjustment, strategy_rules
from rwe.study import Protocol
from rwe.wording import counted

SUMS: Final = "From sums of sites that kept their patients"
_MODES: Final = {
    "masked": "masked: the hub saw totals over all sites only",
    "plain": "plain: the hub saw the sums of each site",
}
_ROUNDED: Final = {
    AT_SITES: "rounded to midpoints of six at each site, so sums of rounded numbers",
    OF_TOTALS: "totals rounded to midpoints of six",
}


@dataclass(frozen=True)
class FederatedRow:
    """One federated refresh as a line of the table; `notes` are what warns of it."""

    analysis: str
    role: str
    how: str
    sites: str
    sums: str
    rounds: str
    finished: str
    patients: str
    ratio: str
    p: str
    is_biased: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CoefficientRow:
    name: str
    ratio: str
    log_ratio: str
    se: str


@dataclass(frozen=True)
class FederatedShown:
    """`figure` is an SVG of our own, None where another figure of the page shows the estimates."""

    figure: str | None
    rows: tuple[FederatedRow, ...]


def federated(evidence: Evidence, protocol: Protocol) -> FederatedShown | None:
    """The hub's federated estimates among the sites of a report; None without any.

    `protocol` is that of the evidence, under which they all were asked.
    """
    found = evidence.federated
    if not found:
        return None
    is_drawn = any(is_beside(evidence, f, protocol) for f in found)
    figure = None if is_drawn else federated_figure(found, protocol)
    return FederatedShown(figure, tuple(_row(f, protocol) for f in found))


def is_beside(evidence: Evidence, found: FederatedEstimate, protocol: Protocol) -> bool:
    """Whether the evidence puts the hub's own sites together by the very same analysis."""
    own = evidence.synthesis
    if own is None:
        return False
    same = [
        (a.role != "primary", place, a)
        for place, a in enumerate(protocol.analyses, start=1)
        if a.by_site and (a.analysis, a.adjusted_for) == (own.analysis, own.adjusted_for)
    ]
    if not same:
        return False
    _, place, asked = min(same, key=lambda found: found[:2])
    days = (asked.landmarks or protocol.landmarks) if asked.analysis.startswith("landmark_") else [None]
    return (found.place, found.landmark_day) == (place, days[0])


def forest_row(found: FederatedEstimate, label: str) -> ForestRow:
    """The estimate as a line of a forest plot, none of its counts that was rounded without a sign of it."""
    near = "≈ " if about(found) else ""
    return ForestRow(
        kind="biased" if found.is_biased else "other",
        label=label,
        n=near + count(found.counts.patients),
        events=near + count(found.counts.events),
        estimate=found.estimate,
        low=found.ci_low,
        high=found.ci_high,
        text=_ratio(found.estimate, found.ci_low, found.ci_high),
        note="" if found.estimate is not None else " ".join(found.warnings),
    )


def short_label(found: FederatedEstimate) -> str:
    """Beside the estimates of the hub's own sites."""
    return f"Federated: {found.mode} sums of {counted(len(found.sites), 'site')}"


def federated_figure(found: list[FederatedEstimate], protocol: Protocol) -> str:
    """The estimates as a forest plot of their own, an SVG."""
    rows = [forest_row(f, f"{_title(f)}: {how(f, protocol)}") for f in found]
    groups = [ForestGroup(SUMS, tuple(rows))]
    levels = {f.ci_level for f in found}
    return forest_svg(
        groups,
        levels.pop() if len(levels) == 1 else None,
        names_of(protocol).events,
        figure_id="federated",
        title="Forest plot of the federated hazard ratios",
    )


def coefficient_rows(found: FederatedEstimate, protocol: Protocol) -> list[CoefficientRow]:
    """Every coefficient of the model, the exposure first."""
    names = names_of(protocol)
    labels = [f"Exposure: {names.group(names.treated)}"]
    labels += [names.covariate(c.name) for c in found.coefficients[1:]]
    return [
        CoefficientRow(
            label, _ratio(c.hazard_ratio, c.ci_low, c.ci_high), decimal(c.estimate, 4), decimal(c.se, 4)
        )
        for label, c in zip(labels, found.coefficients, strict=True)
    ]


def sentences(found: FederatedEstimate, protocol: Protocol) -> tuple[str, ...]:
    """The answer of one federated refresh in words: the comparison, how it was made, what warns of it."""
    counts, names = found.counts, outcome_names(found, protocol)
    who = (
        f"Over {counted(len(found.sites), 'site')}, with {about(found)}{count(counts.patients)} patients and "
    )
    who += f"{about(found)}{count(counts.events)} {names.events}"
    warned = tuple(sentence(w) for w in found.warnings)
    how_made = f"{_title(found)}, {how(found, protocol)}. {found.method}; variance: {found.variance_method}."
    if found.estimate is None:
        return f"{who}, the hazard ratio is {NOT_ESTIMABLE}.", *warned, how_made
    contrast = Contrast(strategy=names.treated, reference=names.control, groups=groups_of(found.analysis))
    rules = _rules(found, protocol)
    group, reference = (names.group(s, contrast, rules) for s in (names.treated, names.control))
    limits = interval(ratio(found.ci_low), ratio(found.ci_high))
    first = (
        f"{who}, the hazard of {names.outcome} under “{group}” was {ratio(found.estimate)} times that under "
        f"“{reference}” ({level(found.ci_level)} {limits}, p {p_value(found.p_value)})."
    )
    caution = "This is an observational comparison" + (
        ": it holds only as far as what decided who started is among the covariates."
        if found.adjusted_for
        else " without adjustment: who started may differ from the others."
    )
    return first, how_made, caution, *warned


def about(found: FederatedEstimate) -> str:
    """What stands before a count: rounded ones are near the true ones; 0 is 0."""
    return "about " if found.counts.patients else ""


def how(found: FederatedEstimate, protocol: Protocol) -> str:
    """What the model holds besides the strategy and a stratum for each site, which every one has; and the
    rules of this analysis that are not those of the others."""
    asked, rules = protocol.analyses[found.place - 1], _rules(found, protocol)
    parts = [PROGRESSION_FREE] if asked.endpoint == "progression_free_survival" else []
    parts += [adjustment(rules, names_of(protocol), found.analysis), *strategy_rules(rules)]
    parts += ["status as at the start"] if asked.status_after_start == "freeze" else []
    return "; ".join(parts)


def _rules(found: FederatedEstimate, protocol: Protocol) -> Parameters:
    asked = protocol.analyses[found.place - 1]
    is_clones = asked.analysis == "clone_censor_weight"
    own = protocol.strategies.treated.grace_days
    grace = own if asked.grace_days is None else asked.grace_days
    return Parameters(
        landmark_day=found.landmark_day,
        adjusted_for=found.adjusted_for,
        grace_days=grace if is_clones else None,
        compared_with=asked.compared_with if is_clones else None,
        weight_for_loss=asked.weight_for_loss if is_clones else None,
        truncate_percentile=asked.truncate_percentile if is_clones else None,
        salvage="counts_as_start" if asked.salvage == "counts_as_start" else None,
    )


def outcome_names(found: FederatedEstimate, protocol: Protocol) -> Names:
    """What the events of this analysis are called: of progression-free survival they are not deaths alone."""
    names = names_of(protocol)
    if protocol.analyses[found.place - 1].endpoint != "progression_free_survival":
        return names
    return replace(names, composite=(*(c for c in names.composite if c != "progression"), "progression"))


def sums_words(found: FederatedEstimate) -> str:
    """What the hub saw of the sites."""
    return _MODES[found.mode]


def counts_words(found: FederatedEstimate) -> str:
    """How the counts were rounded before they left."""
    return _ROUNDED.get(found.counts.counts_are, found.counts.counts_are)


def test_words(found: FederatedEstimate) -> str | None:
    """The test without a model, which stands also where the model has no estimate."""
    if found.logrank_p_value is None:
        return None
    name = "Mantel–Byar" if found.analysis.startswith("time_dependent_") else "Log-rank"
    return (
        f"{name} test stratified by site, not adjusted: chi-square {decimal(found.logrank_chi_square)} on 1 "
        f"degree of freedom, p {p_value(found.logrank_p_value)}."
    )


def _row(found: FederatedEstimate, protocol: Protocol) -> FederatedRow:
    n = found.counts
    return FederatedRow(
        analysis=_title(found),
        role=found.role,
        how=how(found, protocol),
        sites=f"{len(found.sites)}: {listing(found.sites)}",
        sums=sums_words(found),
        rounds=count(found.rounds),
        finished=instant(found.finished_at),
        patients=f"{about(found)}{count(n.patients)} / {count(n.events)}",
        ratio=_ratio(found.estimate, found.ci_low, found.ci_high),
        p=p_value(found.p_value),
        is_biased=found.is_biased,
        notes=tuple(found.warnings),
    )


def _title(found: FederatedEstimate) -> str:
    when = "" if found.landmark_day is None else f", day {found.landmark_day}"
    return ("BIASED: " if found.is_biased else "") + ANALYSES[found.analysis] + when


def _ratio(estimate: float | None, low: float | None, high: float | None) -> str:
    return NOT_ESTIMABLE if estimate is None else f"{ratio(estimate)} ({interval(ratio(low), ratio(high))})"
