"""The history of the study: the estimate over its refreshes, what was new by site, what changed last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes

from rwe.evidence.contract import Evidence
from rwe.evidence.history import Change, History, Look, Repeated
from rwe.history.words import change_lines, look_notes, repeated_looks, step_label
from rwe.report.figures import BLUE, INK, MUTED, ORANGE, RULE, inline_svg, new_figure, style
from rwe.report.formats import count, decimal, interval, listing, ratio

SHOWN: Final = 60
"""Looks in the figure and the open table: the newest. All are in evidence.json and `rwe history`."""
_WIDTH, _HEIGHT = 760.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 748.0, 14.0, 200.0
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class LookRow:
    """A look in words. `is_open`: among the newest, which the page shows without a click."""

    number: str
    day: str
    cutoff: str
    patients: str
    events: str
    ratio: str
    naive: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StepRow:
    what: str
    ratio: str


@dataclass(frozen=True)
class SiteRow:
    """What a site brought: patients and events at each of the newest looks together, and at the last one."""

    site: str
    patients: str
    events: str
    last_patients: str
    last_events: str


@dataclass(frozen=True)
class HistoryShown:
    sentences: tuple[str, ...]
    figure: str | None
    rows: tuple[LookRow, ...]
    older: int
    sites: tuple[SiteRow, ...]
    change: tuple[tuple[str, str], ...]
    changed: tuple[str, ...]
    steps: tuple[StepRow, ...]
    notes: tuple[str, ...]
    is_release: bool


def history(evidence: Evidence) -> HistoryShown | None:
    """The history as the page shows it. None where the evidence tells none."""
    found = evidence.history
    if found is None:
        return None
    looks, is_release = found.looks[-SHOWN:], evidence.audience == "release"
    ratios = [look for look in looks if look.estimate is not None]
    return HistoryShown(
        sentences=tuple(_sentences(found, is_release=is_release)),
        figure=looks_svg(looks) if len(ratios) > 1 else None,
        rows=tuple(_row(look) for look in reversed(looks)),
        older=len(found.looks) - len(looks),
        sites=tuple(_sites(found.looks)),
        change=tuple((what, count(n)) for what, n in change_lines(found.change)) if found.change else (),
        changed=tuple(_changed(found.change)) if found.change else (),
        steps=tuple(_steps(found.change)) if found.change and len(found.change.steps) > 1 else (),
        notes=(*found.notes, *(found.change.notes if found.change else ())),
        is_release=is_release,
    )


def _sentences(found: History, *, is_release: bool) -> list[str]:
    said = [repeated_looks(found.look)]
    if is_release:
        said.append(
            "Only releases are listed: one is made where enough patients and events are new against every "
            "earlier one, so looks between are not shown."
        )
    if found.repeated is not None:
        said += _repeated(found.repeated, is_release=is_release)
    return said


def _repeated(r: Repeated, *, is_release: bool) -> list[str]:
    """A release keeps the limits of the sequence and neither its centre nor the interval of one look."""
    limits = interval(_limit(r.ci_low, "0"), _limit(r.ci_high, "no limit"))
    one = interval(_limit(r.one_look_low, "0"), _limit(r.one_look_high, "no limit"))
    by = ", stratified by site" if r.is_stratified else ""
    value = "not estimable" if r.estimate is None else ratio(r.estimate)
    centre = "" if is_release else f" {value},"
    of_one = "" if is_release else f"; the interval of this one look from the same score is {one}"
    return [
        f"A confidence sequence holds at all looks together, however often one looks: hazard ratio{centre} "
        f"{limits} ({100 * r.level:g}\u202f%, approximate). It is of the unadjusted, unweighted score of the "
        f"log-rank test by exposure at the time{by} (asymptotic normal mixture, tightest at a planned "
        f"information of {decimal(r.planned_information, 1)}){of_one}. Corrections of old records are "
        "outside its theory."
    ]


def _limit(value: float | None, without: str) -> str:
    return without if value is None else ratio(value)


def _row(look: Look) -> LookRow:
    return LookRow(
        number=str(look.number),
        day=f"{look.created_at:%Y-%m-%d %H:%M}",
        cutoff=look.data_cutoff.isoformat() if look.data_cutoff else "not stated",
        patients=count(look.n),
        events=count(look.events),
        ratio=_ratio(look),
        naive=ratio(look.naive),
        notes=tuple(look_notes(look)),
    )


def _ratio(look: Look) -> str:
    if look.estimate is None:
        return ratio(None)
    limits = interval(ratio(look.ci_low), ratio(look.ci_high))
    return f"{ratio(look.estimate)} ({limits})"


def _sites(looks: list[Look]) -> list[SiteRow]:
    """Sums over all looks that can tell; where some left they are not the site's patients of now."""
    names = sorted({s.site for look in looks for s in look.sites})
    rows = []
    for name in names:
        mine = [s for look in looks for s in look.sites if s.site == name]
        last = next((s for s in looks[-1].sites if s.site == name), None)
        rows.append(
            SiteRow(
                site=name,
                patients=count(sum(s.new_patients or 0 for s in mine)),
                events=count(sum(s.new_events or 0 for s in mine)),
                last_patients=_known(last.new_patients if last else 0),
                last_events=_known(last.new_events if last else 0),
            )
        )
    return rows


def _known(value: int | None) -> str:
    return "not known" if value is None else count(value)


def _changed(change: Change) -> list[str]:
    said = []
    if change.protocol_changed:
        said.append(f"The protocol changed since the look before, in: {listing(change.protocol_changed)}.")
    if change.code_changed:
        said.append("The code changed since the look before.")
    return said


def _steps(change: Change) -> list[StepRow]:
    labels = [step_label(s) for s in change.steps]
    return [
        StepRow(label[0].upper() + label[1:], ratio(s.estimate))
        for label, s in zip(labels, change.steps, strict=True)
    ]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def y(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return _BOTTOM - min(max(share, 0.0), 1.0) * (_BOTTOM - _TOP)


def _scale(looks: list[Look]) -> _Scale:
    centres = [v for look in looks for v in (look.estimate, look.naive) if v]
    ends = [min(max(v, 0.05), 20.0) for look in looks for v in (look.ci_low, look.ci_high) if v is not None]
    low, high = min([0.5, *centres, *ends]), max([2.0, *centres, *ends])
    return _Scale(
        max((t for t in _TICKS if t <= low), default=_TICKS[0]),
        min((t for t in _TICKS if t >= high), default=_TICKS[-1]),
    )


def looks_svg(looks: list[Look]) -> str:
    """The primary hazard ratio at each look on a log axis, its interval of one look, the naive one beside."""
    scale, step = _scale(looks), (_RIGHT - _LEFT) / len(looks)
    with mpl.rc_context(style("history")):
        figure = new_figure(_WIDTH, _HEIGHT)
        canvas = figure.add_axes((0, 0, 1, 1))
        canvas.set_xlim(0, _WIDTH)
        canvas.set_ylim(_HEIGHT, 0)
        canvas.axis("off")
        _draw_axes(canvas, scale)
        for i, look in enumerate(looks):
            _draw_look(canvas, scale, _LEFT + (i + 0.5) * step, look)
        _draw_days(canvas, looks, step)
        return inline_svg(figure, "history", "The hazard ratio over the refreshes", _spoken(looks))


def _draw_axes(canvas: Axes, scale: _Scale) -> None:
    for tick in (t for t in _TICKS if scale.low <= t <= scale.high):
        y, dashes = scale.y(tick), (0, (2, 2)) if tick == 1 else "-"
        colour, width = (MUTED, 1.0) if tick == 1 else (RULE, 0.5)
        canvas.plot([_LEFT, _RIGHT], [y, y], color=colour, linewidth=width, linestyle=dashes, zorder=0.4)
        canvas.text(_LEFT - 6, y, f"{tick:g}", ha="right", va="center")
    canvas.plot([_LEFT, _LEFT], [_TOP, _BOTTOM], color=MUTED, linewidth=0.9)
    canvas.text(12, (_TOP + _BOTTOM) / 2, "Hazard ratio", rotation=90, ha="center", va="center", color=INK)


def _draw_look(canvas: Axes, scale: _Scale, x: float, look: Look) -> None:
    if look.protocol_changed or look.code_changed:
        canvas.plot([x, x], [_TOP, _BOTTOM], color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0.5)
    _draw_sequence(canvas, scale, x, look)
    if look.naive:
        mark: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": ORANGE, "markersize": 5}
        canvas.plot([x + 9], [scale.y(look.naive)], marker="D", linestyle="none", **mark)
    if not look.estimate:
        return
    if look.ci_low is not None and look.ci_high is not None:
        ends = [scale.y(max(look.ci_low, scale.low)), scale.y(min(look.ci_high, scale.high))]
        canvas.plot([x, x], ends, color=BLUE, linewidth=1.6)
        if look.ci_low < scale.low:
            canvas.plot([x], [_BOTTOM], marker="v", color=BLUE, markersize=4)
        if look.ci_high > scale.high:
            canvas.plot([x], [_TOP], marker="^", color=BLUE, markersize=4)
    canvas.plot([x], [scale.y(look.estimate)], marker="o", color=BLUE, markersize=6, linestyle="none")


def _draw_sequence(canvas: Axes, scale: _Scale, x: float, look: Look) -> None:
    """The confidence sequence at this look: a pale band; without a limit it goes on to the edge.

    A look from before `has_sequence` was told has one if it has a limit.
    """
    if not look.has_sequence and look.always_low is None and look.always_high is None:
        return
    low, high = look.always_low or scale.low, look.always_high or scale.high
    ends = [scale.y(max(low, scale.low)), scale.y(min(high, scale.high))]
    canvas.plot([x, x], ends, color=RULE, linewidth=6, zorder=0.6, solid_capstyle="butt")


def _draw_days(canvas: Axes, looks: list[Look], step: float) -> None:
    """Numbers of the looks and their days, as many as there is room for."""
    every = max(1, math.ceil(72 / step))
    for i in range(len(looks) - 1, -1, -every):
        x = _LEFT + (i + 0.5) * step
        canvas.text(x, _BOTTOM + 16, f"look {looks[i].number}", ha="center", va="center", color=INK)
        canvas.text(
            x, _BOTTOM + 30, f"{looks[i].created_at:%Y-%m-%d}", ha="center", va="center", fontsize=8,
            color=MUTED,
        )  # fmt: skip


def _spoken(looks: list[Look]) -> str:
    said = [
        f"Look {look.number}, {look.created_at:%Y-%m-%d}: {_ratio(look)}, naive {ratio(look.naive)}"
        for look in looks
    ]
    return ". ".join(said) + ". Intervals are of one look each."
