"""Limits from a handful of bootstrap replicates come with a warning."""

from __future__ import annotations

from typing import Any

import pytest

from rwe.analyse.tasks import FEW_REPLICATES, FEWEST_REPLICATES
from rwe.evidence.contract import Estimate
from tests.unit.test_plan import WITH_STATUS, registry, run


def _found(analysis: str, replicates: int) -> list[Estimate]:
    asked: dict[str, Any] = {"analysis": analysis, "adjusted_for": ["age"], "replicates": replicates}
    return run(registry(), asked, **WITH_STATUS).estimates


@pytest.mark.parametrize("analysis", ["landmark_weighting", "landmark_aiptw", "clone_censor_weight"])
def test_few_replicates_are_told_wherever_they_give_limits(analysis: str) -> None:
    found = _found(analysis, 10)
    assert any(e.ci_low is not None for e in found)
    for e in found:
        has_limits = e.ci_low is not None or e.ci_high is not None
        assert (FEW_REPLICATES in e.warnings) is has_limits


@pytest.mark.parametrize("replicates", [0, FEWEST_REPLICATES])
def test_none_or_enough_are_not(replicates: int) -> None:
    assert not any(FEW_REPLICATES in e.warnings for e in _found("landmark_weighting", replicates))
