"""Overlap, empty cells, negative controls, balance and stand-ins for the primary, as the page says them."""

from __future__ import annotations

import re

from rwe.evidence.parts import (
    CalibratedEstimate,
    EmptyCell,
    NegativeControlEstimate,
    NegativeControls,
    OverlapAtLandmark,
)
from rwe.report.diagnostics_positivity import controls_shown, empty_cell_rows, overlap_rows
from rwe.report.names import names_of
from rwe.report.page import render_report
from rwe.report.words import posthoc_answer
from rwe.study import Protocol
from tests.unit import evidence_example as example
from tests.unit.evidence_example import CONTROL, TREATED, estimate, evidence

PROTOCOL = Protocol.model_validate(example.protocol())
NAMES = names_of(PROTOCOL)


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\u202f", " ")


def arm(day: int, strategy: str, median: float, outside: int) -> OverlapAtLandmark:
    return OverlapAtLandmark(
        landmark_day=day, strategy=strategy, patients=120, q1=median - 0.1, median=median, q3=median + 0.1,
        outside=outside, effective=88.4, overlap=0.61,
    )  # fmt: skip


def control(name: str, ratio: float | None) -> NegativeControlEstimate:
    known = ratio is not None
    return NegativeControlEstimate(
        outcome=name, patients=842, events=57, hazard_ratio=ratio, ci_low=0.7 if known else None,
        ci_high=1.9 if known else None, p_value=0.58 if known else None,
        refused=None if known else "there is no event, so no hazard ratio.",
    )  # fmt: skip


CALIBRATED = CalibratedEstimate(
    error_mean=0.11, error_sd=0.2, share_excluding_null=0.25, hazard_ratio=0.64, ci_low=0.39, ci_high=1.04,
    ci_level=0.95, p_value=0.071, warnings=["Only 4 negative controls: the error is known badly."],
)  # fmt: skip


def test_overlap_is_shown_by_landmark_with_the_treated_first() -> None:
    found = [arm(90, CONTROL, 0.3, 0), arm(60, TREATED, 0.6, 4), arm(60, CONTROL, 0.2, 9)]
    rows = overlap_rows(found, NAMES)
    assert [(r.landmark, r.strategy, r.outside) for r in rows] == [
        ("Day 60", "Started", "4"),
        ("", "Not started", "9"),
        ("Day 90", "Not started", "0"),
    ]


def test_a_group_that_is_worth_a_handful_is_marked() -> None:
    few = arm(60, TREATED, 0.6, 4).model_copy(update={"effective": 9.03})
    rows = overlap_rows([few, arm(60, CONTROL, 0.2, 9)], NAMES)
    assert [r.effective for r in rows] == ["9.0 (too few)", "88.4"]


def test_the_largest_empty_cells_are_named_by_their_labels() -> None:
    cells = [
        EmptyCell(landmark_day=60, kind={"ecog": str(i)}, started=0, not_started=i) for i in range(1, 15)
    ]
    cells.append(EmptyCell(landmark_day=60, kind={"sex": "1", "responding": "0"}, started=40, not_started=0))
    rows = empty_cell_rows(cells, NAMES)
    assert len(rows) == 12
    assert (rows[0].kind, rows[0].started) == ("Sex 1, In response no", "40")
    assert rows[1].kind == "ECOG performance status 14"


def test_calibration_is_told_with_the_error_it_takes_off() -> None:
    found = NegativeControls(
        controls=[control("fracture", 1.15)], fewest=3, calibrated=CALIBRATED, not_calibrated=None
    )
    said = " ".join(controls_shown(found).sentences).replace("\u202f", " ")
    assert "Calibrated by them, the primary hazard ratio is 0.64 (95 % CI 0.39 to 1.04), p 0.071" in said
    assert "25 % of the controls exclude 1; of an unbiased analysis about 5 % would." in said
    assert "Only 4 negative controls" in said


def test_without_calibration_the_page_says_why() -> None:
    why = "2 negative controls cannot show a systematic error; name at least 3."
    found = NegativeControls(
        controls=[control("fracture", 1.15), control("cataract", None)], fewest=3, calibrated=None,
        not_calibrated=why,
    )  # fmt: skip
    shown = controls_shown(found)
    assert shown.sentences == (
        f"The primary estimate is not calibrated; that needs 3 controls with an estimate. {why}",
    )
    assert [r.ratio for r in shown.rows][1] == "not estimable"


def test_all_of_it_stands_on_the_page_and_nothing_where_there_is_none() -> None:
    controls = NegativeControls(
        controls=[control("fracture", 1.15), control("cataract", None)], fewest=3, calibrated=CALIBRATED,
        not_calibrated=None,
    )  # fmt: skip
    found = example.diagnostics().model_copy(
        update={
            "overlap": [arm(60, TREATED, 0.6, 4), arm(60, CONTROL, 0.2, 9)],
            "empty_cells": [EmptyCell(landmark_day=60, kind={"ecog": "3"}, started=0, not_started=17)],
            "negative_controls": controls,
            "balance_by": "clone-censor-weight, copies followed beyond day 180",
        }
    )
    rows = [r.model_copy(update={"smd_after": 0.03}) for r in example.baseline()]
    page = words(render_report(evidence(diagnostics=found, baseline=rows)))
    for said in (
        "Overlap at landmarks", "60 % [50 %, 70 %]", "ECOG performance status 3", "Negative controls",
        "Fracture", "There is no event, so no hazard ratio.",
        "After: by the weights of clone-censor-weight, copies followed beyond day 180",
    ):  # fmt: skip
        assert said in page
    before = words(render_report(evidence()))
    assert "Overlap at landmarks" not in before
    assert "Negative controls" not in before


def test_the_answer_names_what_it_stands_in_for() -> None:
    reason = "The time dependent Cox model cannot be the answer: there is no death among those who started."
    stands_in = estimate(
        analysis="time_dependent_firth", role="primary", downgraded_from="time_dependent_cox",
        warnings=[reason],
    )  # fmt: skip
    page = words(render_report(evidence(estimates=[stands_in])))
    assert "Firth penalty, unadjusted, in place of: Time-dependent Cox model." in page
    assert reason in page


def test_outside_the_lock_what_stands_in_is_told() -> None:
    parameters = example.estimates()[0].parameters
    asked = estimate(role="posthoc", asked_role="sensitivity", parameters=parameters)
    stands_in = estimate(
        analysis="time_dependent_firth", role="posthoc", asked_role="primary", estimate=0.5,
        downgraded_from="time_dependent_cox",
    )  # fmt: skip
    found = posthoc_answer(evidence(estimates=[asked, stands_in]))
    assert found is not None
    assert found.analysis == "time_dependent_firth"
