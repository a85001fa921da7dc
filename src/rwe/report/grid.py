"""The sensitivity grid as a forest plot and a table: what one other rule would have made of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from rwe.evidence.contract import Evidence
from rwe.evidence.grid import GridRow, SensitivityGrid
from rwe.report.forest import ForestGroup, ForestRow, forest_svg
from rwe.report.formats import NOT_ESTIMABLE, count, humanise, interval, ratio
from rwe.report.names import ANALYSES, Names
from rwe.study import Protocol
from rwe.study.grid import RuleName
from rwe.study.unasked import not_asked, rules_in_words

_RULES: dict[RuleName, str] = {
    "exposure_tiers": "Evidence that counts as exposure",
    "censoring": "Censoring of the living",
    "death_without_date": "Death on no known day",
    "gap_days": "Gap within an episode",
    "grace_days": "Grace period",
    "landmark": "Landmark",
    "salvage": "Start after progression",
    "lag_days": "Exposed from, after the start",
}
_IN_DAYS = frozenset({"gap_days", "grace_days", "lag_days"})
_VALUES = {
    "data_cutoff": "on a day of cut-off",
    "last_activity": "at the last recorded care",
    "exclude": "patient left out",
    "last_contact": "at the last contact",
    "counts_as_start": "counts as a start",
    "apart": "kept apart",
}
_CUT_OFF = (
    "Censoring on a day of cut-off takes whoever is not recorded as dead by then for alive. That holds only "
    "where the deaths of those who were lost to the hospitals are recorded, too."
)
_LOST_COUNT_AS_ALIVE = "whoever was lost counts as alive until then"
_OWN_RULES = "As the protocol says"


@dataclass(frozen=True)
class GridLine:
    """One line of the table. `analysis` is empty but on the first line of each."""

    analysis: str
    rule: str
    value: str
    own_value: str
    changed: str
    n: str
    events: str
    text: str
    reason: str
    is_posthoc: bool


@dataclass(frozen=True)
class GridShown:
    """The figure, the same as lines of a table, and what a reader must know of single rules."""

    figure: Markup
    lines: tuple[GridLine, ...]
    notes: tuple[str, ...]


def grid(found: SensitivityGrid, names: Names) -> GridShown:
    """The grid made ready for the page; nothing is computed here."""
    levels = {r.ci_level for r in found.rows if r.ci_level is not None}
    groups, lines = list[ForestGroup](), list[GridLine]()
    for analysis, of_analysis in groupby(found.rows, key=_analysis_words):
        rows = list(of_analysis)
        groups.append(ForestGroup(analysis, tuple(_forest_row(r) for r in rows)))
        lines += [_line(r, "" if i else analysis) for i, r in enumerate(rows)]
    svg = forest_svg(
        groups,
        levels.pop() if len(levels) == 1 else None,
        names.events,
        figure_id="grid",
        title="Forest plot of the sensitivity grid",
    )
    is_cut = any(_is_cut_off(r) for r in found.rows)
    return GridShown(Markup(svg), tuple(lines), (_CUT_OFF,) if is_cut else ())  # noqa: S704  (labels are escaped)


def untried(evidence: Evidence, protocol: Protocol) -> tuple[str, ...]:
    """Which sensitivities that a reader expects are not asked for; in a release, that the grid stayed."""
    missing = not_asked(protocol)
    said = [f"Not asked for by this protocol: {rules_in_words(missing)}."] if missing else []
    is_withheld = evidence.audience == "release" and protocol.sensitivity_grid
    return (*said, *(["What its sensitivity grid gave stays at the sites."] if is_withheld else []))


def _is_cut_off(row: GridRow) -> bool:
    return row.rule == "censoring" and (row.value or "").startswith("data_cutoff")


def _analysis_words(row: GridRow) -> str:
    words = ANALYSES[row.analysis]
    return words[:1].upper() + words[1:]


def value_words(rule: RuleName, value: str) -> str:
    """A value of a rule as a reader says it."""
    if rule == "landmark":
        return f"day {value}"
    if rule in _IN_DAYS:
        return "1 day" if value == "1" else f"{value} days"
    name, _, day = value.partition(" ")
    if rule == "exposure_tiers":
        return value
    return f"{_VALUES.get(name, humanise(name))}{f' ({day})' if day else ''}"


def _value(row: GridRow) -> str:
    if row.rule is None or row.value is None:
        return f"landmark day {row.landmark_day}" if row.landmark_day is not None else ""
    note = f" ({row.note.removeprefix('on ')})" if row.note else ""
    return value_words(row.rule, row.value) + note


def _changed(row: GridRow) -> str:
    if row.changed is None:
        return ""
    return {0: "nobody", 1: "1 patient"}.get(row.changed, f"{count(row.changed)} patients")


def _text(row: GridRow) -> str:
    if row.estimate is None:
        return NOT_ESTIMABLE
    return f"{ratio(row.estimate)} ({interval(ratio(row.ci_low), ratio(row.ci_high))})"


def _forest_row(row: GridRow) -> ForestRow:
    tag = "POST HOC: " if row.is_posthoc else ""
    if row.rule is None:
        label = ", ".join(w for w in (_OWN_RULES, _value(row)) if w)
    else:
        bites = f"; changes {_changed(row)}" if row.changed is not None else ""
        label = f"{_RULES[row.rule]}: {_value(row)}{bites}"
    return ForestRow(
        kind="primary" if row.rule is None else "other",
        label=f"{tag}{label}",
        n=count(row.n),
        events=count(row.events),
        estimate=row.estimate,
        low=row.ci_low,
        high=row.ci_high,
        text=_text(row),
        note="" if row.estimate is not None else row.reason or NOT_ESTIMABLE,
    )


def _line(row: GridRow, analysis: str) -> GridLine:
    own = value_words(row.rule, row.own_value) if row.rule and row.own_value else ""
    return GridLine(
        analysis=analysis,
        rule=_RULES[row.rule] if row.rule else _OWN_RULES,
        value=_value(row),
        own_value=own,
        changed=_changed(row),
        n=count(row.n),
        events=count(row.events),
        text=_text(row),
        reason=row.reason or (_LOST_COUNT_AS_ALIVE if _is_cut_off(row) else ""),
        is_posthoc=row.is_posthoc,
    )
