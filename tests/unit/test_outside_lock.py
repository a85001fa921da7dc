"""What is outside the lock: which estimate is the answer then, what is marked, what each entry says."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rwe.analyse.diagnose import diagnose
from rwe.analyse.negative import negative_controls
from rwe.analyse.outside_lock import describe_lock, mark_outside_lock, with_refreshes_before
from rwe.analyse.plan import run_analyses
from rwe.analyse.refresh import analyse
from rwe.evidence.numbers import Arms
from rwe.evidence.outward_estimates import shown_estimates
from rwe.evidence.parts import (
    CalibratedEstimate,
    Diagnostics,
    Misclassification,
    NegativeControlEstimate,
    NegativeControls,
    Safety,
    Subgroup,
)
from rwe.report.words import posthoc_answer
from rwe.study import Protocol
from rwe.study.deviations import changed_fields
from rwe.study.lock import LockEntry, ProtocolLock, lock_study
from rwe.survival.cox import exposure_cox
from rwe.survival.data import exposure_split
from rwe.survival.negative_controls import NegativeControl, calibrate, systematic_error
from tests.integration.cohort_nights import people
from tests.unit.evidence_example import evidence
from tests.unit.history_tables import Nights, tables
from tests.unit.test_negative_control_analyses import CONTROLS, EVENTS, records
from tests.unit.test_plan import ADJUSTED, WITH_STATUS, protocol_with, registry
from tests.unit.test_report_history import look

FIRST = datetime(2025, 1, 1, tzinfo=UTC)
CRUDE = {"analysis": "time_dependent_cox"}
FROZEN = {**CRUDE, "adjusted_for": ADJUSTED, "variance": "robust", "status_after_start": "freeze"}
PRIMARY = {**CRUDE, "adjusted_for": ADJUSTED, "role": "primary"}


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    made = Nights(tmp_path, monkeypatch)
    made.now = tables(people(40))
    return made


def content_of(protocol: Protocol) -> dict[str, Any]:
    return {"protocol": protocol.model_dump(mode="json"), "codelists": {}}


def entry(protocol: Protocol, day: int, **values: Any) -> LockEntry:
    given = {"version": protocol.version, "registration": None, "reason": "x" if day else None, **values}
    return LockEntry(
        locked_at=FIRST + timedelta(days=day),
        protocol_sha256=f"{day:064d}",
        previous_sha256=None,
        content=content_of(protocol),
        **given,
    )


def lock_of(now: Protocol, *locked: Protocol, **values: Any) -> ProtocolLock:
    """A lock with an entry a day; `values` are of the first."""
    entries = tuple(entry(p, i, **(values if i == 0 else {})) for i, p in enumerate(locked))
    changed = tuple(changed_fields(entries[-1].content, content_of(now)))
    return ProtocolLock("changed" if changed else "locked", entries, changed, content_of(now))


def test_outside_the_lock_the_answer_is_the_whole_analysis_that_was_asked_for() -> None:
    """The frozen status stands first and adjusts for the same: its ratio is of another question."""
    cohort = registry()
    now = protocol_with(FROZEN, PRIMARY, **WITH_STATUS)
    lock = lock_of(now, now.model_copy(update={"confidence_level": 0.9}))
    found = run_analyses(now, cohort, lock=lock)
    assert [e.role for e in found.estimates] == ["posthoc", "posthoc"]
    shown = posthoc_answer(evidence(estimates=found.estimates))
    fit = exposure_cox(exposure_split(cohort, ADJUSTED[:3], ADJUSTED[3:])).hazard_ratio()
    assert shown is not None
    assert shown.estimate == pytest.approx(fit.estimate, rel=1e-9)
    frozen = next(e for e in found.estimates if e.parameters.status_after_start == "freeze")
    assert frozen.estimate is not None
    assert abs(frozen.estimate - shown.estimate) > 0.01


def test_outside_the_lock_the_calibration_is_of_the_answer_too() -> None:
    """The crude ratio stands first; what is calibrated is the adjusted one."""
    cohort = registry()
    asked = {**WITH_STATUS, "intercurrent_events": EVENTS, "negative_controls": CONTROLS}
    now = protocol_with(CRUDE, {**PRIMARY, "adjusted_for": ADJUSTED[:3]}, **asked)
    findings = run_analyses(now, cohort, lock=lock_of(now, now.model_copy(update={"seed": 1})))
    assert all(e.role == "posthoc" for e in findings.estimates)
    shown = negative_controls(findings, records(cohort))
    assert shown is not None
    assert shown.calibrated is not None
    width = 2 * 1.959963984540054
    known = [
        NegativeControl(
            c.outcome,
            math.log(c.hazard_ratio),
            math.log(c.ci_high / c.ci_low) / width,
        )
        for c in shown.controls
        if c.hazard_ratio and c.ci_high and c.ci_low
    ]
    fit = exposure_cox(exposure_split(cohort, ADJUSTED[:3])).hazard_ratio()
    assert fit.log_estimate is not None
    assert fit.se is not None
    right = calibrate(fit.log_estimate, fit.se, systematic_error(known))
    assert shown.calibrated.hazard_ratio == pytest.approx(right.estimate, rel=1e-9)


def test_a_naive_analysis_added_after_the_lock_stays_a_contrast_and_is_marked() -> None:
    naive = {"analysis": "naive_cox", "role": "contrast"}
    locked, now = protocol_with(PRIMARY, **WITH_STATUS), protocol_with(PRIMARY, naive, **WITH_STATUS)
    primary, added = run_analyses(now, registry(), lock=lock_of(now, locked)).estimates
    assert (primary.role, primary.is_posthoc, primary.is_the_answer) == ("primary", False, True)
    assert (added.role, added.asked_role, added.is_posthoc) == ("contrast", "contrast", True)


def test_outside_the_lock_an_adjusted_answer_has_no_unadjusted_tipping_point() -> None:
    cohort, now = registry(), protocol_with(PRIMARY, **WITH_STATUS)
    findings = run_analyses(now, cohort, lock=lock_of(now, now.model_copy(update={"seed": 1})))
    shown = diagnose(now, cohort, findings)
    assert shown.lost_deaths is None
    assert any("How many of the lost had to have died is not told" in n for n in shown.notes)
    crude = protocol_with({**CRUDE, "role": "primary"}, **WITH_STATUS)
    assert diagnose(crude, cohort, run_analyses(crude, cohort)).lost_deaths is not None


def test_each_entry_says_what_it_changed_and_whether_the_answer_became_another() -> None:
    first = protocol_with(CRUDE, PRIMARY, **WITH_STATUS)
    named = first.model_copy(update={"title": "Another title"})
    second = protocol_with({**PRIMARY, "adjusted_for": ["age"]}, **WITH_STATUS, title="Another title")
    shown = describe_lock(lock_of(second, first, named, second, registration="NCT01"))
    assert shown.status == "locked"
    assert [a.changed for a in shown.log] == [[], ["title"], ["analyses"]]
    assert [a.has_other_answer for a in shown.log] == [False, False, True]
    assert [a.registration for a in shown.log] == ["NCT01", None, None]
    assert shown.log[1].dropped == []
    crude, primary = shown.log[2].dropped
    assert crude.startswith("sensitivity: Cox model of the time-dependent exposure")
    assert primary.startswith("primary: ")
    assert "adjusted for age, without" in shown.log[2].added[0]


def test_what_was_locked_and_is_no_longer_asked_for_is_named() -> None:
    locked = protocol_with(CRUDE, PRIMARY, **WITH_STATUS)
    now = protocol_with(PRIMARY, **WITH_STATUS)
    shown = describe_lock(lock_of(now, locked))
    assert [d.split(" (")[0] for d in shown.dropped] == [
        "sensitivity: Cox model of the time-dependent exposure"
    ]
    assert shown.added == []


def test_refreshes_before_an_entry_had_shown_the_outcome() -> None:
    """Refreshes at noon of days 0, 1 and 2; entries at midnight of days 0, 1 and 2."""
    p = protocol_with(PRIMARY, **WITH_STATUS)
    later = [p.model_copy(update={"title": f"Title {i}"}) for i in range(2)]
    found = describe_lock(lock_of(later[1], p, *later))
    noons = [look(created_at=FIRST + timedelta(days=d, hours=12)) for d in range(3)]
    shown = with_refreshes_before(found, noons)
    assert shown is not None
    assert [a.refreshes_before for a in shown.log] == [0, 1, 2]


def test_a_lock_after_a_refresh_says_so_in_every_refresh_after_it(nights: Nights) -> None:
    analyse(nights.workspace, nights.study)
    lock_study(nights.study, registration="NCT01")
    for number, title in enumerate(("The first words", "Other words")):
        nights.asking(version=f"2.0.{number}", title=title)
        lock_study(nights.study, amendment="clearer words")
        found = analyse(nights.workspace, nights.study).evidence.protocol_lock
        assert found is not None
        assert found.status == "locked"
        assert [a.refreshes_before for a in found.log] == [1, 1, *range(2, number + 2)]
        assert not any(a.has_other_answer for a in found.log)


def test_a_release_tells_the_role_that_an_estimate_outside_the_lock_was_asked_in() -> None:
    now = protocol_with(PRIMARY, **WITH_STATUS)
    lock = lock_of(now, now.model_copy(update={"seed": 1}))
    document = evidence(estimates=run_analyses(now, registry(), lock=lock).estimates)
    arms = Arms.of(document.cohort, document.protocol)
    (shown,) = shown_estimates(document, arms, ()).estimates
    assert (shown.role, shown.asked_role, shown.is_the_answer) == ("posthoc", "primary", True)


def diagnostics() -> Diagnostics:
    """Two subgroups, a review of charts, two negative controls with a calibration."""
    nothing: dict[str, Any] = {"hazard_ratio": 1.0, "ci_low": 0.9, "ci_high": 1.1, "p_value": 1.0}
    controls = [
        NegativeControlEstimate(outcome=name, patients=9, events=9, refused=None, **nothing)
        for name in ("fracture", "cataract")
    ]
    return Diagnostics(
        subgroups=[
            Subgroup(name=name, levels=[], interaction_p=None, warnings=[]) for name in ("older", "fitter")
        ],
        misclassification=[
            Misclassification(
                what="exposure", confirmed=9, reviewed=9, hazard_ratio=1, median=1, ci_low=1, ci_high=1
            )
        ],
        negative_controls=NegativeControls(
            controls=controls,
            fewest=3,
            calibrated=CalibratedEstimate(
                error_mean=0, error_sd=0, share_excluding_null=0, ci_level=0.95, warnings=[], **nothing
            ),
            not_calibrated=None,
        ),
    )


def test_what_was_added_beside_an_unchanged_answer_is_marked_and_it_alone() -> None:
    older = {"name": "older", "covariate": "age", "cut": 65}
    fitter = {"name": "fitter", "covariate": "ecog", "cut": 2}
    before = {**WITH_STATUS, "intercurrent_events": EVENTS[:1], "negative_controls": CONTROLS[:1]}
    locked = protocol_with(PRIMARY, **before, subgroups=[older])
    asked = {**WITH_STATUS, "intercurrent_events": EVENTS[:2], "negative_controls": CONTROLS[:2]}
    review = {"starts": {"confirmed": 9, "reviewed": 9}}
    now = protocol_with(PRIMARY, **asked, subgroups=[older, fitter], chart_review=review)
    lock, document = (
        lock_of(now, locked),
        evidence(diagnostics=diagnostics(), safety=Safety(rates=[], notes=[])),
    )
    shown = mark_outside_lock(document, lock, now)
    d = shown.diagnostics
    assert d is not None
    assert d.negative_controls is not None
    assert d.negative_controls.calibrated is not None
    assert [g.is_posthoc for g in d.subgroups] == [False, True]
    assert [m.is_posthoc for m in d.misclassification] == [True]
    assert [c.is_posthoc for c in d.negative_controls.controls] == [False, True]
    assert d.negative_controls.calibrated.is_posthoc
    assert shown.safety is not None
    assert shown.safety.notes == ["Post hoc, for it was locked otherwise or not at all: cataract."]


def test_on_another_cohort_nothing_is_as_it_was_locked() -> None:
    older = {"name": "older", "covariate": "age", "cut": 65}
    asked = {**WITH_STATUS, "intercurrent_events": EVENTS[:2], "negative_controls": CONTROLS[:2]}
    locked = protocol_with(PRIMARY, **asked, subgroups=[older])
    now = protocol_with(PRIMARY, **asked, subgroups=[older], new_user_washout={"days": 1})
    shown = mark_outside_lock(evidence(diagnostics=diagnostics()), lock_of(now, locked), now).diagnostics
    assert shown is not None
    assert shown.negative_controls is not None
    assert all(g.is_posthoc for g in shown.subgroups)
    assert all(c.is_posthoc for c in shown.negative_controls.controls)


def test_under_the_lock_nothing_is_marked() -> None:
    p = protocol_with(PRIMARY, **WITH_STATUS)
    document = evidence(diagnostics=diagnostics())
    assert mark_outside_lock(document, lock_of(p, p), p) is document
