"""Covariates over time through the whole way: records, build, tables, analyses, a share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.analyse.plan import run_analyses
from rwe.analyse.read import StudyTables, read_study
from rwe.config import Workspace
from rwe.evidence.contract import Estimate
from rwe.identity import make_identity
from rwe.sharing.share import outgoing
from rwe.study import Study
from rwe.survival.landmark import landmark_cox
from rwe.survival.msm import marginal_structural_cox
from rwe.survival.tables import CohortTable, no_changes
from tests.integration.cohort_nights import Person, begin

_LOINC, _LOCAL, _UCUM = "http://loinc.org", "http://example.org/rwe/codes", "http://unitsofmeasure.org"
COVARIATES = [
    {"name": "age", "kind": "age_at_index"},
    {"name": "ecog", "kind": "observation", "label": "ECOG", "codelist": "ecog"},
    {
        "name": "copies",
        "kind": "observation",
        "label": "Copies of the transgene",
        "codelist": "copies",
        "unit": "{copies}/ug",
        "transform": "log1p",
        "over_time": True,
        "before_first": 0,
    },
    {"name": "unused", "kind": "observation", "label": "Copies, of no use", "codelist": "copies"},
]
ANALYSES = [
    {"analysis": "landmark_cox", "adjusted_for": ["age", "ecog"], "landmarks": [45]},
    {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["age", "ecog"]},
    {"analysis": "marginal_structural_model", "adjusted_for": ["age", "copies"]},
]


@dataclass(frozen=True)
class Measured(Person):
    """A person with ECOG and copies by day; copies of the last day come in another unit."""

    ecog: dict[int, float] = field(default_factory=dict)
    copies: dict[int, float] = field(default_factory=dict)

    def records(self) -> list[dict[str, Any]]:
        found = super().records()
        found += [self._value(_LOINC, "89247-1", day, value, "{score}") for day, value in self.ecog.items()]
        found += [self._value(_LOCAL, "copies", d, value, "{copies}/ug") for d, value in self.copies.items()]
        return [*found, self._value(_LOCAL, "copies", 50, 1e6, "mg/dL")]

    def _value(self, system: str, code: str, day: int, value: float, unit: str) -> dict[str, Any]:
        return {
            "resourceType": "Observation",
            "id": f"{self.name}-{code}-{day}-{'x' if unit == 'mg/dL' else 'v'}",
            "status": "final",
            "subject": {"reference": f"Patient/{self.name}"},
            "code": {"coding": [{"system": system, "code": code}]},
            "effectiveDateTime": self.on(day),
            "valueQuantity": {"value": value, "unit": unit, "system": _UCUM, "code": unit},
        }


def people(n: int = 120, seed: int = 5) -> list[Measured]:
    """Whoever has many copies starts sooner. ECOG is measured at index and on days 40, 45, 46 and 120."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        copies = {day: float(round(random.lognormal(6, 2))) for day in (7, 14, 28, 60)}
        if i % 5 == 0:
            copies[28] = copies[14]  # nothing changes then
        if i % 7 == 0:
            copies[60] = 0.0
        ecog = {day: float(random.integers(0, 4)) for day in (-3, 40, 45, 46, 120)}
        if i % 4 == 0:
            del ecog[-3]  # unknown at index
        if i % 6 == 0:
            del ecog[45]
        if i % 12 == 0:
            del ecog[40]  # unknown at the landmark, too
        soon = math.log1p(copies[28]) > 6
        start = int(random.integers(29, 90 if soon else 400))
        seen = int(random.integers(20, 700))
        died = seen if random.random() < 0.6 else None
        born = int(random.integers(1940, 1975))
        found.append(
            Measured(
                f"p{i:03d}",
                born=born,
                start=start if start < seen else None,
                seen=seen,
                died=died,
                ecog=ecog,
                copies=copies,
            )
        )
    return found


@dataclass(frozen=True)
class Whole:
    workspace: Workspace
    study: Study
    tables: StudyTables


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("over_time")
    lists = folder / "workspace" / "studies" / "codelists"
    lists.mkdir(parents=True)
    (lists / "copies.csv").write_text(
        f"system,code,display,source,valid_from,valid_to\n{_LOCAL},copies,copies,drawn,,\n", encoding="utf-8"
    )
    workspace, study = begin(folder, people(), covariates=COVARIATES, analyses=ANALYSES)
    return Whole(workspace, study, read_study(workspace.private_database, study))


def by_hand(tables: StudyTables, persons: Iterable[Measured]) -> CohortTable:
    """The cohort with ECOG as known on day 45, and copies as changes from 0 on: told from the people."""
    survival = tables.survival.sort_values(["time_days", "is_event", "start_day"])
    ages = tables.covariates.loc[survival.index, "age"]
    told = sorted(persons, key=lambda p: (p.seen, p.died is not None, p.start or math.inf))
    assert survival["time_days"].tolist() == [p.seen for p in told]
    ids = dict(zip((p.name for p in told), survival["patient_id"], strict=True))
    known = [max((day for day in p.ecog if day <= 45), default=None) for p in told]
    ecog = [math.nan if day is None else p.ecog[day] for p, day in zip(told, known, strict=True)]
    changes = [
        (ids[p.name], "copies", day, math.log1p(value))
        for p in told
        for day, value in sorted(p.copies.items())
    ]
    frame = pd.DataFrame(changes, columns=list(no_changes().columns))
    return CohortTable(
        survival.assign(age=ages, ecog=ecog).reset_index(drop=True),
        frame,
    )


def estimate(whole: Whole, kind: str) -> Estimate:
    protocol = whole.study.protocol
    found = run_analyses(protocol, whole.tables.cohort())
    return next(e for e in found.estimates if e.analysis == kind and e.estimand == "hazard_ratio")


def test_a_landmark_model_adjusts_for_what_was_known_then(whole: Whole) -> None:
    expected = landmark_cox(by_hand(whole.tables, people()), 45, ["age", "ecog"])
    e = estimate(whole, "landmark_cox")
    assert e.log_estimate == pytest.approx(expected.coefficients[0], abs=1e-9)
    assert e.se == pytest.approx(expected.se[0], abs=1e-9)
    followed = [p for p in people() if p.seen > 45]
    assert e.n == sum(any(day <= 45 for day in p.ecog) for p in followed) < len(followed)


def test_other_models_keep_the_value_at_index(whole: Whole) -> None:
    e = estimate(whole, "time_dependent_cox")
    assert e.n == sum(-3 in p.ecog for p in people())


def test_a_structural_model_is_weighted_by_copies_as_they_change(whole: Whole) -> None:
    """Copies are 0 before the first; the same value again, or one in a unit of no kind, changes nothing."""
    expected = marginal_structural_cox(by_hand(whole.tables, people()), ["age"], ["copies"]).hazard_ratio
    e = estimate(whole, "marginal_structural_model")
    assert e.n == 120
    assert e.log_estimate == pytest.approx(expected.log_estimate, abs=1e-9)
    assert e.se == pytest.approx(expected.se, abs=1e-9)
    without = marginal_structural_cox(by_hand(whole.tables, people()), ["age"]).hazard_ratio
    assert abs((without.log_estimate or 0) - (e.log_estimate or 0)) > 0.02


def test_only_what_an_analysis_takes_is_read_and_leaves_in_a_share(whole: Whole) -> None:
    """ECOG up to the last landmark (90: overlap is looked at there), copies to the end, nothing unused."""
    make_identity(whole.workspace)
    (leaves,) = outgoing(whole.workspace, whole.study, dates="exact")
    for changes in (whole.tables.changes, leaves.tables["change"].to_pandas()):
        assert set(changes["covariate"]) == {"ecog", "copies"}
        assert set(changes.loc[changes["covariate"] == "ecog", "day"]) == {40, 45, 46}
        assert set(changes.loc[changes["covariate"] == "copies", "day"]) == {7, 14, 28, 60}
