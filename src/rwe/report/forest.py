"""The forest plot: every hazard ratio of the evidence on one log axis, with or without a number."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes

from rwe.evidence.contract import AnalysisKind, Estimate, Evidence
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
from rwe.report.formats import NOT_ESTIMABLE, count, level
from rwe.report.names import ANALYSES, BIAS, EMULATIONS, Names, analysis_name
from rwe.report.words import description, hazard_ratios, primary_estimate, ratio_with_interval

Kind = Literal["primary", "site", "other", "biased"]

_WIDTH = 760.0
_LABEL, _PLOT_FROM, _PLOT_TO, _N, _EVENTS, _RATIO = 4.0, 262.0, 522.0, 566.0, 612.0, 628.0
_WRAP, _LINE, _GAP = 50, 11.5, 7.0


@dataclass(frozen=True)
class ForestRow:
    """One hazard ratio, or the reason why there is none."""

    kind: Kind
    label: str
    n: str
    events: str
    estimate: float | None
    low: float | None
    high: float | None
    text: str
    note: str

    @property
    def lines(self) -> list[str]:
        return textwrap.wrap(self.label, _WRAP) or [""]

    @property
    def note_lines(self) -> list[str]:
        """At most three lines; the whole reason stands in the table of estimates."""
        return textwrap.wrap(textwrap.shorten(self.note, 165, placeholder=" …"), 58)

    @property
    def height(self) -> float:
        return max(len(self.lines), len(self.note_lines)) * _LINE + _GAP


@dataclass(frozen=True)
class ForestGroup:
    title: str
    rows: tuple[ForestRow, ...]


def forest_groups(evidence: Evidence, names: Names) -> list[ForestGroup]:
    """All hazard ratios, grouped: primary, by site, emulated strategies, time-dependent, landmark, other."""
    groups: dict[str, list[ForestRow]] = {}
    ratios, primary = hazard_ratios(evidence), primary_estimate(evidence)
    for e in (e for e in ratios if e.parameters.variant is None):  # those have a figure of their own
        groups.setdefault(_group(e), []).append(_row(e, names, primary))
    told = {(e.analysis, w) for e in ratios if e.status == "refused" for w in e.warnings}
    for r in evidence.refused:
        kind = r.analysis.split(",")[0].split(" ")[0]
        if kind in _RATIOS and (kind, r.reason) not in told:
            label = analysis_name(r.analysis)
            row = ForestRow("other", label, "", "", None, None, None, NOT_ESTIMABLE, f"refused: {r.reason}")
            groups.setdefault(_OTHER, []).append(row)
    return [ForestGroup(title, tuple(groups[title])) for title in _GROUPS if title in groups]


_PRIMARY, _SITES, _OTHER = "Primary analysis, all sites", "By site", "Other and refused analyses"
_EMULATED = "Strategies emulated from time zero, all sites"
_TIME_DEPENDENT = "Time-dependent exposure, all sites"
_LANDMARK = "Landmark analyses, all sites"
_PROGRESSION_FREE = "Another outcome: progression-free survival, all sites"
_NAIVE = f"Naive comparison ({BIAS})"
_GROUPS = (_PRIMARY, _SITES, _EMULATED, _TIME_DEPENDENT, _LANDMARK, _PROGRESSION_FREE, _OTHER, _NAIVE)
_SHORT: dict[AnalysisKind, str] = {
    "naive_firth": "Firth penalty",
    "landmark_firth": "Firth penalty",
    "time_dependent_firth": "Firth penalty",
    "landmark_weighting": "Weights",
    "clone_censor_weight": "Clone-censor-weight",
    "sequential_trials": "Sequential target trials",
    "marginal_structural_model": "Marginal structural model",
}
"""What tells an analysis from the others of its group; the plain Cox models need no word."""
_RATIOS = frozenset({"naive_cox", "landmark_cox", "time_dependent_cox", *_SHORT})


def _group(e: Estimate) -> str:
    if e.is_biased:
        return _NAIVE
    if e.site is not None:
        return _SITES
    if e.role == "primary":
        return _PRIMARY
    if e.parameters.endpoint is not None:
        return _PROGRESSION_FREE
    if e.analysis in EMULATIONS:
        return _EMULATED
    kind = e.analysis.removesuffix("_cox").removesuffix("_firth")
    return {"time_dependent": _TIME_DEPENDENT, "landmark": _LANDMARK, "landmark_weighting": _LANDMARK}.get(
        kind, _OTHER
    )


def _row(e: Estimate, names: Names, primary: Estimate | None) -> ForestRow:
    kind: Kind = "other"
    if e.is_biased:
        kind = "biased"
    elif e.site is not None:
        kind = "site"
    elif e.role == "primary":
        kind = "primary"
    place = [] if e.site is None else [f"Site {e.site}"]
    if e.site is not None and primary is not None and e.analysis != primary.analysis:
        place.append(ANALYSES[e.analysis])
    elif e.analysis in _SHORT:
        place.append(_SHORT[e.analysis])
    elif e.parameters.endpoint is not None or _group(e) == _OTHER:
        place.append(ANALYSES[e.analysis])
    tag = [*(["BIASED"] if e.is_biased else []), *(["POST HOC"] if e.is_posthoc else [])]
    note = ""
    if e.estimate is None:
        state = {"refused": "refused", "did_not_converge": "did not converge", "ok": "not estimable"}[
            e.status
        ]
        note = f"{state}: {' '.join(e.warnings)}" if e.warnings else state
    return ForestRow(
        kind=kind,
        label=": ".join([*tag, *place, description(e, names, primary)]),
        n=count(e.n),
        events=count(e.events),
        estimate=e.estimate,
        low=e.ci_low,
        high=e.ci_high,
        text=ratio_with_interval(e),
        note=note,
    )


@dataclass(frozen=True)
class LogAxis:
    """A log axis between two ratios, laid over the plot's points."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Where a ratio stands, at the edge if it lies beyond."""
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return _PLOT_FROM + min(max(share, 0.0), 1.0) * (_PLOT_TO - _PLOT_FROM)


_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def log_axis(rows: list[ForestRow]) -> LogAxis:
    """From tick to tick around all estimates; intervals stretch it to 0.05 and 20, then get arrows."""
    centres = [r.estimate for r in rows if r.estimate is not None and r.estimate > 0]
    limits = [min(max(v, 0.05), 20.0) for r in rows for v in (r.low, r.high) if v is not None]
    low, high = min([0.5, *centres, *limits]), max([2.0, *centres, *limits])
    return LogAxis(
        max((t for t in _TICKS if t <= low), default=_TICKS[0]),
        min((t for t in _TICKS if t >= high), default=_TICKS[-1]),
    )


def forest_svg(
    groups: list[ForestGroup],
    ci_level: float | None,
    events: str = "deaths",
    *,
    figure_id: str = "forest",
    title: str = "Forest plot of all hazard ratios",
) -> str:
    """Draw the groups from top to bottom: label, interval on a log axis, patients, events, ratio in words.

    events: what the outcome's counts are called. figure_id: its own for each figure of a page.
    """
    rows = [r for g in groups for r in g.rows]
    body = sum(r.height for r in rows) + 24.0 * len(groups)
    height = 26.0 + body + 50.0
    axis = log_axis(rows)
    with mpl.rc_context(style(figure_id)):
        figure = new_figure(_WIDTH, height)
        canvas = figure.add_axes((0, 0, 1, 1))
        canvas.set_xlim(0, _WIDTH)
        canvas.set_ylim(height, 0)
        canvas.axis("off")
        _draw_head(canvas, ci_level, events)
        y = 26.0
        for g in groups:
            y = _draw_group(canvas, axis, g, y)
        _draw_axis(canvas, axis, 22.0, y + 4.0)
        return inline_svg(figure, figure_id, title, _spoken(groups))


def _draw_head(canvas: Axes, ci_level: float | None, events: str) -> None:
    bold: dict[str, Any] = {"fontweight": "bold", "va": "center", "color": INK}
    canvas.text(_LABEL, 11, "Analysis", **bold)
    canvas.text((_PLOT_FROM + _PLOT_TO) / 2, 11, "Hazard ratio, log scale", ha="center", **bold)
    canvas.text(_N, 11, "Patients", ha="right", **bold)
    canvas.text(_EVENTS, 11, events.capitalize(), ha="right", **bold)
    canvas.text(_RATIO, 11, f"HR ({level(ci_level)})", **bold)
    canvas.plot([0, _WIDTH], [20, 20], color=MUTED, linewidth=0.8)


def _draw_group(canvas: Axes, axis: LogAxis, group: ForestGroup, y: float) -> float:
    is_biased = all(r.kind == "biased" for r in group.rows)
    if is_biased:
        canvas.axhspan(
            y + 2, y + 24 + sum(r.height for r in group.rows), facecolor="#f4f4f4", edgecolor="#e2e2e2",
            hatch="///", linewidth=0, zorder=0,
        )  # fmt: skip
    ink = WARNING_INK if is_biased else INK
    canvas.text(_LABEL, y + 14, group.title, va="center", fontweight="bold", color=ink)
    y += 24.0
    for row in group.rows:
        _draw_row(canvas, axis, row, y)
        y += row.height
    return y


def _draw_row(canvas: Axes, axis: LogAxis, row: ForestRow, y: float) -> None:
    middle = y + (row.height - _GAP) / 2 + 1
    weight = "bold" if row.kind == "primary" else "normal"
    for i, line in enumerate(row.lines):
        offset = (i - (len(row.lines) - 1) / 2) * _LINE
        canvas.text(
            _LABEL + 8, middle + offset, line, va="center", fontsize=8, fontweight=weight, parse_math=False
        )
    canvas.text(_N, middle, row.n, ha="right", va="center", fontweight=weight)
    canvas.text(_EVENTS, middle, row.events, ha="right", va="center", fontweight=weight)
    canvas.text(_RATIO, middle, row.text, va="center", fontweight=weight)
    if row.estimate is None or row.estimate <= 0:
        for i, line in enumerate(row.note_lines):
            offset = (i - (len(row.note_lines) - 1) / 2) * _LINE
            canvas.text(
                _PLOT_FROM + 4, middle + offset, line, va="center", fontsize=7.5, color=MUTED,
                fontstyle="italic", parse_math=False,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
        return
    _draw_interval(canvas, axis, row, row.estimate, middle)


def _draw_interval(canvas: Axes, axis: LogAxis, row: ForestRow, estimate: float, y: float) -> None:
    colour = {"primary": BLUE, "site": BLUE, "other": INK, "biased": ORANGE}[row.kind]
    marker, size = {"primary": ("D", 8.5), "site": ("o", 5.5), "other": ("s", 5.5), "biased": ("D", 7.5)}[
        row.kind
    ]
    dashes = "--" if row.kind == "biased" else "-"
    thickness = 2.2 if row.kind == "primary" else 1.3
    if row.low is not None or row.high is not None:
        left = _PLOT_FROM if not row.low else axis.x(row.low)
        right = _PLOT_TO if row.high is None else axis.x(row.high)
        canvas.plot([left, right], [y, y], color=colour, linewidth=thickness, linestyle=dashes)
        if not row.low or row.low < axis.low:
            canvas.plot([_PLOT_FROM], [y], marker="<", color=colour, markersize=5)
        if row.high is None or row.high > axis.high:
            canvas.plot([_PLOT_TO], [y], marker=">", color=colour, markersize=5)
    face = "white" if row.kind == "biased" else colour
    canvas.plot(
        [axis.x(estimate)], [y], marker=marker, markersize=size, markerfacecolor=face,
        markeredgecolor=colour, markeredgewidth=1.4, linestyle="none",
    )  # fmt: skip


def _draw_axis(canvas: Axes, axis: LogAxis, top: float, bottom: float) -> None:
    canvas.plot([axis.x(1)] * 2, [top, bottom], color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=0.5)
    canvas.plot([_PLOT_FROM, _PLOT_TO], [bottom, bottom], color=MUTED, linewidth=0.9)
    for tick in (t for t in _TICKS if axis.low <= t <= axis.high):
        x = axis.x(tick)
        if tick != 1:
            canvas.plot([x, x], [top, bottom], color=RULE, linewidth=0.5, zorder=0.4)
        canvas.plot([x, x], [bottom, bottom + 4], color=MUTED, linewidth=0.9)
        canvas.text(x, bottom + 12, f"{tick:g}", ha="center", va="center")
    small: dict[str, Any] = {"va": "center", "fontsize": 8, "color": MUTED}
    canvas.text(axis.x(1) - 6, bottom + 30, "← lower hazard when started", ha="right", **small)
    canvas.text(axis.x(1) + 6, bottom + 30, "higher hazard when started →", ha="left", **small)


def _spoken(groups: list[ForestGroup]) -> str:
    said = [f"{g.title}. " + "; ".join(f"{r.label}: {r.note or r.text}" for r in g.rows) for g in groups]
    return ". ".join(said) + "."
