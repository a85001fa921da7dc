"""The counts and the baseline table say who the patients are."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from rwe.analyse.describe import baseline_table, describe_cohort, describe_sites
from rwe.analyse.read import StudyTables
from rwe.analyse.tasks import BalanceAfter
from rwe.errors import EvidenceError
from rwe.study import Codelist, Protocol, Study
from rwe.survival.data import no_changes
from rwe.survival.emulation import clone_censor_weight
from tests.support import ROOT
from tests.unit.test_plan import registry


def table(values: dict[str, Any], covariate: dict[str, Any]) -> dict[str, Any]:
    """The rows of one covariate by strategy; the first two of five patients started."""
    study, tables = cohort_of(values, covariates=[covariate])
    return {r.strategy: r for r in baseline_table(study, tables)}


def cohort_of(
    covariate_values: dict[str, Any], outcome: dict[str, Any] | None = None, **protocol: Any
) -> tuple[Study, StudyTables]:
    """Five patients of whom the first two started; `outcome` replaces columns, `protocol` fields."""
    content = yaml.safe_load((ROOT / "tests" / "cases_studies" / "tiny_7v9.yaml").read_text())
    content |= protocol
    content["analyses"] = [{"analysis": "mantel_byar"}]
    checked = Protocol.model_validate(content)
    lists = {name: Codelist(name, ()) for name in checked.codelist_names()}
    survival = pd.DataFrame(
        {
            "patient_id": list("abcde"),
            "site": "s",
            "time_days": [10, 20, 30, 40, 50],
            "is_event": True,
            "start_day": [1.0, 2.0, None, None, None],
            "salvage_start_day": None,
            "end_reason": "death",
            **(outcome or {}),
        }
    )
    tables = StudyTables(
        survival=survival,
        covariates=pd.DataFrame(covariate_values, index=survival.index, dtype=float),
        changes=no_changes(),
        toxicity=pd.DataFrame(columns=["patient_id", "toxicity", "day", "grade"]),
        intercurrent=pd.DataFrame(columns=["patient_id", "event", "day"]),
        copies=pd.DataFrame(columns=["patient_id", "day", "copies"]),
        expansion=pd.DataFrame(columns=["patient_id", "peak_copies"]),
        response=pd.DataFrame(columns=["patient_id", "status", "from_day", "until_day", "is_relapse"]),
        attrition=[],
        runs=[],
        quality=[],
        resources={"s": {"Patient": 5}},
        quarantined={"t": {"Patient": 336}},
        last_updated={},
        data_cutoff=date(2024, 1, 1),
        content_sha256="0" * 64,
    )
    return Study(checked, lists, ROOT), tables


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


def test_what_weights_leave_of_a_difference_stands_beside_it() -> None:
    covariates = [{"name": "age", "kind": "age_at_index"}, {"name": "sex", "kind": "sex"}]
    values = {"age": [61.0, 59.0, 40.0, 50.0, 60.0], "sex": [1, 0, 1, 1, 0]}
    study, tables = cohort_of(values, covariates=covariates)
    after = BalanceAfter("weights", {"age": 0.04, "sex": -0.01}, is_primary=True)
    found = {r.variable: r.smd_after for r in baseline_table(study, tables, after)}
    assert found == {"age": 0.04, "sex": -0.01}
    assert {r.smd_after for r in baseline_table(study, tables)} == {None}


def test_a_level_against_two_others_is_not_what_was_weighted() -> None:
    sex = {"name": "sex", "kind": "sex", "values": {"female": 2, "male": 1, "other": 0}}
    study, tables = cohort_of({"sex": [2, 1, 0, 1, 2]}, covariates=[sex])
    after = BalanceAfter("weights", {"sex": 0.5}, is_primary=True)
    assert {r.smd_after for r in baseline_table(study, tables, after)} == {None}


def test_the_clones_are_compared_as_they_are_weighted_beyond_grace() -> None:
    """By hand from the weighted rows: those at risk just after day 180, their covariates at index."""
    cohort = registry(100)
    found = clone_censor_weight(cohort, 180, ["age", "ecog"], horizon_days=400, replicates=0)
    rows = found.rows
    assert rows is not None
    at_grace = (rows.start <= 180) & (rows.stop > 180)
    age = cohort.patients["age"].to_numpy()[rows.patient[at_grace]]
    arm, weight = rows.arm[at_grace], rows.weight[at_grace]
    means = [np.average(age[arm == a], weights=weight[arm == a]) for a in (0, 1)]
    unit = np.sqrt((age[arm == 0].var(ddof=1) + age[arm == 1].var(ddof=1)) / 2)
    balance = {b.covariate: b for b in found.balance}
    assert balance["age"].after == pytest.approx((means[1] - means[0]) / unit)
    assert abs(balance["age"].after) < abs(balance["age"].before)


def test_one_patient_in_an_arm_has_no_deviation() -> None:
    found = table({"age": [61.0, None, 40.0, 50.0, 60.0]}, {"name": "age", "kind": "age_at_index"})
    assert found["maintenance"].sd is None
    assert found["maintenance"].smd_before is None


def test_salvage_is_a_first_start_after_progression_and_no_later_record_of_a_starter() -> None:
    # a: dispensed on day 1, progressed, given again on day 5. c: first given on day 12, after progression.
    outcome = {"salvage_start_day": [5.0, None, 12.0, None, None]}
    cohort = describe_cohort(*cohort_of({}, outcome, covariates=[]))
    assert (cohort.started_after_progression, cohort.resumed_after_progression) == (1, 1)
    assert cohort.n_by_strategy == {"maintenance": 2, "no_maintenance": 3}


def test_a_start_after_the_grace_period_is_counted_and_one_on_its_last_day_is_not() -> None:
    treated = {"name": "maintenance", "label": "M", "grace_days": 9, "unless_progressed": False}
    strategies = {"treated": treated, "control": {"name": "no_maintenance", "label": "No"}}
    outcome = {"start_day": [9.0, 10.0, None, 11.0, None]}
    cohort = describe_cohort(*cohort_of({}, outcome, covariates=[], strategies=strategies))
    assert cohort.started_after_grace == 2


def test_events_of_a_composite_are_told_apart_from_deaths() -> None:
    composite = {"name": "second", "codelist": "car_t", "sources": ["medication"], "handling": "composite"}
    outcome = {
        "is_event": [True, True, True, True, False],
        "end_reason": ["composite:second", "death", "composite:second", "death", "last_activity"],
    }
    cohort = describe_cohort(*cohort_of({}, outcome, covariates=[], intercurrent_events=[composite]))
    assert cohort.outcome == ["death", "second"]
    assert cohort.events_by_strategy == {"maintenance": 2, "no_maintenance": 2}
    assert cohort.deaths_by_strategy == {"maintenance": 1, "no_maintenance": 1}


def test_a_site_of_which_everything_is_quarantined_is_named() -> None:
    sites = {s.name: s for s in describe_sites(cohort_of({}, covariates=[])[1])}
    assert (sites["s"].patients, sites["s"].quarantined) == (5, {})
    assert (sites["t"].patients, sites["t"].quarantined) == (0, {"Patient": 336})


def test_a_covariate_cannot_stand_in_the_place_of_an_outcome() -> None:
    _, tables = cohort_of({"is_event": [0, 0, 0, 0, 0]}, covariates=[])
    with pytest.raises(EvidenceError, match="is_event"):
        tables.cohort()
