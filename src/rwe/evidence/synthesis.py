"""The part of evidence.json that puts several sites together: site by site, and what they say in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from rwe.evidence.parts import Part

Counted = Literal["inverse_variance", "likelihood", "pooled_only", "not_at_all"]
"""How a site counts: by its estimate and standard error; by its likelihood, for it has no estimate of its own
(no event in one group); only in the pooled model; or not, for it holds no information on the effect."""


class SiteSource(Part):
    """Where a site's rows came from, and what was done to them before."""

    site: str
    source: Literal["extracted", "shared"]
    patients: int = Field(description="After patients of two sites were counted once.")
    ages: Literal["exact", "whole_years"] = "exact"
    share: str | None = Field(default=None, description="Which share of the site; null: extracted.")


@dataclass(frozen=True)
class Pooling:
    """What was pooled before the analyses. `counted_once` records were left out, for the patient has one at
    another site; None: no two sites could be linked."""

    sources: tuple[SiteSource, ...]
    counted_once: int | None
    notes: tuple[str, ...]


class SiteEffect(Part):
    """The effect at one site. Weights are shares of the common-effect and of the REML mean."""

    site: str
    n: int
    events: int
    events_by_strategy: dict[str, int]
    estimate: float | None
    log_estimate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    counted: Counted
    weight_common: float | None
    weight_random: float | None
    reason: str | None = Field(
        description="Why it has no estimate of its own, or one that no inverse variance may weigh; else null."
    )


class MetaResult(Part):
    """One meta-analysis of the sites' log hazard ratios. I² in percent; the prediction interval is where the
    effect of a new site lies; null for the common effect."""

    model: Literal["common", "dl", "reml", "pm"]
    interval: Literal["wald", "hksj", "hksj_adhoc"]
    sites: int
    estimate: float
    log_estimate: float
    se: float
    ci_low: float
    ci_high: float
    ci_level: float
    p_value: float
    df: int | None
    tau2: float
    i2: float
    h2: float
    q: float
    q_df: int
    q_p_value: float | None
    prediction_low: float | None
    prediction_high: float | None


class LeftOut(Part):
    """The REML meta-analysis (interval of ad hoc HKSJ) without one site."""

    site: str
    estimate: float
    ci_low: float
    ci_high: float
    tau2: float
    i2: float


class WithEverySite(Part):
    """A common hazard ratio that sites without an event in one group enter, without a correction of zeros.

    profile_likelihood: the sites' models, with their covariates, one log hazard ratio in common. peto: the
    observed and expected events of the sites' log-rank tests, not adjusted. mantel_haenszel: rates at each
    event time of each site, not adjusted. `sites` are those that say something of the effect.
    """

    method: Literal["profile_likelihood", "peto", "mantel_haenszel"]
    adjusted_for: list[str]
    sites: int
    estimate: float | None
    log_estimate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float
    p_value: float | None


class Interaction(Part):
    """The test that the hazard ratio is the same at all sites, in the model stratified by site."""

    method: str
    chi_square: float | None
    df: int
    p_value: float | None
    sites: list[str]


class PooledEffect(Part):
    """The estimate of all sites' rows together, as among the estimates."""

    method: str
    is_stratified: bool
    estimate: float | None
    ci_low: float | None
    ci_high: float | None


class Synthesis(Part):
    """Several sites, one question: the analysis named, at each site and over all of them."""

    analysis: str
    role: str
    adjusted_for: list[str]
    ci_level: float
    pooled: PooledEffect | None
    sites: list[SiteEffect]
    meta: list[MetaResult]
    leave_one_out: list[LeftOut]
    with_every_site: list[WithEverySite]
    interaction: Interaction | None
    sources: list[SiteSource]
    counted_once: int | None = Field(
        description="Records left out: the patient has one at another site. Null: sites were not linked."
    )
    notes: list[str]
