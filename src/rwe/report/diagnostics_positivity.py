"""Overlap at landmarks, kinds of patients of one strategy alone, and negative controls, ready to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rwe.evidence.parts import (
    CalibratedEstimate,
    EmptyCell,
    NegativeControlEstimate,
    NegativeControls,
    OverlapAtLandmark,
)
from rwe.report.formats import NOT_ESTIMABLE, count, interval, level, p_value, percent, ratio, titled
from rwe.report.names import Names

_MOST_CELLS = 12
FEWEST_EFFECTIVE = 10.0
"""A weighted analysis of a group that is worth fewer patients is refused."""


@dataclass(frozen=True)
class OverlapRow:
    """Propensities of one strategy at a landmark. `landmark` and `overlap` stand in its first row alone."""

    landmark: str
    strategy: str
    patients: str
    propensity: str
    outside: str
    effective: str
    overlap: str


@dataclass(frozen=True)
class EmptyCellRow:
    landmark: str
    kind: str
    started: str
    not_started: str


@dataclass(frozen=True)
class ControlRow:
    outcome: str
    patients: str
    events: str
    ratio: str
    p: str
    note: str


@dataclass(frozen=True)
class ControlsShown:
    rows: tuple[ControlRow, ...]
    sentences: tuple[str, ...]


def overlap_rows(found: Sequence[OverlapAtLandmark], names: Names) -> tuple[OverlapRow, ...]:
    """Both strategies at each landmark, the treated one first."""
    order = names.strategy_order([o.strategy for o in found])
    ordered = sorted(found, key=lambda o: (o.landmark_day, order.index(o.strategy)))
    before = [None, *(o.landmark_day for o in ordered)]
    return tuple(
        OverlapRow(
            landmark="" if o.landmark_day == last else f"Day {o.landmark_day}",
            strategy="Started" if o.strategy == names.treated else "Not started",
            patients=count(o.patients),
            propensity=f"{percent(o.median)} [{percent(o.q1)}, {percent(o.q3)}]",
            outside=count(o.outside),
            effective=f"{o.effective:.1f}" + (" (too few)" if o.effective < FEWEST_EFFECTIVE else ""),
            overlap="" if o.landmark_day == last else percent(o.overlap),
        )
        for o, last in zip(ordered, before, strict=False)
    )


def empty_cell_rows(found: Sequence[EmptyCell], names: Names) -> tuple[EmptyCellRow, ...]:
    """The largest kinds of patients that one strategy alone has; at most twelve."""
    largest = sorted(found, key=lambda c: (-(c.started + c.not_started), c.landmark_day))[:_MOST_CELLS]
    return tuple(
        EmptyCellRow(
            landmark=f"Day {c.landmark_day}",
            kind=", ".join(f"{names.covariate(k)} {_level(k, v, names)}" for k, v in c.kind.items()),
            started=count(c.started),
            not_started=count(c.not_started),
        )
        for c in largest
    )


def _level(covariate: str, value: str, names: Names) -> str:
    return {"0": "no", "1": "yes"}.get(value, value) if covariate in names.statuses else value


def controls_shown(found: NegativeControls) -> ControlsShown:
    """Each control, then what they say of the primary estimate, or why they say nothing."""
    said = _calibration(found.calibrated) if found.calibrated else (_without(found),)
    return ControlsShown(tuple(_control(c) for c in found.controls), said)


def _control(c: NegativeControlEstimate) -> ControlRow:
    limits = f" ({interval(ratio(c.ci_low), ratio(c.ci_high))})"
    return ControlRow(
        outcome=titled(c.outcome) + (" (post hoc)" if c.is_posthoc else ""),
        patients=count(c.patients),
        events=count(c.events),
        ratio=NOT_ESTIMABLE if c.hazard_ratio is None else ratio(c.hazard_ratio) + limits,
        p="" if c.p_value is None else p_value(c.p_value),
        note=c.refused or "",
    )


def _calibration(c: CalibratedEstimate) -> tuple[str, ...]:
    limits = interval(ratio(c.ci_low), ratio(c.ci_high))
    outside = ("This calibration is post hoc.",) if c.is_posthoc else ()
    return (
        f"Calibrated by them, the primary hazard ratio is {ratio(c.hazard_ratio)} ({level(c.ci_level)} "
        f"{limits}), p {p_value(c.p_value)}: their systematic error (mean log ratio {c.error_mean:+.2f}, "
        f"standard deviation {c.error_sd:.2f}) is taken off, and its spread added to the interval.",
        f"{percent(c.share_excluding_null)} of the controls exclude 1; of an unbiased analysis about "
        f"{percent(1 - c.ci_level)} would.",
        *outside,
        *c.warnings,
    )


def _without(found: NegativeControls) -> str:
    why = f" {found.not_calibrated}" if found.not_calibrated else ""
    return (
        f"The primary estimate is not calibrated; that needs {found.fewest} controls with an estimate.{why}"
    )
