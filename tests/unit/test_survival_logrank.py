"""The log-rank and Mantel-Byar tests against their textbook sums, and at their edges."""

from __future__ import annotations

import lifelines.statistics
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.survival.data import SurvivalDataError, exposure_split, naive_split
from rwe.survival.logrank import exposure_logrank, logrank, mantel_byar
from tests.unit.test_survival_data import NEVER, table

observation = st.tuples(
    st.integers(0, 6), st.integers(1, 8), st.booleans(), st.integers(0, 1), st.sampled_from("ab")
).filter(lambda r: r[0] < r[1])
observations = st.lists(observation, min_size=1, max_size=14)


def mantel_haenszel(rows: list[tuple]) -> tuple[float, float, float]:
    """Observed, expected and variance of group 1, one stratum and one event time after the other."""
    observed = expected = variance = 0.0
    for stratum in "ab":
        here = [r for r in rows if r[4] == stratum]
        for t in sorted({stop for _, stop, died, _, _ in here if died}):
            risk_set = [r for r in here if r[0] < t <= r[1]]
            deaths = [r for r in risk_set if r[1] == t and r[2]]
            n, n1, d = len(risk_set), sum(r[3] for r in risk_set), len(deaths)
            observed += sum(r[3] for r in deaths)
            expected += d * n1 / n
            if n > 1:
                variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    return observed, expected, variance


def columns(rows: list[tuple]) -> dict[str, list]:
    return dict(
        zip(("entry", "stop", "event", "group", "strata"), map(list, zip(*rows, strict=True)), strict=True)
    )


@settings(deadline=None)
@given(observations)
def test_sums_are_those_of_the_definition_with_entry_and_strata(rows):
    found = logrank(**columns(rows))
    observed, expected, variance = mantel_haenszel(rows)
    assert found.observed[1] == observed
    assert found.expected[1] == pytest.approx(expected, abs=1e-12)
    assert found.variance == pytest.approx(variance, abs=1e-12)
    assert sum(found.observed) == pytest.approx(sum(found.expected), abs=1e-12)
    if variance > 1e-12:
        assert found.chi_square == pytest.approx((observed - expected) ** 2 / variance)
    else:
        assert found.chi_square is None
        assert found.p_value is None
        assert found.warnings


@settings(deadline=None)
@given(observations)
def test_swapping_the_groups_changes_no_chi_square(rows):
    one = logrank(**columns(rows))
    other = logrank(**columns([(a, b, c, 1 - g, s) for a, b, c, g, s in rows]))
    if one.chi_square is None:
        assert other.chi_square is None
    else:
        assert one.chi_square == pytest.approx(other.chi_square, rel=1e-9, abs=1e-12)


def test_agrees_with_lifelines():
    stop = [5, 8, 8, 12, 20, 3, 8, 9, 9, 30]
    died = [1, 1, 0, 1, 0, 1, 1, 1, 0, 0]
    group = [0] * 5 + [1] * 5
    theirs = lifelines.statistics.multivariate_logrank_test(stop, group, died)
    ours = logrank(stop, died, group)
    assert ours.chi_square == pytest.approx(theirs.test_statistic, abs=1e-10)
    assert ours.p_value == pytest.approx(theirs.p_value, abs=1e-10)


def test_with_time_before_the_start_counted_as_treated_an_inert_drug_seems_to_help():
    # Deaths at an even pace whatever happens; only those who live past day 50 can start.
    rows = [(f"p{i}", 10 * i, True, 50.0 if i > 5 else NEVER) for i in range(1, 21)]
    cohort = table(rows)
    naive, honest = exposure_logrank(naive_split(cohort)), mantel_byar(exposure_split(cohort))
    assert naive.observed[1] < naive.expected[1]
    assert naive.p_value < 0.001
    assert honest.p_value is None or honest.p_value > 0.5
    assert honest.n == (5, 15)


@pytest.mark.parametrize(
    ("stop", "event", "group", "sentence"),
    [
        ([1, 2], [0, 0], [0, 1], "no event"),
        ([1, 2], [1, 1], [1, 1], "both groups"),
        ([5, 5], [1, 1], [0, 1], "both groups"),
    ],
)
def test_without_information_there_is_no_statistic_but_a_sentence(stop, event, group, sentence):
    found = logrank(stop, event, group)
    assert (found.chi_square, found.p_value) == (None, None)
    assert sentence in found.warnings[0]


def test_one_patient_in_an_arm_is_enough_for_a_test():
    assert logrank([1, 2, 3], [1, 1, 1], [1, 0, 0]).chi_square == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"group": [0, 2]}, "neither 0 nor 1"),
        ({"stop": [1.0, float("inf")]}, "missing or infinite"),
        ({"entry": [0.0, 2.0]}, "1 rows enter"),
        ({"strata": ["a"]}, "not one length"),
        ({"event": [1]}, "not one length"),
    ],
)
def test_broken_input_is_refused(change, sentence):
    valid = {"stop": [1.0, 2.0], "event": [1, 1], "group": [0, 1]}
    with pytest.raises(SurvivalDataError, match=sentence):
        logrank(**valid | change)


@pytest.mark.parametrize("unknown", [float("nan"), 2])
def test_an_event_that_is_neither_0_nor_1_is_no_death(unknown):
    event = [unknown, 0, 1, 0]
    with pytest.raises(SurvivalDataError, match="event is neither 0 nor 1"):
        logrank([1, 2, 3, 4], event, [0, 1, 0, 1])
