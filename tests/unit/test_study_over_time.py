"""What a study file says of covariates over time, and which analyses follow them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from rwe.analyse.plan import run_analyses
from rwe.analyse.tasks import Task
from rwe.federate.plan import make_plan
from rwe.study import Protocol, load_study
from rwe.study.files import Study
from rwe.study_words import explain
from rwe.survival.data import CohortTable
from tests.support import ROOT
from tests.unit.test_plan import AGE, ECOG, WITH_STATUS, protocol_with, registry
from tests.unit.test_study_words import study_with
from tests.unit.test_survival_data import NEVER

COPIES = {
    "name": "copies",
    "kind": "observation",
    "label": "Copies",
    "codelist": "car_t",
    "transform": "log1p",
    "over_time": True,
    "before_first": 0,
}
STATUS = {**WITH_STATUS, "covariates": [*WITH_STATUS["covariates"], COPIES]}
ALL = ["age", "ecog", "responding", "copies"]


def task(kind: str, landmark: int | None = None, **asked: Any) -> Task:
    role = {"role": "contrast"} if kind.startswith("naive_") else {}
    p = protocol_with({"analysis": kind, "adjusted_for": ALL, **role, **asked}, **STATUS)
    return Task(p, p.analyses[0], registry(20), None, landmark)


@pytest.mark.parametrize(
    ("kind", "landmark", "changing"),
    [
        ("naive_cox", None, ["responding"]),
        ("landmark_cox", 180, ["ecog", "responding", "copies"]),
        ("landmark_weighting", 180, ["ecog", "responding", "copies"]),
        ("time_dependent_cox", None, ["responding", "copies"]),
        ("clone_censor_weight", None, ["responding", "copies"]),
        ("sequential_trials", None, ["responding", "copies"]),
        ("marginal_structural_model", None, ["responding", "copies"]),
    ],
)
def test_which_covariates_an_analysis_follows(kind: str, landmark: int | None, changing: list[str]) -> None:
    found = task(kind, landmark)
    assert found.time_varying == changing
    assert found.fixed == [n for n in ALL if n not in changing]
    assert found.at_index == ["age", "ecog", "copies"]


def test_an_event_is_weighted_for_what_is_followed_as_it_changes() -> None:
    relapse = {"name": "scan", "codelist": "car_t", "sources": ["procedure"]}
    relapse |= {"handling": "censored_with_weights", "weighted_for": ["ecog", "copies"]}
    p = protocol_with({"analysis": "time_dependent_cox"}, **STATUS, intercurrent_events=[relapse])
    (event,) = Task(p, p.analyses[0], registry(20), None).censoring_events
    assert (event.covariates, event.time_varying) == (("ecog",), ("copies",))
    assert p.needed_until() == {"copies": None}


def test_until_when_values_after_index_are_needed() -> None:
    """From a landmark on to the last of all landmarks, also of the grid; what is followed to the end."""
    landmark = {"analysis": "landmark_cox", "adjusted_for": ["ecog", "age"], "landmarks": [30, 90]}
    model = {"analysis": "time_dependent_cox", "adjusted_for": ["copies"], "role": "primary"}
    naive = {"analysis": "naive_cox", "adjusted_for": ["log_ldh"], "role": "contrast"}
    assert protocol_with(landmark, naive, **STATUS).needed_until() == {"ecog": 180}
    grid = [{"rule": "landmark", "value": 200}]
    p = protocol_with(landmark, model, **STATUS, sensitivity_grid=grid)
    assert p.needed_until() == {"copies": None, "ecog": 200}


def test_what_begins_somewhere_is_followed_and_has_the_logarithm_that_is_asked_for() -> None:
    for wrong, said in (
        ({"over_time": False}, "before_first needs over_time"),
        ({"transform": "log"}, "before_first 0 has no log"),
        ({"before_first": -1}, "before_first -1 has no log1p"),
    ):
        with pytest.raises(ValidationError, match=said):
            protocol_with({"analysis": "mantel_byar"}, covariates=[{**COPIES, **wrong}])


def test_a_study_that_follows_nothing_keeps_its_hash() -> None:
    bundled = load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")
    content = bundled.protocol.model_dump(mode="json")
    (ldh,) = (c for c in content["covariates"] if c["name"] == "ldh")
    hashes = set()
    for extra in ({}, {"over_time": False, "before_first": None}, {"over_time": True}):
        ldh.update(extra)
        hashes.add(replace(bundled, protocol=Protocol.model_validate(content)).protocol_sha256)
    assert bundled.protocol_sha256 in hashes
    assert len(hashes) == 2


def said(kind: str, **asked: Any) -> tuple[str, str]:
    """What `rwe study check` says of the covariate, and of the analyses."""
    study = study_with({"analysis": kind, "adjusted_for": ["copies"], **asked}, covariates=[COPIES])
    found = explain(study)
    return " ".join(found["Covariates"]), " ".join(found["Analyses"])


def test_it_is_said_what_follows_time_and_what_a_model_adjusts_away() -> None:
    covariate, model = said("time_dependent_cox")
    assert "natural logarithm of 1 + the value" in covariate
    assert "Where there is none it is 0. Later values take its place as they come" in covariate
    note = "adjust for copies after the start, too: an effect by way of it is not part of their ratio"
    assert note in model
    frozen = said("time_dependent_cox", status_after_start="freeze", variance="robust")[1]
    assert note not in frozen
    assert note not in said("marginal_structural_model")[1]
    other = explain(study_with({"analysis": "mantel_byar"}, covariates=[{**ECOG, "codelist": "ecog"}]))
    assert "From a landmark on, the last value by then" in " ".join(other["Covariates"])


def test_an_estimate_names_a_measured_value_that_may_take_a_part_of_the_effect() -> None:
    cohort = registry(150)
    cohort = CohortTable(cohort.patients.assign(copies=cohort.patients["ecog"]), cohort.changes)
    model = {"analysis": "time_dependent_cox", "adjusted_for": ["age", "copies"]}
    (e,) = run_analyses(protocol_with(model, **STATUS), cohort).estimates
    assert any("by way of copies after the start" in a for a in e.assumptions)


def test_at_a_landmark_what_is_imputed_at_index_gives_way_to_what_was_measured_by_then() -> None:
    """Only a measured value is adjusted for: its gaps are imputed, but no value by the landmark is."""
    cohort = registry(150)
    patients = cohort.patients.assign(ecog=cohort.patients["ecog"].where(cohort.patients.index % 3 > 0))
    gaps = patients.loc[patients["ecog"].isna(), "patient_id"]
    asked = {"analysis": "landmark_cox", "adjusted_for": ["ecog"], "missing": "impute", "imputations": 3}
    later = pd.DataFrame({"patient_id": gaps, "covariate": "ecog", "day": 9, "value": 1.0})

    def run(changes: pd.DataFrame) -> Any:
        table = CohortTable(patients, pd.concat([cohort.changes, changes], ignore_index=True))
        (e,) = run_analyses(protocol_with(asked, **STATUS), table).estimates
        return e

    imputed, known = run(later.iloc[:0]), run(later)
    assert imputed.n == known.n
    assert not any("no imputed value moves it" in w for w in imputed.warnings)
    assert any("no imputed value moves it" in w for w in known.warnings)


def test_hub_and_sites_take_the_columns_in_one_order() -> None:
    p = protocol_with(
        {"analysis": "landmark_cox", "adjusted_for": ["ecog", "age", "responding"], "stratify_by": ["site"]},
        **STATUS,
    )
    bundled = load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")
    study = Study(p, dict.fromkeys(p.codelist_names(), bundled.codelists["ldh"]), bundled.path)
    rows = Task(p, p.analyses[0], registry(40), None, 180).rows()
    assert (
        make_plan(study, 0, 180).coefficients
        == ("exposed", *rows.names)
        == ("exposed", "age", "ecog", "responding")
    )


def test_a_start_can_be_compared_with_what_was_measured_by_its_day() -> None:
    frozen = {"analysis": "time_dependent_cox", "status_after_start": "freeze", "variance": "robust"}
    protocol_with({**frozen, "adjusted_for": ["copies"]}, covariates=[COPIES])
    with pytest.raises(ValidationError, match="adjusts for none"):
        protocol_with({**frozen, "adjusted_for": ["age"]}, covariates=[AGE, COPIES])


def test_who_has_no_value_at_index_is_left_out_of_what_begins_there() -> None:
    cohort = registry(60)
    copies = [NEVER if i < 10 else float(i % 3) for i in range(120)]
    p = protocol_with({"analysis": "marginal_structural_model", "adjusted_for": ["copies"]}, **STATUS)
    rows = Task(
        p, p.analyses[0], CohortTable(cohort.patients.assign(copies=copies), cohort.changes), None
    ).rows()
    assert (rows.n_dropped, rows.missing) == (10, (("copies", 10),))
