"""A study whose follow-up ends at an intercurrent event: weighted for it, or refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rwe.analyse.diagnose import diagnose
from rwe.analyse.plan import Findings, run_analyses
from rwe.report.specification import specification
from rwe.study import AnalysisName, Protocol, load_study
from rwe.study.possible import CARRY_WEIGHTS
from rwe.study_words import explain
from rwe.survival.data import CohortTable
from rwe.survival.intercurrent import CensoringEvent, event_weighted_cox
from tests.support import ROOT
from tests.unit.evidence_example import evidence
from tests.unit.test_study_words import study_with
from tests.unit.test_survival_intercurrent import cohort

TRANSPLANT = {
    "name": "transplant",
    "codelist": "car_t_infusion",
    "sources": ["procedure"],
    "handling": "censored_with_weights",
    "weighted_for": ["x", "worse"],
}
COVARIATES = [
    {"name": "x", "kind": "observation", "label": "X", "codelist": "ecog", "window": {"from_day": -30}},
    {"name": "worse", "kind": "disease_status", "label": "Worse", "status": "progressed"},
]


def protocol_with(*analyses: dict[str, Any], **event: Any) -> Protocol:
    content = yaml.safe_load((ROOT / "studies" / "lenalidomide_after_car_t.yaml").read_text())
    content["strategies"]["treated"] |= {"unless_progressed": False, "grace_days": 60}
    content |= {"covariates": COVARIATES, "subgroups": [], "sensitivity_grid": [], "landmarks": [60]}
    content |= {"intercurrent_events": [TRANSPLANT | event], "analyses": list(analyses)}
    return Protocol.model_validate(content)


@pytest.fixture(scope="module")
def patients() -> CohortTable:
    found = cohort(500, seed=31)
    return CohortTable(
        found.patients.assign(salvage_start_day=float("nan"), progression_day=float("nan")), found.changes
    )


def run(patients: CohortTable, *analyses: dict[str, Any]) -> Findings:
    return run_analyses(protocol_with(*analyses), patients)


def test_the_time_dependent_model_is_weighted_for_the_event(patients: CohortTable) -> None:
    (found,) = run(
        patients, {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["x"]}
    ).estimates
    by_hand = event_weighted_cox(patients, [CensoringEvent("transplant", ("x",), ("worse",))], ["x"])
    assert found.log_estimate == by_hand.fit.hazard_ratio().log_estimate
    assert found.method.startswith("Cox model weighted for intercurrent events: transplant")
    assert found.variance_method == "robust, clustered by patient"
    assert found.parameters.weight_model == "cox_of_events"


def test_the_weights_stand_among_the_diagnostics(patients: CohortTable) -> None:
    protocol = protocol_with({"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["x"]})
    (weights,) = diagnose(protocol, patients, run_analyses(protocol, patients)).weights
    assert (weights.strategy, weights.patients) == ("all_patients", 500)
    assert weights.model.startswith("Cox models of transplant, stabilised")
    assert weights.mean == pytest.approx(1.0, abs=0.1)  # as stabilised weights are, where the model is right
    assert 250 < weights.effective < 500


def test_weights_that_are_worth_too_few_patients_are_no_estimate(patients: CohortTable) -> None:
    few = CohortTable(patients.patients.iloc[:9], patients.changes[patients.changes["patient_id"] < "p00009"])
    (refusal,) = run(few, {"analysis": "time_dependent_cox"}).refused
    assert "too few for a weighted estimate" in refusal.reason


def test_the_rows_behind_a_weighted_primary_estimate_carry_its_weights(patients: CohortTable) -> None:
    primary = run(
        patients, {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["x"]}
    ).primary
    assert primary is not None
    assert primary.is_robust
    assert primary.data.weight.max() > 1.05


@pytest.mark.parametrize("kind", ["clone_censor_weight", "marginal_structural_model"])
def test_other_weights_are_multiplied_by_those_of_the_event(kind: str, patients: CohortTable) -> None:
    asked: dict[str, Any] = {"analysis": kind, "adjusted_for": ["x", "worse"]}
    if kind == "clone_censor_weight":
        asked |= {"replicates": 0}
    weighted = next(e for e in run(patients, asked).estimates if e.estimand == "hazard_ratio")
    policy = protocol_with(asked, handling="treatment_policy", weighted_for=[])
    plain = next(e for e in run_analyses(policy, patients).estimates if e.estimand == "hazard_ratio")
    assert weighted.status == plain.status == "ok"
    assert weighted.estimate != pytest.approx(plain.estimate, rel=1e-6)
    assert weighted.n == plain.n


@pytest.mark.parametrize("kind", sorted(set(AnalysisName.__args__) - set(CARRY_WEIGHTS)))  # type: ignore[attr-defined]
def test_an_analysis_without_such_weights_is_refused_with_a_sentence(
    kind: str, patients: CohortTable
) -> None:
    role = "contrast" if kind.startswith("naive_") else "sensitivity"
    findings = run(patients, {"analysis": kind, "role": role})
    assert {e.status for e in findings.estimates} == {"refused"}
    (refusal,) = findings.refused
    assert (
        "follow-up ends at transplant, which is weighted for, and this analysis carries no" in refusal.reason
    )
    assert "time_dependent_cox" in refusal.reason


def test_a_start_day_comparison_and_other_covariates_are_refused(patients: CohortTable) -> None:
    frozen = {
        "analysis": "time_dependent_cox", "adjusted_for": ["worse"], "status_after_start": "freeze",
        "variance": "robust",
    }  # fmt: skip
    (refusal,) = run(patients, frozen).refused
    assert "comparisons that each begin at a start carry no such weights" in refusal.reason
    (refusal,) = run(patients, {"analysis": "marginal_structural_model", "adjusted_for": ["x"]}).refused
    assert "transplant is weighted for worse, which the weights of starting leave out" in refusal.reason


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"weighted_for": []}, "weighted_for goes with the handling censored_with_weights"),
        ({"handling": "composite"}, "weighted_for goes with the handling censored_with_weights"),
        ({"weighted_for": ["height"]}, "transplant is weighted for 'height', no covariate"),
        ({"weighted_for": ["x", "x"]}, "weighted_for has 'x' twice"),
    ],
)
def test_weights_are_named_with_their_covariates(event: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        protocol_with({"analysis": "time_dependent_cox"}, **event)


def test_study_check_and_the_report_say_what_becomes_of_the_event() -> None:
    event = TRANSPLANT | {"weighted_for": ["ldh", "progressed"]}
    study = study_with(
        {"analysis": "time_dependent_cox"}, {"analysis": "mantel_byar"}, intercurrent_events=[event]
    )
    said = explain(study)
    outcome, analyses = " ".join(said["Outcome"]), " ".join(said["Analyses"])
    assert "follow-up ends, and whoever goes on is weighted by the inverse probability" in outcome
    assert "given exposure and ldh, progressed" in outcome
    assert "mantel_byar will be refused" in analyses
    parts = specification(evidence(), study.protocol)
    told = str(parts)
    assert "who goes on is weighted for it (hypothetical strategy)" in told


def test_the_bundled_study_handles_its_event_by_treatment_policy() -> None:
    bundled = load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")
    assert bundled.protocol.censoring_events() == []
