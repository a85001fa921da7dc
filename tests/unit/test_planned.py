"""Which analysis is of the protocol's own question, and which estimate it gave among others like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.analyse.autopsy import bias_autopsy
from rwe.analyse.plan import run_analyses
from rwe.analyse.planned import adjusted_cox, hazard_ratio_of
from rwe.analyse.run_synthesis import synthesise
from rwe.analyse.tasks import Task
from rwe.evidence.parts import BiasAutopsy
from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, exposure_split
from rwe.survival.emulation import clone_censor_weight
from tests.unit.test_downgrade import PRIMARY, answer, seven_against_nine
from tests.unit.test_plan import WITH_STATUS, protocol_with, registry

COX = {"analysis": "time_dependent_cox", "adjusted_for": ["age"]}
CLONES = {"analysis": "clone_censor_weight", "adjusted_for": ["age"], "replicates": 0}
ANOTHER_QUESTION = [
    {"compared_with": "never"},
    {"truncate_percentile": 90},
    {"salvage": "counts_as_start"},
]


@pytest.fixture(scope="module")
def cohort() -> CohortTable:
    return registry()


def autopsy(cohort: CohortTable, *asked: dict[str, Any]) -> BiasAutopsy:
    protocol = protocol_with(*asked, **WITH_STATUS)
    return bias_autopsy(protocol, cohort, run_analyses(protocol, cohort).estimates)


@pytest.mark.parametrize("changed", ANOTHER_QUESTION, ids=lambda c: next(iter(c)))
def test_the_weighted_step_is_of_the_protocols_own_strategies(
    cohort: CohortTable, changed: dict[str, Any]
) -> None:
    """Start by day 180 unless progressed against no start by then, weights as they are."""
    found = autopsy(cohort, {**COX, "role": "primary"}, {**CLONES, **changed}, CLONES).steps[-1]
    own = clone_censor_weight(
        cohort, 180, ["age"], [], horizon_days=400, unless="progression_day", replicates=0
    )
    assert found.step == "weighted"
    assert found.hazard_ratio == pytest.approx(own.contrasts.hazard_ratio.estimate, rel=1e-12)


@pytest.mark.parametrize("changed", ANOTHER_QUESTION, ids=lambda c: next(iter(c)))
def test_a_sensitivity_alone_is_no_step(cohort: CohortTable, changed: dict[str, Any]) -> None:
    steps = autopsy(cohort, {**COX, "role": "primary"}, {**CLONES, **changed}).steps
    assert [s.step for s in steps] == ["naive", "immortal_days_dropped", "time_dependent", "adjusted"]


def test_what_the_protocol_makes_its_primary_analysis_is_its_question(cohort: CohortTable) -> None:
    never = {**CLONES, "compared_with": "never", "role": "primary"}
    found = autopsy(cohort, CLONES, never).steps[-1]
    own = clone_censor_weight(
        cohort, 180, ["age"], [], horizon_days=400, unless="progression_day", replicates=0, control="never"
    )
    assert found.hazard_ratio == pytest.approx(own.contrasts.hazard_ratio.estimate, rel=1e-12)


@pytest.mark.parametrize(
    "changed", [{"endpoint": "progression_free_survival"}, {"salvage": "counts_as_start"}]
)
def test_the_adjusted_step_is_of_the_protocols_outcome_and_starts(
    cohort: CohortTable, changed: dict[str, Any]
) -> None:
    primary = {**CLONES, "role": "primary"}
    other = {**COX, "adjusted_for": ["age", "ecog"], **changed}
    assert adjusted_cox(protocol_with(primary, other, **WITH_STATUS)) is None
    steps = {s.step: s for s in autopsy(cohort, primary, other, COX).steps}
    own = exposure_cox(exposure_split(cohort, ["age"])).hazard_ratio()
    assert steps["adjusted"].hazard_ratio == pytest.approx(own.estimate, rel=1e-12)


def test_sites_are_put_together_by_the_primary_model_and_not_by_one_with_more_covariates(
    cohort: CohortTable,
) -> None:
    crude = {"analysis": "time_dependent_cox", "role": "primary", "by_site": True}
    protocol = protocol_with({**COX, "by_site": True}, crude, **WITH_STATUS)
    found = synthesise(protocol, cohort, run_analyses(protocol, cohort))
    assert found is not None
    assert (found.adjusted_for, found.role) == ([], "primary")
    for s in found.sites:
        own = exposure_cox(exposure_split(cohort.restrict(s.site))).hazard_ratio()
        assert s.estimate == pytest.approx(own.estimate, rel=1e-12)


def test_a_complete_case_model_does_not_stand_in_for_one_that_imputes() -> None:
    """Sixteen patients, four without an age: twelve are not the sixteen that the protocol asks about."""
    drawn = seven_against_nine(2)
    ages = drawn.patients["age"].where(np.arange(16) % 5 > 0)
    patchy = CohortTable(drawn.patients.assign(age=ages), drawn.changes)
    anyway = {"analysis": "time_dependent_firth", "adjusted_for": ["age"]}
    imputed = {**PRIMARY, "adjusted_for": ["age"], "missing": "impute", "imputations": 3}
    protocol = protocol_with(anyway, imputed)
    found = answer(run_analyses(protocol, patchy))
    assert (found.n, found.parameters.imputations) == (16, 3)


@pytest.mark.parametrize(
    "options",
    [
        [{}, {"variance": "robust"}],
        [{}, {"ties": "breslow"}],
        [{}, {"salvage": "counts_as_start"}],
        [{}, {"endpoint": "progression_free_survival"}],
        [{}, {"stratify_by": ["site"]}],
    ],
    ids=lambda o: next(iter(o[1])),
)
@pytest.mark.parametrize("order", [1, -1])
def test_each_analysis_finds_its_own_estimate(
    cohort: CohortTable, options: list[dict[str, Any]], order: int
) -> None:
    _each_finds_its_own(cohort, [{**COX, **o} for o in options[::order]])


@pytest.mark.parametrize(
    "changed",
    [
        {"compared_with": "never"},
        {"truncate_percentile": 90},
        {"weight_model": "logistic"},
        {"grace_days": 90},
    ],
    ids=lambda c: next(iter(c)),
)
def test_each_emulation_finds_its_own_estimate(cohort: CohortTable, changed: dict[str, Any]) -> None:
    _each_finds_its_own(cohort, [{**CLONES, **changed}, CLONES])


def _each_finds_its_own(cohort: CohortTable, asked: list[dict[str, Any]]) -> None:
    protocol = protocol_with(*asked, **WITH_STATUS)
    together = run_analyses(protocol, cohort).estimates
    found = [hazard_ratio_of(together, Task(protocol, a, cohort, None)) for a in protocol.analyses]
    alone = [next(e for e in run_analyses(protocol_with(a, **WITH_STATUS), cohort).estimates) for a in asked]
    assert [(e.estimate, e.se) for e in found if e] == [(e.estimate, e.se) for e in alone]
    assert len(found) == len(set(pd.Series([id(e) for e in found])))


def test_what_was_refused_goes_behind_what_was_estimated(cohort: CohortTable) -> None:
    """A refused emulation does not know with whom it would have compared."""
    protocol = protocol_with({**CLONES, "compared_with": "never"}, CLONES, **WITH_STATUS)
    (
        never,
        *_,
    ) = run_analyses(protocol, cohort).estimates
    given = [e for e in run_analyses(protocol, cohort).estimates if e.estimand == "hazard_ratio"]
    bare = never.parameters.model_copy(
        update=dict.fromkeys(("compared_with", "grace_days", "weight_model", "weight_for_loss"))
    )
    refused = never.model_copy(update={"status": "refused", "estimate": None, "parameters": bare})
    found = hazard_ratio_of([refused, given[1]], Task(protocol, protocol.analyses[1], cohort, None))
    assert found == given[1]
