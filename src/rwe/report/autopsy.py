"""The bias autopsy: the immortal days, whose they are, and the hazard ratio step by step without them."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes

from rwe.evidence.parts import AutopsyStep, BiasAutopsy
from rwe.report.figures import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    RULE,
    WARNING_INK,
    inline_svg,
    new_figure,
    style,
)
from rwe.report.formats import NOT_ESTIMABLE, count, interval, percent, ratio, whole_days

CHANGES: Final = {
    "naive": "biased",
    "bias_removed": "bias removed",
    "estimand_changed": "estimand changed",
}
_COLOURS: Final = {"naive": ORANGE, "bias_removed": BLUE, "estimand_changed": INK}
_MARKERS: Final = {"naive": "D", "bias_removed": "o", "estimand_changed": "s"}
_WIDTH, _LEFT, _RIGHT, _RATIO = 760.0, 250.0, 590.0, 606.0
_ROW, _HEAD, _FOOT = 46.0, 26.0, 44.0


@dataclass(frozen=True)
class StepRow:
    """One step in words. `change`: what became of it against the step before."""

    number: int
    label: str
    change: str
    kind: str
    words: str
    ratio: str
    patients: str
    events: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SiteRow:
    site: str
    starters: str
    days: str
    each: str


@dataclass(frozen=True)
class AutopsyShown:
    sentences: tuple[str, ...]
    sites: tuple[SiteRow, ...]
    steps: tuple[StepRow, ...]
    days_figure: str | None
    figure: str | None


def autopsy(found: BiasAutopsy, events: str, level: float) -> AutopsyShown:
    """Sentences, tables and the figure. `level`: of the intervals.

    `events`: what the outcome's counts are called. The figure is None where no step has a number.
    """
    has_number = any(s.hazard_ratio is not None for s in found.steps)
    return AutopsyShown(
        sentences=(*immortal_sentences(found), *step_sentences(found)),
        sites=tuple(_sites(found)),
        steps=tuple(_step(i, s) for i, s in enumerate(found.steps, start=1)),
        days_figure=days_svg(found),
        figure=steps_svg(found, events, level) if has_number else None,
    )


def immortal_sentences(found: BiasAutopsy) -> tuple[str, ...]:
    """How many days, whose, and why nobody could die in them."""
    if not found.starters:
        return ("Nobody started, so no day is immortal and there is nothing to give away.",)
    who = "1 patient started" if found.starters == 1 else f"{count(found.starters)} patients started"
    days = count(round(found.immortal_days))
    first = (
        f"{who}. Before their start they had waited {days} days in all ({found.immortal_days / 365.25:.1f} "
        "person-years). Nobody who was going to start could die in these days: they are immortal."
    )
    share = found.share_of_treated_days
    second = "The naive comparison counts every one of them as a day under treatment, survived."
    if share is not None:
        second += f" They are {percent(share, 1)} of all the days that it counts as treated."
    third = ""
    if found.days_median is not None:
        third = f"Half of the starters waited {whole_days(found.days_median)} days or more"
        if found.days_q1 is not None and found.days_q3 is not None:
            third += f" (quartiles {whole_days(found.days_q1)} and {whole_days(found.days_q3)})"
        third += "."
    return tuple(s for s in (first, second, third) if s)


def step_sentences(found: BiasAutopsy) -> tuple[str, ...]:
    """What the steps did to the hazard ratio: only those that have a number are told."""
    known = {s.step: s.hazard_ratio for s in found.steps if s.hazard_ratio is not None}
    naive, free = known.get("naive"), known.get("time_dependent")
    if naive is None or free is None:
        return ()
    said = f"With immortal time the hazard ratio is {ratio(naive)}; without it, {ratio(free)}."
    if "adjusted" in known:
        said += f" Adjusted for who tends to start, it is {ratio(known['adjusted'])}."
    if "weighted" in known:
        said += f" The strategies emulated from day 0 give {ratio(known['weighted'])}, another estimand."
    if "answer" in known:
        said += f" The study's answer is {ratio(known['answer'])}."
    return (said,)


def _sites(found: BiasAutopsy) -> list[SiteRow]:
    return [
        SiteRow(
            site=site,
            starters=count(found.starters_by_site.get(site, 0)),
            days=count(round(days)),
            each=f"{days / found.starters_by_site[site]:.0f}" if found.starters_by_site.get(site) else "",
        )
        for site, days in sorted(found.days_by_site.items())
    ]


def _step(number: int, s: AutopsyStep) -> StepRow:
    return StepRow(
        number=number,
        label=s.label,
        change=CHANGES[s.change],
        kind=s.change,
        words=s.words,
        ratio=_ratio(s),
        patients=count(s.n),
        events=count(s.events),
        warnings=tuple(s.warnings),
    )


def _ratio(s: AutopsyStep) -> str:
    if s.hazard_ratio is None:
        return NOT_ESTIMABLE
    limits = interval(ratio(s.ci_low), ratio(s.ci_high))
    return f"{ratio(s.hazard_ratio)} ({limits})"


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def x(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return _LEFT + min(max(share, 0.0), 1.0) * (_RIGHT - _LEFT)


_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def _scale(steps: list[AutopsyStep]) -> _Scale:
    """Around every estimate; an interval stretches the axis to 0.05 and 20, then goes beyond it."""
    centres = [s.hazard_ratio for s in steps if s.hazard_ratio]
    ends = [min(max(v, 0.05), 20.0) for s in steps for v in (s.ci_low, s.ci_high) if v is not None]
    low, high = min([0.5, *centres, *ends]), max([2.0, *centres, *ends])
    return _Scale(
        max((t for t in _TICKS if t <= low), default=_TICKS[0]),
        min((t for t in _TICKS if t >= high), default=_TICKS[-1]),
    )


def days_svg(found: BiasAutopsy) -> str | None:
    """One bar: all days that the naive analysis counts as treated, the immortal ones first and hatched.

    None where their share is not known.
    """
    share = found.share_of_treated_days
    if not share:
        return None
    height, left, right = 62.0, 4.0, _WIDTH - 4.0
    edge = left + share * (right - left)
    total = found.immortal_days / share
    waited = f"{count(round(found.immortal_days))} immortal days, before the start ({percent(share)})"
    treated = f"{count(round(total - found.immortal_days))} days after the start"
    with mpl.rc_context(style("immortal")):
        figure = new_figure(_WIDTH, height)
        canvas = figure.add_axes((0, 0, 1, 1))
        canvas.set_xlim(0, _WIDTH)
        canvas.set_ylim(height, 0)
        canvas.axis("off")
        bar: dict[str, Any] = {"height": 22, "align": "edge"}
        canvas.barh(20, edge - left, left=left, facecolor="#fdf1e8", edgecolor=ORANGE, hatch="///", **bar)
        canvas.barh(20, right - edge, left=edge, facecolor=BLUE, edgecolor=BLUE, **bar)
        canvas.text(left, 11, waited, va="center", color=WARNING_INK, fontweight="bold")
        canvas.text(right, 53, treated, va="center", ha="right", color=BLUE, fontweight="bold")
        title = "All days that the naive comparison counts as treated"
        return inline_svg(figure, "immortal", title, f"{waited}; {treated}.")


def steps_svg(found: BiasAutopsy, events: str, level: float) -> str:
    """From top to bottom: each step's interval on a log axis, a thread from one estimate to the next."""
    steps, scale = list(found.steps), _scale(list(found.steps))
    height = _HEAD + _ROW * len(steps) + _FOOT
    with mpl.rc_context(style("autopsy")):
        figure = new_figure(_WIDTH, height)
        canvas = figure.add_axes((0, 0, 1, 1))
        canvas.set_xlim(0, _WIDTH)
        canvas.set_ylim(height, 0)
        canvas.axis("off")
        bold: dict[str, Any] = {"fontweight": "bold", "va": "center", "color": INK}
        canvas.text(4, 11, "Step", **bold)
        canvas.text((_LEFT + _RIGHT) / 2, 11, "Hazard ratio, log scale", ha="center", **bold)
        canvas.text(_RATIO, 11, f"HR ({100 * level:g}\u202f% CI)", **bold)
        canvas.plot([0, _WIDTH], [20, 20], color=MUTED, linewidth=0.8)
        bottom = _HEAD + _ROW * len(steps)
        _draw_scale(canvas, scale, bottom)
        _draw_thread(canvas, scale, steps)
        for i, step in enumerate(steps):
            _draw_step(canvas, scale, i, step)
        return inline_svg(
            figure, "autopsy", "Bias autopsy: the hazard ratio step by step", _spoken(steps, events)
        )


def _middle(index: int) -> float:
    return _HEAD + _ROW * (index + 0.5)


def _draw_thread(canvas: Axes, scale: _Scale, steps: list[AutopsyStep]) -> None:
    """The way of the estimate, so that the eye sees how far each step moved it."""
    known = [(scale.x(s.hazard_ratio), _middle(i)) for i, s in enumerate(steps) if s.hazard_ratio]
    if len(known) > 1:
        canvas.plot(*zip(*known, strict=True), color=RULE, linewidth=5, zorder=0.6, solid_capstyle="round")


def _draw_step(canvas: Axes, scale: _Scale, index: int, s: AutopsyStep) -> None:
    y, colour = _middle(index), _COLOURS[s.change]
    label = textwrap.wrap(f"{index + 1}  {s.label}", 38)[:2]
    canvas.text(4, y - 8, "\n".join(label), va="center", fontweight="bold", color=INK, parse_math=False)
    tag = WARNING_INK if s.change == "naive" else colour
    canvas.text(4, y + 8, CHANGES[s.change].upper(), va="center", fontsize=7.5, fontweight="bold", color=tag)
    canvas.text(_RATIO, y, _ratio(s), va="center", color=INK)
    if not s.hazard_ratio:
        canvas.text(_LEFT + 4, y, "no ratio: see the table", va="center", fontstyle="italic", color=MUTED)
        return
    dashes = "--" if s.change == "naive" else "-"
    if s.ci_low is not None or s.ci_high is not None:
        left = scale.x(s.ci_low) if s.ci_low else _LEFT
        right = scale.x(s.ci_high) if s.ci_high is not None else _RIGHT
        canvas.plot([left, right], [y, y], color=colour, linewidth=1.8, linestyle=dashes)
        if not s.ci_low or s.ci_low < scale.low:
            canvas.plot([_LEFT], [y], marker="<", color=colour, markersize=5)
        if s.ci_high is None or s.ci_high > scale.high:
            canvas.plot([_RIGHT], [y], marker=">", color=colour, markersize=5)
    canvas.plot(
        [scale.x(s.hazard_ratio)], [y], marker=_MARKERS[s.change], markersize=8, markeredgewidth=1.5,
        markerfacecolor="white" if s.change != "bias_removed" else colour, markeredgecolor=colour,
        linestyle="none",
    )  # fmt: skip


def _draw_scale(canvas: Axes, scale: _Scale, bottom: float) -> None:
    canvas.plot([_LEFT, _RIGHT], [bottom, bottom], color=MUTED, linewidth=0.9)
    for tick in (t for t in _TICKS if scale.low <= t <= scale.high):
        x = scale.x(tick)
        dashes: Any = (0, (2, 2)) if tick == 1 else "-"
        canvas.plot(
            [x, x], [22, bottom], color=MUTED if tick == 1 else RULE, linewidth=1 if tick == 1 else 0.5,
            linestyle=dashes, zorder=0.4,
        )  # fmt: skip
        canvas.plot([x, x], [bottom, bottom + 4], color=MUTED, linewidth=0.9)
        canvas.text(x, bottom + 12, f"{tick:g}", ha="center", va="center")
    small: dict[str, Any] = {"va": "center", "fontsize": 8, "color": MUTED}
    canvas.text(scale.x(1) - 6, bottom + 30, "← lower hazard when treated", ha="right", **small)
    canvas.text(scale.x(1) + 6, bottom + 30, "higher hazard when treated →", ha="left", **small)


def _spoken(steps: list[AutopsyStep], events: str) -> str:
    said = [
        f"Step {i}, {s.label} ({CHANGES[s.change]}): {_ratio(s)}, {count(s.n)} patients, "
        f"{count(s.events)} {events}"
        for i, s in enumerate(steps, start=1)
    ]
    return ". ".join(said) + "."
