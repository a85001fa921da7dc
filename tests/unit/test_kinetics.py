"""Single patients' traces: drawn from the tables, told without a name, and kept out of evidence.json."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pandas as pd

from rwe.analyse.bundle import write_kinetics
from rwe.analyse.safety import describe_kinetics, describe_safety, without_single_patients
from rwe.evidence.contract import write_evidence
from rwe.evidence.parts import Kinetics
from rwe.report.page import write_report
from tests.unit.evidence_example import evidence
from tests.unit.test_describe import cohort_of


def test_traces_and_the_relapse_that_responded_again_are_told_by_day() -> None:
    patient = "d"  # one letter would stand in any text: it is looked for as a value below
    study, tables = cohort_of(
        {},
        {
            "time_days": [200] * 5,
            "salvage_start_day": [None, None, None, 120.0, None],
            "progression_day": [None, None, None, 100.0, None],
        },
        cart_copies={"codelist": "car_t", "unit": "{copies}/ug"},
    )
    tables = replace(
        tables,
        copies=pd.DataFrame(
            {"patient_id": [patient] * 3, "day": [10, 110, 150], "copies": [900.0, 5.0, 70.0]}
        ),
        expansion=pd.DataFrame(
            {
                "patient_id": [patient],
                "peak_copies": [900.0],
                "peak_day": [10],
                "auc_0_28": [None],
                "last_detectable_day": [150],
                "last_measured_day": [150],
            }
        ),
        response=pd.DataFrame(
            {
                "patient_id": [patient] * 3,
                "status": ["responding", "progressed", "responding"],
                "from_day": [28, 100, 140],
                "until_day": [100, 140, None],
                "is_relapse": [False, True, False],
            }
        ),
    )
    found = describe_kinetics(study, tables)
    assert found is not None
    (trace,), (case,) = found.traces, found.case_series
    assert (trace.days, trace.copies) == ([10, 110, 150], [900.0, 5.0, 70.0])
    assert (case.relapse_day, case.start_day, case.response_day) == (100, 120, 140)
    assert (case.copies_before, case.copies_after, case.is_rising) == (5.0, 70.0, True)
    assert f'"{patient}"' not in found.model_dump_json()


def test_evidence_holds_sums_and_the_folder_beside_it_the_single_patients(tmp_path: Path) -> None:
    whole = evidence().kinetics
    assert whole is not None
    assert whole.traces
    shown = without_single_patients(whole)
    assert shown is not None
    assert (shown.traces, shown.case_series) == ([], [])
    assert shown.summaries == whole.summaries
    write_evidence(evidence().model_copy(update={"kinetics": shown}), tmp_path / "evidence.json")
    write_kinetics(whole, tmp_path)
    write_report(tmp_path / "evidence.json", tmp_path / "report.html")
    kept = tmp_path / "reproduce" / "kinetics.json"
    assert Kinetics.model_validate_json(kept.read_bytes()) == whole
    inside = tmp_path / "reproduce" / "report.html"
    assert {stat.S_IMODE(p.stat().st_mode) for p in (kept, inside)} == {0o600}
    assert "One thin line a patient" in inside.read_text(encoding="utf-8")
    assert "One thin line a patient" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_study_without_copies_has_no_kinetics() -> None:
    study, tables = cohort_of({}, intercurrent_events=[])
    assert describe_kinetics(study, tables) is None
    assert describe_safety(study, tables) is None
