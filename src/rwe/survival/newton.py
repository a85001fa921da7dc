"""A Newton step where the information may be flat in some direction."""

from __future__ import annotations

import numpy as np

from rwe.survival.data import FloatArray

_FLAT = 1e-10
"""Share of the largest eigenvalue (of the information scaled to a unit diagonal) that counts as none."""


def solve_flat(information: FloatArray, score: FloatArray) -> FloatArray:
    """I^-1 U, with no step along directions in which the information vanishes (collinear or constant)."""
    if not len(score):
        return np.zeros(0)
    unit = np.sqrt(np.maximum(np.diag(information), 0.0))
    scale = np.where(unit > 0, unit, 1.0)
    scaled = information / np.outer(scale, scale)
    try:
        root = np.linalg.cholesky(scaled)
        if np.diag(root).min() ** 2 > _FLAT:
            return np.asarray(np.linalg.solve(root.T, np.linalg.solve(root, score / scale)) / scale)
    except np.linalg.LinAlgError:
        pass
    if not np.isfinite(scaled).all():
        return np.zeros_like(score)
    values, vectors = np.linalg.eigh(scaled)
    keep = values > _FLAT * max(float(values.max()), 0.0)
    part = np.where(keep, (vectors.T @ (score / scale)) / np.where(keep, values, 1.0), 0.0)
    return np.asarray(vectors @ part / scale)
