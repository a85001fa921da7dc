"""What an estimator is to find in a scenario: its own estimand, on the log scale."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from rwe.errors import RweError
from rwe.sandbox.truth import Regime
from rwe.simulate.estimators import Estimator
from rwe.simulate.scenarios import Scenario, scenario
from rwe.survival.cox import EXPOSURE, cox_data, fit_cox
from rwe.survival.data import follow_up_days

#: Patients behind an estimand that is found by simulation: its error is then far below any estimate's.
LARGE = 120_000
_PER_SITE = 300
_SEED = 77


def estimand(s: Scenario, e: Estimator, seed: int) -> float | None:
    """The log hazard ratio (or difference) that `e` estimates in `s`; None where it has none.

    conditional: what the simulation was given, if that is one number. strategies: a Cox model between two
    large cohorts, each made to follow one strategy. limit: the estimator itself on one large cohort, so that
    only its interval is judged, not its bias.
    """
    if e.estimand == "conditional" and s.truth.late_hazard_ratio is None:
        return math.log(s.truth.hazard_ratio)
    if e.estimand == "strategies":
        return _between_strategies(s.name)
    return _limit(s, e, seed)


@lru_cache(maxsize=64)
def _between_strategies(name: str) -> float:
    # Many small sites: each replicate draws its own, so the estimand is an average over sites.
    s = replace(scenario(name), sites=LARGE // _PER_SITE, patients=_PER_SITE)
    arms = [
        s.draw(_SEED, regime=Regime(start_by=s.grace_days)),
        s.draw(_SEED + 1, regime=Regime(no_start_by=s.grace_days)),
    ]
    exposed = np.concatenate([np.full(len(t), 1.0 - k) for k, t in enumerate(arms)])
    fit = fit_cox(
        cox_data(
            exposed[:, None],
            np.concatenate([follow_up_days(t) for t in arms]),
            np.concatenate([t.patients["is_event"].to_numpy(dtype=bool) for t in arms]),
            names=(EXPOSURE,),
        )
    )
    return float(fit.coefficients[0])


def _limit(s: Scenario, e: Estimator, seed: int) -> float | None:
    if e.share < 1:
        return None  # too slow on a large cohort
    try:
        return e.run(s.draw(_SEED + 2, patients=math.ceil(LARGE / s.sites)), s, seed).estimate
    except RweError:
        return None
