"""The cohort of each case through the whole way: cohort.survival is its cohort.csv, patient by patient.

Times, events, start days and ages of tests/cases and ../shared/cases, which were made without this software.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from rwe.config import init_workspace
from rwe.intake import import_folder
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.study import load_study
from rwe.warehouse.build import build
from tests.support import ROOT, shared

STUDIES = ROOT / "tests" / "cases_studies"


@dataclass(frozen=True)
class Row:
    """One patient: whole days from index, as both sides have them."""

    patient: str
    time_days: int
    is_event: bool
    start_day: int | None
    age_years: float


def expected(case: Path, key: bytes) -> list[Row]:
    with (case / "cohort.csv").open(newline="") as f:
        return sorted(
            (
                Row(
                    Pseudonymiser(key, r["site"]).of("Patient", r["patient_id"]),
                    int(r["time_days"]),
                    r["event"] == "1",
                    int(r["maint_day"]) if r["maint_day"] else None,
                    _age(r),
                )
                for r in csv.DictReader(f)
            ),
            key=lambda r: r.patient,
        )


def _age(row: dict[str, str]) -> float:
    """Not floored. Of the columns with an age the csv has more or fewer digits, or none: from its dates."""
    from datetime import date

    born, index = (date.fromisoformat(row[n]) for n in ("birth_date", "index_date"))
    return (index - born).days / 365.25


@pytest.mark.parametrize(
    ("folder", "study", "sites"),
    [
        ("a_stanford_heart", "stanford_heart", ["stanford"]),
        ("d_tiny_7v9", "tiny_7v9", ["site1"]),
        ("d_tiny_7v9/v2", "tiny_7v9", ["site1"]),
        ("e_three_sites", "three_sites", ["siteA", "siteB", "siteC", "siteD"]),
        ("f_maringe_ccw", "maringe_ccw", ["site1"]),
    ],
)
def test_the_cohort_of_a_case_is_its_cohort_csv(
    folder: str, study: str, sites: list[str], tmp_path: Path
) -> None:
    case = ROOT / "tests" / "cases" / folder
    if not case.is_dir():
        case = shared(f"cases/{folder}")
    workspace = init_workspace(tmp_path / "workspace", key_file=tmp_path / "key")
    shutil.copytree(STUDIES / "codelists", workspace.studies / "codelists", dirs_exist_ok=True)
    shutil.copy(STUDIES / f"{study}.yaml", workspace.studies)
    for site in sites:
        import_folder(workspace, case / "fhir" / site if len(sites) > 1 else case / "fhir", site)
    build(workspace, [load_study(workspace.studies / f"{study}.yaml")], target=tmp_path / "made.duckdb")
    with duckdb.connect(str(tmp_path / "made.duckdb"), read_only=True) as db:
        made = [
            Row(*row)
            for row in db.execute(
                "select s.patient_id, s.time_days, s.is_event, s.start_day, d.age_years"
                " from cohort.survival as s join cohort.demographic as d using (study, patient_id)"
                " order by s.patient_id"
            ).fetchall()
        ]
        periods = db.execute(
            "select patient_id, sum(stop_day - start_day), sum(is_event::int),"
            " min(case when is_exposed then start_day end) from cohort.person_period group by all order by 1"
        ).fetchall()
    known = expected(case, workspace.pseudonym_key())
    assert [(r.patient, r.time_days, r.is_event, r.start_day) for r in made] == [
        (r.patient, r.time_days, r.is_event, r.start_day) for r in known
    ]
    assert [r.age_years for r in made] == pytest.approx([r.age_years for r in known], abs=1e-12)
    # The counting process of the same patients: a start on the last day has no period of its own.
    assert periods == [
        (
            r.patient,
            r.time_days,
            int(r.is_event),
            r.start_day if r.start_day is not None and r.start_day < max(r.time_days, 1) else None,
        )
        for r in known
    ]
