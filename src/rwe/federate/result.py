"""The estimate from the totals: what a pooled model stratified by site gives, without its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri

from rwe.federate.life_tables import LifeTableRow, life_table
from rwe.federate.newton import Decision, Point
from rwe.federate.plan import ARMS, COUNTS, Plan
from rwe.survival.data import FloatArray


@dataclass(frozen=True)
class Coefficient:
    """A log hazard ratio in the units of the study, with its Wald interval; None where it has no estimate."""

    name: str
    estimate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None

    @property
    def hazard_ratio(self) -> tuple[float, float, float] | None:
        """exp of the estimate and of its limits."""
        if self.estimate is None or self.ci_low is None or self.ci_high is None:
            return None
        return math.exp(self.estimate), math.exp(self.ci_low), math.exp(self.ci_high)


@dataclass(frozen=True)
class FederatedLogRank:
    """Observed and expected events of the unexposed and the exposed, stratified by site; one degree of
    freedom. On time-dependent exposure it is the Mantel-Byar test."""

    observed: tuple[float, float]
    expected: tuple[float, float]
    variance: float
    chi_square: float | None
    p_value: float | None


@dataclass(frozen=True)
class FederatedResult:
    """One refresh of a federated estimate. Counts and the life table are sums of what the sites rounded.

    `format` names this layout; `ending` says how Newton's method ended (`converged`: there is an estimate).
    `score_test` is the chi-square of all coefficients at beta 0, robust where the variance is, none under
    Firth's penalty. `request_sha256` is of the last request, which chains back to the first.
    """

    format: str
    study: str
    protocol_sha256: str
    analysis: str
    landmark_day: int | None
    refresh: str
    created_at: str
    mode: str
    sites: tuple[str, ...]
    steps: int
    ending: str
    method: str
    variance_method: str
    ci_level: float
    coefficients: tuple[Coefficient, ...]
    variance: tuple[tuple[float, ...], ...]
    score_test: float | None
    logrank: FederatedLogRank | None
    counts: Mapping[str, float]
    counts_are: str
    life_table: tuple[LifeTableRow, ...]
    request_sha256: str
    warnings: tuple[str, ...]


FORMAT = "rwe federated result 1"
_METHODS = {
    "cox": "Cox model stratified by site, {ties} ties, from totals over sites",
    "firth": "Cox model with Firth's penalty stratified by site, {ties} ties, from totals over sites",
    "weighted": "Cox model of weighted copies stratified by site, weights fitted at each site",
}
_ENDINGS = {
    "out_of_the_box": "The coefficient of {names} leaves the range in which sites answer: the likelihood may "
    "have no maximum. There is no estimate; {tests}. An analysis with Firth's penalty may have one.",
    "singular": "There is no information on {names} in any site's risk sets, so there is no estimate.",
    "too_many_steps": "Newton's method did not converge, so there is no estimate.",
}

_STAND = {
    "cox": "the score and log-rank tests stand",
    "firth": "the log-rank test stands",
    "weighted": "the robust score test stands",
}


def make_result(
    plan: Plan,
    points: Sequence[Point],
    decision: Decision,
    first_totals: Mapping[str, float],
    *,
    refresh: str,
    created_at: str,
    mode: str,
    sites: Sequence[str],
    counts_are: str,
    request_sha256: str,
) -> FederatedResult:
    """The result of a refresh that ended; `first_totals` are those of step 0."""
    best = points[decision.best]
    is_found = decision.ending == "converged"
    variance = _variance(best) if is_found else None
    is_robust = plan.is_robust
    return FederatedResult(
        format=FORMAT,
        study=plan.study,
        protocol_sha256=plan.protocol_sha256,
        analysis=plan.name,
        landmark_day=plan.landmark_day,
        refresh=refresh,
        created_at=created_at,
        mode=mode,
        sites=tuple(sites),
        steps=len(points),
        ending=decision.ending,
        method=_METHODS[plan.kind].format(ties=plan.ties.capitalize()),
        variance_method="robust, clustered by patient" if is_robust else "inverse information",
        ci_level=plan.level,
        coefficients=_coefficients(plan, best, variance),
        variance=() if variance is None else tuple(tuple(float(v) for v in row) for row in variance),
        score_test=_score_test(plan, points[0]),
        logrank=_logrank(first_totals) if plan.life_table_days else None,
        counts={name: first_totals[f"count[{name}]"] for name in COUNTS},
        counts_are=counts_are,
        life_table=life_table(first_totals, plan.life_table_days),
        request_sha256=request_sha256,
        warnings=tuple(_warnings(plan, decision)),
    )


def _variance(best: Point) -> FloatArray:
    model = np.linalg.inv(best.information)
    if best.meat is None:
        return np.asarray(model, dtype=np.float64)
    return np.asarray(model @ best.meat @ model, dtype=np.float64)


def _coefficients(plan: Plan, best: Point, variance: FloatArray | None) -> tuple[Coefficient, ...]:
    if variance is None:
        return tuple(Coefficient(name, None, None, None, None, None) for name in plan.coefficients)
    reach = float(ndtri(0.5 + plan.level / 2))
    found = []
    for name, b, v in zip(plan.coefficients, best.beta, np.diag(variance), strict=True):
        se = math.sqrt(v)
        p = float(2 * ndtr(-abs(b / se)))
        found.append(Coefficient(name, float(b), se, float(b - reach * se), float(b + reach * se), p))
    return tuple(found)


def _score_test(plan: Plan, first: Point) -> float | None:
    """Chi-square of all coefficients at once, at beta 0; with the sandwich's meat where that is robust.

    None under Firth's penalty: its score at 0 is not that of the likelihood.
    """
    if plan.kind == "firth":
        return None
    variance = first.information if first.meat is None else first.meat
    try:
        return float(first.score @ np.linalg.solve(variance, first.score))
    except np.linalg.LinAlgError:
        return None


def _logrank(totals: Mapping[str, float]) -> FederatedLogRank:
    observed, expected = (
        (totals[f"logrank.{what}[{ARMS[0]}]"], totals[f"logrank.{what}[{ARMS[1]}]"])
        for what in ("observed", "expected")
    )
    variance = totals["logrank.variance"]
    chi_square = (observed[1] - expected[1]) ** 2 / variance if variance > 0 else None
    p_value = None if chi_square is None else float(chdtrc(1, chi_square))
    return FederatedLogRank(observed, expected, variance, chi_square, p_value)


def _warnings(plan: Plan, decision: Decision) -> list[str]:
    words = []
    if decision.ending in _ENDINGS:
        names = ", ".join(decision.coefficients) or "it"
        words.append(_ENDINGS[decision.ending].format(names=names, tests=_STAND[plan.kind]))
    if plan.name.startswith("naive_"):
        words.append("Biased by immortal time: whoever started had survived until then.")
    if plan.kind == "firth" and decision.ending == "converged":
        words.append("The interval is Wald's: no log-likelihood leaves a site, so none is profiled.")
    if plan.kind == "weighted":
        words.append("The variance takes the weights as known, which is usually too wide.")
        words.append("A site where nobody followed one of the strategies adds nothing to the hazard ratio.")
    return words
