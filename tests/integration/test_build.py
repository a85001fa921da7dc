"""From landed bytes to a published database: known cohorts, foreign samples, bad input, crashes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rwe.config import Workspace
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.study import load_study
from rwe.warehouse.build import build
from tests.integration.landed import land, land_lines, land_ndjson, new_workspace
from tests.support import ROOT, shared

CASES = {
    "stanford_heart": "a_stanford_heart",
    "tiny_7v9": "d_tiny_7v9",
    "tiny_7v9 v2": "d_tiny_7v9/v2",
    "three_sites": "e_three_sites",
    "maringe_ccw": "f_maringe_ccw",
}


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect(str(path), read_only=True)) as db:
        return db.execute(query).fetchall()


def case_study(name: str):
    return load_study(ROOT / "tests" / "cases_studies" / f"{name.split(maxsplit=1)[0]}.yaml")


def cohort_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "cohort.csv").open(encoding="utf-8") as f:
        return list(csv.DictReader(f))


def land_case(workspace: Workspace, folder: Path) -> dict[tuple[str, str], str]:
    """Land a case; returns the pseudonym of each (site, patient_id) of its cohort.csv."""
    cohort = cohort_csv(folder)
    sites = sorted({r["site"] for r in cohort})
    names = {}
    for site in sites:
        source = folder / "fhir" / site if len(sites) > 1 else folder / "fhir"
        land_ndjson(workspace, site.lower(), source)
        names[site] = Pseudonymiser(workspace.pseudonym_key(), site.lower())
    return {(r["site"], r["patient_id"]): names[r["site"]].of("Patient", r["patient_id"]) for r in cohort}


@pytest.mark.parametrize("name", CASES)
def test_the_cohort_of_a_known_case_is_the_cohort_it_was_made_from(name: str, tmp_path: Path) -> None:
    folder = shared(f"cases/{CASES[name]}")
    workspace = new_workspace(tmp_path)
    pseudonyms = land_case(workspace, folder)
    result = build(workspace, [case_study(name)])
    found = {
        patient: (time, event, start)
        for patient, time, event, start in rows(
            result.path, "select patient_id, time_days, is_event, start_day from cohort.survival"
        )
    }
    expected = {
        pseudonyms[r["site"], r["patient_id"]]: (
            int(r["time_days"]),
            r["event"] == "1",
            int(r["maint_day"]) if r["maint_day"] else None,
        )
        for r in cohort_csv(folder)
    }
    assert found == expected


@pytest.mark.parametrize(
    ("name", "tolerance", "columns"),
    [
        ("three_sites", 5e-9, {"age": "age_years_exact", "ecog": "cov_ecog"}),
        (
            "maringe_ccw",
            1e-5,  # its ages are published with decimals that no day of birth gives exactly
            {
                "age": "age_years_exact",
                "sex": "sex_num",
                "perf": "cov_perf",
                "stage": "cov_stage",
                "deprivation": "cov_deprivation",
                "charlson": "cov_charlson",
                "emergency": "cov_emergency",
            },
        ),
    ],
)
def test_baseline_covariates_of_a_known_case(
    name: str, tolerance: float, columns: dict[str, str], tmp_path: Path
) -> None:
    folder = shared(f"cases/{CASES[name]}")
    workspace = new_workspace(tmp_path)
    pseudonyms = land_case(workspace, folder)
    result = build(workspace, [case_study(name)])
    values = {
        (p, c): v for p, c, v in rows(result.path, "select patient_id, covariate, value from cohort.baseline")
    }
    assert len(values) == len(columns) * len(pseudonyms)
    for r in cohort_csv(folder):
        for covariate, column in columns.items():
            found = values[pseudonyms[r["site"], r["patient_id"]], covariate]
            assert found == pytest.approx(float(r[column]), abs=tolerance), (covariate, column)
