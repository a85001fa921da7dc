"""What the primary model could detect, before anybody has seen the outcome by strategy.

Adjusting costs precision: of the variation of exposure in the risk sets only the part counts that the
covariates do not explain, 1 - R2 of it (Hsieh & Lavori 2000, Control Clin Trials 21:552). Which part that is
can be told from starts and covariates. In a Cox model without an effect the information on exposure, given
the covariates, is the events times the mean over their risk sets of the variance of exposure that is left.
Here the mean is over the risk sets at all ends of follow-up, for those at deaths would give the outcome away:
the two agree as far as follow-up ends by death and by loss at the same times. The report, after the lock,
takes the standard error of the estimate itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.analyse.tasks import Task, prepared
from rwe.evidence.parts import Detectable
from rwe.study import Analysis, Protocol
from rwe.survival.data import CohortTable, CountingProcess, FloatArray, NotEstimableError, exposure_split
from rwe.survival.power import minimum_detectable_effect, share_at_deaths

#: Of the variance of exposure: less left than this is rounding, not variation.
_NOTHING_LEFT = 1e-9


@dataclass(frozen=True)
class BlindPower:
    """The detectable effect, and what it assumes: the share of the variation of exposure (0 to 1) that is
    explained by `adjusted_for`, and by the sites where `by_site`."""

    detectable: Detectable
    r_squared: float
    adjusted_for: tuple[str, ...]
    by_site: bool

    def sentence(self) -> str:
        """What the figure is of, for whoever decides on the protocol."""
        names = [*self.adjusted_for, *(["site"] if self.by_site else [])]
        if not names:
            return "The power is without adjustment: the primary analysis adjusts for nothing."
        explained = f"{self.r_squared:.0%}".replace("%", " %")
        return (
            f"The power is for a Cox model of no effect with {', '.join(names)}: they explain {explained} of "
            "the variation of exposure in the risk sets at the ends of follow-up, which stand for those at "
            "events. After the lock the report goes by the standard error of the primary estimate: its "
            "method, the effect itself, covariates that foretell the outcome and events that come earlier "
            "or later than losses can make it ask for another effect than this."
        )


def blind_power(protocol: Protocol, table: CohortTable) -> BlindPower:
    """The detectable effect of the primary analysis, by Schoenfeld's formula with R2 of its covariates.

    Without a primary analysis nothing is adjusted for. Patients without a covariate are left out, as in the
    model. Raises NotEstimableError without events, with one group only, or where the covariates tell
    exposure entirely.
    """
    primary = next((a for a in protocol.analyses if a.role == "primary"), None)
    rows = exposure_split(table) if primary is None else _rows(protocol, primary, table)
    by_site = primary is not None and "site" in primary.stratify_by
    counts = rows.counts()
    share = share_at_deaths(rows, blind=True)
    explained = exposure_r_squared(rows, by_site=by_site)
    found = minimum_detectable_effect(
        counts.events_exposed + counts.events_unexposed,
        share,
        level=protocol.confidence_level,
        r_squared=explained,
    )
    return BlindPower(
        Detectable(
            events=found.events,
            share_exposed=share,
            power=found.power,
            protective=found.protective,
            harmful=found.harmful,
        ),
        explained,
        rows.names,
        by_site,
    )


def _rows(protocol: Protocol, primary: Analysis, table: CohortTable) -> CountingProcess:
    landmark = (
        (primary.landmarks or protocol.landmarks)[0] if primary.analysis.startswith("landmark_") else None
    )
    task = prepared(Task(protocol, primary, table, None, landmark=landmark))
    if landmark is not None:
        return task.rows()
    return exposure_split(task.table, task.fixed, task.time_varying)


def exposure_r_squared(rows: CountingProcess, *, by_site: bool = False) -> float:
    """The share of the variation of exposure within the risk sets that the covariates explain, 0 to 1.

    The risk sets are those at all ends of follow-up, so that who died changes nothing. `by_site`: each risk
    set is of one site, and what lies between sites counts as explained. Raises NotEstimableError where
    exposure does not vary, or nothing of it is left.
    """
    values = np.column_stack([rows.exposed.astype(np.float64), rows.X])
    values = values - values.mean(axis=0)  # for the digits: a covariance does not change
    everybody = np.zeros(len(rows), dtype=np.int64)
    whole = _covariance(rows, values[:, :1], everybody)[0, 0]
    sites = np.unique(rows.site.astype(str), return_inverse=True)[1] if by_site else everybody
    within = _covariance(rows, values, sites)
    if whole <= 0:
        raise NotEstimableError("only one group is at risk, so no effect could be detected")
    scale = np.sqrt(np.where(np.diag(within) > 0, np.diag(within), 1.0))
    scaled = within / np.outer(scale, scale)
    told = scaled[0, 1:] @ np.linalg.pinv(scaled[1:, 1:], rcond=1e-10, hermitian=True) @ scaled[1:, 0]
    left = float(within[0, 0] * (1 - told) / whole)
    if left < _NOTHING_LEFT:
        raise NotEstimableError("the covariates tell who is exposed, so no effect could be detected")
    return max(0.0, 1.0 - left)


def _covariance(rows: CountingProcess, values: FloatArray, strata: np.ndarray) -> FloatArray:
    """The sum over the risk sets at all ends of follow-up of the covariance of `values` within them."""
    is_last = np.append(rows.patient[1:] != rows.patient[:-1], True)
    width = values.shape[1]
    total = np.zeros((width, width))
    for stratum in np.unique(strata):
        own = strata == stratum
        x, times = values[own], rows.stop[own & is_last]
        products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        n, first, second = (
            _at_risk(rows.start[own], rows.stop[own], part, times)
            for part in (np.ones((len(x), 1)), x, products)
        )
        mean = first / n
        total += (second / n).sum(axis=0).reshape(width, width) - mean.T @ mean
    return total


def _at_risk(start: FloatArray, stop: FloatArray, x: FloatArray, times: FloatArray) -> FloatArray:
    """For each time the sum of x over the rows with start < time <= stop."""

    def until(day: FloatArray) -> FloatArray:
        order = np.argsort(day, kind="stable")
        sums = np.vstack([np.zeros((1, x.shape[1])), np.cumsum(x[order], axis=0)])
        return np.asarray(sums[np.searchsorted(day[order], times, side="left")])

    return until(start) - until(stop)
