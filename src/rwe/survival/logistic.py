"""Logistic regression by Newton's method, with a count for each row (how often it was resampled).

Products are summed by `einsum`, not by BLAS: the result does not depend on a number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.data import BoolArray, FloatArray, frozen_floats
from rwe.survival.newton import solve_flat

_MOST_ITERATIONS = 40
_CONVERGED = 1e-12
"""Newton decrement after whose step nothing is left but rounding."""
_SEPARATED = 18.0
"""A linear predictor this far out is a probability of 0 or 1 up to 1e-8: the classes are separated."""


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
    converged = False
    for _ in range(_MOST_ITERATIONS):
        p = _expit(eta)
        score = np.einsum("jn,n->j", design, c * (y - p))
        w = c * p * (1 - p)
        information = np.stack([np.einsum("kn,n->k", design, row * w) for row in design])
        step = solve_flat(information, score)
        converged = float(score @ step) < _CONVERGED
        for halvings in range(30):
            tried = beta + step / 2**halvings
            there = np.einsum("jn,j->n", design, tried)
            found = _loglik(there, y, c)
            if found >= loglik - 1e-11 * (1 + abs(loglik)):
                break
        beta, eta, loglik = tried, there, found
        if converged:
            break
        if np.abs(eta[c > 0]).max(initial=0.0) > _SEPARATED:
            break
    is_separated = bool(np.abs(eta[c > 0]).max(initial=0.0) > _SEPARATED)
    return LogisticFit(frozen_floats(beta), frozen_floats(_expit(eta)), is_separated, converged)


def _expit(eta: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * eta)))


def _loglik(eta: FloatArray, y: BoolArray, c: FloatArray) -> float:
    return float(np.sum(c * (np.where(y, eta, 0.0) - np.logaddexp(0.0, eta))))
