"""Overlap of propensities, effective sample sizes and cells without anybody."""

from __future__ import annotations

import numpy as np
import pytest

from rwe.survival.data import NotEstimableError, SurvivalDataError
from rwe.survival.positivity import overlap, zero_cells


def test_patients_where_the_other_arm_has_nobody_are_counted():
    found = overlap([0.05, 0.3, 0.5, 0.4, 0.6, 0.95], [0, 0, 0, 1, 1, 1])
    assert found.common == (0.4, 0.5)
    assert (found.unexposed.n_outside_common, found.exposed.n_outside_common) == (2, 2)
    assert (found.unexposed.n_extreme, found.exposed.n_extreme) == (1, 1)
    assert (found.exposed.minimum, found.exposed.median, found.exposed.maximum) == (0.4, 0.6, 0.95)
    assert any("4 of 6 patients" in w for w in found.warnings)


def test_weights_of_both_kinds_and_what_they_leave_of_the_sample():
    score = np.array([0.2, 0.5, 0.5, 0.8])
    found = overlap(score, [1, 1, 0, 0])
    # Kish: (5 + 2)^2 / (25 + 4) for the exposed' 1/e; overlap weights 1 - e are 0.8 and 0.5.
    assert found.exposed.effective_n == pytest.approx(49 / 29)
    assert found.exposed.effective_n_overlap == pytest.approx(1.3**2 / (0.64 + 0.25))
    assert found.unexposed.effective_n == pytest.approx(49 / 29)
    assert any("The exposed are worth 1.7 patients" in w for w in found.warnings)


def test_equal_distributions_overlap_wholly_and_disjoint_ones_not_at_all():
    score = np.tile(np.linspace(0.05, 0.95, 50), 2)
    alike = overlap(score, np.repeat([0, 1], 50))
    assert alike.coefficient == pytest.approx(1)
    assert alike.exposed.n_outside_common == 0
    apart = overlap([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert apart.coefficient == 0
    assert apart.common is None
    assert "do not overlap" in apart.warnings[0]
    assert apart.exposed.n_outside_common == 2


def test_a_propensity_of_zero_for_the_arm_taken_leaves_no_sample():
    found = overlap([0.0, 0.5, 0.5, 1.0], [1, 1, 0, 0])
    assert found.exposed.effective_n == pytest.approx(1)
    assert found.unexposed.effective_n == pytest.approx(1)
    sure = overlap([1.0, 1.0, 0.5], [1, 1, 0])
    assert (sure.exposed.effective_n, sure.exposed.effective_n_overlap) == (2, 0)


def test_a_level_seen_in_one_arm_only_is_listed_once():
    X = np.array([[0, 1], [0, 2], [1, 1], [1, 2], [2, 1], [2, 2]], dtype=float)
    found = zero_cells(X, ["ecog", "line"], [0, 1, 0, 1, 1, 1])
    kinds = {cell.kind: (cell.n_unexposed, cell.n_exposed) for cell in found}
    assert kinds[(("ecog", "2"),)] == (0, 2)
    assert kinds[(("line", "2"),)] == (0, 3)
    # Pairs with either of them are not listed again; ecog 0 and 1 with line 1 have one arm by themselves.
    assert set(kinds) == {
        (("ecog", "2"),),
        (("line", "2"),),
        (("ecog", "0"), ("line", "1")),
        (("ecog", "1"), ("line", "1")),
    }


def test_a_measured_covariate_is_cut_at_its_quartiles_and_missing_values_are_in_no_cell():
    age = np.array([*range(40, 60), np.nan], dtype=float)
    exposed = np.array([a >= 55 for a in age[:-1]] + [True])
    found = zero_cells(age[:, None], ["age"], exposed)
    assert [cell.kind[0][0] for cell in found] == ["age"] * 4
    assert sum(cell.n_unexposed + cell.n_exposed for cell in found) == 20
    assert [(cell.n_unexposed, cell.n_exposed) for cell in found] == [(5, 0), (5, 0), (5, 0), (0, 5)]


def test_refusals_have_a_sentence():
    with pytest.raises(NotEstimableError, match="one arm"):
        overlap([0.2, 0.3], [1, 1])
    with pytest.raises(SurvivalDataError, match="between 0 and 1"):
        overlap([0.2, 1.3], [1, 0])
    with pytest.raises(SurvivalDataError, match="one length"):
        overlap([0.2], [1, 0])
    with pytest.raises(SurvivalDataError, match="patients x covariates"):
        zero_cells([[1.0]], ["a", "b"], [1])
