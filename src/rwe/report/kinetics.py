"""Copies of the transgene over time: one thin line a patient, on a log axis, a panel a strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rwe.evidence.parts import CopiesTrace, Kinetics
from rwe.report.figures import BLUE, INK, MUTED, ORANGE, WARNING_INK, inline_svg, new_figure, style
from rwe.report.formats import count
from rwe.report.names import Names
from rwe.report.safety import copies, ever, unit_words

_WIDTH, _PLOT, _TOP, _BELOW = 760.0, 210.0, 40.0, 44.0
_LEFT, _RIGHT, _BETWEEN = 74.0, 10.0, 18.0


@dataclass(frozen=True)
class _Range:
    """What both panels share. `floor` is where a value of zero stands: below the smallest that was found."""

    last_day: float
    floor: float
    top: float
    has_zero: bool


def traces_svg(found: Kinetics, names: Names) -> str | None:
    """The figure, or None where nobody has a measurement."""
    traces = [t for t in found.traces if t.days]
    if not traces:
        return None
    arms = names.strategy_order([t.strategy for t in traces])
    shared = _range(traces)
    height = _TOP + _PLOT + _BELOW
    each = (_WIDTH - _LEFT - _RIGHT - _BETWEEN * (len(arms) - 1)) / len(arms)
    with mpl.rc_context(style("traces")):
        figure = new_figure(_WIDTH, height)
        for i, arm in enumerate(arms):
            left = _LEFT + i * (each + _BETWEEN)
            box = (left / _WIDTH, _BELOW / height, each / _WIDTH, _PLOT / height)
            axes = figure.add_axes(box)
            mine = [t for t in traces if t.strategy == arm]
            colour = (BLUE, ORANGE)[i] if i < 2 else MUTED
            _draw_panel(axes, mine, shared, colour, f"{ever(arm, names)} (n = {count(len(mine))})")
            if i == 0:
                axes.set_ylabel(unit_words(found.unit), labelpad=4, parse_math=False)
            else:
                axes.set_yticklabels([])
        return inline_svg(
            figure, "traces", "Transgene copies over time, by patient", _spoken(traces, arms, names)
        )


def _range(traces: Sequence[CopiesTrace]) -> _Range:
    values = [v for t in traces for v in t.copies]
    positive = [v for v in values if v > 0] or [1.0]
    has_zero = any(v <= 0 for v in values)
    low = 10.0 ** math.floor(math.log10(min(positive)))
    return _Range(
        last_day=max(1.0, *(float(d) for t in traces for d in t.days)),
        floor=low / 3 if has_zero else low,
        top=10.0 ** math.ceil(math.log10(max(positive) * 1.05)),
        has_zero=has_zero,
    )


def _draw_panel(axes: Axes, traces: Sequence[CopiesTrace], shared: _Range, colour: str, title: str) -> None:
    # One path for all patients of a panel, with gaps between them: a tenth of the bytes of one path each.
    x: list[float] = []
    y: list[float] = []
    for t in traces:
        x += [*map(float, t.days), math.nan]
        y += [*(max(v, shared.floor) for v in t.copies), math.nan]
    axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.55)
    lone = [t for t in traces if len(t.days) == 1]
    _mark(axes, [(float(t.days[0]), max(t.copies[0], shared.floor)) for t in lone], ".", colour, 4)
    _mark(axes, _places(traces, "start_day", shared), "^", INK, 4)
    _mark(axes, _places(traces, "progression_day", shared), "x", WARNING_INK, 4)
    axes.set_yscale("log")
    axes.set_xlim(0, shared.last_day * 1.02)
    axes.set_ylim(shared.floor * 0.8, shared.top)
    axes.yaxis.set_major_locator(LogLocator(10, numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: copies(v)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)
    if shared.has_zero:
        axes.axhline(shared.floor, color=MUTED, linewidth=0.6, linestyle=":")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(0.02 * shared.last_day, shared.floor * 1.12, "not detected", va="bottom", fontsize=7.5,
                  color=MUTED, bbox=box)  # fmt: skip
    axes.grid(axis="y", color="#e4e8ed", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("Days since time zero", labelpad=4)
    ink = WARNING_INK if colour == ORANGE else colour
    axes.text(
        0, 1.04, title, transform=axes.transAxes, va="bottom", color=ink, fontweight="bold", parse_math=False
    )


def _mark(axes: Axes, places: Sequence[tuple[float, float]], marker: str, colour: str, size: float) -> None:
    if places:
        x, y = zip(*places, strict=True)
        axes.plot(x, y, linestyle="none", marker=marker, markersize=size, color=colour, markeredgewidth=1)


def _places(traces: Sequence[CopiesTrace], event: str, shared: _Range) -> list[tuple[float, float]]:
    """Where an event lies on its trace; one outside the measurements has no place on it."""
    found = []
    for t in traces:
        day = getattr(t, event)
        if day is not None and t.days[0] <= day <= t.days[-1]:
            found.append((float(day), _between(t, day, shared.floor)))
    return found


def _between(trace: CopiesTrace, day: int, floor: float) -> float:
    """The height of the drawn line on a day: straight on the log scale between two measurements."""
    points = [(d, math.log(max(v, floor))) for d, v in zip(trace.days, trace.copies, strict=True)]
    before = max(p for p in points if p[0] <= day)
    after = min(p for p in points if p[0] >= day)
    share = 0.0 if after[0] == before[0] else (day - before[0]) / (after[0] - before[0])
    return math.exp(before[1] + share * (after[1] - before[1]))


def _spoken(traces: Sequence[CopiesTrace], arms: Sequence[str], names: Names) -> str:
    said = []
    for arm in arms:
        mine = [t for t in traces if t.strategy == arm]
        peaks = sorted(max(t.copies) for t in mine)
        said.append(
            f"{ever(arm, names)}: {count(len(mine))} patients, highest value of each from {copies(peaks[0])} "
            f"to {copies(peaks[-1])}"
        )
    return ". ".join(said) + "."
