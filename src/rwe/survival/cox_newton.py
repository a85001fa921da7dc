"""Newton's method for the Cox model, and the variances at its end.

The covariates in `sets` are centred and scaled to unit variance. Sources: Lin & Wei 1989 (sandwich);
Bryson & Johnson 1981 (monotone likelihood).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.cox_kernel import Evaluation, RiskSets, evaluate, score_residuals
from rwe.survival.data import BoolArray, FloatArray, IntArray, NotEstimableError

MAX_ITERATIONS = 50
#: Newton decrement at which the optimum is reached, and at which a coefficient that still moves runs away.
_DECREMENT_CONVERGED = 1e-18
_DECREMENT_FLAT = 1e-8
#: Decrement below which a step that no longer helps is rounding: the estimate is good to 1e-6 of its SE.
_DECREMENT_FLOOR = 1e-12
_STILL_MOVES = 0.1
#: How far a step may move the linear predictor over a covariate's range. A longer one can land where the sums
#: round to 0 and look like an optimum, though the likelihood rises for ever.
_LONGEST_STEP = 3.0
#: Share of a covariate's information left by the others, below which it is collinear (R: eps^0.75).
_COLLINEAR = float(np.finfo(np.float64).eps ** 0.75)


@dataclass(frozen=True)
class Optimum:
    """Where Newton's method ended.

    `runaway` are the coefficients held because the likelihood rises for ever along them, `direction` (p) the
    step each was taking; `found` flags the coefficients that have an estimate.
    """

    beta: FloatArray
    at: Evaluation
    iterations: int
    converged: bool
    runaway: tuple[int, ...]
    direction: FloatArray
    found: BoolArray


def refuse_collinear(names: tuple[str, ...], information: FloatArray, events: float) -> None:
    """Sweep the information at 0 covariate by covariate; what is left of each must not vanish."""
    if not np.isfinite(information).all():
        raise NotEstimableError(
            "weights or covariates lie so far apart that the sums of the model are lost in rounding",
            advice="truncate the weights, or drop what tells who starts without error",
        )
    diagonal = np.diag(information)
    flat = diagonal < _COLLINEAR * events
    if flat.any():
        raise NotEstimableError(
            f"{', '.join(np.array(names)[flat])} does not vary among those at risk at any event, "
            "so its hazard ratio is not defined"
        )
    unit = np.sqrt(diagonal)  # the product of two diagonals may leave the doubles' range, that of roots not
    scaled = information / np.outer(unit, unit)
    for j in range(1, len(names)):
        try:
            fit = np.linalg.solve(scaled[:j, :j], scaled[:j, j])
        except np.linalg.LinAlgError:
            raise NotEstimableError(
                f"{', '.join(names[:j])} are collinear", advice="drop one of them"
            ) from None
        if 1 - scaled[j, :j] @ fit < _COLLINEAR * j:
            others = ", ".join(np.array(names[:j])[np.abs(fit) > 1e-6])
            raise NotEstimableError(f"{names[j]} is collinear with {others}", advice="drop one of them")


def maximise(sets: RiskSets, null: Evaluation) -> Optimum:
    """Newton with step halving. A coefficient that runs away is held where it is, the others go on."""
    p = len(null.score)
    spread = np.ptp(sets.X, axis=0)
    beta, here, free = np.zeros(p), null, np.ones(p, dtype=bool)
    direction = np.zeros(p)
    decrement_before = np.inf
    converged = False
    iterations = 0
    moving = np.zeros(p, dtype=bool)
    while iterations < MAX_ITERATIONS and free.any():
        iterations += 1
        step = _newton_step(here, free)
        if step is None:
            break
        step = step / max(1.0, float(np.max(np.abs(step) * spread)) / _LONGEST_STEP)
        decrement = float(here.score @ step)
        moving = free & (np.abs(step) * spread > _STILL_MOVES)
        if decrement < _DECREMENT_FLAT and moving.any():
            # Likelihood flat, yet the step has not shrunk: it rises for ever, ever more slowly.
            direction[moving] = step[moving]
            free &= ~moving
            moving = np.zeros(p, dtype=bool)
            decrement_before = np.inf
            converged = not free.any()
            continue
        # At the second of these rounding is all that is left.
        at_floor = decrement < _DECREMENT_FLOOR and decrement >= decrement_before
        if decrement < _DECREMENT_CONVERGED or at_floor:
            converged = True
            break
        decrement_before = decrement
        better = _halve_until_better(sets, beta, step, here)
        if better is None:
            converged = decrement < _DECREMENT_FLOOR
            break
        beta, here = better
        direction[moving] = step[moving]
    # Stopped short: rounding drowned the sums while some coefficients were still on their way out.
    runs_away = ~free if converged else ~free | moving
    runaway = tuple(int(j) for j in np.flatnonzero(runs_away))
    found = free if converged else np.zeros(p, dtype=bool)
    return Optimum(beta, here, iterations, converged and not runaway, runaway, direction, found)


def _newton_step(here: Evaluation, free: BoolArray) -> FloatArray | None:
    """I^-1 U for the free coefficients, 0 for the others; None where I is not positive definite."""
    try:
        root = np.linalg.cholesky(here.information[np.ix_(free, free)])
    except np.linalg.LinAlgError:
        return None
    step = np.zeros(len(here.score))
    step[free] = np.linalg.solve(root.T, np.linalg.solve(root, here.score[free]))
    return step


def _halve_until_better(
    sets: RiskSets, beta: FloatArray, step: FloatArray, here: Evaluation
) -> tuple[FloatArray, Evaluation] | None:
    slack = 1e-11 * (1 + abs(here.loglik))  # rounding of a sum of many logarithms
    for halvings in range(40):
        tried = beta + step / 2**halvings
        there = evaluate(sets, tried)
        if np.isfinite(there.information).all() and there.loglik >= here.loglik - slack:
            return tried, there
    return None


def inverse_information(information: FloatArray, free: BoolArray) -> FloatArray:
    """Model variance of the coefficients flagged in `free`; NaN for the others."""
    variance = np.full_like(information, np.nan)
    block = np.ix_(free, free)
    try:
        variance[block] = np.linalg.inv(information[block])
    except np.linalg.LinAlgError:
        raise NotEstimableError(
            "the information is singular at the optimum, so there is no variance"
        ) from None
    return variance


def sandwich_variance(sets: RiskSets, cluster: IntArray, beta: FloatArray, model: FloatArray) -> FloatArray:
    """I^-1 B I^-1, B the sum over clusters of squared sums of weighted score residuals (Lin & Wei 1989)."""
    free = ~np.isnan(np.diag(model))
    weighted = score_residuals(sets, beta) * sets.weight[:, None]
    by_cluster = np.column_stack([np.bincount(cluster, column) for column in weighted.T])[:, free]
    block = np.ix_(free, free)
    variance = np.full_like(model, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        influence = by_cluster @ model[block]
        meat = influence.T @ influence
    # Not finite where the residuals are not: there is no variance then.
    variance[block] = np.where(np.isfinite(meat), meat, np.nan)
    return variance
