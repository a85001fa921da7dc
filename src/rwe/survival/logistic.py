"""Logistic regression by Newton's method, with a count for each row (how often it was resampled).

Products are summed by `einsum`, not by BLAS: the result does not depend on a number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from rwe.survival.data import BoolArray, FloatArray, frozen_floats
from rwe.survival.newton import solve_flat

_MOST_ITERATIONS = 60
_CONVERGED = 1e-12
"""Newton decrement after whose step nothing is left but rounding."""
_FLAT, _STILL_MOVES = 1e-6, 0.01
"""A decrement, and a share of the largest linear predictor. Where the likelihood is so flat and a step still
moves a predictor by so much, it has no maximum. How far out a predictor lies tells nothing: one skewed
covariate puts it anywhere."""


@dataclass(frozen=True)
class LogisticFit:
    """Coefficients (intercept first) and the fitted probability of each row.

    `is_separated`: the likelihood has no maximum, for a covariate tells some of the classes apart without
    error; the probabilities are then close to their limits.
    """

    coefficients: FloatArray
    probability: FloatArray
    is_separated: bool
    converged: bool


def fit_logistic(
    X: FloatArray, y: BoolArray, counts: FloatArray | None = None, *, start: FloatArray | None = None
) -> LogisticFit:
    """Maximum likelihood of y given X (rows x p; an intercept is added). Collinear columns share an effect.

    With one class only, every probability is that class's. Rows of count 0 get a probability too.
    """
    c = np.ones(len(y)) if counts is None else np.asarray(counts, dtype=np.float64)
    design = np.ascontiguousarray(np.vstack([np.ones(len(y)), X.T]))
    share = float(c @ y / c.sum()) if c.sum() else 0.0
    if share in (0.0, 1.0):
        beta = np.full(len(design), np.nan)
        return LogisticFit(beta, np.full(len(y), share), is_separated=True, converged=True)
    beta = np.zeros(len(design)) if start is None else np.where(np.isfinite(start), start, 0.0)
    eta = np.einsum("jn,j->n", design, beta)
    loglik = _loglik(eta, y, c)
    converged = is_separated = False
    for _ in range(_MOST_ITERATIONS):
        p = _expit(eta)
        score = np.einsum("jn,n->j", design, c * (y - p))
        w = c * p * (1 - p)
        information = np.stack([np.einsum("kn,n->k", design, row * w) for row in design])
        step = solve_flat(information, score)
        decrement = float(score @ step)
        converged = decrement < _CONVERGED
        for halvings in range(30):
            tried = beta + step / 2**halvings
            there = np.einsum("jn,j->n", design, tried)
            found = _loglik(there, y, c)
            if found >= loglik - 1e-11 * (1 + abs(loglik)):
                break
        if decrement < _FLAT:
            moved, farthest = (np.abs(v[c > 0]).max(initial=0.0) for v in (there - eta, there))
            is_separated |= bool(moved > _STILL_MOVES * max(farthest, 1.0))
        beta, eta, loglik = tried, there, found
        if converged:
            break
    is_separated |= not converged
    return LogisticFit(frozen_floats(beta), frozen_floats(_expit(eta)), is_separated, converged)


def overlapping(X: FloatArray, y: BoolArray) -> BoolArray:
    """Flags the rows (of rows x p) whose classes no linear rule tells apart; the others are separated.

    Some b that puts no row on the wrong side puts all separated rows strictly on their own: there the
    likelihood has no maximum, and a fitted probability is only where the iterations ended. All rows overlap
    where there is a maximum, or one class only; none under complete separation. By a linear programme.
    Source: Albert & Anderson 1984, Biometrika 71:1; Konis 2007, thesis, Oxford (the programme).
    """
    n = len(y)
    if y.all() or not y.any():
        return np.ones(n, dtype=bool)
    design = np.column_stack([np.ones(n), _scaled(X)]) * np.where(y, 1.0, -1.0)[:, None]
    p = design.shape[1]
    # Most of sum t, 0 <= t <= 1, t at most the distance on a row's own side: t is 1 where there is any.
    found = linprog(
        np.concatenate([np.zeros(p), -np.ones(n)]),
        A_ub=sparse.hstack([sparse.csr_matrix(-design), sparse.identity(n)], format="csr"),
        b_ub=np.zeros(n),
        bounds=[(None, None)] * p + [(0, 1)] * n,
        method="highs",
    )
    return np.ones(n, dtype=bool) if found.x is None else np.asarray(found.x[p:] < 0.5)


def overlap_of(X: FloatArray, y: BoolArray) -> tuple[int, int] | None:
    """How many rows of class 0 and of class 1 are `overlapping`; None where all are."""
    if y.all() or not y.any() or not fit_logistic(_scaled(X), y).is_separated:
        return None  # without the programme, which takes its time with many rows
    inside = overlapping(X, y)
    return None if inside.all() else (int((inside & ~y).sum()), int((inside & y).sum()))


def _scaled(X: FloatArray) -> FloatArray:
    spread = X.std(axis=0)
    return np.asarray((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _expit(eta: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * eta)))


def _loglik(eta: FloatArray, y: BoolArray, c: FloatArray) -> float:
    return float(np.sum(c * (np.where(y, eta, 0.0) - np.logaddexp(0.0, eta))))
