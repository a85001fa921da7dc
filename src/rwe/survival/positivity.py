"""Could patients of every kind have had either strategy? Overlap of propensities, and cells without anybody.

An adjusted comparison rests on patients who could have had either strategy. Where a kind of patient is only
ever seen in one arm, a model extrapolates. None of this looks at outcomes: it may be shown before the lock.

Sources: Petersen et al. 2012, Stat Methods Med Res 21:31; Crump et al. 2009, Biometrika 96:187 (0.1 to 0.9);
Li, Morgan & Zaslavsky 2018, JASA 113:390 (overlap); Kish 1965 (effective sample size).

For the planner: `zero_cells(X, names, exposed)` with baseline covariates and `overlap(scores, exposed)` with
the propensities of whatever weight model is used, at each landmark or at the grace period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from rwe.survival.data import BoolArray, FloatArray, NotEstimableError, SurvivalDataError
from rwe.survival.weight_diagnostics import effective_sample_size

FEWEST_EFFECTIVE = 10.0
"""Effective sample size of an arm below which a weighted comparison should be refused or downgraded."""
_MOST_LEVELS = 6
_BANDS = 4


@dataclass(frozen=True)
class ArmScores:
    """The propensities of one arm: patients, quantiles, and how many lie where the other arm has nobody.

    `n_extreme` have a propensity below `extreme` or above 1 - `extreme`. `effective_n` is Kish's effective
    sample size of the arm under inverse-probability weights, `effective_n_overlap` under overlap weights.
    """

    n: int
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    n_outside_common: int
    n_extreme: int
    effective_n: float
    effective_n_overlap: float


@dataclass(frozen=True)
class Overlap:
    """How far the arms' propensities overlap. `common` is the range in which both arms have patients.

    `coefficient` is the shared area of the two distributions (0: disjoint, 1: equal), by tenths of the
    propensity.
    """

    unexposed: ArmScores
    exposed: ArmScores
    common: tuple[float, float] | None
    coefficient: float
    extreme: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ZeroCell:
    """A kind of patient seen in one arm only. `kind` is (covariate, level or range) once or twice."""

    kind: tuple[tuple[str, str], ...]
    n_unexposed: int
    n_exposed: int


def overlap(propensity: npt.ArrayLike, exposed: npt.ArrayLike, *, extreme: float = 0.1) -> Overlap:
    """Compare the propensities (probability of exposure) of the exposed and the unexposed.

    Raises NotEstimableError where an arm is empty, SurvivalDataError for propensities outside [0, 1].
    """
    score, is_exposed = np.asarray(propensity, dtype=np.float64), np.asarray(exposed, dtype=bool)
    if score.shape != is_exposed.shape:
        raise SurvivalDataError("propensity and exposed have not one length")
    if not (np.isfinite(score).all() and (score >= 0).all() and (score <= 1).all()):
        raise SurvivalDataError("a propensity is not between 0 and 1")
    if is_exposed.all() or not is_exposed.any():
        raise NotEstimableError("everybody is in one arm, so there is no overlap to look at")
    low = max(float(score[g].min()) for g in (is_exposed, ~is_exposed))
    high = min(float(score[g].max()) for g in (is_exposed, ~is_exposed))
    common = (low, high) if low <= high else None
    arms = [_arm(score, is_exposed, arm, common, extreme) for arm in (False, True)]
    shares = [np.histogram(score[g], bins=10, range=(0, 1))[0] / g.sum() for g in (~is_exposed, is_exposed)]
    return Overlap(
        unexposed=arms[0],
        exposed=arms[1],
        common=common,
        coefficient=float(np.minimum(*shares).sum()),
        extreme=extreme,
        warnings=_overlap_warnings(arms, common),
    )


def zero_cells(
    X: npt.ArrayLike, names: Sequence[str], exposed: npt.ArrayLike, *, pairs: bool = True
) -> tuple[ZeroCell, ...]:
    """Levels of the covariates, and with `pairs` of two together, which only one arm has.

    `X` is patients x covariates, NaN where missing (counted in no cell). A covariate with more than six
    values is cut at its quartiles. A pair is listed only if neither of its covariates alone has the zero.
    Raises SurvivalDataError for another shape.
    """
    values, is_exposed = np.asarray(X, dtype=np.float64), np.asarray(exposed, dtype=bool)
    if values.shape != (len(is_exposed), len(names)):
        raise SurvivalDataError("X is not patients x covariates")
    levels = {name: _levels(column) for name, column in zip(names, values.T, strict=True)}
    single = [
        ZeroCell(((name, label),), *_counts(members, is_exposed))
        for name, cut in levels.items()
        for label, members in cut
    ]
    found = [cell for cell in single if _is_zero(cell)]
    alone = {cell.kind[0] for cell in found}
    if pairs:
        for (one, cut_one), (other, cut_other) in combinations(levels.items(), 2):
            for a, in_a in cut_one:
                for b, in_b in cut_other:
                    if (one, a) in alone or (other, b) in alone:
                        continue
                    cell = ZeroCell(((one, a), (other, b)), *_counts(in_a & in_b, is_exposed))
                    if _is_zero(cell):
                        found.append(cell)
    return tuple(found)


def _arm(
    score: FloatArray,
    exposed: BoolArray,
    arm: bool,
    common: tuple[float, float] | None,
    extreme: float,
) -> ArmScores:
    mine = score[exposed == arm]
    own, other = (mine, 1 - mine) if arm else (1 - mine, mine)
    inside = (mine >= common[0]) & (mine <= common[1]) if common else np.zeros(len(mine), dtype=bool)
    # A propensity of 0 for the arm a patient is in cannot be: the smallest double stands for it.
    inverse = 1 / np.maximum(own, np.finfo(np.float64).tiny ** 0.25)
    quartiles = np.quantile(mine, [0.0, 0.25, 0.5, 0.75, 1.0])
    return ArmScores(
        n=len(mine),
        minimum=float(quartiles[0]),
        lower_quartile=float(quartiles[1]),
        median=float(quartiles[2]),
        upper_quartile=float(quartiles[3]),
        maximum=float(quartiles[4]),
        n_outside_common=int((~inside).sum()),
        n_extreme=int(((mine < extreme) | (mine > 1 - extreme)).sum()),
        effective_n=effective_sample_size(inverse),
        effective_n_overlap=effective_sample_size(other) if other.any() else 0.0,
    )


def _overlap_warnings(arms: Sequence[ArmScores], common: tuple[float, float] | None) -> tuple[str, ...]:
    found = []
    outside, n = sum(a.n_outside_common for a in arms), sum(a.n for a in arms)
    if common is None:
        found.append("The propensities of the arms do not overlap: no patient could have had either.")
    elif outside / n > 0.1:
        found.append(f"{outside} of {n} patients have a propensity that the other arm does not reach.")
    for arm, name in zip(arms, ("unexposed", "exposed"), strict=True):
        if arm.effective_n < FEWEST_EFFECTIVE:
            found.append(
                f"The {name} are worth {arm.effective_n:.1f} patients after weighting: too few to compare."
            )
    return tuple(found)


def _levels(column: FloatArray) -> list[tuple[str, BoolArray]]:
    """Each level (or quarter of the range) with its members."""
    known = ~np.isnan(column)
    values = np.unique(column[known])
    if len(values) <= _MOST_LEVELS:
        return [(f"{v:g}", column == v) for v in values]
    cuts = np.unique(np.quantile(column[known], np.linspace(0, 1, _BANDS + 1)))
    bands = []
    for i, (low, high) in enumerate(pairwise(cuts)):
        above = column >= low if i == 0 else column > low
        bands.append((f"{'>=' if i == 0 else '>'} {low:g} to {high:g}", known & above & (column <= high)))
    return bands


def _counts(members: BoolArray, exposed: BoolArray) -> tuple[int, int]:
    return int((members & ~exposed).sum()), int((members & exposed).sum())


def _is_zero(cell: ZeroCell) -> bool:
    return (cell.n_unexposed == 0) != (cell.n_exposed == 0)
