"""Who moved between two refreshes, drawn as persons: each class of change is told apart, counted once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.analyse.moved import Answer, _tables, answer_of, estimate_steps
from rwe.evidence.history import Change
from rwe.history.compare import NO_LONGER_RECORDED, describe, moves, protocol_differences
from rwe.study import Analysis, Protocol
from tests.integration.cohort_nights import Person, people, write_study
from tests.unit import evidence_example as example
from tests.unit.history_tables import ledger

STARTED = Person("started", start=30, seen=400)
NOT = Person("not", start=None, seen=400)
DEAD = Person("dead", start=None, seen=300, died=300)


def change(before: list[Person], after: list[Person], **drawn: Any) -> Change:
    a, b = ledger(before), ledger(after, "r2", **drawn)
    return describe(moves(a, b), a, b, protocol_changed=[], code_changed=False)


def test_the_same_people_are_unchanged() -> None:
    found = change([STARTED, NOT, DEAD], [STARTED, NOT, DEAD])
    assert (found.entered, found.left, found.unchanged) == (0, {}, 3)
    assert not any(found.corrections.model_dump().values())


def test_who_entered_stands_with_the_site_and_the_event() -> None:
    new = [Person("new", site="river", died=10, seen=10), Person("other", site="river")]
    found = change([STARTED], [STARTED, *new])
    assert found.entered == 2
    assert [(s.site, s.new_patients, s.new_events) for s in found.sites] == [("north", 0, 0), ("river", 2, 1)]


def test_who_left_is_counted_by_the_step_that_excludes_now() -> None:
    found = change([STARTED, NOT, DEAD], [STARTED], excluded={"not": "adult"})
    assert found.left == {"adult": 1, NO_LONGER_RECORDED: 1}
    assert (found.n_before, found.n_after) == (3, 1)


@pytest.mark.parametrize(
    ("before", "after", "correction"),
    [
        (NOT, replace(NOT, start=30), "moved_to_treated"),
        (STARTED, replace(STARTED, start=None), "moved_to_control"),
        (STARTED, replace(STARTED, start=31), "start_day_changed"),
        (DEAD, replace(DEAD, died=None), "event_withdrawn"),
        (NOT, replace(NOT, seen=399), "follow_up_shortened"),
        (NOT, replace(NOT, born=1961), "covariates_changed"),
    ],
)
def test_a_correction_of_days_that_were_seen_is_named(before: Person, after: Person, correction: str) -> None:
    found = change([before], [after])
    told = {name: n for name, n in found.corrections.model_dump().items() if n}
    assert told == {correction: 1}
    assert found.unchanged == 0


def test_a_start_in_follow_up_that_is_new_is_no_correction() -> None:
    """Seen until day 400 without a start; on day 450 maintenance began."""
    found = change([NOT], [replace(NOT, start=450, seen=500)])
    assert (found.started_since, found.follow_up_grown, found.follow_up_days) == (1, 1, 100.0)
    assert not any(found.corrections.model_dump().values())


def test_a_start_on_the_last_day_that_was_seen_is_a_correction() -> None:
    assert change([NOT], [replace(NOT, start=400, seen=500)]).corrections.moved_to_treated == 1


def test_a_death_after_the_last_day_seen_is_an_outcome_that_came_to_be_known() -> None:
    found = change([NOT], [replace(NOT, seen=480, died=480)])
    assert (found.outcome_known, found.follow_up_grown) == (1, 1)
    assert found.sites[0].new_events == 1


def test_a_status_of_known_days_is_corrected_and_one_of_new_days_is_growth() -> None:
    a = ledger([NOT], changes=[("not", "progressed", 100, 1.0)])
    grown = ledger(
        [replace(NOT, seen=500)], changes=[("not", "progressed", 100, 1.0), ("not", "responding", 450, 1.0)]
    )
    corrected = ledger([NOT], changes=[("not", "progressed", 90, 1.0)])
    assert not moves(a, grown).status.any()
    assert moves(a, corrected).status.all()


def test_the_erased_are_neither_left_nor_lost_from_the_count() -> None:
    a, b = replace(ledger([STARTED]), erased=1), ledger([STARTED], "r2")
    found = describe(moves(a, b), a, b, protocol_changed=[], code_changed=False)
    assert (found.n_before, found.erased, found.left, found.n_after) == (2, 1, {}, 1)


def test_words_of_a_protocol_are_no_change_of_it() -> None:
    old = {"title": "a", "version": "1", "landmarks": [30], "censoring": {"x": 1}}
    assert protocol_differences(old, {**old, "title": "b", "version": "2"}) == []
    assert protocol_differences(old, {**old, "landmarks": [60], "new": 1}) == ["landmarks", "new"]


def answer(protocol: Protocol, kind: str = "time_dependent_cox") -> Answer:
    """The answer as a refresh remembers it: the protocol's primary analysis, and the estimate it gave."""
    asked = Analysis.model_validate(
        {"analysis": kind, "adjusted_for": ["age"], "stratify_by": ["site"], "role": "primary"}
    )
    given = example.estimate(analysis=kind, role="primary", site=None, estimand="hazard_ratio")
    found = answer_of(protocol.model_copy(update={"analyses": [asked]}), [given])
    assert found is not None
    return found[0]


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_the_steps_lead_from_the_one_estimate_to_the_other(data: st.DataObject) -> None:
    """Whatever changes, the last step is the estimate of the rows of now, found without any step."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        asked = answer(write_study(Path(folder)).protocol)
    before = people(40, seed=data.draw(st.integers(0, 50)))
    after = []
    for p in before:
        kind = data.draw(
            st.sampled_from(["same"] * 6 + ["left", "start", "none", "dies", "older", "longer", "less"])
        )
        if kind == "left":
            continue
        last = p.seen if p.died is None else p.died
        changed = {
            "start": {"start": min(last, 25)},
            "none": {"start": None},
            "dies": {"seen": last + 30, "died": last + 30},
            "older": {"born": p.born - 7},
            "longer": {"seen": last + 90, "died": None},
            "less": {
                "seen": last // 2,
                "died": None,
                "start": p.start if (p.start or 0) <= last // 2 else None,
            },
        }.get(kind, {})
        after.append(replace(p, **changed))
    after += people(data.draw(st.integers(0, 6)), seed=9, first=100)
    a, b = ledger(before), ledger(after, "r2")
    then, now = asked.hazard_ratio(a.cohort()), asked.hazard_ratio(b.cohort())
    steps = estimate_steps(asked, a, b, moves(a, b), estimate_before=then, is_same_analysis=True)
    assert steps[0].estimate == then
    if now is None:
        assert len(steps) == 1 or steps[-1].estimate is None
    else:
        assert steps[-1].estimate == pytest.approx(now, rel=1e-9)
    assert all(s.patients for s in steps[1:])


def test_the_rows_of_both_end_as_they_are_now_with_their_statuses() -> None:
    """Statuses of known days come with the corrections, later ones with the follow-up."""
    a = ledger(
        [NOT, STARTED, DEAD],
        changes=[("not", "progressed", 100, 1.0), ("started", "progressed", 50, 1.0)],
    )
    b = ledger(
        [replace(NOT, seen=500), replace(STARTED, start=10, born=1950), replace(DEAD, died=None)],
        "r2",
        changes=[
            ("not", "progressed", 90, 1.0),
            ("not", "responding", 450, 1.0),
            ("started", "progressed", 50, 1.0),
        ],
    )
    made = {what: table for what, _, table in _tables(a, b, moves(a, b))}
    corrected = made["moved"].changes
    assert corrected.loc[corrected["patient_id"] == "not", ["covariate", "day"]].to_numpy().tolist() == [
        ["progressed", 90]
    ]
    pd.testing.assert_frame_equal(made["follow_up"].changes, b.changes, check_dtype=False)
    pd.testing.assert_frame_equal(
        made["follow_up"].patients[["patient_id", "time_days", "is_event", "start_day", "age"]],
        b.cohort().patients[["patient_id", "time_days", "is_event", "start_day", "age"]],
        check_dtype=False,
    )


def test_a_weighted_answer_is_followed_without_its_bootstrap(tmp_path: Any) -> None:
    study = write_study(tmp_path)
    asked = answer(study.protocol, "clone_censor_weight")
    assert asked.analysis.replicates == 0
    persons = people(60)
    a, b = ledger(persons), ledger([*persons[2:], *people(5, seed=9, first=100)], "r2")
    steps = estimate_steps(asked, a, b, moves(a, b), estimate_before=None, is_same_analysis=True)
    assert [(s.what, s.patients) for s in steps] == [("before", None), ("left", 2), ("entered", 5)]
    assert steps[-1].estimate == pytest.approx(asked.hazard_ratio(b.cohort()), rel=1e-12)


def test_a_changed_analysis_is_a_step_of_its_own(tmp_path: Any) -> None:
    study = write_study(tmp_path)
    a = ledger(people(40))
    steps = estimate_steps(
        answer(study.protocol, "time_dependent_firth"),
        a,
        a,
        moves(a, a),
        estimate_before=0.5,
        is_same_analysis=False,
    )
    assert [s.what for s in steps] == ["before", "analysis"]
    assert steps[1].estimate is not None
    assert steps[1].estimate != 0.5
