"""The rows of the report's tables, ready to print. Formatting only."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.evidence.contract import BaselineRow, CodelistEntry, Contrast, Evidence
from rwe.report import formats
from rwe.report.formats import (
    NOT_ESTIMABLE,
    count,
    decimal,
    humanise,
    listing,
    measure,
    percent,
)
from rwe.report.names import Names, names_of
from rwe.report.specification import criterion_words
from rwe.study import Protocol

IMBALANCE = 0.1
"""A standardised mean difference beyond this is commonly read as imbalance (Austin 2009)."""


@dataclass(frozen=True)
class KeyNumber:
    label: str
    value: str
    detail: str


def key_numbers(evidence: Evidence, names: Names) -> list[KeyNumber]:
    """What a reader asks first: how many, how many events, where, how long, how fresh."""
    cohort = evidence.cohort
    started = cohort.n_by_strategy.get(names.treated)
    events = cohort.events_by_strategy.get(names.treated)
    by_exposure = [] if events is None else [f"{count(events)} while exposed"]
    if names.composite:
        by_exposure.append(f"{count(sum(cohort.deaths_by_strategy.values()))} of the events are deaths")
    late = cohort.started_after_grace
    begun = [] if started is None else [f"{count(started)} ever started"]
    begun += [f"{count(late)} of them after the grace period"] if begun and late else []
    median = cohort.median_follow_up_days
    cutoff = evidence.refresh.data_cutoff
    return [
        KeyNumber("Patients", count(cohort.n), ", ".join(begun)),
        KeyNumber(
            names.events.capitalize(),
            count(sum(cohort.events_by_strategy.values())),
            "; ".join(by_exposure),
        ),
        KeyNumber("Sites", count(len(evidence.sites)), listing([s.name for s in evidence.sites])),
        KeyNumber(
            "Median follow-up",
            formats.months(median),
            "reverse Kaplan–Meier" if median is None else f"{median:g} days, reverse Kaplan–Meier",
        ),
        KeyNumber(
            "Refreshed",
            evidence.refresh.created_at.date().isoformat(),
            f"data up to {cutoff}" if cutoff else "data cut-off not stated",
        ),
    ]


@dataclass(frozen=True)
class FollowUpRow:
    """Exposure-time view of one strategy. `started` counts patients; days and events follow exposure.

    `deaths` are those among the events: of a composite, the deaths that came first.
    """

    strategy: str
    started: str
    person_days: str
    person_years: str
    events: str
    deaths: str


def follow_up(evidence: Evidence, names: Names) -> list[FollowUpRow]:
    """Patients by ever started, person-time, events and deaths by exposure at the time."""
    c = evidence.cohort
    found = [*c.n_by_strategy, *c.person_days_by_strategy, *c.events_by_strategy]
    rows = []
    for name in names.strategy_order(found):
        person_days = c.person_days_by_strategy.get(name)
        n, events, deaths = (
            "not recorded" if name not in counts else count(counts[name])
            for counts in (c.n_by_strategy, c.events_by_strategy, c.deaths_by_strategy)
        )
        rows.append(
            FollowUpRow(
                names.group(name),
                n,
                "not recorded" if person_days is None else count(round(person_days)),
                "not recorded" if person_days is None else f"{person_days / 365.25:.1f}",
                events,
                deaths,
            )
        )
    return rows


@dataclass(frozen=True)
class EndRow:
    reason: str
    patients: str
    share: str


_END_REASONS = {
    "death": "Death",
    "last_activity": "Alive at the last recorded care",
    "data_cutoff": "Alive at the data cut-off",
}


def ends(evidence: Evidence) -> list[EndRow]:
    """Why follow-up ended, most frequent first."""
    reasons = sorted(evidence.cohort.end_of_follow_up.items(), key=lambda item: (-item[1], item[0]))
    n = evidence.cohort.n
    return [
        EndRow(
            _END_REASONS.get(r, humanise(r).replace(":", ": ")),
            count(k),
            percent(k / n) if n else NOT_ESTIMABLE,
        )
        for r, k in reasons
    ]


@dataclass(frozen=True)
class AttritionLine:
    """One step of the flow. `rule` is the criterion in words where the step is one of the protocol's."""

    step: str
    rule: str
    before: str
    excluded: str
    after: str
    is_exclusion: bool


def attrition(evidence: Evidence, protocol: Protocol) -> list[AttritionLine]:
    """From records to cohort, step by step, as counted."""
    rules = {c.name: criterion_words(c) for c in protocol.eligibility}
    return [
        AttritionLine(
            step=humanise(a.step),
            rule=rules.get(a.step, ""),
            before=count(a.n_before),
            excluded=count(a.n_excluded),
            after=count(a.n_after),
            is_exclusion=a.n_excluded > 0,
        )
        for a in evidence.attrition
    ]


@dataclass(frozen=True)
class BaselineLine:
    """One line of table 1. `label` is blank on all but a variable's first line."""

    label: str
    statistic: str
    cells: tuple[str, ...]
    smd: str
    smd_after: str
    is_imbalanced: bool


@dataclass(frozen=True)
class BaselineTable:
    columns: tuple[str, ...]
    lines: tuple[BaselineLine, ...]
    has_smd_after: bool


def baseline(evidence: Evidence, protocol: Protocol) -> BaselineTable:
    """Table 1 by strategy (ever started), standardised mean differences beside it.

    The mean of a row with a level is the share of those who have it.
    """
    names = names_of(protocol)
    arms = names.strategy_order([r.strategy for r in evidence.baseline])
    totals = evidence.cohort.n_by_strategy
    ever = Contrast(strategy=names.treated, reference=names.control, groups="ever_started")
    columns = tuple(
        names.group(a, ever) + (f" (n = {count(totals[a])})" if a in totals else "") for a in arms
    )
    lines: list[BaselineLine] = []
    for variable in dict.fromkeys(r.variable for r in evidence.baseline):
        lines += _variable([r for r in evidence.baseline if r.variable == variable], arms)
    has_after = any(r.smd_after is not None for r in evidence.baseline)
    return BaselineTable(columns, tuple(lines), has_after)


def _variable(rows: list[BaselineRow], arms: list[str]) -> list[BaselineLine]:
    """The lines of one variable: its statistics or levels, then what is missing."""
    kinds: list[tuple[str, tuple[str, ...], float | None, float | None]] = []
    for level in dict.fromkeys(r.level for r in rows):
        here = {r.strategy: r for r in rows if r.level == level}
        found = [here.get(a) for a in arms]
        smd = next((r.smd_before for r in here.values() if r.smd_before is not None), None)
        after = next((r.smd_after for r in here.values() if r.smd_after is not None), None)
        if level is None:
            kinds.append(("mean (SD)", tuple(map(_mean, found)), smd, after))
            kinds.append(("median [quartiles]", tuple(map(_median, found)), None, None))
        else:
            kinds.append((humanise(level), tuple(map(_share, found)), smd, after))
    missing = {r.strategy: r.missing for r in rows}
    if any(missing.values()):
        kinds.append(("missing", tuple(count(missing[a]) if a in missing else "" for a in arms), None, None))
    return [
        BaselineLine(
            label=rows[0].label if i == 0 else "",
            statistic=statistic,
            cells=cells,
            smd=decimal(smd) if i == 0 or smd is not None else "",
            smd_after=decimal(after) if i == 0 or after is not None else "",
            is_imbalanced=smd is not None and abs(smd) > IMBALANCE,
        )
        for i, (statistic, cells, smd, after) in enumerate(kinds)
    ]


def _share(row: BaselineRow | None) -> str:
    if row is None:
        return ""
    return NOT_ESTIMABLE if row.mean is None else f"{percent(row.mean)} of {count(row.n)}"


def _mean(row: BaselineRow | None) -> str:
    if row is None:
        return ""
    return NOT_ESTIMABLE if row.mean is None else f"{measure(row.mean)} ({measure(row.sd)})"


def _median(row: BaselineRow | None) -> str:
    if row is None:
        return ""
    if row.median is None:
        return NOT_ESTIMABLE
    return f"{measure(row.median)} [{measure(row.q1)}, {measure(row.q3)}]"


@dataclass(frozen=True)
class CodelistTable:
    name: str
    entries: tuple[CodelistEntry, ...]


def codelists(evidence: Evidence) -> list[CodelistTable]:
    """The codes, list by list."""
    groups: dict[str, list[CodelistEntry]] = {}
    for entry in evidence.codelists:
        groups.setdefault(entry.codelist, []).append(entry)
    return [CodelistTable(name, tuple(entries)) for name, entries in groups.items()]


def resource_types(evidence: Evidence) -> list[str]:
    """All resource types any site has, by name: the rows of the table of sites."""
    return sorted({t for s in evidence.sites for t in s.resources})
