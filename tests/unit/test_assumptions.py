"""Each estimate says what must hold for it, and a naive one that it does not hold."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from rwe.analyse.plan import run_analyses
from rwe.evidence.contract import Estimate
from rwe.report.estimates import ranges
from rwe.study.analyses import AnalysisName
from tests.unit.test_plan import ADJUSTED, WITH_STATUS, protocol_with, registry

ADJUSTS = ("_cox", "_weighting", "_aiptw", "_risks", "clone_censor_weight", "sequential_trials", "_model")


def asked(name: str) -> dict[str, Any]:
    adjusted = {"adjusted_for": ADJUSTED} if name.endswith(ADJUSTS) else {}
    drawn = {"clone_censor_weight": 12, "landmark_aiptw": 12}
    naive = {"role": "contrast"} if name.startswith("naive_") else {}
    if name == "marginal_structural_model":  # cannot end at progression
        naive = {"salvage": "counts_as_start"}
    return {"analysis": name, **naive, **adjusted, **({"replicates": drawn[name]} if name in drawn else {})}


def estimates(*analyses: dict[str, Any]) -> list[Estimate]:
    return run_analyses(protocol_with(*analyses, **WITH_STATUS), registry(150)).estimates


@pytest.mark.parametrize("name", get_args(AnalysisName))
def test_every_estimate_says_what_it_assumes(name: str) -> None:
    found = [e for e in estimates(asked(name)) if e.status == "ok"]
    assert found
    for e in found:
        assert e.assumptions, e.estimand
        assert len(set(e.assumptions)) == len(e.assumptions)
        assert all(a.endswith(".") for a in e.assumptions)
        assert any("fails" in a for a in e.assumptions) is e.is_biased


def test_what_is_adjusted_for_decides_what_confounding_is_assumed_away() -> None:
    plain, adjusted = estimates(
        {"analysis": "time_dependent_cox"}, {"analysis": "time_dependent_cox", "adjusted_for": ["age"]}
    )
    assert any("nothing is adjusted for" in a for a in plain.assumptions)
    assert any("Given age" in a and "no unmeasured confounding" in a for a in adjusted.assumptions)
    for e in (plain, adjusted):
        assert any("proportional hazards" in a for a in e.assumptions)


def test_a_status_followed_after_the_start_may_take_a_part_of_the_effect() -> None:
    """It lies between the treatment and death; one frozen at the start, or known at a landmark, does not."""
    model = {"analysis": "time_dependent_cox", "adjusted_for": ADJUSTED}
    at_landmark = {"analysis": "landmark_cox", "adjusted_for": ADJUSTED}
    found = estimates(model, {**model, "status_after_start": "freeze", "variance": "robust"}, at_landmark)
    said = [any("by way of" in a and "adjusted away" in a for a in e.assumptions) for e in found]
    assert said == [True, False, False]


@pytest.mark.parametrize(
    "name", ["landmark_rmst", "landmark_permutation", "landmark_kaplan_meier", "mantel_byar"]
)
def test_what_has_no_model_assumes_no_proportional_hazards(name: str) -> None:
    for e in estimates({"analysis": name}):
        assert not any("roportional" in a for a in e.assumptions)


def test_strata_add_that_the_ratio_is_the_same_in_them() -> None:
    asked = {"analysis": "time_dependent_cox", "adjusted_for": ["age"], "stratify_by": ["site"]}
    (e,) = estimates(asked)
    assert any("same at every site" in a for a in e.assumptions)


def test_ranges() -> None:
    assert ranges([1, 2, 3, 7]) == "1–3, 7"
    assert ranges([4]) == "4"
    assert ranges([2, 3]) == "2–3"
