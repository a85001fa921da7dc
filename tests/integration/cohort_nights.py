"""A small cohort told as people, and landed night after night as FHIR: for the tests of the history."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rwe.config import Workspace
from rwe.study import Study, load_study
from rwe.warehouse.build import build
from tests.integration.landed import land, new_workspace
from tests.support import ROOT

STUDY = "looked_at_often"
_ATC = "http://www.whocc.no/atc"
_CLASS = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}


@dataclass(frozen=True)
class Person:
    """Days from the infusion: `start` of maintenance, `seen` last, `died` (None: did not)."""

    name: str
    site: str = "north"
    index: date = date(2020, 3, 1)
    born: int = 1960
    start: int | None = None
    seen: int = 400
    died: int | None = None

    def on(self, day: int) -> str:
        return (self.index + timedelta(days=day)).isoformat()

    def records(self) -> list[dict[str, Any]]:
        """The whole record as the hospital has it now. A start that never was is entered-in-error."""
        patient: dict[str, Any] = {
            "resourceType": "Patient",
            "id": self.name,
            "gender": "female",
            "birthDate": f"{self.born}-06-01",
        }
        if self.died is not None:
            patient["deceasedDateTime"] = self.on(self.died)
        last = self.on(self.seen)
        return [
            patient,
            self._given("car", "L01XL03", self.on(0), "completed"),
            self._given(
                "len",
                "L04AX04",
                self.on(self.start or 1),
                "entered-in-error" if self.start is None else "completed",
            ),
            {"resourceType": "Encounter", "id": f"{self.name}-seen", "status": "finished", "class": _CLASS,
             "subject": {"reference": f"Patient/{self.name}"}, "period": {"start": last, "end": last}},
        ]  # fmt: skip

    def _given(self, what: str, code: str, day: str, status: str) -> dict[str, Any]:
        return {
            "resourceType": "MedicationAdministration",
            "id": f"{self.name}-{what}",
            "status": status,
            "subject": {"reference": f"Patient/{self.name}"},
            "medicationCodeableConcept": {"coding": [{"system": _ATC, "code": code}]},
            "effectiveDateTime": day,
        }


def people(n: int = 24, seed: int = 3, first: int = 0) -> list[Person]:
    """People of two sites, half of whom start maintenance; some die."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(first, first + n):
        seen = int(rng.integers(150, 700))
        start = int(rng.integers(5, 80)) if rng.random() < 0.5 else None
        died = seen if rng.random() < 0.5 else None
        site = "north" if rng.random() < 0.6 else "river"
        born = int(rng.integers(1940, 1975))
        found.append(Person(f"person{i:03d}", site, born=born, start=start, seen=seen, died=died))
    return found


def write_study(folder: Path, **changes: Any) -> Study:
    """A study of them: naive Cox beside a time-dependent one by site, adjusted for age."""
    content = yaml.safe_load((ROOT / "tests" / "cases_studies" / "tiny_7v9.yaml").read_text())
    content |= {
        "name": STUDY,
        "title": "Looked at often",
        "question": "What do nights do to an estimate?",
        "analyses": [
            {"analysis": "naive_cox", "role": "contrast"},
            {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["age"]},
            {"analysis": "simon_makuch"},
        ],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "tests" / "cases_studies" / "codelists", folder / "codelists", dirs_exist_ok=True)
    path = folder / f"{STUDY}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_study(path)


def begin(folder: Path, persons: Iterable[Person], **changes: Any) -> tuple[Workspace, Study]:
    """A workspace with the study (and other fields of it) and a first night."""
    workspace = new_workspace(folder)
    study = write_study(workspace.studies, **changes)
    night(workspace, study, persons)
    return workspace, study


def night(workspace: Workspace, study: Study, persons: Iterable[Person]) -> None:
    """Land these persons' records as they are now, and build."""
    by_site: dict[str, list[dict[str, Any]]] = {}
    for p in persons:
        by_site.setdefault(p.site, []).extend(p.records())
    for site, records in sorted(by_site.items()):
        land(workspace, site, *records)
    build(workspace, [study])
