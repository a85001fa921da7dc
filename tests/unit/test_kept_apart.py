"""What the report says of single patients who are not on its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwe.analyse.bundle import write_kinetics
from rwe.analyse.safety import without_single_patients
from rwe.evidence.contract import write_evidence
from rwe.evidence.parts import Kinetics
from rwe.report.page import render_report, write_report
from tests.unit.evidence_example import evidence
from tests.unit.test_report_new_evidence import plain

NOBODY = "Nobody relapsed, started the exposure after it and responded again."


def _whole() -> Kinetics:
    """13 traces and 2 cases."""
    found = evidence().kinetics
    assert found is not None
    return found


def _page(tmp_path: Path, whole: Kinetics, *, is_kept: bool) -> str:
    """The report of the evidence of `whole`, with the single patients beside it or (encrypted) not."""
    shown = evidence().model_copy(update={"kinetics": without_single_patients(whole)})
    write_evidence(shown, tmp_path / "evidence.json")
    if is_kept:
        write_kinetics(whole, tmp_path)
    write_report(tmp_path / "evidence.json", tmp_path / "report.html")
    return plain((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("is_kept", [True, False])
def test_cases_that_are_kept_apart_are_counted_and_not_denied(tmp_path: Path, is_kept: bool) -> None:
    page = _page(tmp_path, _whole(), is_kept=is_kept)
    assert NOBODY not in page
    told = (
        "13 single traces and 2 cases (relapse, a start of the exposure after it, a response again) are not"
    )
    assert told in page
    assert ("reproduce/report.html, in the folder of this page, shows them" in page) == is_kept
    assert ("Nothing of single patients is kept beside it" in page) != is_kept


def test_the_page_beside_it_shows_them_and_points_nowhere(tmp_path: Path) -> None:
    _page(tmp_path, _whole(), is_kept=True)
    inside = plain((tmp_path / "reproduce" / "report.html").read_text(encoding="utf-8"))
    assert "Case series" in inside
    assert "not on this page" not in inside


def test_without_a_case_it_is_said_that_there_is_none(tmp_path: Path) -> None:
    page = _page(tmp_path, _whole().model_copy(update={"case_series": []}), is_kept=True)
    assert NOBODY in page
    assert "13 single traces are not on this page." in page


def test_evidence_that_does_not_count_what_is_apart_says_nothing_of_cases() -> None:
    """As an older version wrote it."""
    emptied = _whole().model_copy(update={"traces": [], "case_series": []})
    page = plain(render_report(evidence(kinetics=emptied)))
    assert NOBODY not in page
    assert "not on this page" not in page
