"""What a study of this size could have shown: the minimum detectable hazard ratio, by its events.

Schoenfeld's formula: log HR = (z_(1 - alpha/2) + z_power) / sqrt(D p (1 - p) (1 - R2)), D events, p the share
of the exposed, R2 the squared multiple correlation of exposure with the covariates adjusted for. It counts
events, not patients, and looks at no outcome by strategy: it may be shown before the lock. For exposure that
starts later, p is `share_at_deaths`.

Sources: Schoenfeld 1983, Biometrics 39:499; Hsieh & Lavori 2000, Control Clin Trials 21:552 (R2).

For the planner: `minimum_detectable_effect(events, share_at_deaths(rows))` before the analysis. Once there is
an estimate, its own standard error says it better: exp(-(z_(1 - alpha/2) + z_power) SE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from rwe.survival.data import CountingProcess, NotEstimableError, SurvivalDataError

METHOD = "Schoenfeld's formula"


@dataclass(frozen=True)
class DetectableEffect:
    """The hazard ratios nearest to 1 that would be found with probability `power` at level 1 - `ci_level`.

    `protective` is below 1, `harmful` its inverse.
    """

    events: int
    share_exposed: float
    r_squared: float
    power: float
    ci_level: float
    protective: float
    harmful: float
    warnings: tuple[str, ...]
    method: str = METHOD


def minimum_detectable_effect(
    events: int,
    share_exposed: float,
    *,
    power: float = 0.8,
    level: float = 0.95,
    r_squared: float = 0.0,
) -> DetectableEffect:
    """The effect that so many events could show. Raises NotEstimableError without events or one group."""
    z = _z(share_exposed, power, level, r_squared)
    if events < 1:
        raise NotEstimableError("there is no event, so no effect could be detected")
    log_ratio = z / math.sqrt(events * share_exposed * (1 - share_exposed) * (1 - r_squared))
    warnings = []
    if events * min(share_exposed, 1 - share_exposed) < 10:
        warnings.append("With so few events the formula, a large-sample one, is too optimistic.")
    return DetectableEffect(
        events=events,
        share_exposed=share_exposed,
        r_squared=r_squared,
        power=power,
        ci_level=level,
        protective=math.exp(-log_ratio),
        harmful=math.exp(log_ratio),
        warnings=tuple(warnings),
    )


def share_at_deaths(rows: CountingProcess, *, blind: bool = False) -> float:
    """The share exposed that Schoenfeld's formula is to be given where exposure starts later.

    p such that p (1 - p) is the mean over events of the product of the shares at risk exposed and not: deaths
    come early, when few are exposed, so the share of person-time says too much. `blind`: over all ends of
    follow-up, so that who died changes nothing. Raises NotEstimableError without events.
    """
    is_last = np.append(rows.patient[1:] != rows.patient[:-1], True)
    times = rows.stop[is_last] if blind and rows.event.any() else rows.stop[rows.event]
    if not len(times):
        raise NotEstimableError("there is no event, so no effect could be detected")
    counts = []
    for group in (rows.exposed, ~rows.exposed):
        entered = np.searchsorted(np.sort(rows.start[group]), times, side="left")
        left = np.searchsorted(np.sort(rows.stop[group]), times, side="left")
        counts.append((entered - left).astype(np.float64))
    exposed, unexposed = counts
    product = float(np.mean(exposed * unexposed / (exposed + unexposed) ** 2))
    return 0.5 - math.sqrt(max(0.25 - product, 0.0))


def events_needed(
    hazard_ratio: float,
    share_exposed: float,
    *,
    power: float = 0.8,
    level: float = 0.95,
    r_squared: float = 0.0,
) -> int:
    """How many events show this hazard ratio. Raises SurvivalDataError for a ratio of 1 or not above 0."""
    if not (hazard_ratio > 0 and hazard_ratio != 1):
        raise SurvivalDataError("the hazard ratio to detect must be above 0 and not 1")
    z = _z(share_exposed, power, level, r_squared)
    each = share_exposed * (1 - share_exposed) * (1 - r_squared) * math.log(hazard_ratio) ** 2
    return math.ceil(z**2 / each - 1e-9)


def _z(share_exposed: float, power: float, level: float, r_squared: float) -> float:
    if not (0 < power < 1 and 0 < level < 1 and 0 <= r_squared < 1):
        raise SurvivalDataError("power, level and r_squared must lie between 0 and 1")
    if not 0 < share_exposed < 1:
        raise NotEstimableError("only one group is at risk, so no effect could be detected")
    return float(ndtri(0.5 + level / 2) + ndtri(power))
