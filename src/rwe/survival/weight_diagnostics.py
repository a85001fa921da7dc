"""What a reader must know of inverse-probability weights before believing a weighted estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rwe.survival.data import BoolArray, FloatArray

PERCENTILES = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0)
_FEW_EFFECTIVE = 10.0
_LARGE_WEIGHT = 20.0
_MOST_LEVELS = 5


@dataclass(frozen=True)
class WeightDiagnostics:
    """Weights of one arm. `model` says how they were modelled.

    `mean` and `maximum` are over the arm's rows (stretches of constant weight). `percentiles` (at
    PERCENTILES), `n_weighted` and `effective_sample_size`, (sum w)^2 / sum w^2 (Kish), are of the patients
    whose weight is final: of clones, those followed beyond the grace period.
    """

    model: str
    mean: float | None
    maximum: float | None
    percentiles: tuple[tuple[float, float], ...]
    n_weighted: int
    effective_sample_size: float
    capped_at: float | None = None
    n_capped: int = 0

    def warnings(self, arm: str) -> tuple[str, ...]:
        """Sentences on what the weights of `arm` cannot carry."""
        found = []
        if self.effective_sample_size < _FEW_EFFECTIVE:
            found.append(
                f"The {arm} arm weighs as much as {self.effective_sample_size:.1f} patients: "
                "too few for a weighted estimate."
            )
        if self.capped_at is None and self.maximum is not None and self.maximum > _LARGE_WEIGHT:
            found.append(
                f"A weight of the {arm} arm is {self.maximum:.0f}: the estimate leans on few patients; "
                "see it with truncated weights."
            )
        return tuple(found)


@dataclass(frozen=True)
class Stratum:
    """How many of a stratum of a covariate started and how many did not. Both above 0 is positivity."""

    covariate: str
    level: str
    started: int
    not_started: int

    @property
    def is_empty_cell(self) -> bool:
        return self.started == 0 or self.not_started == 0


def weight_diagnostics(
    model: str,
    final: FloatArray,
    *,
    rows: FloatArray | None = None,
    capped_at: float | None = None,
) -> WeightDiagnostics:
    """Summarise `final` weights, one a patient, and those of all `rows` (the final ones if absent)."""
    every = final if rows is None else rows
    capped = 0 if capped_at is None else int(np.sum(final >= capped_at * (1 - 1e-12)))
    return WeightDiagnostics(
        model=model,
        mean=float(every.mean()) if len(every) else None,
        maximum=float(every.max()) if len(every) else None,
        percentiles=tuple(
            (q, float(v)) for q, v in zip(PERCENTILES, np.percentile(final, PERCENTILES), strict=True)
        )
        if len(final)
        else (),
        n_weighted=len(final),
        effective_sample_size=effective_sample_size(final),
        capped_at=capped_at,
        n_capped=capped,
    )


def effective_sample_size(weights: FloatArray) -> float:
    """Kish 1965: (sum w)^2 / sum w^2. 0 for nobody."""
    if not len(weights):
        return 0.0
    scaled = weights / weights.max()
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def strata_counts(
    X: FloatArray, names: Sequence[str], started: BoolArray, among: npt.NDArray[np.bool_] | None = None
) -> tuple[Stratum, ...]:
    """Starters and others by level of each covariate: its values where they are few, else its thirds."""
    chosen = np.ones(len(started), dtype=bool) if among is None else among
    found = []
    for name, x in zip(names, X[chosen].T, strict=True):
        for level, inside in _levels(x):
            s = started[chosen][inside]
            found.append(Stratum(name, level, int(s.sum()), int((~s).sum())))
    return tuple(found)


def _levels(x: FloatArray) -> list[tuple[str, BoolArray]]:
    values = np.unique(x)
    if len(values) <= _MOST_LEVELS:
        return [(f"{v:g}", x == v) for v in values]
    low, high = np.quantile(x, [1 / 3, 2 / 3])
    return [
        ("lowest third", x <= low),
        ("middle third", (x > low) & (x <= high)),
        ("highest third", x > high),
    ]
