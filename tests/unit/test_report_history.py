"""The figure of the looks: what the confidence sequence is of, and how far it goes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from rwe.analyse import analyse
from rwe.evidence.contract import read_evidence
from rwe.evidence.history import History, Look, Repeated
from rwe.history.words import STEPS
from rwe.report import render_report
from rwe.report.figures import RULE, new_figure
from rwe.report.history import _draw_sequence, _scale
from tests.integration.cohort_nights import people
from tests.unit import evidence_example as example
from tests.unit.history_tables import Nights, tables
from tests.unit.test_report_page import Page


def look(number: int = 1, **values: Any) -> Look:
    asked: dict[str, Any] = {
        "number": number,
        "refresh": f"2026-01-0{number}",
        "created_at": datetime(2026, 1, number, tzinfo=UTC),
        "data_cutoff": None,
        "code_version": "1",
        "protocol_version": "1",
        "protocol_sha256": "0",
        "n": 100,
        "events": 40,
        "analysis": "time_dependent_cox",
        "estimate": 0.7,
        "ci_low": 0.5,
        "ci_high": 0.98,
        "naive": 0.4,
    }
    return Look(**(asked | values))


def repeated(**values: Any) -> Repeated:
    blank: dict[str, Any] = dict.fromkeys(Repeated.model_fields)
    known = {"level": 0.95, "planned_information": 16.3, "is_stratified": True, "ci_low": 0.4, "ci_high": 1.3}
    return Repeated(**(blank | known | values))


def band(shown: Look) -> list[float]:
    """Where the band ends, on the page's scale (down is more); empty where none is drawn."""
    with mpl.rc_context():
        canvas = new_figure(100, 100).add_axes((0, 0, 1, 1))
        _draw_sequence(canvas, _scale([shown]), 10, shown)
        lines = canvas.get_lines()
        assert all(line.get_color() == RULE for line in lines)
        return sorted(float(y) for line in lines for y in line.get_ydata())  # type: ignore[union-attr]


def test_a_sequence_without_any_limit_is_every_hazard_ratio_and_not_none() -> None:
    scale = _scale([look()])
    whole = [scale.y(scale.high), scale.y(scale.low)]
    assert band(look(has_sequence=True)) == pytest.approx(whole)
    assert band(look(has_sequence=False)) == []
    assert band(look(has_sequence=True, always_low=0.6)) == pytest.approx([scale.y(scale.high), scale.y(0.6)])
    assert band(look(always_high=1.5)) == pytest.approx([scale.y(1.5), scale.y(scale.low)])  # as told of old


def test_a_look_says_whether_it_has_a_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(tmp_path, monkeypatch)
    nights.now = tables(people(40))
    told = read_evidence(analyse(nights.workspace, nights.study).path).history
    assert told is not None
    assert told.repeated is not None
    assert told.looks[-1].has_sequence


def page(**values: Any) -> str:
    audience = values.pop("audience", "internal")
    told = History(look=2, looks=[look(1), look(2)], change=None, repeated=repeated(**values))
    return Page(render_report(example.evidence(history=told, audience=audience))).text


def test_the_caption_says_that_the_band_is_of_another_estimand_than_the_circles() -> None:
    assert "of the unadjusted log-rank score, another estimand than the circles" in page()


def test_a_release_tells_the_limits_of_the_sequence_alone() -> None:
    inside = page(estimate=0.72, one_look_low=0.5, one_look_high=1.04)
    assert "hazard ratio 0.72, 0.40 to 1.30" in inside
    assert "the interval of this one look from the same score is 0.50 to 1.04" in inside
    outside = page(audience="release")
    assert "hazard ratio 0.40 to 1.30" in outside
    assert "not estimable" not in outside[outside.index("A confidence sequence") :][:400]
    assert "interval of this one look" not in outside


def test_the_steps_say_all_that_they_take_in() -> None:
    assert STEPS["outcome"] == "outcomes that came to be known or were withdrawn"
    assert STEPS["follow_up"] == "other follow-up: grown, shortened, started since"
