"""The baseline table says who the patients are."""

from __future__ import annotations

from datetime import date
from typing import Any

import pandas as pd
import pytest
import yaml

from rwe.analyse.describe import baseline_table
from rwe.analyse.read import StudyTables
from rwe.study import Codelist, Protocol, Study
from rwe.survival.data import no_changes
from tests.support import ROOT


def table(values: dict[str, Any], covariate: dict[str, Any]) -> dict[str, Any]:
    """The rows of one covariate by strategy; the first two of five patients started."""
    content = yaml.safe_load((ROOT / "tests" / "cases_studies" / "tiny_7v9.yaml").read_text())
    content["covariates"] = [covariate]
    content["analyses"] = [{"analysis": "mantel_byar"}]
    protocol = Protocol.model_validate(content)
    lists = {name: Codelist(name, ()) for name in protocol.codelist_names()}
    survival = pd.DataFrame(
        {
            "patient_id": list("abcde"),
            "site": "s",
            "time_days": [10, 20, 30, 40, 50],
            "is_event": True,
            "start_day": [1.0, 2.0, None, None, None],
            "salvage_start_day": None,
            "end_reason": "death",
            **values,
        }
    )
    tables = StudyTables(survival, no_changes(), [], [], [], {}, {}, date(2024, 1, 1), "0" * 64)
    return {r.strategy: r for r in baseline_table(Study(protocol, lists, ROOT), tables)}


@pytest.mark.parametrize(
    "codes", [{"female": 1, "male": 0}, {"female": 2, "male": 1}, {"female": 7, "male": -1}]
)
def test_sex_is_a_share_however_it_is_coded(codes: dict[str, int]) -> None:
    f, m = codes["female"], codes["male"]
    found = table({"sex": [f, m, f, f, None]}, {"name": "sex", "kind": "sex", "values": codes})
    assert (found["maintenance"].level, found["maintenance"].mean) == ("female", 0.5)
    control = found["no_maintenance"]
    assert (control.mean, control.n, control.missing) == (1.0, 2, 1)


def test_the_standardised_difference_divides_by_the_pooled_deviation() -> None:
    # Austin 2009: (60 - 50) / sqrt((2 + 100) / 2), computed by hand: variances 2 and 100.
    found = table({"age": [61.0, 59.0, 40.0, 50.0, 60.0]}, {"name": "age", "kind": "age_at_index"})
    assert found["maintenance"].smd_before == pytest.approx(10 / 51**0.5)
    assert (found["no_maintenance"].mean, found["no_maintenance"].sd) == (50.0, 10.0)
    assert (found["no_maintenance"].q1, found["no_maintenance"].median) == (45.0, 50.0)


def test_one_patient_in_an_arm_has_no_deviation() -> None:
    found = table({"age": [61.0, None, 40.0, 50.0, 60.0]}, {"name": "age", "kind": "age_at_index"})
    assert found["maintenance"].sd is None
    assert found["maintenance"].smd_before is None
