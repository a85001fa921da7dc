"""The report's section on sites: every site in the plot, and how each counts."""

from __future__ import annotations

import re

import pytest

from rwe.analyse.run_synthesis import as_result
from rwe.evidence.synthesis import (
    Interaction,
    PooledEffect,
    SiteEffect,
    SiteSource,
    Synthesis,
    WithEverySite,
)
from rwe.report import render_report
from rwe.report.synthesis import _groups
from rwe.survival.meta_analysis import meta_analysis
from tests.unit import evidence_example as example
from tests.unit.test_report_page import Page


def site(name: str, estimate: float | None, reason: str | None = None) -> SiteEffect:
    return SiteEffect(
        site=name,
        n=80,
        events=5,
        events_by_strategy={example.TREATED: 0, example.CONTROL: 5},
        estimate=estimate,
        log_estimate=None,
        se=None,
        ci_low=estimate and estimate / 2,
        ci_high=estimate and estimate * 2,
        counted="likelihood" if reason else "inverse_variance",
        weight_common=None if reason else 0.5,
        weight_random=None if reason else 0.5,
        reason=reason,
    )


@pytest.fixture
def found() -> Synthesis:
    meta = [
        as_result(meta_analysis([-0.4, 0.1], [0.2, 0.2], model=m, interval=i))
        for m, i in (("common", "wald"), ("reml", "wald"), ("reml", "hksj"), ("reml", "hksj_adhoc"))
    ]
    return Synthesis(
        analysis="time_dependent_cox",
        role="primary",
        adjusted_for=["age"],
        ci_level=0.95,
        pooled=PooledEffect(method="Cox model", is_stratified=True, estimate=0.77, ci_low=0.6, ci_high=0.99),
        sites=[site("alpha", 0.67), site("beta", 1.1), site("gamma", None, "5 deaths, <none> treated")],
        meta=meta,
        leave_one_out=[],
        with_every_site=[
            WithEverySite(
                method="profile_likelihood",
                adjusted_for=["age"],
                sites=3,
                estimate=0.71,
                log_estimate=-0.34,
                se=0.1,
                ci_low=0.58,
                ci_high=0.86,
                ci_level=0.95,
                p_value=0.001,
            )
        ],
        interaction=Interaction(
            method="likelihood ratio", chi_square=7.25, df=2, p_value=0.027, sites=["alpha", "beta", "gamma"]
        ),
        sources=[
            SiteSource(site="alpha", source="extracted", patients=80),
            SiteSource(site="beta", source="shared", patients=80, ages="whole_years", share="abc"),
        ],
        counted_once=1,
        notes=["Not linked by tokens: alpha and gamma"],
    )


def test_every_site_and_what_they_say_together_is_on_the_page(found: Synthesis) -> None:
    html = render_report(example.evidence(synthesis=found))
    text = Page(html).text
    for told in (
        "Site alpha",
        "Site gamma",
        "All patients in one model, stratified by site",
        "Common effect by the sites' likelihoods",
        "Where the effect of a new site would lie",
        "likelihood ratio, chi-square 7.25 on 2 degrees of freedom, p 0.027",
        "1 record was left out",
        "shared its tables",
        "whole years",
        "by its likelihood and its events",
        "Not linked by tokens: alpha and gamma.",
    ):
        assert told in text, told
    assert '<a href="#sites">Sites</a>' in html


def test_a_reason_is_text_and_ids_of_the_two_forest_plots_differ(found: Synthesis) -> None:
    html = render_report(example.evidence(synthesis=found))
    assert "<none>" not in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_the_forest_has_the_ad_hoc_interval_and_no_count_that_is_not_the_rows_own(found: Synthesis) -> None:
    """By the estimates two sites agree too well: untruncated HKSJ would be the narrowest interval of all."""
    meta = [
        as_result(meta_analysis([-0.5, -0.48, -0.52], [0.35, 0.4, 0.45], model=m, interval=i))
        for m, i in (("common", "wald"), ("reml", "hksj"), ("reml", "hksj_adhoc"))
    ]
    every = [w.model_copy(update={"sites": 2}) for w in found.with_every_site]
    _, together = _groups(found.model_copy(update={"meta": meta, "with_every_site": every}))
    rows = {row.label: row for row in together.rows}
    random = rows["Random effects, REML, HKSJ, ad hoc"]
    assert (random.low, random.high) == (meta[2].ci_low, meta[2].ci_high)
    prediction = rows["Where the effect of a new site would lie (REML, HKSJ, ad hoc)"]
    assert (prediction.low, prediction.high) == (meta[2].prediction_low, meta[2].prediction_high)
    likelihood = rows["Common effect by the sites' likelihoods; 2 sites"]
    assert (likelihood.n, likelihood.events) == ("", "")  # a silent site is not in it
    assert rows["All patients in one model, stratified by site"].n == "240"


def test_a_page_without_several_sites_has_no_such_section() -> None:
    assert 'id="sites"' not in render_report(example.evidence())
