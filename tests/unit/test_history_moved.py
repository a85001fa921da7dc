"""The estimate's way from one refresh to the next is walked with the analysis that gave the answer, and ends
at the answer: with what stands in for a downgraded primary analysis, and with progressions corrected.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.analyse.moved import answer_of, change_between
from rwe.analyse.plan import run_analyses
from rwe.evidence.contract import Estimate
from rwe.evidence.history import Change, Look
from rwe.history.ledger import Ledger
from rwe.history.words import change_lines, corrections
from rwe.study import Protocol
from rwe.survival.data import CohortTable, exposure_split
from rwe.survival.firth import exposure_firth
from tests.unit.test_autopsy import locked_with
from tests.unit.test_downgrade import COVARIATES, FIVE, few_deaths
from tests.unit.test_plan import WITH_STATUS, protocol_with, registry

_SURVIVAL = [
    *("patient_id", "site", "time_days", "is_event", "start_day"),
    *("salvage_start_day", "progression_day", "end_reason"),
]


def ledger_of(table: CohortTable, refresh: str) -> Ledger:
    patients = table.patients.copy()
    for name in ("salvage_start_day", "progression_day"):
        if name not in patients:
            patients[name] = np.nan
    patients["end_reason"] = np.where(patients["is_event"], "death", "last_activity")
    others = [c for c in patients.columns if c not in _SURVIVAL]
    return Ledger(refresh, "key", patients[_SURVIVAL], patients[others], table.changes, {})


def look_at(table: CohortTable, given: Estimate) -> Look:
    """The look as the refresh wrote it."""
    return Look(
        number=1,
        refresh="r1",
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        data_cutoff=None,
        code_version="1",
        protocol_version="1",
        protocol_sha256="0",
        n=len(table),
        events=int(table.patients["is_event"].sum()),
        analysis=given.analysis,
        adjusted_for=given.parameters.adjusted_for,
        estimate=given.estimate,
        ci_low=given.ci_low,
        ci_high=given.ci_high,
        naive=None,
    )


def reported(protocol: Protocol, table: CohortTable, **how: Any) -> Estimate:
    """The answer of a refresh, as the evidence holds it."""
    found = answer_of(protocol, run_analyses(protocol, table, **how).estimates)
    assert found is not None
    return found[1]


def moved(protocol: Protocol, before: CohortTable, after: CohortTable) -> Change:
    """What `rwe diff` tells of two refreshes by the same protocol and code."""
    return change_between(
        ledger_of(before, "r1"),
        ledger_of(after, "r2"),
        answer_of(protocol, run_analyses(protocol, after).estimates),
        look=look_at(before, reported(protocol, before)),
        protocol_changed=[],
        is_same_code=True,
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"analysis": "time_dependent_firth", "adjusted_for": FIVE},
        {"analysis": "time_dependent_cox", "adjusted_for": FIVE},
        {"analysis": "landmark_firth", "adjusted_for": FIVE, "landmarks": [30]},
    ],
    ids=lambda a: str(a["analysis"]),
)
def test_a_model_that_lost_its_covariates_is_another_analysis(asked: dict[str, Any]) -> None:
    """Fifteen events carry five covariates, fourteen do not: Firth's model without any stands in."""
    protocol = protocol_with({"role": "primary", **asked}, covariates=COVARIATES)
    before, after = few_deaths(15), few_deaths(14)
    then, now = reported(protocol, before), reported(protocol, after)
    assert (then.parameters.adjusted_for, now.parameters.adjusted_for) == (FIVE, [])
    steps = moved(protocol, before, after).steps
    assert [s.what for s in steps] == ["before", "analysis", "outcome"]
    assert steps[0].estimate == then.estimate
    assert steps[-1].estimate == pytest.approx(now.estimate, rel=1e-9)
    if asked["analysis"] != "landmark_firth":
        alone = exposure_firth(exposure_split(before)).hazard_ratio().estimate
        assert steps[1].estimate == pytest.approx(alone, rel=1e-9)


def test_the_same_downgraded_model_at_both_refreshes_is_no_step() -> None:
    protocol = protocol_with(
        {"analysis": "time_dependent_firth", "role": "primary", "adjusted_for": FIVE}, covariates=COVARIATES
    )
    steps = moved(protocol, few_deaths(14), few_deaths(13)).steps
    assert [s.what for s in steps] == ["before", "outcome"]
    assert steps[-1].estimate == pytest.approx(reported(protocol, few_deaths(13)).estimate, rel=1e-9)


def test_what_stands_in_for_a_frozen_status_freezes_nothing() -> None:
    """Firth's model knows no start days as strata, so it was run without: its steps have an estimate."""
    statuses = [c for c in WITH_STATUS["covariates"] if c["kind"] == "disease_status"]
    frozen = {"status_after_start": "freeze", "variance": "robust", "adjusted_for": [*FIVE, "progressed"]}
    protocol = protocol_with(
        {"analysis": "time_dependent_cox", "role": "primary", **frozen},
        **{**WITH_STATUS, "covariates": [*COVARIATES, *statuses]},
    )
    known = pd.DataFrame(
        {"patient_id": ["p20", "p21"], "covariate": "progressed", "day": [3, 60], "value": 1.0}
    )
    before, after = (CohortTable(few_deaths(n).patients, known) for n in (7, 6))
    steps = moved(protocol, before, after).steps
    assert [s.what for s in steps] == ["before", "outcome"]
    assert None not in {s.estimate for s in steps}
    assert steps[-1].estimate == pytest.approx(reported(protocol, after).estimate, rel=1e-9)


def test_an_answer_outside_the_lock_is_what_stands_in_and_not_what_was_refused_as_the_answer() -> None:
    """One of the started died: Cox's ratio stands beside, and Firth's is the answer, both post hoc."""
    protocol = protocol_with({"analysis": "time_dependent_cox", "role": "primary"})
    few = few_deaths(30).patients
    few = few.assign(is_event=few["start_day"].isna() | (few["patient_id"] == "p1"))
    cohort = CohortTable(few, few_deaths(30).changes)
    now = protocol.model_copy(update={"confidence_level": 0.9})
    given = reported(now, cohort, lock=locked_with(protocol, now))
    assert (given.role, given.analysis) == ("posthoc", "time_dependent_firth")


@pytest.fixture(scope="module")
def progressed() -> tuple[CohortTable, CohortTable]:
    """Of 25 who had not started, a progression on day 60 is found later; three are followed longer, too."""
    before = registry()
    patients = before.patients.copy()
    late = (
        patients["start_day"].isna() & (patients["time_days"] > 200) & ~(patients["progression_day"] <= 180)
    )
    found = patients.index[late][:25]
    patients.loc[found, "progression_day"] = 60.0
    return before, CohortTable(patients, before.changes)


def of_strategies() -> Protocol:
    """Who progresses before the start is no longer expected to start."""
    asked = {"analysis": "clone_censor_weight", "role": "primary", "adjusted_for": ["age"], "replicates": 0}
    return protocol_with(asked, **WITH_STATUS)


def test_the_last_step_is_the_estimate_of_now_where_progressions_were_corrected(
    progressed: tuple[CohortTable, CohortTable],
) -> None:
    protocol, (before, after) = of_strategies(), progressed
    found = moved(protocol, before, after)
    then, now = reported(protocol, before).estimate, reported(protocol, after).estimate
    assert then != pytest.approx(now, rel=1e-3)
    assert [(s.what, s.patients) for s in found.steps] == [("before", None), ("moved", 25)]
    assert found.steps[-1].estimate == pytest.approx(now, rel=1e-9)


def test_a_corrected_progression_is_no_growth(progressed: tuple[CohortTable, CohortTable]) -> None:
    """Three of the 25 are followed longer besides: what that changes is told apart."""
    protocol, (before, after) = of_strategies(), progressed
    longer = after.patients.copy()
    grown = longer.index[(longer["time_days"] > 300) & ~longer["is_event"]][:3]
    longer.loc[grown, "time_days"] += 30
    steps = moved(protocol, before, CohortTable(longer, after.changes)).steps
    assert [s.what for s in steps] == ["before", "moved", "follow_up"]
    assert steps[1].estimate == pytest.approx(reported(protocol, after).estimate, rel=1e-9)


def test_a_corrected_progression_is_told_in_words(progressed: tuple[CohortTable, CohortTable]) -> None:
    found = moved(of_strategies(), *progressed)
    assert found.corrections.progression_changed == 25
    assert corrections(found.corrections) == ["25 patients with another progression or salvage start"]
    assert ("Corrected: another progression or salvage start", 25) in change_lines(found)


def test_a_salvage_start_that_moved_is_corrected_and_a_new_one_is_growth() -> None:
    before = registry()
    days = before.patients["salvage_start_day"]
    (known, *_) = before.patients.index[days.notna() & (before.patients["time_days"] > days + 5)]
    patients = before.patients.copy()
    patients.loc[known, "salvage_start_day"] += 1
    assert moved(of_strategies(), before, CohortTable(patients, before.changes)).corrections.model_dump() == {
        **dict.fromkeys(type(moved(of_strategies(), before, before).corrections).model_fields, 0),
        "progression_changed": 1,
    }
