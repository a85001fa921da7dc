"""Every estimate of the evidence as a row of a table by kind: none is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rwe.evidence.contract import Estimand, Estimate, Evidence
from rwe.report import formats
from rwe.report.formats import NOT_ESTIMABLE, count, decimal, humanise, interval, p_value
from rwe.report.names import ANALYSES, BIAS, ESTIMANDS, Names
from rwe.report.words import description


@dataclass(frozen=True)
class EstimateRow:
    """One estimate. `arms` holds patients / events (and expected events) by strategy, in order."""

    number: int
    analysis: str
    detail: str
    site: str
    role: str
    everyone: str
    arms: tuple[str, ...]
    quantity: str
    value: str
    interval: str
    interval_method: str
    p: str
    error: str
    status: str
    is_primary: bool
    is_posthoc: bool
    is_biased: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class EstimateTable:
    """Estimates of one kind. `is_one_arm`: of one strategy each, else comparisons of two."""

    title: str
    note: str
    is_one_arm: bool
    rows: tuple[EstimateRow, ...]


@dataclass(frozen=True)
class EstimateTables:
    strategies: tuple[str, ...]
    kinds: tuple[EstimateTable, ...]


_RATIO_NOTE = (
    "Conditional: at given covariates. Marginal: over all patients compared (with overlap weights: over "
    "those in whom either choice was to be expected). The two differ without any bias."
)
_KINDS: Final[tuple[tuple[str, str, bool, tuple[Estimand, ...]], ...]] = (
    ("Hazard ratios", _RATIO_NOTE, False, ("hazard_ratio",)),
    (
        "Competing risks: hazard ratios of each event",
        "Cause-specific: the rate of the event among those still free of any. Subdistribution (Fine–Gray): "
        "moves with the share who ever have it. " + _RATIO_NOTE,
        False,
        ("cause_specific_hazard_ratio", "subdistribution_hazard_ratio"),
    ),
    (
        "Differences in days and survival",
        "Treated less control, or treated over control: what a hazard ratio means in time and patients.",
        False,
        (
            "rmst_difference_days",
            "survival_difference",
            "survival_ratio",
            "rmst_days",
            "survival",
            "median_days",
            "cumulative_incidence",
        ),
    ),
    ("Tests", "", False, ("chi_square", "p_value")),
    (
        "Survival, restricted means and medians of one strategy",
        "",
        True,
        ("median_days", "survival", "rmst_days"),
    ),
    ("Cumulative incidence in one strategy", "", True, ("cumulative_incidence",)),
    (
        "Other estimates of one strategy",
        "",
        True,
        (
            "hazard_ratio",
            "chi_square",
            "p_value",
            "survival_difference",
            "survival_ratio",
            "rmst_difference_days",
            "cause_specific_hazard_ratio",
            "subdistribution_hazard_ratio",
        ),
    ),
)
"""Title, note, whether of one arm, estimands. Each estimand stands once among the comparisons and once among
the estimates of one arm, so that every estimate has its place."""


def estimates(evidence: Evidence, names: Names) -> EstimateTables:
    """Every estimate, numbered as in the evidence, by kind; in each table primary first, biased last."""
    found = [s for e in evidence.estimates for s in (*e.n_by_strategy, *e.events_by_strategy)]
    arms = names.strategy_order(found)
    numbered = list(enumerate(evidence.estimates, start=1))
    kinds = []
    for title, note, is_one_arm, estimands in _KINDS:
        rows = [
            _estimate(i, e, names, arms)
            for i, e in numbered
            if e.estimand in estimands and (e.contrast.reference is None) is is_one_arm
        ]
        rows.sort(key=lambda r: (not r.is_primary, r.is_biased))
        if rows:
            kinds.append(EstimateTable(title, note, is_one_arm, tuple(rows)))
    return EstimateTables(tuple(names.group(a) for a in arms), tuple(kinds))


_SCALES: Final[dict[Estimand, Callable[[float | None], str]]] = {
    "hazard_ratio": formats.ratio,
    "cause_specific_hazard_ratio": formats.ratio,
    "subdistribution_hazard_ratio": formats.ratio,
    "survival_ratio": formats.ratio,
    "median_days": formats.days,
    "rmst_days": formats.days,
    "rmst_difference_days": formats.day_difference,
    "survival": formats.share,
    "cumulative_incidence": formats.share,
    "survival_difference": formats.points,
    "chi_square": decimal,
    "p_value": p_value,
}


def natural(e: Estimate, value: float | None) -> str:
    """A value on the estimand's own scale."""
    return _SCALES[e.estimand](value)


def limits(e: Estimate) -> str:
    """The interval on the estimand's own scale with its level; blank where none was given."""
    if e.ci_level is None and e.ci_low is None and e.ci_high is None:
        return ""
    if e.estimand in {"median_days", "rmst_days", "rmst_difference_days"}:
        is_signed = e.estimand == "rmst_difference_days"
        low, high = (_limit_days(v, is_signed=is_signed) for v in (e.ci_low, e.ci_high))
    else:
        low, high = natural(e, e.ci_low), natural(e, e.ci_high)
    return f"{formats.level(e.ci_level)} {interval(low, high)}"


def _limit_days(value: float | None, *, is_signed: bool) -> str:
    if value is None:
        return NOT_ESTIMABLE
    return f"{formats.signed(value, 1) if is_signed else formats.whole_days(value)} days"


def _estimate(number: int, e: Estimate, names: Names, arms: list[str]) -> EstimateRow:
    bias = [BIAS] if e.is_biased else []
    state = [humanise(e.status)] if e.status != "ok" or not bias else []
    is_tested = e.p_value is not None and e.estimand != "p_value"
    return EstimateRow(
        number=number,
        analysis=ANALYSES[e.analysis],
        detail="; ".join(part for part in (description(e, names), e.method) if part not in ("", "refused")),
        site="All sites" if e.site is None else f"Site {e.site}",
        role="post hoc" if e.role == "posthoc" else f"{e.role}, post hoc" if e.is_posthoc else e.role,
        everyone=f"{count(e.n)} / {count(e.events)}",
        arms=tuple(_arm(e, a) for a in arms),
        quantity=_quantity(e, names),
        value=natural(e, e.estimate),
        interval=limits(e),
        interval_method=humanise(e.ci_method or ""),
        p=p_value(e.p_value) if is_tested else "",
        error=_error(e),
        status="; ".join([*state, *bias]),
        is_primary=e.role == "primary" and e.site is None,
        is_posthoc=e.is_posthoc,
        is_biased=e.is_biased,
        warnings=tuple(e.warnings),
    )


def _arm(e: Estimate, strategy: str) -> str:
    n, events = e.n_by_strategy.get(strategy), e.events_by_strategy.get(strategy)
    if n is None and events is None:
        return ""
    shown = " / ".join("?" if k is None else count(k) for k in (n, events))
    expected = (e.expected_by_strategy or {}).get(strategy)
    return shown if expected is None else f"{shown} ({expected:.1f} expected)"


def _quantity(e: Estimate, names: Names) -> str:
    """The estimand; its contrast only where it is not started against not (yet) started."""
    kind = f", {e.effect_type}" if e.effect_type else ""
    what = ESTIMANDS[e.estimand]
    if e.parameters.endpoint is None:
        what = what.replace("survival", names.survival).replace("Survival", names.survival.capitalize())
    what += kind
    strategy, reference = e.contrast.strategy, e.contrast.reference
    is_plain = (strategy, reference) == (names.treated, names.control)
    if is_plain and e.contrast.groups != "follows_strategy":
        return what
    if is_plain:
        rules = (names.rule(s, e.contrast, e.parameters) for s in (names.treated, names.control))
        return f"{what}: {' against '.join(rules)}"
    against = f" against {names.group(reference, e.contrast, e.parameters)}" if reference else ""
    return f"{what}: {names.group(strategy, e.contrast, e.parameters)}{against}"


def _error(e: Estimate) -> str:
    parts = []
    if e.se is not None:
        kind = ", ".join(w for w in (e.variance_method, e.se_scale and f"{e.se_scale} scale") if w)
        parts.append(f"SE {e.se:.4g}" + (f" ({kind})" if kind else ""))
    if e.variance is not None:
        parts.append(f"variance of O − E {e.variance:.4g}")
    if e.df is not None:
        parts.append(f"df {e.df:g}")
    return "; ".join(parts)


@dataclass(frozen=True)
class CoefficientRow:
    model: int
    name: str
    estimate: str
    se: str


def coefficients(evidence: Evidence, names: Names) -> list[CoefficientRow]:
    """All coefficients of all models, by the number of their estimate."""
    return [
        CoefficientRow(
            model=i,
            name=names.covariate(c.name),
            estimate=decimal(c.estimate, 4),
            se="not given" if c.se is None else decimal(c.se, 4),
        )
        for i, e in enumerate(evidence.estimates, start=1)
        for c in e.coefficients
    ]


@dataclass(frozen=True)
class Assumed:
    """What the estimates with these numbers (`1–3, 7`) assume."""

    numbers: str
    analyses: str
    assumptions: tuple[str, ...]


def assumed(evidence: Evidence) -> list[Assumed]:
    """Each set of assumptions once, with the estimates that rest on it, in the order of the evidence."""
    groups: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for i, e in enumerate(evidence.estimates, start=1):
        if e.assumptions:
            groups.setdefault(tuple(e.assumptions), []).append((i, ANALYSES[e.analysis]))
    return [
        Assumed(ranges([i for i, _ in of]), "; ".join(dict.fromkeys(a for _, a in of)), assumptions)
        for assumptions, of in groups.items()
    ]


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs of them shortened: `1–3, 7`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)
