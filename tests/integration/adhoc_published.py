"""A published database of known patients, made once for the tests of ad hoc SQL."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rwe.config import Workspace
from rwe.study import load_study
from rwe.warehouse.build import build
from tests.integration.landed import land_ndjson, new_workspace
from tests.support import ROOT

CASE = ROOT / "tests" / "cases" / "e_three_sites"
SITES = ("siteA", "siteB", "siteC", "siteD")
STUDY = "three_sites"


@dataclass(frozen=True)
class KnownPatient:
    """A patient as the case's own table has it, made without our code."""

    site: str
    sex: str
    age_years: float
    ecog: float
    time_days: int
    is_event: bool
    start_day: int | None


@cache
def known_patients() -> tuple[KnownPatient, ...]:
    with (CASE / "cohort.csv").open(encoding="utf-8") as f:
        return tuple(
            KnownPatient(
                site=r["site"].lower(),
                sex=r["sex"],
                age_years=float(r["age_years_exact"]),
                ecog=float(r["cov_ecog"]),
                time_days=int(r["time_days"]),
                is_event=r["event"] == "1",
                start_day=int(r["maint_day"]) if r["maint_day"] else None,
            )
            for r in csv.DictReader(f)
        )


def publish_known_patients(folder: Path) -> Workspace:
    """A workspace whose published database holds the study `three_sites`."""
    workspace = new_workspace(folder)
    for site in SITES:
        land_ndjson(workspace, site.lower(), CASE / "fhir" / site)
    build(workspace, [load_study(ROOT / "tests" / "cases_studies" / f"{STUDY}.yaml")])
    return workspace
