"""Several sites put together: the forest plot by site, and the tables beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rwe.evidence.contract import Evidence
from rwe.evidence.federated import FederatedEstimate
from rwe.evidence.synthesis import MetaResult, SiteEffect, Synthesis, WithEverySite
from rwe.report.diagnostics import ratio_with_limits
from rwe.report.federated import SUMS, forest_row, is_beside, short_label
from rwe.report.forest import ForestGroup, ForestRow, forest_svg
from rwe.report.formats import (
    count,
    decimal,
    inside,
    interval,
    listing,
    p_value,
    percent,
    ratio,
)
from rwe.report.names import Names, analysis_name
from rwe.study import Protocol

_MODELS: Final = {
    "common": "Common effect (inverse variance)",
    "dl": "Random effects, DerSimonian–Laird",
    "reml": "Random effects, REML",
    "pm": "Random effects, Paule–Mandel",
}
_INTERVALS: Final = {"wald": "Wald", "hksj": "HKSJ", "hksj_adhoc": "HKSJ, ad hoc"}
_EVERY_SITE: Final = {
    "profile_likelihood": "Common effect by the sites' likelihoods",
    "peto": "Peto, observed less expected events",
    "mantel_haenszel": "Mantel–Haenszel, rates at each event time",
}
_COUNTED: Final = {
    "inverse_variance": "by its estimate",
    "likelihood": "by its likelihood and its events",
    "pooled_only": "in the pooled estimate only",
    "not_at_all": "not at all: no information",
}
_SOURCES: Final = {"extracted": "extracted by this hub", "shared": "shared its tables"}


@dataclass(frozen=True)
class MetaRow:
    model: str
    interval: str
    ratio: str
    p: str
    tau2: str
    i2: str
    prediction: str


@dataclass(frozen=True)
class SiteRow:
    site: str
    patients: str
    source: str
    ages: str
    counted: str
    weight: str
    without: str


@dataclass(frozen=True)
class EveryRow:
    method: str
    adjusted: str
    sites: str
    ratio: str


@dataclass(frozen=True)
class SynthesisShown:
    """`title` names the analysis; `sentences` say what the figure does not."""

    title: str
    figure: str
    sentences: tuple[str, ...]
    meta: tuple[MetaRow, ...]
    every: tuple[EveryRow, ...]
    sites: tuple[SiteRow, ...]
    has_left_out: bool
    notes: tuple[str, ...]


def synthesis(evidence: Evidence, protocol: Protocol, names: Names) -> SynthesisShown | None:
    """The section on several sites. None where the evidence has none."""
    found = evidence.synthesis
    if found is None:
        return None
    adjusted = listing([inside(names.covariate(n)) for n in found.adjusted_for])
    title = analysis_name(found.analysis) + (f", adjusted for {adjusted}" if adjusted else ", unadjusted")
    return SynthesisShown(
        title=title,
        figure=forest_svg(
            _groups(found, [f for f in evidence.federated if is_beside(evidence, f, protocol)]),
            found.ci_level,
            names.events,
            figure_id="sites",
            title="Forest plot of the hazard ratio by site",
        ),
        sentences=tuple(_sentences(found)),
        meta=tuple(_meta(m) for m in found.meta),
        every=tuple(_every(w, names) for w in found.with_every_site),
        sites=tuple(_site(s, found) for s in found.sites),
        has_left_out=bool(found.leave_one_out),
        notes=tuple(found.notes),
    )


def _groups(found: Synthesis, federated: Sequence[FederatedEstimate] = ()) -> list[ForestGroup]:
    together = []
    n, events = count(sum(s.n for s in found.sites)), count(sum(s.events for s in found.sites))
    if found.pooled is not None:
        p = found.pooled
        label = "All patients in one model" + (", stratified by site" if p.is_stratified else "")
        together.append(_row("primary", label, n, events, (p.estimate, p.ci_low, p.ci_high)))
    for w in found.with_every_site:
        if w.method == "profile_likelihood":
            limits = (w.estimate, w.ci_low, w.ci_high)
            label = _EVERY_SITE[w.method] + (f"; {w.sites} sites" if w.sites < len(found.sites) else "")
            together.append(_row("other", label, "", "", limits))  # patients and events are not all sites'
    for model, method in (("common", "wald"), ("reml", "hksj_adhoc")):
        m = _of(found, model, method)
        if m is not None:
            label = _MODELS[model] + (f", {_INTERVALS[method]}" if method != "wald" else "")
            label += f"; {m.sites} sites" if m.sites < len(found.sites) else ""
            together.append(_row("other", label, "", "", (m.estimate, m.ci_low, m.ci_high)))
    random = _of(found, "reml", "hksj_adhoc")
    if random is not None and random.prediction_low is not None:
        label = "Where the effect of a new site would lie (REML, HKSJ, ad hoc)"
        limits = (random.estimate, random.prediction_low, random.prediction_high)
        together.append(_row("other", label, "", "", limits))
    sites = [
        _row(
            "site",
            f"Site {s.site}",
            count(s.n),
            count(s.events),
            (s.estimate, s.ci_low, s.ci_high),
            note=f"counts {_COUNTED[s.counted]}: {s.reason}" if s.reason and s.estimate is None else "",
        )
        for s in found.sites
    ]
    groups = [ForestGroup("Each site alone", tuple(sites)), ForestGroup("Together", tuple(together))]
    others = tuple(forest_row(f, short_label(f)) for f in federated)
    return [*groups, ForestGroup(SUMS, others)] if others else groups


def _row(
    kind: Literal["primary", "site", "other"],
    label: str,
    n: str,
    events: str,
    numbers: tuple[float | None, float | None, float | None],
    *,
    note: str = "",
) -> ForestRow:
    estimate, low, high = numbers
    return ForestRow(
        kind=kind,
        label=label,
        n=n,
        events=events,
        estimate=estimate,
        low=low,
        high=high,
        text=ratio_with_limits(estimate, low, high),
        note=note,
    )


def _of(found: Synthesis, model: str, method: str) -> MetaResult | None:
    return next((m for m in found.meta if (m.model, m.interval) == (model, method)), None)


def _sentences(found: Synthesis) -> list[str]:
    said = []
    test = found.interaction
    if test is not None and test.p_value is not None and test.chi_square is not None:
        said.append(
            f"Whether the hazard ratio differs between {len(test.sites)} sites: {test.method}, chi-square "
            f"{decimal(test.chi_square)} on {test.df} degrees of freedom, p {p_value(test.p_value)}."
        )
    random = _of(found, "reml", "wald")
    if random is not None:
        said.append(
            f"Cochran's Q {decimal(random.q)} on {random.q_df}, p {p_value(random.q_p_value)}; by REML "
            f"{percent(random.i2 / 100)} of the variation between estimates is between sites (I²), tau² "
            f"{decimal(random.tau2, 3)}."
        )
    if found.counted_once is None:
        return said
    what = "1 record was" if found.counted_once == 1 else f"{count(found.counted_once)} records were"
    return [
        *said,
        f"{what} left out, for the patient has one at another site: that of the first index event counts.",
    ]


def _meta(m: MetaResult) -> MetaRow:
    return MetaRow(
        model=_MODELS[m.model],
        interval=_INTERVALS[m.interval],
        ratio=ratio_with_limits(m.estimate, m.ci_low, m.ci_high),
        p=p_value(m.p_value),
        tau2="none" if m.model == "common" else decimal(m.tau2, 3),
        i2=percent(m.i2 / 100),
        prediction=(
            "none"
            if m.prediction_low is None
            else interval(ratio(m.prediction_low), ratio(m.prediction_high))
        ),
    )


def _every(w: WithEverySite, names: Names) -> EveryRow:
    given = listing([inside(names.covariate(n)) for n in w.adjusted_for])
    return EveryRow(
        method=_EVERY_SITE[w.method],
        adjusted=given or "nothing",
        sites=count(w.sites),
        ratio=ratio_with_limits(w.estimate, w.ci_low, w.ci_high),
    )


def _site(s: SiteEffect, found: Synthesis) -> SiteRow:
    source = next((one for one in found.sources if one.site == s.site), None)
    left = next((one for one in found.leave_one_out if one.site == s.site), None)
    return SiteRow(
        site=s.site,
        patients=count(s.n),
        source=_SOURCES[source.source] if source else "not stated",
        ages="whole years" if source and source.ages == "whole_years" else "exact",
        counted=_COUNTED[s.counted],
        weight="none" if s.weight_random is None else percent(s.weight_random),
        without="as all" if left is None else ratio_with_limits(left.estimate, left.ci_low, left.ci_high),
    )
