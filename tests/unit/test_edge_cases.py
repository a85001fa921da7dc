"""Every analysis on cohorts at the edge: a defined result or a refusal with a sentence.

Never a traceback, never a warning of numpy, never a number that is not finite; and where there is no number a
reader is told why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from rwe.analyse.autopsy import bias_autopsy
from rwe.analyse.diagnose import diagnose
from rwe.analyse.plan import Findings, run_analyses
from rwe.evidence.contract import Estimate
from rwe.study import AnalysisName, Protocol
from rwe.study.analyses import OPTIONS
from rwe.survival.data import CohortTable, no_changes
from tests.unit.test_plan import protocol_with

NAN = math.nan
NAMES: tuple[str, ...] = get_args(AnalysisName)
STATUS = {"name": "progressed", "kind": "disease_status", "label": "P", "status": "progressed"}
OBSERVED = [
    {"name": name, "kind": "observation", "label": name.upper(), "codelist": "car_t"} for name in ("x", "y")
]


def cohort(n: int = 16, **columns: Any) -> CohortTable:
    """Every other patient starts, on days 3 to 9; two of three die, on days 30 to 30 + n."""
    i = np.arange(n)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{k:02d}" for k in i],
            "site": np.where(i % 4 < 2, "north", "river"),
            "time_days": 30 + i,
            "is_event": i % 3 > 0,
            "start_day": np.where(i % 2 == 0, 3.0 + i % 7, NAN),
            "salvage_start_day": NAN,
            "progression_day": np.where(i % 5 == 0, 15.0 + i, NAN),
            "x": np.cos(i * 1.7),
            "y": (i % 4 == 1).astype(float),
        }
    ).assign(**columns)
    ever = patients["progression_day"].notna() & (patients["progression_day"] <= patients["time_days"])
    changes = pd.DataFrame(
        {
            "patient_id": patients["patient_id"][ever],
            "covariate": "progressed",
            "day": patients["progression_day"][ever].astype(int),
            "value": 1.0,
        }
    ).reset_index(drop=True)
    return CohortTable(patients, changes if len(changes) else no_changes())


def changed(how: Callable[[pd.DataFrame], dict[str, Any]], n: int = 16) -> CohortTable:
    return cohort(n, **how(cohort(n).patients))


I = np.arange(16)  # noqa: E741
EDGES: dict[str, CohortTable] = {
    "no event among those who start": changed(lambda p: {"is_event": p["is_event"] & p["start_day"].isna()}),
    "no event among the others": changed(lambda p: {"is_event": p["is_event"] & p["start_day"].notna()}),
    "one patient starts": changed(lambda p: {"start_day": p["start_day"].where(p["patient_id"] == "p04")}),
    "one patient does not": changed(lambda p: {"start_day": np.where(p["patient_id"] == "p05", NAN, 4.0)}),
    "nobody starts": cohort(start_day=NAN),
    "all events tied": cohort(time_days=40, is_event=True),
    "all censored": cohort(is_event=False),
    "no follow-up": cohort(time_days=0, start_day=NAN),
    "no follow-up, started on day 0": cohort(time_days=0, start_day=np.where(I % 2 == 0, 0.0, NAN)),
    "a covariate constant": cohort(y=1.0),
    "covariates collinear": changed(lambda p: {"y": 2 * p["x"] + 1}),
    "a covariate missing for all": cohort(y=NAN),
    "covariates missing for most": changed(lambda p: {"y": p["y"].where(p.index < 3)}),
    "a covariate that tells who starts": changed(lambda p: {"x": p["start_day"].notna() * 1.0}),
    "a covariate that tells who dies": changed(lambda p: {"x": p["is_event"] * 1.0}),
    "extreme weights": changed(
        lambda p: {
            "x": np.where(p["start_day"].notna(), 1.0, -1.0) * (1 + 1e-3 * I) * np.where(I == 5, -1, 1)
        }
    ),
    "covariate far from the others": changed(lambda p: {"x": np.where(I == 7, 1e9, p["x"])}),
    "two patients": cohort(2),
}


def asked(name: str) -> Iterator[dict[str, Any]]:
    """The analysis plain, and with what it can adjust for and repeat."""
    role = {"role": "contrast"} if name.startswith("naive_") else {}
    few = {"replicates": 5} if name in OPTIONS["replicates"] else {}
    none = (
        few if name == "landmark_aiptw" else {"replicates": 0} if few else {}
    )  # which has no other interval
    yield {"analysis": name, **role, **none}
    if name in OPTIONS["missing"]:
        fixed = ["x", "y"] if name == "landmark_competing_risks" else ["x", "y", "progressed"]
        yield {"analysis": name, **role, **few, "adjusted_for": fixed, "stratify_by": ["site"]}
        yield {
            "analysis": name, **role, **few, "adjusted_for": ["x", "y"], "missing": "impute", "imputations": 2
        }  # fmt: skip


def protocol_of(*analyses: dict[str, Any], **changes: Any) -> Protocol:
    content = {
        "covariates": [*OBSERVED, STATUS],
        "disease_status": {"codelist": "car_t", "responding": "car_t", "progressed": "car_t"},
        "landmarks": [10],
        "horizons": [20, 35],
        "strategies": {
            "treated": {"name": "on", "label": "On", "grace_days": 8, "unless_progressed": True},
            "control": {"name": "off", "label": "Off"},
        },
        "subgroups": [{"name": "by_x", "covariate": "x", "cut": 0}],
    }
    return protocol_with(*analyses, **{**content, **changes})


def is_defined(e: Estimate) -> None:
    where = (e.analysis, e.estimand, e.parameters.adjusted_for)
    for value in (e.estimate, e.log_estimate, e.se, e.ci_low, e.ci_high, e.p_value, e.df):
        assert value is None or math.isfinite(value), where
    may_be_certain = e.estimand in {"survival", "cumulative_incidence", "p_value"}
    assert e.se is None or e.se > 0 or (may_be_certain and e.se == 0), where
    assert e.p_value is None or 0 <= e.p_value <= 1, where
    if e.estimate is None:
        assert e.warnings, where
    elif "percentiles" not in (e.ci_method or ""):  # five replicates may all lie on one side
        assert e.ci_low is None or e.ci_low <= e.estimate * (1 + 1e-9) + 1e-9, where
        assert e.ci_high is None or e.ci_high >= e.estimate * (1 - 1e-9) - 1e-9, where
    for w in e.warnings:
        assert w.endswith("."), w
        assert not re.search(r"\b(nan|inf|None)\b", w), w


def all_defined(found: Findings) -> None:
    for e in found.estimates:
        is_defined(e)
    for refusal in found.refused:
        assert refusal.reason.endswith(".")
    for curve in found.curves:
        for point in curve.points:
            assert point.survival is None or 0 <= point.survival <= 1 + 1e-12


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_defined_result_or_a_sentence(name: str, edge: str) -> None:
    found = run_analyses(protocol_of(*asked(name)), EDGES[edge])
    assert found.estimates
    all_defined(found)


PRIMARIES = [
    "landmark_cox", "landmark_firth", "landmark_weighting", "time_dependent_cox", "time_dependent_firth",
    "clone_censor_weight", "sequential_trials", "marginal_structural_model",
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", PRIMARIES)
def test_one_primary_estimate_whatever_stands_in(name: str, edge: str) -> None:
    """With everything that stands beside it: diagnostics and the bias autopsy."""
    analysis = {"analysis": name, "role": "primary", "adjusted_for": ["x", "y"]}
    if name in OPTIONS["replicates"]:
        analysis["replicates"] = 0
    protocol, table = protocol_of(analysis), EDGES[edge]
    found = run_analyses(protocol, table)
    all_defined(found)
    (answer,) = [e for e in found.estimates if e.role == "primary" and e.estimand == "hazard_ratio"]
    assert answer.downgraded_from in (None, name)
    assert answer.downgraded_from == name or answer.analysis == name
    shown = diagnose(protocol, table, found)
    assert all(note.endswith(".") for note in shown.notes)
    steps = bias_autopsy(protocol, table, found.estimates).steps
    assert steps[0].step == "naive"
    assert all(s.hazard_ratio is None or math.isfinite(s.hazard_ratio) for s in steps)
