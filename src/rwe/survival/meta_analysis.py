"""Meta-analysis of site estimates on the log scale: common effect, random effects, and events by count.

Random effects: tau² after DerSimonian & Laird 1986 (DL), by restricted maximum likelihood (REML; Viechtbauer
2005) or Paule & Mandel 1982 (PM). Intervals: Wald with the normal quantile; Hartung & Knapp 2001, Sidik &
Jonkman 2002 (HKSJ) with t(k-1), untruncated; and its ad hoc version, in which the variance is never less than
Wald's (Knapp & Hartung 2003). Untruncated HKSJ can be narrower than the common effect where sites agree by
chance (Q < k - 1); ad hoc cannot. Heterogeneity: Cochran's Q, I² (Higgins & Thompson 2002).

Prediction interval: Higgins et al. 2009, with the quantile of its confidence interval: that of t(k-1) under
HKSJ and, as in `metafor`, the normal one under Wald, not that of t(k-2) as in the paper, so that Wald's is
too narrow for few sites. R's `metafor` is the gold standard; its conventions are followed: I² and H² of a
random-effects model come from its tau², those of the common effect from Q.

A site without an event in one group has no log hazard ratio and cannot enter these. It is not dropped: its
counts enter `mantel_haenszel_rates` (Greenland & Robins 1985) and `peto` (Yusuf et al. 1985), which need no
correction of zeros, and its likelihood enters `rwe.survival.site_effects.common_effect`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import chdtrc, ndtr, ndtri, stdtr, stdtrit

from rwe.survival.data import FloatArray, NotEstimableError, SurvivalDataError, frozen_floats

Model = Literal["common", "dl", "reml", "pm"]
Interval = Literal["wald", "hksj", "hksj_adhoc"]

_GRID = 400
_TOLERANCE = 1e-13


@dataclass(frozen=True)
class Heterogeneity:
    """Cochran's Q with its test, and the share of variation that is between sites.

    `i2` is in percent, `h2` a ratio; both as of the model whose `tau2` (variance between sites, log scale)
    this is. With one site there is nothing to compare: `q` is 0, `p_value` None.
    """

    tau2: float
    i2: float
    h2: float
    q: float
    df: int
    p_value: float | None


@dataclass(frozen=True)
class MetaEstimate:
    """A mean effect over sites. `log_estimate` and `se` are on the log scale, the limits are ratios.

    `weights` are shares that add up to 1, in the order of the sites. `prediction_low`, `prediction_high`:
    where the effect of a new site lies; None for the common effect, which has no such thing.
    """

    model: Model
    interval: Interval
    estimate: float
    log_estimate: float
    se: float
    ci_low: float
    ci_high: float
    ci_level: float
    p_value: float
    df: int | None
    prediction_low: float | None
    prediction_high: float | None
    heterogeneity: Heterogeneity
    weights: FloatArray
    sites: int


@dataclass(frozen=True)
class Left:
    """The meta-analysis without one site. `position` is that site's place."""

    position: int
    without: MetaEstimate


@dataclass(frozen=True)
class PooledCounts:
    """A ratio from events and person-time, or from observed and expected events, over all sites.

    None where it is undefined: no event in one group at any site. `sites` are those that say something of it.
    """

    method: Literal["mantel_haenszel", "peto"]
    estimate: float | None
    log_estimate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float
    p_value: float | None
    sites: int


@dataclass(frozen=True)
class _Effects:
    y: FloatArray
    v: FloatArray

    def __len__(self) -> int:
        return len(self.y)

    def weights(self, tau2: float) -> FloatArray:
        return np.asarray(1.0 / (self.v + tau2))

    def mean(self, tau2: float) -> float:
        w = self.weights(tau2)
        return float((w @ self.y) / w.sum())

    def q(self, tau2: float) -> float:
        """The generalised Q: the weighted sum of squares around the mean."""
        gap = self.y - self.mean(tau2)
        return float(self.weights(tau2) @ gap**2)


def meta_analysis(
    log_estimates: npt.ArrayLike,
    standard_errors: npt.ArrayLike,
    *,
    model: Model = "reml",
    interval: Interval = "wald",
    level: float = 0.95,
) -> MetaEstimate:
    """The mean of site effects on the log scale, with the standard errors taken as known.

    One site: its own estimate with tau² 0, and no HKSJ interval. Raises SurvivalDataError for missing values,
    standard errors that are not positive or unequal lengths; NotEstimableError without a site, and for an
    HKSJ interval of one site or around a common effect.
    """
    effects = _checked(log_estimates, standard_errors, level)
    if interval != "wald" and (model == "common" or len(effects) < 2):
        raise NotEstimableError("the HKSJ interval needs random effects and at least two sites")
    tau2 = _TAU2[model](effects)
    w = effects.weights(tau2)
    mu, se = effects.mean(tau2), float(1 / math.sqrt(w.sum()))
    k = len(effects)
    quantile, df = float(ndtri(0.5 + level / 2)), None
    if interval != "wald":
        spread = math.sqrt(effects.q(tau2) / (k - 1))
        se *= spread if interval == "hksj" else max(1.0, spread)
        df = k - 1
        quantile = float(stdtrit(df, 0.5 + level / 2))
    half, reach = quantile * se, quantile * math.sqrt(se**2 + tau2)
    return MetaEstimate(
        model=model,
        interval=interval,
        estimate=math.exp(mu),
        log_estimate=mu,
        se=se,
        ci_low=math.exp(mu - half),
        ci_high=math.exp(mu + half),
        ci_level=level,
        p_value=_p_value(mu, se, df),
        df=df,
        prediction_low=None if model == "common" or k < 2 else math.exp(mu - reach),
        prediction_high=None if model == "common" or k < 2 else math.exp(mu + reach),
        heterogeneity=_heterogeneity(effects, model, tau2),
        weights=frozen_floats(w / w.sum()),
        sites=k,
    )


def leave_one_out(
    log_estimates: npt.ArrayLike,
    standard_errors: npt.ArrayLike,
    *,
    model: Model = "reml",
    interval: Interval = "wald",
    level: float = 0.95,
) -> tuple[Left, ...]:
    """The meta-analysis without each site in turn. Raises as `meta_analysis`; nothing to do for fewer than
    three sites: without one, a single one is left, which is no meta-analysis."""
    effects = _checked(log_estimates, standard_errors, level)
    if len(effects) < 3:
        return ()
    rest = [np.arange(len(effects)) != i for i in range(len(effects))]
    se = np.sqrt(effects.v)
    return tuple(
        Left(i, meta_analysis(effects.y[m], se[m], model=model, interval=interval, level=level))
        for i, m in enumerate(rest)
    )


def mantel_haenszel_rates(
    events: npt.ArrayLike,
    days: npt.ArrayLike,
    *,
    sites: Sequence[str] | None = None,
    level: float = 0.95,
) -> PooledCounts:
    """The Mantel-Haenszel ratio of event rates, exposed to unexposed, over strata.

    events, days: (unexposed, exposed) of each stratum; one with a zero counts as it is. A ratio of rates is
    one of hazards only where the hazard does not change inside a stratum: of groups that differ in time since
    index, strata are the sites' event times (`rwe.survival.site_effects.risk_set_counts`). `sites` names the
    site of each stratum, by default each its own. A stratum without an event, or with one group only, says
    nothing, and a site with no other does not count. Variance of the logarithm: Greenland & Robins 1985,
    Biometrics 41:55. Raises SurvivalDataError for unequal lengths.
    """
    d = np.asarray(events, dtype=np.float64).reshape(-1, 2)
    t = np.asarray(days, dtype=np.float64).reshape(-1, 2)
    site = np.arange(len(d)) if sites is None else np.asarray(sites)
    if not len(d) == len(t) == len(site):
        raise SurvivalDataError("events, days and sites have not one length")
    used = (t.min(axis=1) > 0) & (d.sum(axis=1) > 0)
    d, t, telling = d[used], t[used], len(np.unique(site[used]))
    total = t.sum(axis=1)
    above, below = float((d[:, 1] * t[:, 0] / total).sum()), float((d[:, 0] * t[:, 1] / total).sum())
    if above <= 0 or below <= 0:
        return _counts("mantel_haenszel", None, None, level, telling)
    variance = float((d.sum(axis=1) * t[:, 0] * t[:, 1] / total**2).sum()) / (above * below)
    return _counts("mantel_haenszel", math.log(above / below), math.sqrt(variance), level, telling)


def peto(
    observed_minus_expected: Sequence[float], variances: Sequence[float], *, level: float = 0.95
) -> PooledCounts:
    """Peto's one-step log hazard ratio: the sum of O - E of the exposed over the sum of V, both of the sites'
    log-rank tests. A site whose exposed had no event counts through its E; far from 1 it is drawn towards 1.
    A site with V of 0 had never both groups at risk at an event, and is not among `sites`.

    Source: Yusuf et al. 1985, Prog Cardiovasc Dis 27:335. Raises SurvivalDataError for unequal lengths.
    """
    if len(observed_minus_expected) != len(variances):
        raise SurvivalDataError("O - E and V have not one length")
    score, information = math.fsum(observed_minus_expected), math.fsum(variances)
    telling = sum(v > 0 for v in variances)
    if information <= 0:
        return _counts("peto", None, None, level, telling)
    return _counts("peto", score / information, 1 / math.sqrt(information), level, telling)


def _checked(log_estimates: npt.ArrayLike, standard_errors: npt.ArrayLike, level: float) -> _Effects:
    y = np.asarray(log_estimates, dtype=np.float64)
    se = np.asarray(standard_errors, dtype=np.float64)
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")
    if y.shape != se.shape or y.ndim != 1:
        raise SurvivalDataError("estimates and standard errors have not one length")
    if not (np.isfinite(y).all() and np.isfinite(se).all()):
        raise SurvivalDataError("a site's estimate or its standard error is missing or infinite")
    if (se <= 0).any():
        raise SurvivalDataError("a standard error is not positive")
    if not len(y):
        raise NotEstimableError("no site has an estimate")
    return _Effects(y, se**2)


def _p_value(mu: float, se: float, df: int | None) -> float:
    if se == 0:  # sites that agree to the last digit, under HKSJ
        return 0.0 if mu else 1.0
    z = -abs(mu / se)
    return float(2 * (ndtr(z) if df is None else stdtr(df, z)))


def _none(effects: _Effects) -> float:  # noqa: ARG001  (one signature for all)
    return 0.0


def _dl(effects: _Effects) -> float:
    if len(effects) < 2:
        return 0.0
    w = effects.weights(0.0)
    scale = float(w.sum() - (w**2).sum() / w.sum())
    return max(0.0, (effects.q(0.0) - (len(effects) - 1)) / scale)


def _pm(effects: _Effects) -> float:
    """Where the generalised Q is its expectation k - 1; it falls with tau²."""
    k = len(effects)
    if k < 2 or effects.q(0.0) <= k - 1:
        return 0.0
    high = _beyond(effects)
    while effects.q(high) > k - 1:
        high *= 2
    return float(brentq(lambda t: effects.q(t) - (k - 1), 0.0, high, xtol=_TOLERANCE, rtol=1e-14))


def _reml(effects: _Effects) -> float:
    """The highest of the maxima of the restricted likelihood on tau² >= 0.

    All zeros of its derivative lie below a bound that grows with the spread; the derivative is looked at on a
    grid that is dense near 0, and each change from rising to falling is a maximum.
    """
    if len(effects) < 2:
        return 0.0
    high = _beyond(effects)
    while _reml_score(effects, high) > 0:
        high *= 2
    grid = np.concatenate([[0.0], high * np.geomspace(1e-9, 1.0, _GRID)])
    slope = [_reml_score(effects, float(t)) for t in grid]
    maxima = [0.0]
    for left, right, rising, falling in zip(grid, grid[1:], slope, slope[1:], strict=False):
        if rising > 0 >= falling:
            at = brentq(lambda t: _reml_score(effects, t), left, right, xtol=_TOLERANCE, rtol=1e-14)
            maxima.append(float(at))
    return max(maxima, key=lambda t: _reml_loglik(effects, t))


def _beyond(effects: _Effects) -> float:
    return float(10 * (np.ptp(effects.y) ** 2 + effects.v.max()))


def _reml_loglik(effects: _Effects, tau2: float) -> float:
    w = effects.weights(tau2)
    return float(0.5 * np.log(w).sum() - 0.5 * math.log(w.sum()) - 0.5 * effects.q(tau2))


def _reml_score(effects: _Effects, tau2: float) -> float:
    """The derivative of the restricted log-likelihood in tau²."""
    w = effects.weights(tau2)
    gap = effects.y - effects.mean(tau2)
    return float(0.5 * ((w**2) @ gap**2 - w.sum() + (w**2).sum() / w.sum()))


_TAU2: dict[Model, Callable[[_Effects], float]] = {"common": _none, "dl": _dl, "reml": _reml, "pm": _pm}


def _heterogeneity(effects: _Effects, model: Model, tau2: float) -> Heterogeneity:
    k, q = len(effects), effects.q(0.0)
    df = k - 1
    if k < 2:
        return Heterogeneity(0.0, 0.0, 1.0, 0.0, 0, None)
    if model == "common":
        i2, h2 = max(0.0, 100 * (q - df) / q) if q > 0 else 0.0, q / df
    else:
        w = effects.weights(0.0)
        typical = df * float(w.sum()) / float(w.sum() ** 2 - (w**2).sum())
        i2, h2 = 100 * tau2 / (tau2 + typical), tau2 / typical + 1
    return Heterogeneity(tau2, i2, h2, q, df, float(chdtrc(df, q)))


def _counts(
    method: Literal["mantel_haenszel", "peto"],
    log_estimate: float | None,
    se: float | None,
    level: float,
    sites: int,
) -> PooledCounts:
    if log_estimate is None or se is None:
        return PooledCounts(method, None, None, None, None, None, level, None, sites)
    half = float(ndtri(0.5 + level / 2)) * se
    return PooledCounts(
        method=method,
        estimate=math.exp(log_estimate),
        log_estimate=log_estimate,
        se=se,
        ci_low=math.exp(log_estimate - half),
        ci_high=math.exp(log_estimate + half),
        ci_level=level,
        p_value=_p_value(log_estimate, se, None),
        sites=sites,
    )
