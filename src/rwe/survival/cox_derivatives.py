"""How the information of a Cox model changes with beta: what Firth's penalty needs, at one site or many.

The derivative of the information is the sum over events of the third central moment of the covariates in the
risk set, weighted by exp(X beta): kappa_jkl = E[xj xk xl] - E[xj xk] E[xl] - E[xj xl] E[xk] - E[xk xl] E[xj]
+ 2 E[xj] E[xk] E[xl]. Like score and information it adds up over strata, and so over sites. Notation and
Efron's terms as in `cox_kernel`. Source: Heinze & Schemper 2001, Biometrics 57:114.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rwe.survival.cox import CoxData
from rwe.survival.cox_kernel import RiskSets, Ties, evaluate, risk_sets
from rwe.survival.data import FloatArray, SurvivalDataError, frozen_floats


@dataclass(frozen=True)
class StratumDerivatives:
    """What one stratum adds at one beta, in units of X: log-likelihood, score (p), information (p x p) and
    `information_derivative` (p x p x p), whose entry [j, k, l] is the derivative of I[j, k] to beta[l].
    """

    stratum: str
    loglik: float
    score: FloatArray
    information: FloatArray
    information_derivative: FloatArray


def stratum_derivatives(
    data: CoxData, beta: npt.ArrayLike, *, ties: Ties = "breslow"
) -> tuple[StratumDerivatives, ...]:
    """The sums of each stratum at `beta` (units of X). They add up to the whole, over sites too.

    With the totals over all sites, `penalised_score` is the score of a Firth model of the pooled data.
    Nothing is centred or scaled by these data. Raises SurvivalDataError for a beta of another length.
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
        # Centring changes none of the sums; it only keeps digits.
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
            StratumDerivatives(
                stratum=label,
                loglik=part.loglik,
                score=frozen_floats(part.score),
                information=frozen_floats(part.information),
                information_derivative=frozen_floats(information_derivative(sets, at)),
            )
        )
    return tuple(pieces)


def penalised_score(
    score: FloatArray, information: FloatArray, information_derivative: FloatArray
) -> FloatArray:
    """Score of the log-likelihood plus half the log determinant of the information: U + tr(I^-1 dI/dbeta)/2.

    `information` is the full matrix, also where some coefficients are held fixed (as coxphf does).
    Raises numpy's LinAlgError where the information is singular.
    """
    inverse = np.linalg.inv(information)
    return np.asarray(score + 0.5 * np.einsum("jk,kjl->l", inverse, information_derivative))


def risk_set_means(sets: RiskSets, beta: FloatArray) -> FloatArray:
    """Mean covariates (terms x p) of the risk set of each event, weighted by exp(X beta), by Efron term.

    Terms are in the order of `sets.term_slot`; where events are tied, their mean over a slot is that of R's
    Schoenfeld residuals.
    """
    risk = _risk(sets, beta)
    s0 = _over_terms(sets, risk)
    return np.column_stack([_over_terms(sets, risk * x) / s0 for x in sets.X.T])


def information_derivative(sets: RiskSets, beta: FloatArray) -> FloatArray:
    """Derivative of the information to each coefficient (p x p x p), symmetric in all three indices."""
    X, weight = sets.X, sets.term_weight
    p = X.shape[1]
    risk = _risk(sets, beta)
    s0 = _over_terms(sets, risk)
    mean = risk_set_means(sets, beta)
    second = np.empty((len(s0), p, p))
    for j in range(p):
        for k in range(j + 1):
            second[:, j, k] = second[:, k, j] = _over_terms(sets, risk * X[:, j] * X[:, k]) / s0
    # Each row's share of all risk sets together: the sum of third moments without a sum per risk set.
    hazard = weight / s0
    rows = risk * sets.at_risk.over_slots(_by_slot(sets, hazard))
    tie = _by_slot(sets, hazard * sets.term_share)
    rows[sets.event_row] -= risk[sets.event_row] * tie[sets.event_slot]
    third = np.einsum("i,ij,ik,il->jkl", rows, X, X, X, optimize=True)
    crossed = np.einsum("t,tjk,tl->jkl", weight, second, mean, optimize=True)
    cubed = np.einsum("t,tj,tk,tl->jkl", weight, mean, mean, mean, optimize=True)
    return np.asarray(third - crossed - crossed.transpose(0, 2, 1) - crossed.transpose(2, 1, 0) + 2 * cubed)


def _risk(sets: RiskSets, beta: FloatArray) -> FloatArray:
    """Weight x exp(eta) of each row, less a constant of its stratum that cancels; see `cox_kernel`."""
    eta = sets.X @ beta
    shift = np.full(int(sets.row_stratum.max()) + 1, -np.inf)
    np.maximum.at(shift, sets.row_stratum, eta)
    return np.asarray(sets.weight * np.exp(eta - shift[sets.row_stratum]))


def _over_terms(sets: RiskSets, values: FloatArray) -> FloatArray:
    """Risk-set sum of `values` (by row) for each Efron term: the whole set less its share of the events."""
    own = np.bincount(sets.event_slot, values[sets.event_row], sets.n_slots)
    return np.asarray(sets.at_risk.over_rows(values)[sets.term_slot] - sets.term_share * own[sets.term_slot])


def _by_slot(sets: RiskSets, values: FloatArray) -> FloatArray:
    return np.asarray(np.bincount(sets.term_slot, values, sets.n_slots), dtype=np.float64)
