"""The exact permutation log-rank test: what share of all relabellings is at least as far from expectation?

Observed minus expected events of the exposed, O - E, is a sum over patients: risk sets do not depend on
labels, so each exposed patient adds their martingale residual, event less Nelson-Aalen hazard while at risk.
The exact distribution is then that of sums of k out of n residuals, within each site. It is enumerated up to
a million relabellings; beyond, relabellings are drawn at random from a seed and the p value has an error.

Relabelling presumes that labels could have been dealt at time zero. That holds for groups fixed then (started
by a landmark, among those followed to it); ever against never looks ahead, so that result `is_biased`.
With delayed entry it also presumes that both groups enter alike.

Sources: Fisher 1935 (permutation); Hothorn et al. 2006, American Statistician 60:257 (R `coin`); Phipson &
Smyth 2010, Stat Appl Genet Mol Biol 9:39 (p of random relabellings is never 0).

For the planner: `landmark_permutation(table, day, stratify_by_site=...)` beside the log-rank of each landmark
when the smaller group has fewer than ten patients; `naive_permutation(table)` only beside the naive log-rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from rwe.survival.data import (
    BoolArray,
    CohortTable,
    CountingProcess,
    FloatArray,
    IntArray,
    NotEstimableError,
    SurvivalDataError,
    landmark_split,
    naive_split,
)
from rwe.survival.rows import checked_rows, require_fixed_groups

MOST_ENUMERATED = 1_000_000
DRAWS = 100_000
BIASED = "Ever against never looks ahead: whoever started had survived until then, so this test is biased."
METHOD = "permutation log-rank test on the absolute value of observed minus expected"
ASSUMPTIONS = (
    "Under the null hypothesis any patients of a site could equally have been the exposed ones.",
    "Groups are fixed at time zero; censoring (and entry) does not depend on them.",
)
_TOLERANCE = 1e-10  # two relabellings whose O - E differ by less are equal up to rounding
_CHUNK = 4_000_000  # random numbers held at once


@dataclass(frozen=True)
class PermutationLogRank:
    """Two-sided p value: the share of relabellings with |O - E| at least that observed.

    `observed`, `expected`: events among the exposed. `n` is patients (unexposed, exposed). `n_relabellings`
    is how many exist. If `is_exact`, all were counted, and `error`, `error_low`, `error_high` are None; else
    `n_drawn` were drawn, `error` is the Monte Carlo standard error of `p_value`, and the others a 99 %
    interval for the exact p. `smallest_p` (exact only) is the least p that these risk sets can give at all.
    """

    p_value: float
    observed: int
    expected: float
    n: tuple[int, int]
    n_relabellings: int
    is_exact: bool = True
    smallest_p: float | None = None
    n_drawn: int | None = None
    seed: int | None = None
    error: float | None = None
    error_low: float | None = None
    error_high: float | None = None
    is_biased: bool = False
    warnings: tuple[str, ...] = ()
    method: str = METHOD
    assumptions: tuple[str, ...] = ASSUMPTIONS


def landmark_permutation(
    table: CohortTable, day: int, *, stratify_by_site: bool = False, seed: int = 0
) -> PermutationLogRank:
    """Started by the landmark against not, among those followed past it. Raises as `exposure_permutation`."""
    return exposure_permutation(landmark_split(table, day), stratify_by_site=stratify_by_site, seed=seed)


def naive_permutation(
    table: CohortTable, *, stratify_by_site: bool = False, seed: int = 0
) -> PermutationLogRank:
    """Ever against never started: `is_biased`. Raises as `exposure_permutation`."""
    found = exposure_permutation(naive_split(table), stratify_by_site=stratify_by_site, seed=seed)
    return replace(found, is_biased=True, warnings=(BIASED, *found.warnings))


def exposure_permutation(
    data: CountingProcess, *, stratify_by_site: bool = False, seed: int = 0
) -> PermutationLogRank:
    """Relabel the patients of rows whose exposure never changes.

    Raises NotEstimableError where a group is empty, where exposure changes over time (there are no labels to
    deal then) or where no event tells the groups apart.
    """
    data.require_both_groups()
    require_fixed_groups(data, "a permutation test")
    return permutation_logrank(
        data.stop,
        data.event,
        data.exposed,
        entry=data.start,
        strata=data.site.astype(str) if stratify_by_site else None,
        patient=data.patient,
        seed=seed,
    )


def permutation_logrank(
    stop: npt.ArrayLike,
    event: npt.ArrayLike,
    group: npt.ArrayLike,
    *,
    entry: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    patient: npt.ArrayLike | None = None,
    most_enumerated: int = MOST_ENUMERATED,
    draws: int = DRAWS,
    seed: int = 0,
) -> PermutationLogRank:
    """Permutation test of `group` 1 against 0, at risk on (entry, stop], days; relabelled within `strata`.

    `patient` labels rows of one patient (all in one stratum and one group); without it each row is a patient.
    Up to `most_enumerated` relabellings all are counted, beyond `draws` of them are drawn from `seed`.

    Raises SurvivalDataError as `logrank`, NotEstimableError where a patient changes groups, one group is
    empty, or all relabellings give the same O - E (without any event, for instance).
    """
    stops, events, is_one, entries = checked_rows(stop, event, group, entry)
    n_rows = len(stops)
    labels = np.zeros(n_rows, dtype=np.int64) if strata is None else np.asarray(strata)
    whose = np.arange(n_rows) if patient is None else np.asarray(patient)
    if not len(labels) == len(whose) == n_rows:
        raise SurvivalDataError("strata, patient and stop have not one length")
    stratum = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    who = np.unique(whose, return_inverse=True)[1].astype(np.int64)
    score = np.bincount(who, _martingale_residuals(stops, events, entries, stratum))
    one, place = np.zeros(len(score), dtype=bool), np.zeros(len(score), dtype=np.int64)
    one[who], place[who] = is_one, stratum
    if (one[who] != is_one).any():
        raise NotEstimableError("a permutation test needs groups fixed at time zero", advice="use a landmark")
    if (place[who] != stratum).any():
        raise SurvivalDataError("a patient is in two strata")
    if one.all() or not one.any():
        raise NotEstimableError("everybody is in one group, so there is no permutation test")
    strata_of = [place == s for s in range(int(place.max()) + 1)]
    sites = [(score[mine], int(one[mine].sum())) for mine in strata_of]
    if all(k in (0, len(scores)) or np.ptp(scores) < _TOLERANCE for scores, k in sites):
        why = "every relabelling gives the same result" if events.any() else "there is no event"
        raise NotEstimableError(f"{why}, so there is no permutation test")
    distance = float(score[one].sum())
    result = PermutationLogRank(
        p_value=math.nan,
        observed=int(events[is_one].sum()),
        expected=int(events[is_one].sum()) - distance,
        n=(int((~one).sum()), int(one.sum())),
        n_relabellings=math.prod(math.comb(len(scores), k) for scores, k in sites),
    )
    if result.n_relabellings <= most_enumerated:
        return _enumerated(result, sites, abs(distance))
    return _drawn(result, sites, abs(distance), draws, seed)


_Site = tuple[FloatArray, int]
"""The scores of a site's patients, and how many of them are exposed."""


def _enumerated(result: PermutationLogRank, sites: Sequence[_Site], distance: float) -> PermutationLogRank:
    totals = np.zeros(1)
    for scores, k in sites:
        totals = np.add.outer(totals, _subset_sums(scores, k)).ravel()
    far = np.abs(totals)
    p_value = int((far >= distance - _TOLERANCE).sum()) / len(far)
    smallest = int((far >= far.max() - _TOLERANCE).sum()) / len(far)
    warnings = []
    if smallest > 0.05:
        warnings.append(f"No result of these groups could give a p value below {smallest:.2g}.")
    return replace(result, p_value=p_value, smallest_p=smallest, warnings=tuple(warnings))


def _drawn(
    result: PermutationLogRank, sites: Sequence[_Site], distance: float, draws: int, seed: int
) -> PermutationLogRank:
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(len(scores) for scores, _ in sites))
    hits = 0
    for begin in range(0, draws, rows):
        totals = np.zeros(min(rows, draws - begin))
        for scores, k in sites:
            totals += _random_sums(random, scores, k, len(totals))
        hits += int((np.abs(totals) >= distance - _TOLERANCE).sum())
    p_value = (hits + 1) / (draws + 1)
    low = float(betaincinv(hits, draws - hits + 1, 0.005)) if hits else 0.0
    high = float(betaincinv(hits + 1, draws - hits, 0.995)) if hits < draws else 1.0
    return replace(
        result,
        p_value=p_value,
        is_exact=False,
        n_drawn=draws,
        seed=seed,
        error=math.sqrt(p_value * (1 - p_value) / draws),
        error_low=low,
        error_high=high,
        warnings=(f"Too many relabellings to count all: {draws} were drawn at random.",),
    )


def _subset_sums(scores: FloatArray, k: int) -> FloatArray:
    """The sums of all subsets of k scores, in no particular order."""
    n = len(scores)
    if k > n // 2:
        return np.asarray(scores.sum() - _subset_sums(scores, n - k))
    if k <= 1:
        return scores if k else np.zeros(1)
    sums = [np.zeros(1)] + [np.zeros(0)] * k
    for i, score in enumerate(scores):
        # From the largest size down, so that each score enters a subset once; what can no longer fill up
        # to k is not carried on.
        for size in range(min(k, i + 1), max(1, k - (n - 1 - i)) - 1, -1):
            sums[size] = np.concatenate([sums[size], sums[size - 1] + score])
    return sums[k]


def _random_sums(random: np.random.Generator, scores: FloatArray, k: int, rows: int) -> FloatArray:
    """The sums of `rows` random subsets of k scores."""
    n = len(scores)
    if k > n // 2:
        return np.asarray(scores.sum() - _random_sums(random, scores, n - k, rows))
    if not k:
        return np.zeros(rows)
    chosen = np.argpartition(random.random((rows, n)), k - 1, axis=1)[:, :k]
    return np.asarray(scores[chosen].sum(axis=1))


def _martingale_residuals(
    stop: FloatArray, event: BoolArray, entry: FloatArray, stratum: IntArray
) -> FloatArray:
    """Event less the Nelson-Aalen hazard of the row's stratum while at risk; they add up to 0."""
    residual = np.empty(len(stop))
    for code in range(int(stratum.max()) + 1):
        rows = stratum == code
        times, deaths = np.unique(stop[rows & event], return_counts=True)
        entered = np.searchsorted(np.sort(entry[rows]), times, "left")
        left = np.searchsorted(np.sort(stop[rows]), times, "left")
        hazard = np.concatenate([[0.0], np.cumsum(deaths / (entered - left))])
        at_stop = hazard[np.searchsorted(times, stop[rows], "right")]
        at_entry = hazard[np.searchsorted(times, entry[rows], "right")]
        residual[rows] = event[rows] - (at_stop - at_entry)
    return residual
