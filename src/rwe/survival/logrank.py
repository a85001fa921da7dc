"""Log-rank and Mantel-Byar tests: observed against expected events, with hypergeometric variance.

Sources: Mantel 1966; Mantel & Byar 1974 (groups that patients enter when they start treatment). Both are one
computation: at each event time the risk set is split by the group a patient is in at that time. With groups
fixed at entry it is the log-rank test (R `survdiff`), with time-dependent ones the Mantel-Byar test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from rwe.survival.data import BoolArray, CountingProcess, FloatArray, SurvivalDataError
from rwe.survival.rows import checked_rows


@dataclass(frozen=True)
class LogRank:
    """Observed and expected events as (unexposed, exposed); `variance` is that of observed minus expected.

    `chi_square` has one degree of freedom. It and `p_value` are None where the variance is 0 (no event, or
    only one group at risk at every event); `warnings` says so. `n` is patients: those never exposed, those
    ever exposed.
    """

    chi_square: float | None
    p_value: float | None
    df: int
    n: tuple[int, int]
    observed: tuple[int, int]
    expected: tuple[float, float]
    variance: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sums:
    observed: tuple[int, int]
    expected: tuple[float, float]
    variance: float


def logrank(
    stop: npt.ArrayLike,
    event: npt.ArrayLike,
    group: npt.ArrayLike,
    *,
    entry: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    n: tuple[int, int] | None = None,
) -> LogRank:
    """Compare the hazard of `group` 1 with that of group 0; at risk on (entry, stop], days.

    With `strata` the sums are taken inside each stratum and added. `n` is patients by group where several
    rows belong to one; rows are counted otherwise.

    Raises SurvivalDataError as `rows.checked_rows`, and for strata of another length.
    """
    stop_days, is_event, is_one, entry_days = checked_rows(stop, event, group, entry)
    codes = np.zeros(len(stop_days), dtype=np.int64)
    if strata is not None:
        codes = np.unique(np.asarray(strata), return_inverse=True)[1].astype(np.int64)
        if len(codes) != len(stop_days):
            raise SurvivalDataError("strata and stop have not one length")
    parts = [
        _stratum(stop_days[rows], is_event[rows], is_one[rows], entry_days[rows])
        for rows in (codes == code for code in np.unique(codes))
    ]
    observed = (sum(p.observed[0] for p in parts), sum(p.observed[1] for p in parts))
    expected = (sum(p.expected[0] for p in parts), sum(p.expected[1] for p in parts))
    variance = sum(p.variance for p in parts)
    chi_square = (observed[1] - expected[1]) ** 2 / variance if variance > 0 else None
    return LogRank(
        chi_square=chi_square,
        p_value=None if chi_square is None else float(chdtrc(1, chi_square)),
        df=1,
        n=n or (int((~is_one).sum()), int(is_one.sum())),
        observed=observed,
        expected=expected,
        variance=variance,
        warnings=() if chi_square is not None else (_why_undefined(sum(observed)),),
    )


def exposure_logrank(data: CountingProcess, *, stratify_by_site: bool = False) -> LogRank:
    """Exposed against unexposed. On rows of `exposure_split` this is the Mantel-Byar test."""
    counts = data.counts()
    return logrank(
        data.stop,
        data.event,
        data.exposed,
        entry=data.start,
        strata=data.site.astype(str) if stratify_by_site else None,
        n=(counts.patients_unexposed, counts.patients_exposed),
    )


def mantel_byar(data: CountingProcess, *, stratify_by_site: bool = False) -> LogRank:
    """The Mantel-Byar test on rows of `exposure_split`: exposed and unexposed time of the same patients."""
    return exposure_logrank(data, stratify_by_site=stratify_by_site)


def _stratum(stop: FloatArray, event: BoolArray, group: BoolArray, entry: FloatArray) -> _Sums:
    times, deaths = np.unique(stop[event], return_counts=True)
    one = np.sort(stop[event & group])
    deaths_one = np.searchsorted(one, times, "right") - np.searchsorted(one, times, "left")
    n_one = _at_risk(times, entry[group], stop[group]).astype(np.float64)
    n_all = _at_risk(times, entry, stop).astype(np.float64)
    share = n_one / n_all
    # A risk set of one has no variance; the maximum only avoids 0/0.
    variance = deaths * share * (1 - share) * (n_all - deaths) / np.maximum(n_all - 1, 1)
    return _Sums(
        observed=(int(deaths.sum() - deaths_one.sum()), int(deaths_one.sum())),
        expected=(float((deaths * (n_all - n_one) / n_all).sum()), float((deaths * share).sum())),
        variance=float(variance.sum()),
    )


def _at_risk(times: FloatArray, entry: FloatArray, stop: FloatArray) -> npt.NDArray[np.intp]:
    return np.searchsorted(np.sort(entry), times, "left") - np.searchsorted(np.sort(stop), times, "left")


def _why_undefined(events: int) -> str:
    if events == 0:
        return "There is no event, so no test."
    return "At no event were both groups at risk (with more than one patient), so there is no test."
