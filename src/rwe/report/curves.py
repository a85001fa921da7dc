"""Survival curves with the numbers at risk under the axis. Draws given points; estimates nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from rwe.evidence.contract import Contrast, Curve, CurvePoint, Evidence, groups_of
from rwe.report.figures import (
    BLUE,
    FONT_POINTS,
    GREY_DARK,
    GREY_LIGHT,
    INK,
    MUTED,
    ORANGE,
    WARNING_INK,
    inline_svg,
    new_figure,
    style,
)
from rwe.report.formats import DAYS_PER_MONTH, count, interval, percent
from rwe.report.names import ANALYSES, BIAS, WEIGHTED, Names
from rwe.report.words import strategy_rules

_DASHES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")
_COLUMNS_DRAWN = 300
"""A step is finer than the eye once two fall into the same 300th of the axis: only the last is drawn."""


@dataclass(frozen=True)
class CurveSet:
    """The curves of one analysis at one place: one figure.

    `is_weighted`: survival is of weighted patients; the numbers at risk count them unweighted.
    """

    figure_id: str
    title: str
    is_biased: bool
    is_wide: bool
    axis_label: str
    curves: tuple[Curve, ...]
    is_weighted: bool = False

    @property
    def has_bands(self) -> bool:
        """Whether any point has an interval."""
        return any(p.ci_low is not None or p.ci_high is not None for c in self.curves for p in c.points)

    @property
    def is_emulated(self) -> bool:
        """Whether the curves are of copies that follow a strategy from day 0."""
        return groups_of(self.curves[0].analysis) == "follows_strategy"

    @property
    def is_progression_free(self) -> bool:
        return self.curves[0].parameters.endpoint == "progression_free_survival"


@dataclass(frozen=True)
class CurveReading:
    """What a curve says at a tick: for the table beside the figure."""

    strategy: str
    month: int
    at_risk: str
    survival: str
    interval: str


def curve_sets(evidence: Evidence, names: Names) -> list[CurveSet]:
    """Group the curves by analysis, rules and site: Simon–Makuch, clone-censor-weight, landmarks, naive.

    Two analyses that the parameters do not tell apart are two figures: a figure has each strategy once.
    """
    groups: dict[tuple[str, ...], list[Curve]] = {}
    seen: dict[tuple[str, ...], int] = {}
    for c in evidence.curves:
        rules = c.parameters.model_dump_json(exclude={"time_origin_day"})
        of_arm = (c.analysis, rules, c.site or "", c.strategy)
        seen[of_arm] = seen.get(of_arm, 0) + 1
        groups.setdefault((*of_arm[:3], str(seen[of_arm])), []).append(c)
    ranked = sorted(groups.values(), key=_rank)
    return _told_apart([_curve_set(i, group, names) for i, group in enumerate(ranked, start=1)])


def _told_apart(found: list[CurveSet]) -> list[CurveSet]:
    """Number the figures of one title, and give width to the first of each analysis only."""
    titles: dict[str, int] = {}
    analyses: set[str] = set()
    shown = []
    for s in found:
        titles[s.title] = titles.get(s.title, 0) + 1
        title = s.title if titles[s.title] == 1 else f"{s.title} ({titles[s.title]})"
        is_first = s.curves[0].analysis not in analyses
        analyses.add(s.curves[0].analysis)
        shown.append(replace(s, title=title, is_wide=s.is_wide and is_first))
    return shown


_ORDER = ("simon_makuch", "clone_censor_weight", "landmark_weighting", "landmark_kaplan_meier")


def _rank(group: list[Curve]) -> tuple[bool, bool, int]:
    first = group[0]
    place = _ORDER.index(first.analysis) if first.analysis in _ORDER else len(_ORDER)
    return first.site is not None, any(c.is_biased for c in group), place


def _followed(curve: Curve) -> Curve:
    """The curve as far as somebody is at risk.

    The points of a weighted curve are the days of deaths in either arm, so they go on where nobody of this
    arm is followed any more, at a level that is no estimate.
    """
    last = max((i for i, p in enumerate(curve.points) if p.at_risk > 0), default=None)
    return curve if last is None else curve.model_copy(update={"points": curve.points[: last + 1]})


def _curve_set(number: int, group: list[Curve], names: Names) -> CurveSet:
    group = [_followed(c) for c in group]
    first = group[0]
    landmark = first.parameters.landmark_day
    arms = names.strategy_order([c.strategy for c in group])
    restarts = landmark is not None and first.analysis.startswith("landmark_")
    is_whole = first.analysis in {"simon_makuch", "clone_censor_weight"}
    return CurveSet(
        figure_id=f"curves{number}",
        title=_title(first, names),
        is_biased=any(c.is_biased for c in group),
        is_wide=first.site is None and is_whole,
        axis_label=f"Months since day {landmark}" if restarts else "Months since time zero (day 0)",
        curves=tuple(sorted(group, key=lambda c: arms.index(c.strategy))),
        is_weighted=first.analysis in WEIGHTED,
    )


def _title(curve: Curve, names: Names) -> str:
    p = curve.parameters
    parts = [ANALYSES[curve.analysis]]
    parts += [] if p.landmark_day is None else [f"day {p.landmark_day}"]
    parts += strategy_rules(p)
    parts += [] if p.endpoint is None else [names.progression_free]
    parts += [] if curve.site is None else [f"site {curve.site}"]
    return ", ".join(parts)


def at_risk(curve: Curve, day: float, *, enters_late: bool = False) -> int:
    """Number at risk just before `day`: that of the first point at or after it, 0 beyond the last.

    This is what R's summary(survfit) prints. The contract gives the number at risk just before each point,
    so the point before `day` would still count those who left at it. `enters_late` marks the exposed of an
    analysis with delayed entry: exposure begins after the day of the start, so nobody is in it on day 0.
    """
    if enters_late and day <= 0:
        return next((p.at_risk for p in curve.points if p.time_days <= 0), 0)
    return next((p.at_risk for p in curve.points if p.time_days >= day), 0)


def point_at(curve: Curve, day: float) -> CurvePoint | None:
    """The point that holds on `day`: the last at or before it. None before the first and beyond the last."""
    if not curve.points or day > curve.points[-1].time_days:
        return None
    return next((p for p in reversed(curve.points) if p.time_days <= day), None)


def ticks_months(last_day: float, most: int) -> list[int]:
    """Round months from 0, at most `most` steps, up to the last day."""
    last = max(last_day / DAYS_PER_MONTH, 1)
    step = next((s for s in (1, 2, 3, 6, 12, 24, 36, 60, 120) if last / s <= most), 240)
    return list(range(0, math.floor(last) + 1, step))


def readings(shown: CurveSet, names: Names) -> list[CurveReading]:
    """Numbers at risk and survival at the figure's ticks, arm by arm."""
    rows = []
    for c in shown.curves:
        for month in _ticks(shown):
            point = point_at(c, month * DAYS_PER_MONTH)
            before_any = not c.points or month * DAYS_PER_MONTH < c.points[0].time_days
            value = "100 %" if before_any else "after the last follow-up"
            limits = ""
            if point is not None:
                value = percent(point.survival, 1)
                limits = interval(percent(point.ci_low, 1), percent(point.ci_high, 1))
            risk = at_risk(c, month * DAYS_PER_MONTH, enters_late=_enters_late(c, names))
            rows.append(CurveReading(_group(c, names), month, count(risk), value, limits))
    return rows


def survival_name(shown: CurveSet, names: Names) -> str:
    """What the curves show."""
    return names.progression_free if shown.is_progression_free else names.survival


def _group(curve: Curve, names: Names) -> str:
    contrast = Contrast(strategy=curve.strategy, reference=None, groups=groups_of(curve.analysis))
    return names.group(curve.strategy, contrast, curve.parameters)


def _enters_late(curve: Curve, names: Names) -> bool:
    return curve.analysis == "simon_makuch" and curve.strategy == names.treated


def _last_day(shown: CurveSet) -> float:
    return max([DAYS_PER_MONTH, *(c.points[-1].time_days for c in shown.curves if c.points)])


def _ticks(shown: CurveSet) -> list[int]:
    return ticks_months(_last_day(shown), 12 if shown.is_wide else 6)


def _start_day(curve: Curve) -> float:
    """Where a curve leaves 100 %: at its landmark if it keeps the clock of time zero, else on day 0."""
    landmark = curve.parameters.landmark_day
    return float(landmark) if landmark is not None and curve.analysis == "simon_makuch" else 0.0


def thinned(curve: Curve, last_day: float) -> list[CurvePoint]:
    """The points worth drawing: the last in each column of the figure, and all where a value is null."""
    kept: dict[tuple[int, bool], CurvePoint] = {}
    for p in curve.points:
        kept[(int(_COLUMNS_DRAWN * p.time_days / last_day), p.survival is None)] = p
    return sorted(kept.values(), key=lambda p: p.time_days)


def curves_svg(shown: CurveSet, names: Names) -> str:
    """One figure: curves, interval bands, numbers at risk. Biased curves are grey, hatched and say so."""
    arms = len(shown.curves)
    width = 760.0 if shown.is_wide else 390.0
    plot = 250.0 if shown.is_wide else 190.0
    top = 14.0 + 14.0 * arms if not shown.is_wide else 30.0
    below = 38.0 + 16.0 + 27.0 * arms
    height = top + plot + below
    with mpl.rc_context(style(shown.figure_id)):
        figure = new_figure(width, height)
        left, right = 44.0, 14.0
        box = (left / width, below / height, (width - left - right) / width, plot / height)
        axes = figure.add_axes(box)
        risk = figure.add_axes((box[0], 0, box[2], (below - 38.0) / height))
        _draw_curves(axes, shown, names)
        _draw_risk_table(figure, risk, shown, names)
        return inline_svg(figure, shown.figure_id, _spoken_title(shown), _spoken_summary(shown, names))


def _colour(index: int, is_biased: bool) -> str:
    palette = (GREY_DARK, GREY_LIGHT) if is_biased else (BLUE, ORANGE)
    return palette[index] if index < len(palette) else MUTED


def _ink(index: int, is_biased: bool) -> str:
    """The same colour, dark enough for small text."""
    colour = _colour(index, is_biased)
    return WARNING_INK if colour == ORANGE else colour


def _draw_curves(axes: Axes, shown: CurveSet, names: Names) -> None:
    last = _last_day(shown)
    handles = []
    for i, c in enumerate(shown.curves):
        colour, dashes = _colour(i, shown.is_biased), _DASHES[min(i, 2)]
        start = _start_day(c)
        drawn = [p for p in thinned(c, last) if p.time_days > start]
        x = [start / DAYS_PER_MONTH, *(p.time_days / DAYS_PER_MONTH for p in drawn)]
        low = [1.0, *(math.nan if p.ci_low is None else p.ci_low for p in drawn)]
        high = [1.0, *(math.nan if p.ci_high is None else p.ci_high for p in drawn)]
        middle = [1.0, *(math.nan if p.survival is None else p.survival for p in drawn)]
        axes.fill_between(x, low, high, step="post", color=colour, alpha=0.14, linewidth=0)
        axes.step(x, middle, where="post", color=colour, linestyle=dashes, linewidth=1.8)
        label = _group(c, names)
        handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=1.8, label=label))
    if shown.is_biased:
        _mark_biased(axes, last)
    axes.set_xlim(0, last / DAYS_PER_MONTH)
    axes.set_ylim(0, 1.005)
    axes.set_xticks(_ticks(shown))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color="#e4e8ed", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(shown.axis_label, labelpad=4)
    legend = axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncol=len(handles) if shown.is_wide else 1,
        frameon=False,
        borderaxespad=0.2,
        handlelength=2.6,
        fontsize=FONT_POINTS,
    )
    for i, text in enumerate(legend.get_texts()):
        text.set_parse_math(False)
        text.set_color(_ink(i, shown.is_biased))


def _mark_biased(axes: Axes, last_day: float) -> None:
    axes.axvspan(
        0,
        last_day / DAYS_PER_MONTH,
        facecolor="#f3f3f3",
        edgecolor="#dcdcdc",
        hatch="///",
        linewidth=0,
        zorder=0,
    )
    axes.text(
        0.98,
        0.95,
        BIAS.upper(),
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontweight="bold",
        color=WARNING_INK,
        bbox={"facecolor": "white", "edgecolor": WARNING_INK, "boxstyle": "square,pad=0.35"},
    )


def _draw_risk_table(figure: Figure, axes: Axes, shown: CurveSet, names: Names) -> None:
    """Two lines an arm: its name at the left edge, then the numbers under their ticks. Any name fits."""
    points_high = axes.get_position().height * 72 * float(figure.get_size_inches()[1])
    axes.set_xlim(0, _last_day(shown) / DAYS_PER_MONTH)
    axes.set_ylim(points_high, 0)
    axes.axis("off")
    left_edge = -axes.get_position().x0 / axes.get_position().width + 0.008
    place = axes.get_yaxis_transform()
    head = "Number at risk (copies, not weighted)" if shown.is_emulated else "Number at risk"
    axes.text(left_edge, 7, head, transform=place, va="center", color=INK, fontweight="bold")
    for i, c in enumerate(shown.curves):
        y = 21.0 + 27.0 * i
        ink = _ink(i, shown.is_biased)
        axes.text(
            left_edge,
            y,
            _group(c, names),
            transform=place,
            va="center",
            color=ink,
            parse_math=False,
        )
        for month in _ticks(shown):
            number = at_risk(c, month * DAYS_PER_MONTH, enters_late=_enters_late(c, names))
            axes.text(month, y + 12.5, count(number), ha="center", va="center", color=INK, clip_on=False)


def _spoken_title(shown: CurveSet) -> str:
    return f"{shown.title} ({BIAS})" if shown.is_biased else shown.title


def _spoken_summary(shown: CurveSet, names: Names) -> str:
    what = survival_name(shown, names)
    said = [
        f"{r.strategy}, month {r.month}: {what} {r.survival}, {r.at_risk} at risk"
        for r in readings(shown, names)
        if r.month > 0
    ]
    return "Survival curves. " + "; ".join(said) + "."
