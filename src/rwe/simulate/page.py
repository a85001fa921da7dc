"""What a run of the harness found, to read: a table and a figure. Numbers as JSON for whoever checks them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from rwe.report.figures import BLUE, GREY_LIGHT, INK, MUTED, ORANGE, inline_svg, new_figure, style
from rwe.simulate.coverage import ENOUGH_EVENTS, LOWEST, FewEvents
from rwe.simulate.estimators import ESTIMATORS, estimator
from rwe.simulate.harness import BOOTSTRAP_REPLICATES, SMALL_TRUTH_ERROR, Performance, Simulation
from rwe.simulate.scenarios import scenario

NOMINAL = 0.95
HIGHEST = 0.97
MANY = 2_000
"""Replicates from which on the bounds hold as they are; with fewer, within the Monte Carlo error."""
_ROW = 11.0
_WIDTH = 760.0
_FAILED = ("too low", "too high")


def write(simulation: Simulation, folder: Path) -> tuple[Path, ...]:
    """Write simulation.md, .svg, .json and coverage.json (for `coverage`) into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (*(folder / f"simulation.{suffix}" for suffix in ("md", "svg", "json")), folder / "coverage.json")
    contents = (markdown(simulation), figure(simulation), document(simulation), few_events(simulation))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content + "\n", encoding="utf-8")
    return paths


def document(simulation: Simulation) -> str:
    """All numbers as JSON."""
    rows = [{**dataclasses.asdict(p), "verdict": verdict(p)} for p in simulation.performances]
    return json.dumps({"seed": simulation.seed, "performances": rows}, indent=1, allow_nan=False)


def few_events(simulation: Simulation) -> str:
    """The coverage with few deaths where all assumptions hold, as `rwe.simulate.coverage` reads it."""
    rows = []
    for p in simulation.performances:
        e = estimator(p.estimator)
        if not p.holds or p.coverage is None or p.mean_events >= ENOUGH_EVENTS or e.not_offered:
            continue
        options = tuple(word for word in e.option.split(", ") if word)
        row = FewEvents(
            e.analysis, e.reports, options, p.mean_events, p.answered, p.coverage, e.estimand == "test"
        )
        rows.append(dataclasses.asdict(row))
    return json.dumps({"seed": simulation.seed, "few_events": rows}, indent=1)


def verdict(p: Performance) -> str:
    """A word or two on the coverage (of a test: on its level) against what was asked.

    Intervals: 93 to 97 %, as it is with 2,000 replicates or more and a truth whose error is small, else
    within twice the Monte Carlo error. Tests: 5 % within three times that error.
    """
    if p.coverage is None or p.coverage_error is None:
        return "-"
    if not p.holds:
        return "biased" if p.is_biased else "assumption broken"
    if estimator(p.estimator).not_offered:
        return "not offered"
    error = math.sqrt(NOMINAL * (1 - NOMINAL) / max(p.answered, 1))
    low, high = (NOMINAL - 3 * error, NOMINAL + 3 * error) if p.estimand == "test" else _bounds(p, error)
    found = "well"
    if p.coverage < low:
        found = "too low"
    elif p.coverage > high:
        found = "conservative" if estimator(p.estimator).may_exceed else "too high"
    return found if p.mean_events >= ENOUGH_EVENTS else f"few events: {found}"


def _bounds(p: Performance, error: float) -> tuple[float, float]:
    is_sharp = (p.truth_error or 0) <= SMALL_TRUTH_ERROR * (p.empirical_se or math.inf)
    if p.replicates >= MANY and is_sharp:
        return LOWEST, HIGHEST
    slack = 2 * max(error, 0.0 if is_sharp else p.coverage_error or 0.0)
    return LOWEST - slack, HIGHEST + slack


def judged(simulation: Simulation) -> tuple[Performance, ...]:
    """Those on which the coverage is judged: all assumptions hold, there are at least 100 events, and a
    study can ask for it."""
    return tuple(
        p
        for p in simulation.performances
        if p.holds
        and p.coverage is not None
        and p.mean_events >= ENOUGH_EVENTS
        and not estimator(p.estimator).not_offered
    )


def markdown(simulation: Simulation) -> str:
    """A summary, what the estimators are, and one table a scenario."""
    lines = [*_introduction(simulation), "", *_summary(simulation), "", "## The estimators", ""]
    lines += ["| estimator | what it is |", "|-|-|"]
    asked = dict.fromkeys(p.estimator for p in simulation.performances)
    lines += [f"| {name} | {_words(name)} |" for name in asked]
    for name in dict.fromkeys(p.scenario for p in simulation.performances):
        rows = [p for p in simulation.performances if p.scenario == name]
        s = scenario(name)
        lines += [
            "",
            f"## {name}: {s.words}",
            "",
            f"{s.n:,} patients at {s.sites} site{'s' if s.sites > 1 else ''}.",
            "",
            "| estimator | events | estimand | truth | answered | bias | SE, empirical | SE, mean | RMSE "
            "| coverage | power | coverage is |",
            "|-|-:|-|-:|-:|-:|-:|-:|-:|-:|-:|-|",
            *(_line(p) for p in rows),
        ]
    return "\n".join(lines)


_ESTIMANDS = """Each is judged against its own estimand:

- `conditional` is what the simulation was given. Where no covariate acts, or nothing has an effect, other
  estimators are held to it, too.
- `strategies` compares large cohorts made to follow one strategy each.
- `randomised` is the estimator in large cohorts whose starts are as frequent but depend on nothing.
- `limit` is the estimator in large cohorts, so that its interval is judged and not what it aims at.
- `test`: coverage is the share of cohorts in which a true null hypothesis stays.
"""


def _introduction(simulation: Simulation) -> list[str]:
    few, many = BOOTSTRAP_REPLICATES, 500
    return [
        "# How right are the estimators where the truth is known?",
        "",
        f"Made by `rwe simulate`, seed {simulation.seed}: the synthetic hospitals without HTTP, the same "
        "sites in every cohort, other patients. Ratios are on the log scale, restricted means and medians in "
        "days, survival, incidence and their differences as shares of 1. "
        f"`rwe simulate --replicates {MANY} --resume --out FOLDER` makes it again (an hour and a half on "
        "two cores; `--resume` goes on where a run was stopped), with fewer replicates in minutes.",
        "",
        _ESTIMANDS,
        f"`well`: with {MANY:,} replicates or more 93 to 97 % (a test: 5 % rejected, within three Monte "
        "Carlo errors); with fewer, within twice the Monte Carlo error, which stands beside the coverage. "
        "`±` after a truth is the error of having simulated it; where it exceeds a tenth of the estimate's "
        "standard error it is part of the error of the coverage. `conservative`: above 97 % by construction. "
        "`not offered`: no study can ask for it, it stands beside what is offered. "
        f"`events`: the mean number on which an estimate rests. `few events`: fewer than {ENOUGH_EVENTS}, so "
        "it is tabulated, and an analysis with so few carries a warning where its method covers too "
        "little. `biased` and `assumption broken` are there "
        "to be seen, not judged.",
        "",
        f"A bootstrap here has {few} replicates a cohort ({many} in an analysis): the percentiles of so few "
        f"hold {_percentile_share(few):.1f} % of a perfect bootstrap distribution, those of {many} "
        f"{_percentile_share(many):.1f} %.",
    ]


def _percentile_share(replicates: int) -> float:
    """What the interval between two type 7 quantiles of so many draws holds of their distribution, in %."""
    return 100 * NOMINAL * (replicates - 1) / (replicates + 1)


def _summary(simulation: Simulation) -> list[str]:
    rows = judged(simulation)
    failed = [p for p in rows if verdict(p) in _FAILED]
    above = [p for p in rows if verdict(p) == "conservative"]
    lines = [
        f"**{len(rows) - len(failed)} of {len(rows)}** judgements hold (estimators not marked biased, in "
        "scenarios whose assumptions hold, with at least 100 events)."
    ]
    lines += [f"- does not hold: {p.scenario}, {p.estimator}: {_coverage(p)} ({verdict(p)})" for p in failed]
    unoffered = dict.fromkeys(p.estimator for p in simulation.performances)
    lines += [f"- not offered: {n} ({why})" for n in unoffered if (why := estimator(n).not_offered)]
    lines += [
        f"- conservative: {p.scenario}, {p.estimator}: {_coverage(p)} ({estimator(p.estimator).may_exceed})"
        for p in above
    ]
    return [lines[0], *([""] if len(lines) > 1 else []), *lines[1:]]


def _words(name: str) -> str:
    return next(e.words for e in ESTIMATORS if e.name == name)


def _line(p: Performance) -> str:
    is_days = p.scale == "days"
    truth = _number(p.truth, is_days=is_days)
    if p.truth_error:
        truth += f" ± {_number(p.truth_error, is_days=is_days, places=4)}"
    power = "-" if p.power is None else f"{100 * p.power:.{1 if p.estimand == 'test' else 0}f} %"
    cells = [p.estimator, f"{p.mean_events:.0f}", p.estimand, truth, f"{p.answered} of {p.replicates}"]
    cells += [_number(x, is_days=is_days) for x in (p.bias, p.empirical_se, p.mean_se, p.rmse)]
    return "| " + " | ".join([*cells, _coverage(p), power, verdict(p)]) + " |"


def _coverage(p: Performance) -> str:
    if p.coverage is None:
        return "-"
    return f"{100 * p.coverage:.1f} ± {100 * (p.coverage_error or 0):.1f}"


def _number(value: float | None, *, is_days: bool = False, places: int = 3) -> str:
    return "-" if value is None else f"{value:.{places - 2 if is_days else places}f}"


def figure(simulation: Simulation) -> str:
    """Coverage by estimator and scenario, the nominal level as a line; one SVG element."""
    rows = [p for p in simulation.performances if p.coverage is not None and (p.holds or p.is_biased)]
    with mpl.rc_context(style("simulation")):
        drawing = new_figure(_WIDTH, _ROW * (len(rows) + 8))
        edge = 4 / (len(rows) + 8)
        axes = drawing.add_axes((0.44, edge, 0.53, 1 - 1.5 * edge))
        axes.axvspan(100 * LOWEST, 100 * HIGHEST, color=MUTED, alpha=0.15, linewidth=0)
        axes.axvline(100 * NOMINAL, color=MUTED, linewidth=0.8)
        for place, p in enumerate(rows):
            _draw(axes, p, place)
        axes.set_yticks(range(len(rows)), [f"{p.scenario}: {p.estimator}" for p in rows])
        axes.tick_params(axis="y", labelsize=6.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(79, 101)
        axes.set_xlabel("intervals that hold the truth, % (arrow: fewer than 80)")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return inline_svg(
            drawing,
            "simulation",
            "Coverage of 95 % intervals where the truth is known",
            _spoken(rows),
        )


def _draw(axes: Axes, p: Performance, place: int) -> None:
    colour = ORANGE if p.is_biased else BLUE if p.mean_events >= ENOUGH_EVENTS else GREY_LIGHT
    coverage, error = 100 * (p.coverage or 0), 100 * (p.coverage_error or 0)
    if coverage < 80:
        axes.plot(80, place, marker="<", color=colour, markersize=4, markeredgecolor=INK)
        return
    axes.plot([coverage - 2 * error, coverage + 2 * error], [place, place], color=colour, linewidth=1.2)
    axes.plot(
        coverage, place, marker="o" if p.holds else "x", color=colour, markersize=3.5, markeredgecolor=INK
    )


def _spoken(rows: Sequence[Performance]) -> str:
    return "; ".join(f"{p.scenario}, {p.estimator}: {100 * (p.coverage or 0):.0f} percent" for p in rows)
