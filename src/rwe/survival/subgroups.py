"""Effects within subgroups named in the protocol, and the test that they differ (interaction).

One model holds them all: exposure has a coefficient in each level, the levels have main effects, the other
covariates act alike everywhere. Whether the effect differs is one question, answered by the interaction test;
that an interval excludes 1 in one subgroup and not in another says nothing about it.

Sources: Assmann et al. 2000, Lancet 355:1064; Wang et al. 2007, N Engl J Med 357:2189.

For the planner: `subgroup_effects(rows, table.patients[name], name=..., ...)` for each subgroup of the
protocol, on the rows of the primary model; the subgroup must be known at time zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from rwe.survival.cox import EXPOSURE, CoxData, CoxFit, HazardRatio, exposure_data, fit_cox
from rwe.survival.cox_kernel import Ties
from rwe.survival.data import (
    BoolArray,
    CountingProcess,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
    frozen_flags,
    frozen_floats,
    frozen_ints,
)

METHOD = "Cox model with exposure by subgroup"
ASSUMPTIONS = (
    "Proportional hazards; the other covariates act alike in all subgroups.",
    "The subgroup is known at time zero and named in the protocol.",
)
MOST_LEVELS = 12


@dataclass(frozen=True)
class SubgroupEffect:
    """The hazard ratio in one level. Patients and events as (unexposed, exposed), while exposed or not.

    `ratio` is None where the level has only exposed or only unexposed rows; its numbers are None where there
    is no event in one group.
    """

    level: str
    patients: tuple[int, int]
    events: tuple[int, int]
    ratio: HazardRatio | None


@dataclass(frozen=True)
class InteractionTest:
    """The test that the hazard ratio is the same in all levels; None where it cannot be computed."""

    chi_square: float | None
    df: int
    p_value: float | None
    method: Literal["likelihood ratio", "Wald, robust variance"]


@dataclass(frozen=True)
class SubgroupAnalysis:
    """Effects by level, in the order of the levels' names, and their interaction test."""

    subgroup: str
    effects: tuple[SubgroupEffect, ...]
    interaction: InteractionTest
    n_missing: int
    fit: CoxFit
    warnings: tuple[str, ...]
    method: str = METHOD
    assumptions: tuple[str, ...] = ASSUMPTIONS


def subgroup_effects(
    data: CountingProcess,
    subgroup: Sequence[object] | pd.Series,
    *,
    name: str,
    stratify_by_site: bool = False,
    ties: Ties = "efron",
    robust: bool = False,
    level: float = 0.95,
) -> SubgroupAnalysis:
    """Hazard ratios by `subgroup`, which has one value for each patient of the table (None or NaN: missing).

    A covariate that is constant within each level is left out of the model: the levels replace it (age stays
    linear beside levels of age). Patients without a value are left out and counted. Where a
    patient is in several trials (`start_day_split`) the variance is always the robust one.

    Raises NotEstimableError where fewer than two levels have both groups, without any event, and as
    `fit_cox`; SurvivalDataError for more than 12 levels or values that are not one for each patient.
    """
    robust = robust or data.trial is not None
    labels = _labels(subgroup, data)
    known = np.array([label is not None for label in labels], dtype=bool)
    n_missing = len(np.unique(data.patient[~known]))
    of_row = np.array([label or "" for label in labels], dtype=np.str_)
    levels = [str(v) for v in np.unique(of_row[known])]
    if len(levels) > MOST_LEVELS:
        raise SurvivalDataError(f"{name} has {len(levels)} levels, and a subgroup has at most {MOST_LEVELS}")
    usable = [v for v in levels if len(np.unique(data.exposed[known & (of_row == v)])) == 2]
    if len(usable) < 2:
        raise NotEstimableError(
            f"fewer than two levels of {name} have both exposed and unexposed patients, so effects cannot be "
            "compared"
        )
    used = known & np.isin(of_row, usable)
    rows = _without_determined(_only(data, used), of_row[used])
    model = exposure_data(rows, stratify_by_site=stratify_by_site)
    is_level = of_row[used][:, None] == np.array(usable)
    fit = fit_cox(_by_level(model, is_level, usable, name), ties=ties, robust=robust, level=level)
    whole = fit_cox(_by_level(model, is_level, usable, name, common=True), ties=ties, robust=robust)
    warnings = [*fit.warnings]
    if n_missing:
        who = "1 patient was" if n_missing == 1 else f"{n_missing} patients were"
        warnings.append(f"{who} left out because {name} is missing.")
    alone = [v for v in levels if v not in usable]
    if alone:
        warnings.append(f"{len(alone)} of {len(levels)} levels of {name} have one group only: no effect.")
    return SubgroupAnalysis(
        subgroup=name,
        effects=tuple(_effect(data, known & (of_row == v), v, fit if v in usable else None) for v in levels),
        interaction=_robust_test(fit, len(usable)) if robust else _likelihood_test(fit, whole, len(usable)),
        n_missing=n_missing,
        fit=fit,
        warnings=tuple(warnings),
    )


def _labels(subgroup: Sequence[object] | pd.Series, data: CountingProcess) -> list[str | None]:
    values = list(subgroup)
    if len(data) and len(values) <= int(data.patient.max()):
        raise SurvivalDataError("the subgroup has not one value for each patient")
    words = [None if pd.isna(v) else f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    return [words[i] for i in data.patient]


def _only(data: CountingProcess, rows: BoolArray) -> CountingProcess:
    return replace(
        data,
        start=frozen_floats(data.start[rows]),
        stop=frozen_floats(data.stop[rows]),
        event=frozen_flags(data.event[rows]),
        exposed=frozen_flags(data.exposed[rows]),
        X=frozen_floats(data.X[rows]),
        patient=frozen_ints(data.patient[rows]),
        site=data.site[rows],
        n_patients=len(np.unique(data.patient[rows])),
        trial=None if data.trial is None else frozen_ints(data.trial[rows]),
    )


def _without_determined(data: CountingProcess, levels: npt.NDArray[np.str_]) -> CountingProcess:
    """The rows without the covariates that the levels determine."""
    inside = [data.X[levels == level] for level in np.unique(levels)]
    kept = [j for j in range(len(data.names)) if any(np.ptp(rows[:, j]) > 0 for rows in inside)]
    return replace(data, X=frozen_floats(data.X[:, kept]), names=tuple(data.names[j] for j in kept))


def _coefficient(level: str) -> str:
    return f"{EXPOSURE} where {level}"


def _by_level(
    model: CoxData,
    is_level: npt.NDArray[np.bool_],
    levels: list[str],
    name: str,
    *,
    common: bool = False,
) -> CoxData:
    """The model with main effects of the levels and exposure by level (or one exposure for all: `common`)."""
    exposed, others = model.X[:, :1], model.X[:, 1:]
    # Where a stratum is all of one level, the level's main effect is in its baseline hazard already.
    varies = [v for v, column in zip(levels, is_level.T, strict=True) if _varies(column, model.stratum)]
    main = is_level[:, [levels.index(v) for v in varies[1:]]].astype(np.float64)
    effect = exposed if common else exposed * is_level
    effect_names = (EXPOSURE,) if common else tuple(map(_coefficient, levels))
    return replace(
        model,
        X=np.hstack([effect, main, others]),
        names=(*effect_names, *(f"{name} {v}" for v in varies[1:]), *model.names[1:]),
    )


def _varies(member: BoolArray, stratum: IntArray) -> bool:
    inside, whole = np.bincount(stratum, member), np.bincount(stratum)
    return bool(((inside > 0) & (inside < whole)).any())


def _effect(data: CountingProcess, rows: BoolArray, level: str, fit: CoxFit | None) -> SubgroupEffect:
    def patients(mask: BoolArray) -> int:
        return len(np.unique(data.patient[mask]))

    exposed = data.exposed
    return SubgroupEffect(
        level=level,
        patients=(patients(rows) - patients(rows & exposed), patients(rows & exposed)),
        events=(patients(rows & data.event & ~exposed), patients(rows & data.event & exposed)),
        ratio=None if fit is None else fit.hazard_ratio(_coefficient(level)),
    )


def _likelihood_test(fit: CoxFit, whole: CoxFit, levels: int) -> InteractionTest:
    # A coefficient on its way to infinity has a likelihood at its limit: the test stands.
    chi_square = max(0.0, 2 * (fit.loglik - whole.loglik))
    usable = (fit.converged or bool(fit.diverged)) and (whole.converged or bool(whole.diverged))
    df = levels - 1
    return InteractionTest(
        chi_square=chi_square if usable else None,
        df=df,
        p_value=float(chdtrc(df, chi_square)) if usable else None,
        method="likelihood ratio",
    )


def _robust_test(fit: CoxFit, levels: int) -> InteractionTest:
    df = levels - 1
    beta, variance = fit.coefficients[:levels], fit.variance[:levels, :levels]
    chi_square = None
    if np.isfinite(beta).all() and np.isfinite(variance).all():
        contrast = np.hstack([-np.ones((df, 1)), np.eye(df)])
        gap = contrast @ beta
        chi_square = float(gap @ np.linalg.solve(contrast @ variance @ contrast.T, gap))
    return InteractionTest(
        chi_square=chi_square,
        df=df,
        p_value=None if chi_square is None else float(chdtrc(df, chi_square)),
        method="Wald, robust variance",
    )
