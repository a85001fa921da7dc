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
from rwe.simulate.estimators import ESTIMATORS
from rwe.simulate.harness import Performance, Simulation
from rwe.simulate.scenarios import scenario

NOMINAL = 0.95
_ROW = 13.0
_WIDTH = 720.0


def write(simulation: Simulation, folder: Path) -> tuple[Path, ...]:
    """Write simulation.md, simulation.svg and simulation.json into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"simulation.{suffix}" for suffix in ("md", "svg", "json"))
    contents = (markdown(simulation), figure(simulation), document(simulation))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content + "\n", encoding="utf-8")
    return paths


def document(simulation: Simulation) -> str:
    """All numbers as JSON."""
    rows = [dataclasses.asdict(p) for p in simulation.performances]
    return json.dumps({"seed": simulation.seed, "performances": rows}, indent=1)


def verdict(p: Performance) -> str:
    """One word on the coverage: what it was to be, within twice its Monte Carlo error."""
    if p.coverage is None or p.coverage_error is None:
        return "-"
    if not p.holds:
        return "biased" if p.is_biased else "assumption broken"
    slack = 2 * math.sqrt(NOMINAL * (1 - NOMINAL) / max(p.answered, 1))
    if p.coverage < NOMINAL - 0.02 - slack:
        return "too low"
    return "conservative" if p.coverage > NOMINAL + 0.02 + slack else "well"


def markdown(simulation: Simulation) -> str:
    """One table a scenario."""
    words = {e.name: e.words for e in ESTIMATORS}
    lines = [
        "# How right are the estimators where the truth is known?",
        "",
        f"Made by `rwe simulate`, seed {simulation.seed}: the synthetic hospitals without HTTP. Log scale; "
        "each is judged against its own estimand: `conditional` is what the simulation was given, "
        "`strategies` a comparison of two large cohorts each made to follow one strategy, `limit` the "
        "estimator on one large cohort, so that only its interval is judged. Coverage with its Monte Carlo "
        "standard error; nominal is 95 %, and `well` is 93 to 97 % within twice the error that so many "
        "replicates have. `truth` of `strategies` is simulated, too, with an error of about 0.01.",
        "",
        "`clone_censor_weight` here takes the Cox model of the treated arm's weights, whose mass tie at the "
        "end of grace biases it a little (-0.02 to -0.04); the bundled study takes the logistic one.",
        "",
        "| estimator | what it is |",
        "|-|-|",
        *(
            f"| {name} | {words[name]} |"
            for name in dict.fromkeys(p.estimator for p in simulation.performances)
        ),
    ]
    for name in dict.fromkeys(p.scenario for p in simulation.performances):
        rows = [p for p in simulation.performances if p.scenario == name]
        s = scenario(name)
        lines += [
            "",
            f"## {name}: {s.words}",
            "",
            f"{s.n:,} patients at {s.sites} site{'s' if s.sites > 1 else ''}, on average "
            f"{rows[0].mean_events:.0f} deaths.",
            "",
            "| estimator | estimand | truth | answered | bias | SE, empirical | SE, mean | RMSE | coverage "
            "| power | coverage is |",
            "|-|-|-:|-:|-:|-:|-:|-:|-:|-:|-|",
            *(_line(p) for p in rows),
        ]
    return "\n".join(lines)


def _line(p: Performance) -> str:
    coverage = "-" if p.coverage is None else f"{100 * p.coverage:.1f} ± {100 * (p.coverage_error or 0):.1f}"
    power = "-" if p.power is None else f"{100 * p.power:.0f} %"
    cells = [p.estimator, p.estimand, _number(p.truth), f"{p.answered} of {p.replicates}"]
    cells += [_number(x) for x in (p.bias, p.empirical_se, p.mean_se, p.rmse)]
    return "| " + " | ".join([*cells, coverage, power, verdict(p)]) + " |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def figure(simulation: Simulation) -> str:
    """Coverage by estimator and scenario, the nominal level as a line; one SVG element."""
    rows = [p for p in simulation.performances if p.coverage is not None]
    with mpl.rc_context(style("simulation")):
        drawing = new_figure(_WIDTH, _ROW * (len(rows) + 6))
        axes = drawing.add_axes((0.38, 0.06, 0.58, 0.90))
        axes.axvspan(93, 97, color=MUTED, alpha=0.15, linewidth=0)
        axes.axvline(95, color=MUTED, linewidth=0.8)
        for place, p in enumerate(rows):
            _draw(axes, p, place)
        axes.set_yticks(range(len(rows)), [f"{p.scenario}: {p.estimator}" for p in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("intervals that hold the truth, %")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return inline_svg(
            drawing,
            "simulation",
            "Coverage of 95 % intervals where the truth is known",
            _spoken(rows),
        )


def _draw(axes: Axes, p: Performance, place: int) -> None:
    colour = BLUE if p.holds else ORANGE if p.is_biased else GREY_LIGHT
    coverage, error = 100 * (p.coverage or 0), 100 * (p.coverage_error or 0)
    axes.plot([coverage - 2 * error, coverage + 2 * error], [place, place], color=colour, linewidth=1.2)
    axes.plot(
        coverage, place, marker="o" if p.holds else "x", color=colour, markersize=4, markeredgecolor=INK
    )


def _spoken(rows: Sequence[Performance]) -> str:
    return "; ".join(f"{p.scenario}, {p.estimator}: {100 * (p.coverage or 0):.0f} percent" for p in rows)
