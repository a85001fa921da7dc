"""Cox proportional hazards on start-stop rows: weights, strata, Efron or Breslow ties, sandwich variance.

Covariates are centred and scaled inside; Newton's method with step halving stops when the decrement
U' I^-1 U is below 1e-18. Sources: Cox 1972; Andersen & Gill 1982; Lin & Wei 1989 (sandwich);
Bryson & Johnson 1981 (monotone likelihood). R `coxph` is the gold standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc, ndtr, ndtri

from rwe.survival.cox_fit import EXPOSURE, CoxFit, HazardRatio, ScoreTest
from rwe.survival.cox_kernel import (
    Evaluation,
    RiskSets,
    Ties,
    evaluate,
    hazard_increments,
    risk_sets,
)
from rwe.survival.cox_newton import (
    Optimum,
    inverse_information,
    maximise,
    refuse_collinear,
    sandwich_variance,
)
from rwe.survival.data import (
    CountingProcess,
    FloatArray,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
    frozen_floats,
)

__all__ = [
    "EXPOSURE",
    "BaselineHazard",
    "CoxData",
    "CoxFit",
    "HazardRatio",
    "ScoreTest",
    "StratumScore",
    "baseline_hazard",
    "cox_data",
    "exposure_cox",
    "exposure_data",
    "fit_cox",
    "stratum_scores",
]


@dataclass(frozen=True)
class CoxData:
    """Validated rows of a Cox model, ready to be fitted or to be evaluated at a given beta.

    `X` is rows x p in the units given; `weight` > 0; `stratum` codes into `strata`; `cluster` codes of those
    whose rows belong together (patients). Build it with `cox_data` or `exposure_data`.
    """

    X: FloatArray
    names: tuple[str, ...]
    start: FloatArray
    stop: FloatArray
    event: npt.NDArray[np.bool_]
    weight: FloatArray
    stratum: IntArray
    strata: tuple[str, ...]
    cluster: IntArray
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stop)


@dataclass(frozen=True)
class StratumScore:
    """What one stratum adds to log-likelihood, score (p) and information (p x p) at one beta."""

    stratum: str
    loglik: float
    score: FloatArray
    information: FloatArray


@dataclass(frozen=True)
class BaselineHazard:
    """Cumulative hazard of one stratum at its event times (days), for covariates at the values asked for."""

    stratum: str
    time: FloatArray
    cumulative_hazard: FloatArray


def cox_data(
    X: npt.ArrayLike,
    stop: npt.ArrayLike,
    event: npt.ArrayLike,
    *,
    names: Sequence[str],
    start: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    cluster: npt.ArrayLike | None = None,
    warnings: Sequence[str] = (),
) -> CoxData:
    """Validate rows at risk on (start, stop], days. Rows of weight 0 are left out.

    `cluster` are patients; without it each row is a patient of its own.
    Raises SurvivalDataError for missing or infinite values, start >= stop, negative weights, unequal lengths.
    """
    stops = np.asarray(stop, dtype=np.float64)
    n = len(stops)
    design = np.asarray(X, dtype=np.float64).reshape(n, len(names)) if n else np.zeros((0, len(names)))
    starts = np.zeros(n) if start is None else np.asarray(start, dtype=np.float64)
    weight = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    labels = np.zeros(n, dtype=np.int64) if strata is None else np.asarray(strata)
    clusters = np.arange(n) if cluster is None else np.asarray(cluster)
    events = np.asarray(event)
    if not len(starts) == len(weight) == len(labels) == len(clusters) == len(events) == n:
        raise SurvivalDataError("the columns of a Cox model have not one length")
    if len(set(names)) != len(names):
        raise SurvivalDataError("two covariates of a Cox model have one name")
    for name, column in zip(names, design.T, strict=True):
        if not np.isfinite(column).all():
            raise SurvivalDataError(f"the covariate {name} has missing or infinite values")
    if not (np.isfinite(starts).all() and np.isfinite(stops).all() and np.isfinite(weight).all()):
        raise SurvivalDataError("a time or a weight is missing or infinite")
    if not np.isin(events, [0, 1]).all():
        raise SurvivalDataError("event is neither 0 nor 1")
    if (starts >= stops).any():
        raise SurvivalDataError(f"{int((starts >= stops).sum())} rows start on or after the time they stop")
    if (weight < 0).any():
        raise SurvivalDataError(f"{int((weight < 0).sum())} weights are negative")
    used = weight > 0
    strata_names, codes = np.unique(labels[used], return_inverse=True)
    return CoxData(
        X=design[used],
        names=tuple(names),
        start=starts[used],
        stop=stops[used],
        event=events[used].astype(bool),
        weight=weight[used],
        stratum=codes.astype(np.int64),
        strata=() if strata is None else tuple(str(s) for s in strata_names),
        cluster=np.unique(clusters[used], return_inverse=True)[1].astype(np.int64),
        warnings=tuple(warnings),
    )


def exposure_data(data: CountingProcess, *, stratify_by_site: bool = False) -> CoxData:
    """The model exposure + adjustment covariates, with each site a baseline hazard of its own if asked.

    A covariate that varies within no stratum cancels from the partial likelihood: it is left out, with a
    warning. Rows with a `trial` are stratified by it. Raises NotEstimableError where a group is empty.
    """
    data.require_both_groups()
    strata = _strata(data, stratify_by_site)
    varies = np.array([_varies(x, strata) for x in data.X.T], dtype=bool)
    constant = [name for name, is_varying in zip(data.names, varies, strict=True) if not is_varying]
    where = " at each site" if stratify_by_site else ""
    dropped = [
        f"{name} has one value only{where}: it cancels, and was left out of the model." for name in constant
    ]
    return cox_data(
        np.column_stack([data.exposed.astype(np.float64), data.X[:, varies]]),
        data.stop,
        data.event,
        names=(EXPOSURE, *(name for name in data.names if name not in constant)),
        start=data.start,
        strata=strata,
        cluster=data.patient,
        warnings=(*data.warnings(), *dropped),
    )


def _strata(data: CountingProcess, by_site: bool) -> npt.NDArray[np.str_] | None:
    sites = data.site.astype(str)
    if data.trial is None:
        return sites if by_site else None
    trials = data.trial.astype(str)
    return np.char.add(np.char.add(sites, " "), trials) if by_site else trials


def _varies(column: FloatArray, strata: npt.NDArray[np.str_] | None) -> bool:
    if strata is None:
        return bool(column.max() > column.min())
    frame = pd.Series(column).groupby(strata)
    return bool((frame.max() > frame.min()).any())


def exposure_cox(
    data: CountingProcess,
    *,
    stratify_by_site: bool = False,
    ties: Ties = "efron",
    robust: bool = False,
    level: float = 0.95,
) -> CoxFit:
    """Cox model of exposure and the adjustment covariates; see `fit_cox` for what it raises."""
    rows = exposure_data(data, stratify_by_site=stratify_by_site)
    return fit_cox(rows, ties=ties, robust=robust, level=level)


def fit_cox(data: CoxData, *, ties: Ties = "efron", robust: bool = False, level: float = 0.95) -> CoxFit:
    """Maximise the partial likelihood.

    Raises NotEstimableError without any event, for a covariate that varies within no risk set, and for
    collinear ones, which it names. A likelihood without maximum is no error: see CoxFit.diverged.
    """
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")
    if not data.names:
        raise SurvivalDataError("a Cox model needs a covariate")
    if not data.event.any():
        raise NotEstimableError("there is no event, so no hazard ratio")
    centre, scale = _scaling(data)
    sets = _sets(data, (data.X - centre) / scale, ties)
    null = evaluate(sets, np.zeros(len(data.names)))
    refuse_collinear(data.names, null.information, float(data.weight[data.event].sum()))
    optimum = maximise(sets, null)
    found = optimum.found
    model = inverse_information(optimum.at.information, found)
    variance = sandwich_variance(sets, data.cluster, optimum.beta, model) if robust else model
    return _result(
        data,
        optimum,
        null=null,
        scale=scale,
        model=model,
        variance=variance,
        ties=ties,
        robust=robust,
        level=level,
    )


def stratum_scores(data: CoxData, beta: npt.ArrayLike, *, ties: Ties = "efron") -> tuple[StratumScore, ...]:
    """Log-likelihood, score and information of each stratum at `beta` (units of X). They add up to the whole.

    Nothing is centred or scaled by these data, so the sums of several sites may be added.
    """
    at = np.asarray(beta, dtype=np.float64)
    if at.shape != (len(data.names),) or not np.isfinite(at).all():
        raise SurvivalDataError(f"beta must be {len(data.names)} finite numbers")
    pieces = []
    for code, label in enumerate(data.strata or ("",)):
        rows = data.stratum == code
        if not rows.any():
            continue
        X = data.X[rows]
        # Centring changes none of the three; it only keeps digits.
        sets = risk_sets(
            X - X.mean(axis=0),
            start=data.start[rows],
            stop=data.stop[rows],
            event=data.event[rows],
            weight=data.weight[rows],
            stratum=np.zeros(int(rows.sum()), dtype=np.int64),
            ties=ties,
        )
        part = evaluate(sets, at)
        pieces.append(
            StratumScore(label, part.loglik, frozen_floats(part.score), frozen_floats(part.information))
        )
    return tuple(pieces)


def baseline_hazard(
    data: CoxData, beta: npt.ArrayLike, *, at: npt.ArrayLike, ties: Ties = "efron"
) -> tuple[BaselineHazard, ...]:
    """Cumulative hazard by stratum for a patient with covariates `at` (units of X), given coefficients.

    Increments are Efron's or Breslow's, as the ties asked for.
    """
    coefficients = np.asarray(beta, dtype=np.float64)
    sets = _sets(data, data.X - np.asarray(at, dtype=np.float64), ties)
    increments = hazard_increments(sets, coefficients)
    result = []
    for code, label in enumerate(data.strata or ("",)):
        mine = sets.slot_stratum == code
        total = frozen_floats(np.cumsum(increments[mine]))
        result.append(BaselineHazard(label, frozen_floats(sets.slot_time[mine]), total))
    return tuple(result)


def _sets(data: CoxData, X: FloatArray, ties: Ties) -> RiskSets:
    return risk_sets(
        X,
        start=data.start,
        stop=data.stop,
        event=data.event,
        weight=data.weight,
        stratum=data.stratum,
        ties=ties,
    )


def _scaling(data: CoxData) -> tuple[FloatArray, FloatArray]:
    centre, scale = data.X.mean(axis=0), data.X.std(axis=0)
    constant = data.X.max(axis=0) == data.X.min(axis=0)
    if constant.any():
        names = ", ".join(np.array(data.names)[constant])
        raise NotEstimableError(f"{names} has one value only, so its hazard ratio is not defined")
    return centre, scale


def _result(
    data: CoxData,
    optimum: Optimum,
    *,
    null: Evaluation,
    scale: FloatArray,
    model: FloatArray,
    variance: FloatArray,
    ties: Ties,
    robust: bool,
    level: float,
) -> CoxFit:
    coefficients = np.where(optimum.found, optimum.beta / scale, np.nan)
    units = np.outer(scale, scale)
    se = np.sqrt(np.diag(variance)) / scale
    half = float(ndtri(0.5 + level / 2)) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        z = coefficients / se
    score = float(null.score @ np.linalg.solve(null.information, null.score))
    exposed = data.X[:, data.names.index(EXPOSURE)] == 1 if EXPOSURE in data.names else None
    return CoxFit(
        names=data.names,
        coefficients=frozen_floats(coefficients),
        se=frozen_floats(se),
        variance=frozen_floats(variance / units),
        model_se=frozen_floats(np.sqrt(np.diag(model)) / scale),
        model_variance=frozen_floats(model / units),
        z=frozen_floats(z),
        p_value=frozen_floats(2 * ndtr(-np.abs(z))),
        ci_low=frozen_floats(coefficients - half),
        ci_high=frozen_floats(coefficients + half),
        ci_level=level,
        is_robust=robust,
        ties=ties,
        loglik_null=null.loglik,
        loglik=optimum.at.loglik,
        score_test=ScoreTest(score, len(data.names), float(chdtrc(len(data.names), score))),
        n_rows=len(data),
        n_patients=len(np.unique(data.cluster)),
        events=int(data.event.sum()),
        events_exposed=None if exposed is None else int(data.event[exposed].sum()),
        events_unexposed=None if exposed is None else int(data.event[~exposed].sum()),
        strata=data.strata,
        iterations=optimum.iterations,
        converged=optimum.converged,
        diverged=tuple(data.names[j] for j in optimum.runaway),
        warnings=(*data.warnings, *_warnings(data, optimum)),
    )


def _warnings(data: CoxData, optimum: Optimum) -> list[str]:
    sentences = []
    for j in optimum.runaway:
        towards = "minus infinity" if optimum.direction[j] < 0 else "infinity"
        sentences.append(
            f"The log hazard ratio of {data.names[j]} runs to {towards}{_why_runaway(data, j)}: "
            "the likelihood has no maximum, so it has no estimate."
        )
    if not optimum.converged and not optimum.runaway:
        sentences.append(f"The Cox model did not converge in {optimum.iterations} iterations.")
    return sentences


def _why_runaway(data: CoxData, j: int) -> str:
    column, at_event = data.X[:, j], data.X[data.event, j]
    values = np.unique(column)
    if len(values) == 2:
        for value, other in (values, values[::-1]):
            if not (at_event == value).any():
                who = {1.0: "exposed", 0.0: "unexposed"}.get(float(value))
                if data.names[j] == EXPOSURE and who:
                    return f" because there is no event among the {who}"
                which = "lower" if value < other else "higher"
                return f" because there is no event where it has its {which} value"
    return " because it separates those with an event from the others at risk"
