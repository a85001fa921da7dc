"""The permutation log-rank test against all relabellings counted one by one, and at its edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.survival.data import (
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    landmark_split,
    naive_split,
    start_day_split,
)
from rwe.survival.logrank import logrank
from rwe.survival.permutation import (
    exposure_permutation,
    landmark_permutation,
    naive_permutation,
    permutation_logrank,
)
from tests.unit.test_survival_data import NEVER, table
from tests.unit.test_survival_logrank import columns, observation


def by_counting(rows: list[tuple]) -> tuple[float, int]:
    """Every way to give each stratum's labels out anew, with the log-rank's own O - E for each."""
    data = columns(rows)
    places = [[i for i, r in enumerate(rows) if r[4] == s] for s in "ab"]
    ones = [sum(rows[i][3] for i in mine) for mine in places]

    def distance(group: list[int]) -> float:
        found = logrank(**{**data, "group": group})
        return abs(found.observed[1] - found.expected[1])

    observed, hits, total = distance(data["group"]), 0, 0
    choices = [itertools.combinations(mine, k) for mine, k in zip(places, ones, strict=True)]
    for chosen in itertools.product(*choices):
        group = [0] * len(rows)
        for i in itertools.chain(*chosen):
            group[i] = 1
        total += 1
        hits += distance(group) >= observed - 1e-9
    return hits / total, total


@settings(max_examples=20, deadline=None)
@given(st.lists(observation, min_size=2, max_size=9))
def test_p_is_the_share_of_relabellings_at_least_as_far_with_entry_and_strata(rows):
    try:
        found = permutation_logrank(**columns(rows))
    except NotEstimableError:
        return
    share, total = by_counting(rows)
    assert found.is_exact
    assert found.n_relabellings == total
    assert found.p_value == pytest.approx(share, abs=1e-12)
    assert 0 < found.smallest_p <= found.p_value
    plain = logrank(**columns(rows))
    assert (found.n, found.observed) == (plain.n, plain.observed[1])
    assert found.expected == pytest.approx(plain.expected[1], abs=1e-12)


def seven_against_nine(seed: int, n: int = 16, exposed: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "stop": rng.integers(1, 30, n),
        "event": rng.random(n) < 0.7,
        "group": (np.arange(n) < exposed).astype(int),
    }


def test_drawn_relabellings_are_within_their_error_of_all_of_them():
    data = seven_against_nine(3)
    exact = permutation_logrank(**data)
    drawn = permutation_logrank(**data, most_enumerated=1000, draws=20_000, seed=8)
    assert not drawn.is_exact
    assert drawn.n_relabellings == exact.n_relabellings == math.comb(16, 7)
    assert drawn.error == pytest.approx(math.sqrt(drawn.p_value * (1 - drawn.p_value) / 20_000))
    assert abs(drawn.p_value - exact.p_value) < 4 * drawn.error
    assert drawn.error_low < exact.p_value < drawn.error_high
    assert drawn.smallest_p is None
    assert "drawn at random" in drawn.warnings[0]


def test_drawn_relabellings_within_two_sites_are_within_their_error_too():
    data = seven_against_nine(5, n=20, exposed=6) | {"strata": np.arange(20) % 2}
    exact = permutation_logrank(**data)
    drawn = permutation_logrank(**data, most_enumerated=1, draws=20_000, seed=1)
    assert exact.n_relabellings == math.comb(10, 3) ** 2
    assert abs(drawn.p_value - exact.p_value) < 4 * drawn.error


def test_the_same_seed_gives_the_same_p_value():
    data = seven_against_nine(9)
    one, two, other = (
        permutation_logrank(**data, most_enumerated=1, draws=500, seed=s).p_value for s in (1, 1, 2)
    )
    assert one == two
    assert one != other


def test_a_drawn_p_value_is_never_zero():
    data = {"stop": np.arange(1, 41), "event": np.ones(40), "group": (np.arange(40) < 20).astype(int)}
    found = permutation_logrank(**data, draws=1000)
    assert found.p_value == 1 / 1001
    assert found.error_low == 0
    assert found.error_high > 1e-5


def test_a_tiny_study_says_what_it_could_have_shown():
    # One of four: whatever happens, p cannot be below 1/4.
    found = permutation_logrank([5, 6, 7, 8], [1, 1, 1, 1], [0, 0, 0, 1])
    assert found.n_relabellings == 4
    assert found.smallest_p >= 0.25
    assert "could give a p value below" in found.warnings[0]


def test_rows_cut_at_a_covariate_s_change_count_their_patient_once():
    whole = permutation_logrank([9, 4, 7, 3], [1, 1, 0, 1], [1, 0, 1, 0])
    cut = permutation_logrank(
        [5, 9, 4, 7, 3], [0, 1, 1, 0, 1], [1, 1, 0, 1, 0], entry=[0, 5, 0, 0, 0], patient=[0, 0, 1, 2, 3]
    )
    assert cut.p_value == whole.p_value
    assert cut.n == whole.n == (2, 2)


def cohort(deaths_exposed: int, deaths_unexposed: int):
    rows = [(f"e{i}", 20 + 3 * i, i < deaths_exposed, 5.0) for i in range(4)]
    return table(rows + [(f"u{i}", 21 + 3 * i, i < deaths_unexposed, NEVER) for i in range(4)])


def test_ever_against_never_is_marked_biased_and_a_landmark_is_not():
    naive, landmark = naive_permutation(cohort(1, 4)), landmark_permutation(cohort(1, 4), 10)
    assert naive.is_biased
    assert "survived until then" in naive.warnings[0]
    assert not landmark.is_biased
    assert landmark.p_value == exposure_permutation(landmark_split(cohort(1, 4), 10)).p_value


@pytest.mark.parametrize("split", [exposure_split, start_day_split])
def test_groups_that_change_have_no_labels_to_deal(split):
    with pytest.raises(
        NotEstimableError, match="groups fixed at time zero, and here patients change groups; use a landmark"
    ):
        exposure_permutation(split(cohort(1, 4)))
    with pytest.raises(NotEstimableError, match="groups fixed at time zero"):
        permutation_logrank([5, 9, 7], [0, 1, 1], [0, 1, 0], entry=[0, 5, 0], patient=[0, 0, 1])


def test_no_event_an_empty_group_and_equal_days_are_refused_with_a_sentence():
    with pytest.raises(NotEstimableError, match="there is no event"):
        exposure_permutation(naive_split(cohort(0, 0)))
    with pytest.raises(NotEstimableError, match="nobody started"):
        landmark_permutation(cohort(1, 4), 1)
    with pytest.raises(NotEstimableError, match="everybody is in one group"):
        permutation_logrank([1, 2], [1, 1], [1, 1])
    with pytest.raises(NotEstimableError, match="every relabelling gives the same"):
        permutation_logrank([7, 7, 7], [1, 1, 1], [1, 0, 0])


def test_broken_rows_are_refused_with_a_sentence():
    with pytest.raises(SurvivalDataError, match="two strata"):
        permutation_logrank(
            [5, 9, 7], [0, 1, 1], [1, 1, 0], entry=[0, 5, 0], patient=[0, 0, 1], strata=list("aba")
        )
    with pytest.raises(SurvivalDataError, match="not one length"):
        permutation_logrank([5, 9], [0, 1], [1, 0], strata=["a"])
    with pytest.raises(SurvivalDataError, match="neither 0 nor 1"):
        permutation_logrank([5, 9], [0, 1], [1, 2])
    with pytest.raises(SurvivalDataError, match="enter on or after"):
        permutation_logrank([5, 9], [0, 1], [1, 0], entry=[5, 0])
