"""What a reader checks before believing the primary estimate, as rows and sentences. Formatting only."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.evidence.parts import (
    ConfoundingTippingPoint,
    CorrectedEstimate,
    Detectable,
    Diagnostics,
    Misclassification,
    Subgroup,
    TippingPoint,
    UnmeasuredConfounding,
)
from rwe.report.diagnostics_positivity import (
    ControlsShown,
    EmptyCellRow,
    OverlapRow,
    controls_shown,
    empty_cell_rows,
    overlap_rows,
)
from rwe.report.formats import (
    NOT_ESTIMABLE,
    count,
    humanise,
    inside,
    interval,
    measure,
    p_value,
    percent,
    ratio,
    titled,
)
from rwe.report.names import Names
from rwe.study import Protocol


@dataclass(frozen=True)
class HazardsRow:
    covariate: str
    chi_square: str
    df: str
    p: str
    is_small: bool


@dataclass(frozen=True)
class WeightsRow:
    strategy: str
    model: str
    patients: str
    effective: str
    mean: str
    percentiles: tuple[str, ...]
    maximum: str


@dataclass(frozen=True)
class WeightsTable:
    """`percentiles`: which of them the rows give."""

    percentiles: tuple[str, ...]
    rows: tuple[WeightsRow, ...]


@dataclass(frozen=True)
class PositivityRow:
    covariate: str
    level: str
    started: str
    not_started: str
    is_zero: bool


@dataclass(frozen=True)
class BiasArray:
    """Corrected ratios: a row for each pair of prevalences, a column for each strength; then at what strength
    nothing is left of the estimate, and of its interval."""

    strengths: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...], str], ...]


@dataclass(frozen=True)
class MisclassificationRow:
    what: str
    confirmed: str
    corrected: str
    simulated: str


@dataclass(frozen=True)
class SubgroupRow:
    name: str
    level: str
    patients: str
    events: str
    ratio: str
    interaction: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class DiagnosticsShown:
    """Everything of `Diagnostics`; an empty part does not apply and its table is left out."""

    hazards: tuple[HazardsRow, ...]
    weights: WeightsTable
    positivity: tuple[PositivityRow, ...]
    positivity_note: str
    confounding: tuple[str, ...]
    array: BiasArray
    lost: str
    misclassification: tuple[MisclassificationRow, ...]
    detectable: str
    subgroups: tuple[SubgroupRow, ...]
    notes: tuple[str, ...]
    overlap: tuple[OverlapRow, ...] = ()
    empty_cells: tuple[EmptyCellRow, ...] = ()
    controls: ControlsShown | None = None


SMALL_P = 0.05


def diagnostics(found: Diagnostics, names: Names, protocol: Protocol) -> DiagnosticsShown:
    """All of the diagnostics, ready to print."""
    positivity = _positivity(found, names)
    confounding = found.unmeasured_confounding
    return DiagnosticsShown(
        hazards=tuple(
            HazardsRow(_tested(t.covariate, names), f"{t.chi_square:.2f}", str(t.df), p_value(t.p_value),
                       t.p_value < SMALL_P)
            for t in found.proportional_hazards
        ),
        weights=_weights(found, names),
        positivity=positivity,
        positivity_note=_positivity_note(positivity, is_looked_at_together=bool(found.overlap)),
        confounding=confounding_sentences(confounding) if confounding else (),
        array=_array(confounding) if confounding else BiasArray((), ()),
        lost=_lost(found.lost_deaths, names) if found.lost_deaths else "",
        misclassification=tuple(_misclassified(m) for m in found.misclassification),
        detectable=_detectable(found.detectable, names) if found.detectable else "",
        subgroups=tuple(r for s in found.subgroups for r in _subgroup(s, protocol, names)),
        notes=tuple(found.notes),
        overlap=overlap_rows(found.overlap, names),
        empty_cells=empty_cell_rows(found.empty_cells, names),
        controls=controls_shown(found.negative_controls) if found.negative_controls else None,
    )  # fmt: skip


def _tested(name: str, names: Names) -> str:
    known = {"exposure": "The treatment itself", "all": "All together"}
    return known.get(name, names.covariate(name))


def _weights(found: Diagnostics, names: Names) -> WeightsTable:
    levels = sorted({q for w in found.weights for q in w.percentiles}, key=float)
    order = names.strategy_order([w.strategy for w in found.weights])
    arms = sorted(found.weights, key=lambda w: order.index(w.strategy))
    return WeightsTable(
        percentiles=tuple(levels),
        rows=tuple(
            WeightsRow(
                strategy=names.strategies.get(w.strategy, humanise(w.strategy)),
                model=w.model,
                patients="" if w.patients is None else count(w.patients),
                effective=f"{w.effective:.1f}"
                + (f" ({percent(w.effective / w.patients)})" if w.patients else ""),
                mean=measure(w.mean),
                percentiles=tuple(measure(w.percentiles.get(q)) for q in levels),
                maximum=measure(w.maximum),
            )
            for w in arms
        ),
    )


def _positivity(found: Diagnostics, names: Names) -> tuple[PositivityRow, ...]:
    yes_no = {"0": "no", "1": "yes"}
    before = [None, *(c.covariate for c in found.positivity)]
    return tuple(
        PositivityRow(
            covariate="" if c.covariate == last else names.covariate(c.covariate),
            level=yes_no.get(c.level, c.level) if c.covariate in names.statuses else c.level,
            started=count(c.started),
            not_started=count(c.not_started),
            is_zero=0 in (c.started, c.not_started),
        )
        for c, last in zip(found.positivity, before, strict=False)
    )


def _positivity_note(rows: tuple[PositivityRow, ...], *, is_looked_at_together: bool) -> str:
    zeros = sum(r.is_zero for r in rows)
    if not zeros:
        one = "One covariate at a time, no cell is empty: each level was seen both starting and not starting."
        together = " Covariates taken together are looked at below, at landmarks."
        return one + (together if is_looked_at_together else "")
    what = "1 kind of patient was" if zeros == 1 else f"{count(zeros)} kinds of patients were"
    return (
        f"{what} seen on one side only: there is nobody to compare them with, so what the model says of them "
        "is extrapolation."
    )


def confounding_sentences(found: UnmeasuredConfounding) -> tuple[str, ...]:
    """The E-value and what it means, and that of the limit nearer to 1."""
    first = (
        f"E-value {found.e_value:.2f}: to explain the primary estimate away, an unmeasured confounder would "
        f"have to be tied to both the start and the outcome by a risk ratio of {found.e_value:.2f} each, "
        "beyond the covariates measured."
    )
    if found.e_value_limit is None:
        second = "Its interval is open towards 1, so there is no E-value of the limit."
    elif found.e_value_limit <= 1:
        second = (
            "The interval holds 1 already (E-value of the limit 1): no confounding is needed to explain it."
        )
    else:
        second = f"To move the limit of its interval to 1, {found.e_value_limit:.2f} would do."
    return first, second


def _array(confounding: UnmeasuredConfounding) -> BiasArray:
    cells = confounding.array
    tips = {(t.prevalence_treated, t.prevalence_control): t for t in confounding.tipping_points}
    strengths = sorted({c.confounder_hazard_ratio for c in cells})
    found = {(c.prevalence_treated, c.prevalence_control, c.confounder_hazard_ratio): c for c in cells}
    pairs = sorted({(c.prevalence_treated, c.prevalence_control) for c in cells if _is_uneven(c)})
    return BiasArray(
        strengths=tuple(f"{s:g}" for s in strengths),
        rows=tuple(
            (
                percent(t),
                percent(c),
                tuple(_corrected(found.get((t, c, s))) for s in strengths),
                _tip(tips.get((t, c))),
            )
            for t, c in pairs
        ),
    )


def _tip(found: ConfoundingTippingPoint | None) -> str:
    """`3.10; interval 1.45`: at which strength nothing is left, and at which the interval reaches 1."""
    if found is None:
        return ""
    of_estimate, of_limit = ("none" if g is None else ratio(g) for g in (found.for_estimate, found.for_limit))
    return f"{of_estimate}; interval {of_limit}"


def _is_uneven(cell: CorrectedEstimate) -> bool:
    """A confounder as common in both groups corrects nothing; its cells repeat the estimate."""
    return cell.prevalence_treated != cell.prevalence_control


def _corrected(cell: CorrectedEstimate | None) -> str:
    return "" if cell is None else ratio_with_limits(cell.hazard_ratio, cell.ci_low, cell.ci_high)


def ratio_with_limits(value: float | None, low: float | None, high: float | None) -> str:
    """A ratio with its interval, or that it cannot be estimated."""
    if value is None:
        return NOT_ESTIMABLE
    return f"{ratio(value)} ({interval(ratio(low), ratio(high))})"


def _lost(found: TippingPoint, names: Names) -> str:
    """`group` is called as the kernel calls it: exposed, unexposed; or by a strategy's name."""
    known = {"exposed": names.treated, "unexposed": names.control}
    who = names.group(known.get(found.group, found.group))
    if found.deaths is None:
        return (
            f"The group “{who}” looks better off. Even if all its {count(found.censored)} censored patients "
            "had died when they were lost, the log-rank test would still find a difference."
        )
    if found.deaths == 0:
        return (
            f"The group “{who}” looks better off, but the unadjusted log-rank test finds no difference as it "
            f"is: no death among its {count(found.censored)} censored patients is needed for that."
        )
    share = f" ({percent(found.deaths / found.censored, 1)})" if found.censored else ""
    of = f"{count(found.deaths)} of its {count(found.censored)} censored patients{share}"
    return (
        f"The group “{who}” looks better off. The unadjusted log-rank test would find no difference any more "
        f"if {of}, those lost first, had died when they were lost."
    )


def _misclassified(m: Misclassification) -> MisclassificationRow:
    return MisclassificationRow(
        what={"exposure": "Recorded starts", "death": "Recorded deaths"}[m.what]
        + (" (post hoc)" if m.is_posthoc else ""),
        confirmed=f"{count(m.confirmed)} of {count(m.reviewed)} ({percent(m.confirmed / m.reviewed)})",
        corrected=ratio(m.hazard_ratio),
        simulated=ratio_with_limits(m.median, m.ci_low, m.ci_high),
    )


def _detectable(found: Detectable, names: Names) -> str:
    """The share is Schoenfeld's p of `power.share_at_deaths`, never above a half: whose it is, it forgets."""
    smaller, larger = percent(found.share_exposed), percent(1 - found.share_exposed)
    return (
        f"With {count(found.events)} {names.events}, at which those at risk were divided (started, or not "
        f"yet) as if into {smaller} and {larger}, the power is {percent(found.power)} to find a hazard ratio "
        f"of {ratio(found.protective)} or lower, or of {ratio(found.harmful)} or higher. A weaker effect can "
        "be missed."
    )


def _subgroup(found: Subgroup, protocol: Protocol, names: Names) -> list[SubgroupRow]:
    asked = next((s.covariate for s in protocol.subgroups if s.name == found.name), None)
    outside = " (post hoc)" if found.is_posthoc else ""
    name = titled(found.name) + (f": {inside(names.covariate(asked))}" if asked else "") + outside
    return [
        SubgroupRow(
            name=name if i == 0 else "",
            level=s.level,
            patients=count(s.n),
            events=count(s.events),
            ratio=ratio_with_limits(s.hazard_ratio, s.ci_low, s.ci_high),
            interaction=p_value(found.interaction_p) if i == 0 else "",
            warnings=tuple(found.warnings) if i == 0 else (),
        )
        for i, s in enumerate(found.levels)
    ]
