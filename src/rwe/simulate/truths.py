"""What an estimator is to find in a scenario: its own estimand, with the error of having simulated it.

- conditional: the log hazard ratio that the simulation was given, where that is one number.
- strategies: a comparison of large cohorts, the same patients made to follow one strategy each.
- randomised: the estimator in large cohorts in which starts are as frequent but depend on nothing.
- limit: the estimator itself in large cohorts, so that its interval is judged and not what it aims at.

Simulated ones are means over several cohorts, and their error is the standard error of that mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rwe.errors import RweError
from rwe.sandbox.truth import Regime
from rwe.simulate.answers import Answer
from rwe.simulate.cohorts import Cohort
from rwe.simulate.definition import Estimator
from rwe.simulate.estimators import estimator
from rwe.simulate.scenarios import Scenario
from rwe.survival.cox import EXPOSURE, cox_data, fit_cox
from rwe.survival.data import FloatArray, follow_up_days
from rwe.survival.kaplan_meier import kaplan_meier, survival_at
from rwe.survival.rmst import restricted_means
from rwe.survival.tables import CohortTable

#: A limit rests on so many times the patients of a replicate (the second number where the work grows with
#: their square): its error is then below a tenth of an estimate's standard error, which costs a coverage of
#: 95 % about 0.1 points.
TIMES_THE_PATIENTS, TIMES_WHERE_SQUARE = 200, 110
_FEWEST, _MOST, _FEWEST_COHORTS = 20_000, 200_000, 8
_STRATEGY_PATIENTS, _STRATEGY_COHORTS = 9_000, 40
_FIRST_SEED = 77_000_000
_LINEAR = 2_000


@dataclass(frozen=True)
class Truth:
    """A value on the estimator's scale and its Monte Carlo standard error (0: it is known)."""

    value: float
    error: float


@dataclass(frozen=True)
class LargeCohort:
    """One large cohort's share of some estimands: what `found_in` takes. Number `k` is its random stream."""

    scenario: Scenario
    names: tuple[str, ...]
    k: int
    patients_per_site: int
    is_forced: bool


def known(s: Scenario, e: Estimator) -> Truth | None:
    """The estimand where it needs no simulation."""
    is_given = e.estimand == "conditional" or (e.exact_when is not None and not e.exact_when & s.broken)
    is_given |= e.estimand == "randomised" and "no_effect" not in s.broken
    if e.estimand == "test" or not is_given or s.truth.late_hazard_ratio is not None:
        return None
    return Truth(math.log(s.truth.hazard_ratio), 0.0)


def large_cohorts(s: Scenario, estimators: Sequence[Estimator]) -> list[LargeCohort]:
    """The work that the simulated estimands of `estimators` in `s` take, in pieces for several processes."""
    asked = [e for e in estimators if e.estimand != "test" and known(s, e) is None]
    work = [
        LargeCohort(s, forced, k, _STRATEGY_PATIENTS // s.sites, is_forced=True)
        for forced in [tuple(e.name for e in asked if e.estimand == "strategies")]
        for k in range(_STRATEGY_COHORTS if forced else 0)
    ]
    others = [e for e in asked if e.estimand != "strategies"]
    for is_random, largest in sorted({(e.estimand == "randomised", e.largest) for e in others}):
        of_kind = [e for e in others if (e.estimand == "randomised", e.largest) == (is_random, largest)]
        where, per_site = (_randomised(s) if is_random else s), max(largest // s.sites, 1)
        times = TIMES_THE_PATIENTS if largest >= _LINEAR else TIMES_WHERE_SQUARE
        wanted = min(max(times * s.n, _FEWEST), _MOST)
        cohorts = max(math.ceil(wanted / (per_site * s.sites)), _FEWEST_COHORTS)
        names = tuple(e.name for e in of_kind)
        work += [LargeCohort(where, names, k, per_site, is_forced=False) for k in range(cohorts)]
    return work


def found_in(work: LargeCohort) -> dict[str, float]:
    """What each estimator is in that cohort (or between the two forced ones), without those that refuse."""
    s, found = work.scenario, {}
    if work.is_forced:
        arms = _followed(s, work)
        return {name: _CONTRASTS[estimator(name).reports](*arms, s.horizon) for name in work.names}
    cohort = Cohort(s.draw(_FIRST_SEED + work.k, patients=work.patients_per_site), s, seed=0)
    for name in work.names:
        try:
            answer = estimator(name).run(cohort)
        except RweError:
            continue
        if isinstance(answer, Answer):
            found[name] = answer.estimate
    return found


def estimands(
    s: Scenario, estimators: Sequence[Estimator], simulated: Iterable[dict[str, float]]
) -> dict[str, Truth]:
    """The truths of `s`: the known ones, and the means of what `found_in` gave. Tests have none."""
    truths = {e.name: truth for e in estimators if (truth := known(s, e)) is not None}
    values: dict[str, list[float]] = {}
    for found in simulated:
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    return truths | {name: _mean(x) for name, x in values.items() if len(x) >= _FEWEST_COHORTS}


def estimand(s: Scenario, e: Estimator) -> Truth | None:
    """What `e` estimates in `s`; None for a test, and where it refuses."""
    return estimands(s, [e], map(found_in, large_cohorts(s, [e]))).get(e.name)


def _randomised(s: Scenario) -> Scenario:
    t = s.truth
    both = t.share_responding * t.start_rate_responding + (1 - t.share_responding) * t.start_rate_stable
    return replace(s, truth=replace(t, start_rate_responding=both, start_rate_stable=both))


def _followed(s: Scenario, work: LargeCohort) -> tuple[CohortTable, CohortTable]:
    """The same patients, made to start by the end of grace, and made not to."""
    seed, n = _FIRST_SEED + work.k, work.patients_per_site
    return (
        s.draw(seed, regime=Regime(start_by=s.grace_days), patients=n),
        s.draw(seed, regime=Regime(no_start_by=s.grace_days), patients=n),
    )


def _stacked(started: CohortTable, waited: CohortTable) -> tuple[FloatArray, FloatArray, FloatArray]:
    stop = np.concatenate([follow_up_days(t) for t in (started, waited)])
    event = np.concatenate([t.patients["is_event"].to_numpy(dtype=np.float64) for t in (started, waited)])
    return stop, event, np.repeat([1.0, 0.0], [len(started), len(waited)])


def _log_hazard_ratio(started: CohortTable, waited: CohortTable, _: int) -> float:
    stop, event, arm = _stacked(started, waited)
    return float(fit_cox(cox_data(arm[:, None], stop, event > 0, names=(EXPOSURE,))).coefficients[0])


def _survival_difference(started: CohortTable, waited: CohortTable, day: int) -> float:
    found = []
    for table in (started, waited):
        curve = kaplan_meier(follow_up_days(table), table.patients["is_event"].to_numpy(dtype=bool))
        found.append(survival_at(curve, [day])[0].survival or 0.0)
    return found[0] - found[1]


def _rmst_difference(started: CohortTable, waited: CohortTable, horizon: int) -> float:
    stop, event, arm = _stacked(started, waited)
    return float(restricted_means(stop, event > 0, arm, horizon).difference)


_CONTRASTS = {
    "hazard_ratio": _log_hazard_ratio,
    "survival_difference": _survival_difference,
    "rmst_difference_days": _rmst_difference,
}


def _mean(values: Sequence[float]) -> Truth:
    x = np.array(values)
    return Truth(float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))))
