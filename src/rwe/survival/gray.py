"""Gray's test: are the cumulative incidences of one cause the same in both groups?

The counterpart of the log-rank test with competing risks. Patients with a competing event count on in the
risk set, in the expected number R = Y (1 - F(t-)) / S(t-): Y at risk, F the group's incidence of the cause, S
its survival free of any event. Observed less expected events of the exposed are summed over event times.

The variance is the delta method's under the null hypothesis, worked out here for two groups. With
K = (Y1/S1) (Y0/S0) / Q, Q = Y1/S1 + Y0/S0 just before t, the common incidence rises by dF = d / Q, and a
deviation of a group's hazard at u acts at u itself and, through its incidence, on all later times:
- of the cause: S(u-) (K + D (1 - (1 - F(u)) / S(u))),  - of another: -S(u-) D (1 - F(u)) / S(u),
D = sum over t > u of K dF / (1 - F(t-)). Hazards have hypergeometric variance, that of the cause by the
common incidence. At risk from entry on, so delayed entry is heeded; strata are added up.

Source: Gray 1988, Annals of Statistics 16:1141 (rho = 0). R `cmprsk` (its `cuminc`) is the gold standard.

For the planner: `exposure_gray(competing_rows(events, landmark_split(...)), cause)` beside
`exposure_incidence`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from rwe.survival.data import FloatArray, NotEstimableError, SurvivalDataError
from rwe.survival.first_events import CompetingRows
from rwe.survival.rows import checked_rows, require_fixed_groups

METHOD = "Gray's test"
ASSUMPTIONS = (
    "Censoring is independent of all kinds of event, within each group.",
    "Groups are fixed at time zero.",
)


@dataclass(frozen=True)
class GrayTest:
    """The test, with one degree of freedom.

    `difference` is observed less expected events of the cause among the exposed, `variance` its variance.
    `n` is patients (unexposed, exposed); `observed` events of the cause, likewise.
    """

    cause: str
    chi_square: float
    p_value: float
    df: int
    n: tuple[int, int]
    observed: tuple[int, int]
    difference: float
    variance: float
    method: str = METHOD
    assumptions: tuple[str, ...] = ASSUMPTIONS


def exposure_gray(rows: CompetingRows, cause: str, *, stratify_by_site: bool = False) -> GrayTest:
    """Exposed against unexposed. Raises as `gray_test`; NotEstimableError where patients change groups."""
    data = rows.data
    data.require_both_groups()
    require_fixed_groups(data, METHOD)
    code = rows.code(cause)
    kind = np.where(rows.cause == code, 1, np.where(rows.cause > 0, 2, 0))
    exposed = len(np.unique(data.patient[data.exposed]))
    return gray_test(
        data.stop,
        kind,
        data.exposed,
        cause=cause,
        entry=data.start,
        strata=data.site.astype(str) if stratify_by_site else None,
        n=(data.n_patients - exposed, exposed),
    )


def gray_test(
    stop: npt.ArrayLike,
    kind: npt.ArrayLike,
    group: npt.ArrayLike,
    *,
    cause: str = "cause",
    entry: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    n: tuple[int, int] | None = None,
) -> GrayTest:
    """Compare group 1 with 0, at risk on (entry, stop], days; `kind` 1: the cause, 2: another event, 0: none.

    Raises NotEstimableError without an event of the cause while both groups are at risk; SurvivalDataError
    as `logrank`.
    """
    kinds = np.asarray(kind)
    if not np.isin(kinds, [0, 1, 2]).all():
        raise SurvivalDataError("a kind of event is neither 0, 1 nor 2")
    stops, _, groups, entries = checked_rows(stop, kinds > 0, group, entry)
    labels = np.zeros(len(stops), dtype=np.int64) if strata is None else np.asarray(strata)
    if len(labels) != len(stops):
        raise SurvivalDataError("strata and stop have not one length")
    difference = variance = 0.0
    for label in np.unique(labels):
        mine = labels == label
        event_days = stops[mine & (kinds > 0)]
        arms = [_Arm.of(stops, entries, kinds, mine & (groups == g), event_days) for g in (0, 1)]
        shift, spread = _stratum(arms[0], arms[1])
        difference, variance = difference + shift, variance + spread
    if variance <= 0:
        why = (
            "at no event of the cause are both groups at risk" if (kinds == 1).any() else "there is no event"
        )
        raise NotEstimableError(f"{why}, so there is no test of incidences")
    chi_square = difference**2 / variance
    is_cause = kinds == 1
    return GrayTest(
        cause=cause,
        chi_square=chi_square,
        p_value=float(chdtrc(1, chi_square)),
        df=1,
        n=n or (int((~groups).sum()), int(groups.sum())),
        observed=(int((is_cause & ~groups).sum()), int((is_cause & groups).sum())),
        difference=difference,
        variance=variance,
    )


@dataclass(frozen=True)
class _Arm:
    """One group at its stratum's event times: at risk, events of the cause and others, S(t-), S(t), F(t-)."""

    at_risk: FloatArray
    cause: FloatArray
    other: FloatArray
    before: FloatArray
    after: FloatArray
    incidence_before: FloatArray

    @classmethod
    def of(
        cls,
        stop: FloatArray,
        entry: FloatArray,
        kind: npt.NDArray[np.generic],
        rows: npt.NDArray[np.bool_],
        event_days: FloatArray,
    ) -> _Arm:
        time = np.unique(event_days)
        at_risk = np.searchsorted(np.sort(entry[rows]), time) - np.searchsorted(np.sort(stop[rows]), time)
        cause, other = (_count(stop[rows & (kind == k)], time) for k in (1, 2))
        y = np.maximum(at_risk, 1).astype(np.float64)
        after = np.cumprod(1 - (cause + other) / y)
        before = np.concatenate([[1.0], after[:-1]])
        incidence = np.cumsum(before * cause / y)
        return cls(
            at_risk=at_risk.astype(np.float64),
            cause=cause,
            other=other,
            before=before,
            after=after,
            incidence_before=np.concatenate([[0.0], incidence[:-1]]),
        )

    @property
    def expanded(self) -> FloatArray:
        """Y / S(t-); 0 once the group has died out, whoever enters later."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((self.at_risk > 0) & (self.before > 0), self.at_risk / self.before, 0.0)


def _stratum(unexposed: _Arm, exposed: _Arm) -> tuple[float, float]:
    """Observed less expected of the exposed, and its variance."""
    one, zero = exposed.expanded, unexposed.expanded
    used = (one > 0) & (zero > 0)
    deaths = np.where(used, exposed.cause + unexposed.cause, 0.0)
    risk_one, risk_zero = (x * (1 - arm.incidence_before) for x, arm in ((one, exposed), (zero, unexposed)))
    share = np.where(used, risk_one / np.where(used, risk_one + risk_zero, 1.0), 0.0)
    difference = float((np.where(used, exposed.cause, 0.0) - deaths * share).sum())

    total = one + zero
    rise = (exposed.cause + unexposed.cause) / np.where(total > 0, total, 1.0)
    incidence = np.cumsum(rise)
    incidence_before = incidence - rise
    kernel = np.where(used, one * zero / np.where(total > 0, total, 1.0), 0.0)
    step = kernel * rise / np.maximum(1 - incidence_before, 1e-300)
    later = step[::-1].cumsum()[::-1] - step
    variance = 0.0
    for arm, size in ((exposed, one), (unexposed, zero)):
        variance += _arm_variance(
            arm, size, total, kernel=kernel, later=later, rise=rise, incidence=incidence
        )
    return difference, variance


def _arm_variance(
    arm: _Arm,
    size: FloatArray,
    total: FloatArray,
    *,
    kernel: FloatArray,
    later: FloatArray,
    rise: FloatArray,
    incidence: FloatArray,
) -> float:
    here = size > 0
    y, s = arm.at_risk[here], arm.before[here]
    with np.errstate(divide="ignore", invalid="ignore"):
        # A group that dies out has nothing later to act on.
        ratio = np.where(arm.after[here] > 0, (1 - incidence[here]) / arm.after[here], 0.0)
    deaths = rise[here] * total[here]
    # Events of the cause are `deaths` among so many patients of this group's kind.
    effective = total[here] * s
    tied = np.where(deaths > 1, 1 - (deaths - 1) / np.where(effective == 1, np.inf, effective - 1), 1.0)
    own = kernel[here] + later[here] * (1 - ratio)
    by_cause = own**2 * s * rise[here] / y * tied
    other = arm.other[here]
    tied_other = np.where(y > 1, (y - other) / np.maximum(y - 1, 1), 1.0)
    by_other = (later[here] * ratio) ** 2 * s**2 * other / y**2 * tied_other
    return float(by_cause.sum() + by_other.sum())


def _count(days: FloatArray, time: FloatArray) -> FloatArray:
    ordered = np.sort(days)
    found = np.searchsorted(ordered, time, "right") - np.searchsorted(ordered, time, "left")
    return found.astype(np.float64)
