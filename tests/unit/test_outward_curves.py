"""Curves beside which another leaves that differs by a few patients alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rwe.analyse.plan import run_analyses
from rwe.analyse.tasks import Findings
from rwe.evidence.contract import Curve, Evidence
from rwe.evidence.numbers import FEW, numbers_that_leave
from rwe.evidence.outward import outward
from rwe.survival.data import CohortTable
from tests.unit.evidence_example import evidence
from tests.unit.test_plan import WITH_STATUS, protocol_with, registry

_CLONES = {"analysis": "clone_censor_weight", "adjusted_for": ["age"], "replicates": 0}
_KM = {"analysis": "landmark_kaplan_meier"}
_SALVAGE = {"salvage": "counts_as_start"}


@pytest.fixture(scope="module")
def found() -> Findings:
    """Two patients of 320 began salvage; each analysis is asked for with and without them as starters."""
    drawn = registry().patients
    drawn = drawn.assign(salvage_start_day=float("nan"))
    two = drawn.index[drawn["start_day"].isna() & (drawn["time_days"] > 300)][:2]
    drawn.loc[two, "salvage_start_day"] = 100.0
    protocol = protocol_with(_CLONES, {**_CLONES, **_SALVAGE}, _KM, {**_KM, **_SALVAGE}, **WITH_STATUS)
    return run_analyses(protocol, CohortTable(drawn, registry().changes))


def inside(found: Findings, salvage: int) -> Evidence:
    """Evidence with these estimates and curves, of a cohort in which so many began salvage."""
    example = evidence()
    strategies = {"treated": {"name": "on"}, "control": {"name": "off"}}
    cohort = example.cohort.model_copy(
        update={
            "n": 320,
            "n_by_strategy": {"on": 101, "off": 219},
            "started_after_grace": 50,
            "started_after_progression": salvage,
        }
    )
    update = {
        "protocol": {**example.protocol, "strategies": {**strategies}},
        "cohort": cohort,
        "estimates": found.estimates,
        "curves": found.curves,
        "bias_autopsy": None,
    }
    return example.model_copy(update=update)


def left(found: Findings, salvage: int) -> list[Curve]:
    e = inside(found, salvage)
    return outward(e, "r", e.refresh.created_at, None, frozenset()).curves


def test_two_who_began_salvage_are_told_by_no_pair_of_curves(found: Findings) -> None:
    shown = left(found, FEW)
    assert {c.analysis for c in shown} == {"clone_censor_weight", "landmark_kaplan_meier"}
    assert {c.parameters.salvage for c in shown} == {None}
    assert {c.parameters.salvage for c in left(found, FEW + 1)} == {None, "counts_as_start"}


def test_what_does_not_leave_is_not_counted_among_what_left(found: Findings) -> None:
    """Else a number would be withheld for being too near to one that nobody has."""

    def counted(salvage: int) -> int:
        numbers = numbers_that_leave(inside(found, salvage))
        return len([n for n in numbers if n.kind == "clone_censor_weight curve"])

    assert counted(FEW) == 2 == len([c for c in left(found, FEW) if c.analysis == "clone_censor_weight"])
    assert counted(FEW + 1) == 4


def test_a_curve_of_a_changed_rule_stays_inside(found: Findings) -> None:
    tried = [c.model_copy(update={"parameters": c.parameters.model_copy(update={"variant": "lag_days: 30"})})
             for c in found.curves]  # fmt: skip
    assert not left(replace(found, curves=tried), FEW + 1)
