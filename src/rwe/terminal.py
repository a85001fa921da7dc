"""How the command line looks: progress, tables of estimates, sentences of error. No logic."""

from __future__ import annotations

import signal
import textwrap
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table

from rwe.progress import Step

if TYPE_CHECKING:  # `rwe --help` must not wait for the contract's models
    from rwe.evidence.contract import Estimate

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)


def say(console: Console, text: str, style: str = "") -> None:
    """Print a sentence: on a terminal wrapped between words only, so that a path in it can be copied."""
    if console.is_terminal:
        lines = textwrap.wrap(text, max(console.width, 40), break_long_words=False, break_on_hyphens=False)
        text = "\n".join(lines)
    console.print(text, style=style, markup=False, soft_wrap=True)


#: Set by Ctrl-C. Work in other threads ends at its next sign of progress.
interrupted = threading.Event()


class _BarStep:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: int = 1) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        self._bars.advance(self._task, amount)

    def total(self, total: int) -> None:
        self._bars.update(self._task, total=total)


class Bars:
    """Progress bars on a terminal; where the output is piped, one line a finished step."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Step]:
        task = self._bars.add_task(label, total=total, unit=unit)
        yield _BarStep(self._bars, task)
        seen = self._bars.tasks[self._bars.task_ids.index(task)]
        # A step without a known total ends full, with what it counted.
        self._bars.update(task, total=seen.completed or 1, completed=seen.completed or 1, visible=True)
        self._hide_older()
        if not self._bars.console.is_terminal:
            count = f" {seen.completed:,.0f} {unit}".rstrip() if seen.completed else ""
            self._bars.console.print(f"{label}:{count or ' done'}")

    def _hide_older(self) -> None:
        """Keep the newest finished steps only, so that those under way stay on the screen."""
        finished = [task for task in self._bars.tasks if task.finished and task.visible]
        for task in finished[:-_FINISHED_SHOWN]:
            self._bars.update(task.id, visible=False)


_FINISHED_SHOWN = 8


@contextmanager
def progress_bars() -> Iterator[Bars]:
    """Progress on stderr, so that results on stdout stay clean."""
    bars = RichProgress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    with bars, _interruptible():
        yield Bars(bars)


@contextmanager
def _interruptible() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ratio(value: float | None) -> str:
    """A hazard ratio as a table shows it."""
    return "not estimable" if value is None else f"{value:.2f}"


def describe(estimate: Estimate) -> str:
    """One line that tells an estimate from the others."""
    from rwe.study_words import WEIGHTED  # noqa: PLC0415 - the models of studies, which most commands need not

    p = estimate.parameters
    notes = _words_of(estimate)
    names = p.adjusted_for
    if names:
        verb = "weighted" if estimate.analysis in WEIGHTED else "adjusted"
        notes.append(f"{verb} for {', '.join(names)}" if len(names) < 4 else verb)
    notes += [p.weight_model] if estimate.analysis == "landmark_weighting" and p.weight_model else []
    notes += ["against never"] if p.compared_with == "never" else []
    notes += ["weighted for loss"] if p.weight_for_loss else []
    notes += [] if p.truncate_percentile is None else [f"cut at {p.truncate_percentile:g} %"]
    notes += ["salvage counts"] if p.salvage == "counts_as_start" else []
    notes += [] if p.variant is None else [p.variant.replace("_", " ")]
    if p.status_after_start == "freeze":
        notes.append("status as at the start")
    elif "robust" in (estimate.variance_method or "") and estimate.analysis.endswith("_cox"):
        notes.append("robust")
    if p.ties == "breslow" and not estimate.analysis.endswith("_firth"):
        notes.append("Breslow ties")
    if estimate.site:
        notes.append(f"site {estimate.site}")
    return ", ".join(notes)


def _words_of(estimate: Estimate) -> list[str]:
    """The analysis, and the outcome where it is not the protocol's."""
    p, kind = estimate.parameters, estimate.analysis
    known = {
        "clone_censor_weight": "Clone-censor-weight" + ("" if p.grace_days is None else f" {p.grace_days} d"),
        "sequential_trials": "Sequential trials",
        "marginal_structural_model": "Marginal structural model",
    }
    words = known.get(kind, "")
    if kind.startswith("naive_"):
        words = "Naive, ever against never"
    elif kind.startswith("landmark_"):
        words = f"Landmark, day {p.landmark_day}"
    elif kind.startswith("time_dependent_"):
        words = "Time-dependent"
    notes = [words or kind.replace("_", " ").capitalize()]
    notes += ["Firth"] if kind.endswith("_firth") else []
    return notes + (["progression-free"] if p.endpoint == "progression_free_survival" else [])


def hazard_ratio_table(estimates: Iterable[Estimate], truth: float | None = None) -> Table:
    """All hazard ratios under the protocol's own rules: the primary one bold, the biased one marked.

    A known truth is conditional on what the primary analysis adjusts for: it stands only beside
    time-dependent estimates that adjust for the same.
    """
    ratios = [e for e in estimates if e.estimand == "hazard_ratio"]
    estimates = [e for e in ratios if e.parameters.variant is None]
    primary = next((e for e in estimates if e.role == "primary" and e.site is None), None)
    table = Table(box=None, pad_edge=False, header_style="bold")
    if others := len(ratios) - len(estimates):
        table.caption = f"{others} more under other rules: see the report."
        table.caption_justify = "left"
    table.add_column("Estimate")
    for name in ("n", "events", "HR", "95 % CI"):
        table.add_column(name, justify="right", no_wrap=True)
    if truth is not None:
        table.add_column("truth", justify="right")
    table.add_column("")
    for e in estimates:
        known = e.ci_low is not None and e.ci_high is not None
        marks = ["biased"] if e.is_biased else []
        marks += ["primary"] if e.role == "primary" else ["post hoc"] if e.is_posthoc else []
        cells = [
            describe(e),
            f"{e.n:,}",
            f"{e.events:,}",
            ratio(e.estimate) if e.estimate is not None else "-",
            f"{ratio(e.ci_low)}-{ratio(e.ci_high)}" if known else "-",
        ]
        if truth is not None:
            cells.append(f"{truth:.2f}" if primary is not None and _same_estimand(e, primary) else "")
        table.add_row(
            *cells, " ".join(marks), style="bold" if e.role == "primary" else "dim" if e.is_biased else ""
        )
    return table


def _same_estimand(e: Estimate, primary: Estimate) -> bool:
    """Whether an estimate targets what the primary one does: a site's own, or with another variance."""
    asked, own = primary.parameters, e.parameters
    return (
        e.analysis == primary.analysis == "time_dependent_cox"
        and bool(own.adjusted_for)
        and own.adjusted_for == asked.adjusted_for
        and own.status_after_start == asked.status_after_start
        and (own.salvage, own.endpoint) == (asked.salvage, asked.endpoint)
    )
