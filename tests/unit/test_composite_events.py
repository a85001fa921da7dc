"""A composite outcome beside relapse: what ends follow-up without relapse is called what it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rwe.evidence.contract import Estimate, Parameters
from rwe.report.curves import curve_sets, survival_name
from rwe.report.names import cause_name, names_of, protocol_of
from rwe.study_words import explain
from rwe.survival.data import CohortTable, SurvivalDataError
from tests.unit.evidence_example import evidence
from tests.unit.test_plan import WITH_STATUS, run
from tests.unit.test_study_words import study_with
from tests.unit.test_survival_data import NEVER, table

TRANSPLANT = {"name": "transplant", "codelist": "car_t", "sources": ["procedure"], "handling": "composite"}
ASKED = WITH_STATUS | {"intercurrent_events": [TRANSPLANT], "landmarks": [30], "horizons": [50]}
DEATH, OTHER = "death_without_relapse_or_transplant", "transplant_without_relapse"


def _cohort() -> CohortTable:
    """Four who start by day 30 and four who do not; of each one dies, one has a transplant, one relapses.

    The age of one of the started is missing.
    """
    rows = [
        ("a", 100, True, 5.0), ("b", 80, True, 5.0), ("c", 200, True, 5.0), ("d", 300, False, 5.0),
        ("e", 60, True, NEVER), ("f", 70, True, NEVER), ("g", 120, True, NEVER), ("h", 250, False, NEVER),
    ]  # fmt: skip
    reasons = ["death", "composite:transplant", "death", "last_activity"]
    drawn = table(rows, age=[NEVER, 50.0, 70, 62, 55, 65, 45, 40])
    patients = drawn.patients.assign(
        end_reason=reasons * 2,
        progression_day=[NEVER, NEVER, 90.0, NEVER, NEVER, NEVER, 50.0, NEVER],
        salvage_start_day=NEVER,
    )
    return CohortTable(patients, drawn.changes)


def _found(**asked: Any) -> list[Estimate]:
    return run(_cohort(), {"analysis": "landmark_competing_risks", **asked}, **ASKED).estimates


def test_a_transplant_is_no_death_without_relapse() -> None:
    tests = {e.parameters.cause: e.events for e in _found() if e.estimand == "chi_square"}
    assert tests == {"relapse": 2, DEATH: 2, OTHER: 2}
    assert cause_name(DEATH) == "Death without relapse or transplant"
    assert cause_name(OTHER) == "Transplant without relapse"
    assert all(
        "Among those alive and without relapse or transplant at the landmark." in e.warnings for e in _found()
    )


def test_incidences_of_each_event_are_those_by_hand() -> None:
    """50 days after day 30: of four started one transplant (day 80); of four others one of each by then."""
    by_day_80 = {
        (e.contrast.strategy, e.parameters.cause): e.estimate
        for e in _found()
        if e.estimand == "cumulative_incidence"
    }
    assert by_day_80 == {
        ("on", "relapse"): 0.0,
        ("on", DEATH): 0.0,
        ("on", OTHER): pytest.approx(0.25),
        ("off", "relapse"): pytest.approx(0.25),
        ("off", DEATH): pytest.approx(0.25),
        ("off", OTHER): pytest.approx(0.25),
    }


def test_what_knows_no_covariate_is_of_everybody_and_models_say_who_is_missing() -> None:
    found, bare = _found(adjusted_for=["age"]), _found()
    left_out = "1 patient was left out because a covariate is missing (age)."
    for e in found:
        is_model = "ratio" in e.estimand
        assert (left_out in e.warnings) is is_model
        assert not is_model or e.n == 7
    crude, adjusted = (
        [
            (e.estimand, e.parameters.cause, e.estimate, e.n, e.events)
            for e in estimates
            if "ratio" not in e.estimand
        ]
        for estimates in (bare, found)
    )
    assert crude == adjusted


def test_progression_free_survival_says_what_else_ends_it() -> None:
    asked = {"analysis": "landmark_kaplan_meier", "endpoint": "progression_free_survival"}
    told = "The outcome is composite: transplant counts here as an event, too, beside progression and death."
    assert all(told in e.warnings for e in run(_cohort(), asked, **ASKED).estimates)
    plain = ASKED | {"intercurrent_events": []}
    assert not any(told in e.warnings for e in run(_cohort(), asked, **plain).estimates)


def test_a_table_that_does_not_tell_why_follow_up_ended_is_refused() -> None:
    cohort = _cohort()
    bare = CohortTable(cohort.patients.drop(columns="end_reason"), cohort.changes)
    (refusal,) = run(bare, {"analysis": "landmark_competing_risks"}, **ASKED).refused
    assert (
        str(SurvivalDataError("the table does not say why follow-up ended", where="end_reason"))
        == refusal.reason
    )


def test_study_check_names_the_events() -> None:
    said = explain(
        study_with(
            {"analysis": "landmark_competing_risks"},
            {"analysis": "landmark_kaplan_meier", "endpoint": "progression_free_survival"},
            intercurrent_events=[TRANSPLANT | {"codelist": "car_t_infusion"}],
        )
    )["Analyses"]
    assert "(relapse, transplant without it, death without any of these)" in said[0]
    assert "(death or transplant or progression, whichever is first)" in said[1]


def test_the_curves_of_a_report_are_called_what_they_show() -> None:
    alone = names_of(protocol_of(evidence()))
    composite = replace(alone, composite=("transplant", "second_car_t"))
    at = Parameters(endpoint="progression_free_survival", landmark_day=60)
    curve = next(c for c in evidence().curves if c.analysis == "landmark_kaplan_meier")
    shown = evidence(curves=[curve.model_copy(update={"parameters": at})])
    (plain,), (found,) = (curve_sets(shown, names) for names in (alone, composite))
    what = "survival free of progression, transplant and second CAR-T"
    assert "progression-free survival" in plain.title
    assert survival_name(found, composite) == what
    assert what in found.title
