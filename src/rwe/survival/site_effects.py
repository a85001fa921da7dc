"""Effects of exposure at several sites from the rows themselves: one common effect, and whether it differs.

`common_effect` combines the profile likelihoods of the sites' own models: each site has its own baseline
hazard and its own coefficients of the covariates, only the log hazard ratio of exposure is shared. A site
without an event in one group, whose own estimate runs to infinity, counts with all its likelihood says, and
without any correction of zeros. It is the meta-analysis of whole likelihoods where that of estimates and
standard errors would have to leave the site out.

`site_interaction` asks whether the hazard ratio is the same at all sites: in the model stratified by site,
exposure has one coefficient against one for each site; the covariates act alike everywhere.

`risk_set_counts` gives each event time of each site as a stratum for `mantel_haenszel_rates`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtrc

from rwe.survival.cox import EXPOSURE, CoxData, CoxFit, exposure_data, fit_cox, stratum_scores
from rwe.survival.cox_kernel import Ties
from rwe.survival.data import (
    BoolArray,
    CountingProcess,
    FloatArray,
    IntArray,
    NotEstimableError,
    frozen_ints,
)
from rwe.survival.subgroups import InteractionTest

#: Share of a covariate's information at a site left by the others, below which it has no coefficient there.
_COLLINEAR = 1e-10


@dataclass(frozen=True)
class CommonEffect:
    """The hazard ratio of exposure common to the sites. `contributing` are the sites with both groups at risk
    at some event: those without say nothing about it. `fit` has the sites' coefficients, too."""

    fit: CoxFit
    contributing: tuple[str, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True)
class RiskSetCounts:
    """Events and patients at risk as (unexposed, exposed), one row for each event time of each of `sites`."""

    sites: tuple[str, ...]
    events: IntArray
    at_risk: IntArray


@dataclass(frozen=True)
class SiteInteraction:
    """The test that the hazard ratio is the same at all sites, among `sites`, which have both groups."""

    test: InteractionTest
    sites: tuple[str, ...]


def common_effect(
    data: CountingProcess, *, ties: Ties = "efron", robust: bool = False, level: float = 0.95
) -> CommonEffect:
    """Fit exposure in common, every covariate with a coefficient at each site where it has one.

    Rows with a `trial` have the robust variance. Raises NotEstimableError as `fit_cox`, and where no site has
    both groups at risk at an event.
    """
    model = exposure_data(data, stratify_by_site=True)
    sites = data.site.astype(str)
    columns, names, contributing, silent = [], [], [], []
    for site in np.unique(sites):
        here = sites == site
        information = _information(model, here)
        floor = _rounding(model, here)
        if information[0, 0] <= floor[0]:
            silent.append(str(site))
            continue
        contributing.append(str(site))
        for j in _independent(information, floor):
            centred = model.X[:, j] - model.X[here, j].mean()
            columns.append(np.where(here, centred, 0.0))
            names.append(f"{model.names[j]} at {site}")
    if not contributing:
        raise NotEstimableError("no site has both groups at risk when there is an event")
    used = np.isin(sites, contributing)
    wide = np.column_stack([model.X[:, 0], *columns])
    rows = _only(replace(model, X=wide, names=(EXPOSURE, *names)), used)
    fit = fit_cox(rows, ties=ties, robust=robust or data.trial is not None, level=level)
    return CommonEffect(fit, tuple(contributing), tuple(silent))


def site_interaction(data: CountingProcess, *, ties: Ties = "efron", robust: bool = False) -> SiteInteraction:
    """Likelihood ratio (Wald where the variance is robust) of exposure by site against exposure in common.

    A site where a group has no event has a likelihood at its limit: the ratio stands, Wald's test is None.
    Raises NotEstimableError where fewer than two sites have both groups at risk at an event.
    """
    robust = robust or data.trial is not None
    model = exposure_data(data, stratify_by_site=True)
    sites = data.site.astype(str)
    telling = [
        s for s in np.unique(sites) if _information(model, sites == s)[0, 0] > _rounding(model, sites == s)[0]
    ]
    if len(telling) < 2:
        raise NotEstimableError("fewer than two sites have both groups at risk when there is an event")
    used = np.isin(sites, telling)
    by_site = model.X[:, :1] * (sites[:, None] == np.array(telling))
    names = tuple(f"{EXPOSURE} at {s}" for s in telling)
    wide = replace(model, X=np.hstack([by_site, model.X[:, 1:]]), names=(*names, *model.names[1:]))
    apart = fit_cox(_only(wide, used), ties=ties, robust=robust)
    together = fit_cox(_only(model, used), ties=ties, robust=robust)
    df = len(telling) - 1
    chi_square = _wald(apart, df) if robust else _likelihood_ratio(apart, together)
    return SiteInteraction(
        InteractionTest(
            chi_square=chi_square,
            df=df,
            p_value=None if chi_square is None else float(chdtrc(df, chi_square)),
            method="Wald, robust variance" if robust else "likelihood ratio",
        ),
        tuple(str(s) for s in telling),
    )


def risk_set_counts(data: CountingProcess) -> RiskSetCounts:
    """The risk sets of each site, at its event times.

    The numbers at risk are the person-time of bands of follow-up so short that the hazard does not change in
    them. So the Mantel-Haenszel ratio of these strata is one of hazards whatever their shape, though the
    exposed, who start later, are at risk at other times since index than the unexposed. Source: Clayton &
    Hills 1993, Statistical Models in Epidemiology (rates stratified by bands of follow-up).
    """
    names, events, at_risk = list[str](), list[IntArray](), list[IntArray]()
    sites = data.site.astype(str)
    for site in np.unique(sites):
        here = sites == site
        times = np.unique(data.stop[here & data.event])
        groups = [here & (data.exposed == group) for group in (False, True)]
        names += [str(site)] * len(times)
        events.append(np.column_stack([_at(times, data.stop[g & data.event]) for g in groups]))
        at_risk.append(
            np.column_stack([_before(times, data.start[g]) - _before(times, data.stop[g]) for g in groups])
        )
    none = np.empty((0, 2), dtype=np.int64)
    return RiskSetCounts(
        tuple(names), frozen_ints(np.vstack([none, *events])), frozen_ints(np.vstack([none, *at_risk]))
    )


def _before(times: FloatArray, values: FloatArray) -> IntArray:
    """How many values lie before each time."""
    return np.searchsorted(np.sort(values), times, side="left").astype(np.int64)


def _at(times: FloatArray, values: FloatArray) -> IntArray:
    ordered = np.sort(values)
    return np.asarray(np.searchsorted(ordered, times, side="right") - _before(times, ordered), dtype=np.int64)


def _information(model: CoxData, here: BoolArray) -> FloatArray:
    """The information of a site's rows where every coefficient is 0."""
    parts = stratum_scores(_only(model, here), np.zeros(len(model.names)))
    return np.asarray(sum((p.information for p in parts), np.zeros((len(model.names),) * 2)))


def _rounding(model: CoxData, here: BoolArray) -> FloatArray:
    """Up to which information (p) a site says nothing: what rounding leaves where risk sets are alike."""
    spread = np.ptp(model.X[here], axis=0)
    return np.where(spread > 0, _COLLINEAR * model.event[here].sum() * spread**2, np.inf)


def _independent(information: FloatArray, floor: FloatArray) -> list[int]:
    """The covariates that have a coefficient of their own beside exposure, taken in their order."""
    chosen = [0]
    for j in range(1, len(information)):
        own = information[j, j]
        if own <= floor[j]:
            continue
        block = information[np.ix_(chosen, chosen)]
        cross = information[chosen, j]
        if own - cross @ np.linalg.solve(block, cross) > _COLLINEAR * own:
            chosen.append(j)
    return chosen[1:]


def _only(model: CoxData, rows: BoolArray) -> CoxData:
    return replace(
        model,
        X=model.X[rows],
        start=model.start[rows],
        stop=model.stop[rows],
        event=model.event[rows],
        weight=model.weight[rows],
        stratum=model.stratum[rows],
        cluster=np.unique(model.cluster[rows], return_inverse=True)[1].astype(np.int64),
    )


def _likelihood_ratio(apart: CoxFit, together: CoxFit) -> float | None:
    for fit in (apart, together):
        if not (fit.converged or fit.diverged):
            return None
    return max(0.0, 2 * (apart.loglik - together.loglik))


def _wald(apart: CoxFit, df: int) -> float | None:
    beta, variance = apart.coefficients[: df + 1], apart.variance[: df + 1, : df + 1]
    if not (np.isfinite(beta).all() and np.isfinite(variance).all()):
        return None
    contrast = np.hstack([-np.ones((df, 1)), np.eye(df)])
    gap = contrast @ beta
    return float(gap @ np.linalg.solve(contrast @ variance @ contrast.T, gap))
