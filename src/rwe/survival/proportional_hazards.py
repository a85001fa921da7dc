"""Are hazards proportional? Score tests on scaled Schoenfeld residuals, on start-stop rows too.

Each coefficient beta_j is allowed to change as beta_j + theta_j g(t); the test is the score test of
theta = 0 in that larger model, as R's `cox.zph` from survival 3.0 on (not the older approximation, which
takes the variance of a residual to be the same at all times). g(t) is 1 - Kaplan-Meier just before t, of all
rows together (transform "km"), so that few late events do not decide alone.

Sources: Grambsch & Therneau 1994, Biometrika 81:515; Therneau, vignette of survival 3.0, "cox.zph".

For the planner: `exposure_proportional_hazards(rows, stratify_by_site=..., ties=...)` on the rows of every
Cox model; the p value of `exposed` decides the warning, the residuals are the figure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtrc

from rwe.survival.cox import EXPOSURE, CoxData, exposure_data, fit_cox
from rwe.survival.cox_derivatives import risk_set_means
from rwe.survival.cox_kernel import RiskSets, Ties, evaluate, risk_sets
from rwe.survival.data import (
    CountingProcess,
    FloatArray,
    NotEstimableError,
    SurvivalDataError,
    frozen_floats,
)
from rwe.survival.kaplan_meier import kaplan_meier

METHOD = "score test of proportional hazards on scaled Schoenfeld residuals, time as 1 - Kaplan-Meier"


@dataclass(frozen=True)
class ProportionalHazardsTest:
    """A score test that one coefficient (or all of them) is the same at all times."""

    name: str
    chi_square: float
    df: int
    p_value: float


@dataclass(frozen=True)
class SchoenfeldResiduals:
    """One row an event, ordered by time (days); columns follow `names`. `transformed_time` is g(t).

    `scaled` estimates the coefficient at that time: the fitted one plus the residual times the number of
    events times the model variance. NaN never occurs.
    """

    names: tuple[str, ...]
    time: FloatArray
    transformed_time: FloatArray
    scaled: FloatArray


@dataclass(frozen=True)
class ProportionalHazards:
    """Tests by covariate and together, with the residuals they rest on."""

    tests: tuple[ProportionalHazardsTest, ...]
    together: ProportionalHazardsTest
    residuals: SchoenfeldResiduals
    ties: Ties
    warnings: tuple[str, ...]
    method: str = METHOD

    def test(self, name: str = EXPOSURE) -> ProportionalHazardsTest:
        """The test of one covariate. Raises SurvivalDataError if the model lacks it."""
        for found in self.tests:
            if found.name == name:
                return found
        raise SurvivalDataError(f"the model has no covariate {name}")


def exposure_proportional_hazards(
    data: CountingProcess, *, stratify_by_site: bool = False, ties: Ties = "efron"
) -> ProportionalHazards:
    """Test the model of exposure and the adjustment covariates; raises as `proportional_hazards`."""
    found = proportional_hazards(exposure_data(data, stratify_by_site=stratify_by_site), ties=ties)
    if data.trial is None:
        return found
    note = "Patients are in several trials, and the test takes these as independent: it rejects too easily."
    return replace(found, warnings=(*found.warnings, note))


def proportional_hazards(data: CoxData, *, ties: Ties = "efron") -> ProportionalHazards:
    """Test the Cox model of these rows.

    Raises NotEstimableError where the model has no estimate, and where all events happen at one g(t), so that
    nothing can change over time.
    """
    fit = fit_cox(data, ties=ties)
    if not fit.converged:
        why = fit.warnings[-1].rstrip(".")
        raise NotEstimableError(f"proportional hazards cannot be tested without an estimate: {why}")
    scale = data.X.std(axis=0)
    sets = risk_sets(
        (data.X - data.X.mean(axis=0)) / scale,
        start=data.start,
        stop=data.stop,
        event=data.event,
        weight=data.weight,
        stratum=data.stratum,
        ties=ties,
    )
    beta = fit.coefficients * scale
    transformed = _transform(data, sets.slot_time)
    if np.ptp(transformed) < 1e-12:
        raise NotEstimableError("all events happen at one time, so no hazard ratio can change over time")
    score, information = _extended(sets, beta, transformed - transformed.mean())
    p = len(data.names)
    tests = tuple(_score_test(name, score, information, [p + j]) for j, name in enumerate(data.names))
    together = _score_test("all", score, information, list(range(p, 2 * p)))
    return ProportionalHazards(
        tests=tests,
        together=together,
        residuals=_residuals(data.names, sets, beta, transformed, scale),
        ties=ties,
        warnings=fit.warnings,
    )


def _transform(data: CoxData, time: FloatArray) -> FloatArray:
    """1 - Kaplan-Meier of all rows together, unweighted, just before each time."""
    curve = kaplan_meier(data.stop, data.event, entry=data.start, start_time=float(data.start.min()))
    before = np.searchsorted(curve.time, time, side="left") - 1
    return np.asarray(1.0 - curve.survival[np.maximum(before, 0)])


def _extended(sets: RiskSets, beta: FloatArray, g: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Score and information of the model with x and x g(t), at theta = 0. `g` by slot.

    Score and information are sums over event times; each time's part is weighted by g or its square.
    """
    once, twice = (_with_term_weight(sets, power[sets.term_slot]) for power in (g, g**2))
    plain = evaluate(sets, beta)
    with_g = evaluate(once, beta)
    x_event = sets.X[sets.event_row]
    weight = sets.weight[sets.event_row]
    # `evaluate` weights the risk sets' means by g, but not the events themselves.
    score_g = with_g.score + (weight * (g[sets.event_slot] - 1)) @ x_event
    information = np.block(
        [
            [plain.information, with_g.information],
            [with_g.information, evaluate(twice, beta).information],
        ]
    )
    return np.concatenate([plain.score, score_g]), information


def _with_term_weight(sets: RiskSets, factor: FloatArray) -> RiskSets:
    return replace(sets, term_weight=sets.term_weight * factor)


def _score_test(
    name: str, score: FloatArray, information: FloatArray, added: list[int]
) -> ProportionalHazardsTest:
    """U' V U for the added coefficients, V their block of the inverse information of the larger model."""
    p = len(score) // 2
    index = [*range(p), *added]
    # At the optimum the other scores are 0.
    u = np.where(np.arange(len(index)) < p, 0.0, score[index])
    block = information[np.ix_(index, index)]
    scale = np.sqrt(np.diag(block))
    if (scale <= 0).any() or np.linalg.matrix_rank(block / np.outer(scale, scale), tol=1e-10) < len(index):
        raise NotEstimableError("too few event times tell whether hazards are proportional")
    chi_square = float(u @ np.linalg.solve(block, u))
    return ProportionalHazardsTest(name, chi_square, len(added), float(chdtrc(len(added), chi_square)))


def _residuals(
    names: tuple[str, ...], sets: RiskSets, beta: FloatArray, transformed: FloatArray, scale: FloatArray
) -> SchoenfeldResiduals:
    # The mean covariates at each time are those of its Efron terms together.
    terms = risk_set_means(sets, beta)
    totals = np.column_stack([np.bincount(sets.term_slot, column) for column in terms.T])
    means = totals / sets.tied[:, None]
    order = np.lexsort((sets.event_slot, sets.slot_time[sets.event_slot]))
    slot, rows = sets.event_slot[order], sets.event_row[order]
    residual = (sets.X[rows] - means[slot]) * sets.weight[rows][:, None]
    variance = np.linalg.inv(evaluate(sets, beta).information)
    scaled = (beta + len(rows) * residual @ variance) / scale
    return SchoenfeldResiduals(
        names=names,
        time=frozen_floats(sets.slot_time[slot]),
        transformed_time=frozen_floats(transformed[slot]),
        scaled=frozen_floats(scaled),
    )
