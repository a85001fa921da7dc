"""The bias autopsy of the heart transplants, whose steps are published, and what is called posthoc."""

from __future__ import annotations

import pandas as pd
import pytest

from rwe.analyse.autopsy import bias_autopsy
from rwe.analyse.plan import run_analyses
from rwe.study import Analysis, Protocol
from rwe.study.deviations import changed_fields
from rwe.study.lock import LockEntry, ProtocolLock
from rwe.survival.data import CohortTable, no_changes
from tests.support import shared
from tests.unit.test_plan import ADJUSTED, WITH_STATUS, eight, nobody_starts, protocol_with, registry


def heart() -> CohortTable:
    drawn = pd.read_csv(shared("cases/a_stanford_heart/cohort.csv"))
    days = pd.to_datetime(drawn["index_date"]) - pd.to_datetime(drawn["birth_date"])
    patients = pd.DataFrame(
        {
            "patient_id": drawn["patient_id"],
            "site": drawn["site"],
            "time_days": drawn["time_days"],
            "is_event": drawn["event"].astype(bool),
            "start_day": drawn["maint_day"],
            "age": days.dt.days / 365.25,
        }
    )
    return CohortTable(patients=patients, changes=no_changes())


def test_heart_transplants_look_like_a_cure_until_immortal_time_is_gone() -> None:
    protocol = protocol_with({"analysis": "time_dependent_cox", "adjusted_for": ["age"]})
    found = bias_autopsy(protocol, heart(), [])
    assert found.starters == 69
    ratios = {s.step: s.hazard_ratio for s in found.steps}
    # Naive and time-dependent as in expected.json of the case (R): naive looks like a cure, there is none.
    assert ratios["naive"] == pytest.approx(0.2662, abs=5e-5)
    assert ratios["time_dependent"] == pytest.approx(1.1333, abs=5e-5)
    assert ratios["adjusted"] == pytest.approx(0.9940, abs=5e-5)
    assert [s.change for s in found.steps] == ["naive", "bias_removed", "bias_removed", "bias_removed"]


def test_where_nobody_starts_the_steps_say_why_they_have_no_ratio() -> None:
    found = bias_autopsy(protocol_with({"analysis": "time_dependent_cox"}), nobody_starts(), [])
    assert (found.starters, found.immortal_days) == (0, 0)
    assert all(s.hazard_ratio is None and "nobody started" in s.warnings[0] for s in found.steps)


def test_no_analysis_of_a_changed_protocol_is_called_primary() -> None:
    protocol = protocol_with(
        {"analysis": "time_dependent_cox", "role": "primary"}, {"analysis": "naive_cox", "role": "contrast"}
    )
    lock = locked_with(protocol, protocol.model_copy(update={"confidence_level": 0.9}))
    found = run_analyses(protocol, eight(), lock=lock).estimates
    assert [(e.analysis, e.role) for e in found] == [
        ("time_dependent_cox", "posthoc"),
        ("naive_cox", "contrast"),
        ("time_dependent_firth", "posthoc"),  # four against four: what stands in is post hoc, too
        ("landmark_permutation", "posthoc"),
    ]
    assert [e.analysis for e in found if e.is_the_answer] == ["time_dependent_firth"]


def test_an_analysis_that_was_locked_keeps_its_role_beside_one_that_was_not() -> None:
    first = {"analysis": "time_dependent_cox", "role": "primary"}
    later = protocol_with(first, {"analysis": "landmark_cox", "landmarks": [10]})
    lock = locked_with(protocol_with(first), later)
    roles = {e.analysis: e.role for e in run_analyses(later, eight(), lock=lock).estimates}
    assert (roles["time_dependent_firth"], roles["landmark_cox"]) == ("primary", "posthoc")
    assert isinstance(later.analyses[0], Analysis)


def locked_with(protocol: Protocol, now: Protocol) -> ProtocolLock:
    """A lock of `protocol`, of which `now` has been made since."""
    content = {"protocol": now.model_dump(mode="json"), "codelists": {}}
    entry = LockEntry(
        locked_at=pd.Timestamp("2024-01-01", tz="UTC").to_pydatetime(),
        version="1.0.0",
        protocol_sha256="0" * 64,
        previous_sha256=None,
        registration=None,
        reason=None,
        content={"protocol": protocol.model_dump(mode="json"), "codelists": {}},
    )
    return ProtocolLock("changed", (entry,), tuple(changed_fields(entry.content, content)), content)


def test_a_ratio_adjusted_for_status_after_the_start_answers_another_question() -> None:
    """What the treatment does through the status is taken out: no bias, but another estimand."""
    asked = {"analysis": "time_dependent_cox", "adjusted_for": ADJUSTED}
    found = bias_autopsy(protocol_with(asked, **WITH_STATUS), registry(), [])
    assert found.steps[-1].change == "estimand_changed"
    assert "through it" in found.steps[-1].words


def tiny() -> CohortTable:
    """Seven against nine of the case with no death among the treated."""
    drawn = pd.read_csv(shared("cases/d_tiny_7v9/cohort.csv"))
    return CohortTable(
        pd.DataFrame(
            {
                "patient_id": drawn["patient_id"],
                "site": drawn["site"],
                "time_days": drawn["time_days"],
                "is_event": drawn["event"].astype(bool),
                "start_day": drawn["maint_day"],
            }
        ),
        no_changes(),
    )


def test_without_a_death_among_the_treated_the_steps_are_finite_by_firths_penalty() -> None:
    found = bias_autopsy(protocol_with({"analysis": "time_dependent_cox"}), tiny(), [])
    assert all(s.hazard_ratio is not None and s.ci_high is not None for s in found.steps)
    assert all("Firth" in s.warnings[0] for s in found.steps)


def steps_of(*analyses: dict[str, object]) -> list[tuple[str, str, float | None]]:
    protocol, cohort = protocol_with(*analyses, **WITH_STATUS), registry(150)
    estimates = run_analyses(protocol, cohort).estimates
    found = bias_autopsy(protocol, cohort, estimates)
    (answer,) = (e for e in estimates if e.is_the_answer)
    assert found.steps[-1].hazard_ratio == pytest.approx(answer.estimate, rel=1e-6)
    return [(s.step, s.change, s.hazard_ratio) for s in found.steps]


def test_the_way_ends_at_the_answer_once() -> None:
    model = {"analysis": "time_dependent_cox", "adjusted_for": ADJUSTED, "role": "primary"}
    assert [s for s, _, _ in steps_of(model)][-2:] == ["time_dependent", "adjusted"]


@pytest.mark.parametrize(
    ("analysis", "change"),
    [("sequential_trials", "estimand_changed"), ("time_dependent_firth", "bias_removed")],
)
def test_the_way_ends_at_an_answer_that_is_no_cox_model(analysis: str, change: str) -> None:
    *_, last = steps_of({"analysis": analysis, "adjusted_for": ADJUSTED[:3], "role": "primary"})
    assert last[:2] == ("answer", change)
