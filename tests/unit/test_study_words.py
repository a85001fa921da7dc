"""`rwe study check` explains every analysis, option and part that a protocol can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from rwe.study import AnalysisName, Protocol, load_study
from rwe.study.analyses import OPTIONS
from rwe.study.files import Codelist, Study
from rwe.study_words import explain
from rwe.survival.negative_controls import FEWEST_CONTROLS
from tests.support import ROOT

BUNDLED = load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")


def study_with(*analyses: dict[str, Any], **fields: Any) -> Study:
    """The bundled study with other analyses; `fields` replace parts of its protocol."""
    bare: dict[str, Any] = {
        "sensitivity_grid": [],
        "subgroups": [],
        "toxicities": [],
        "cart_copies": None,
        "chart_review": None,
    }
    content = BUNDLED.protocol.model_dump(mode="json") | bare | {"analyses": list(analyses)} | fields
    protocol = Protocol.model_validate(content)
    any_list: Codelist = BUNDLED.codelists["ldh"]
    lists = {name: BUNDLED.codelists.get(name, any_list) for name in protocol.codelist_names()}
    return Study(protocol=protocol, codelists=lists, path=Path("studies/x.yaml"))


@pytest.mark.parametrize("kind", get_args(AnalysisName))
def test_every_analysis_is_explained(kind: AnalysisName) -> None:
    role = "contrast" if kind.startswith("naive_") else "sensitivity"
    said = explain(study_with({"analysis": kind, "role": role}))["Analyses"][0]
    assert said.startswith(f"{role}: ")
    assert "_" not in said
    assert ("at days 60, 90, 180" in said) is kind.startswith("landmark_")
    assert ("up to day 730" in said) is (kind in OPTIONS["horizon_days"])
    assert ("500 bootstrap replicates" in said) is (kind in OPTIONS["replicates"])


def test_what_clone_censor_weight_was_asked_with_is_said() -> None:
    asked = {
        "analysis": "clone_censor_weight", "adjusted_for": ["age"], "stratify_by": ["site"], "grace_days": 90,
        "compared_with": "never", "weight_model": "logistic", "weight_for_loss": True,
        "truncate_percentile": 99, "replicates": 0, "horizon_days": 400, "salvage": "counts_as_start",
    }  # fmt: skip
    said = explain(study_with(asked))["Analyses"][0]
    for words in (
        "start by day 90 against never starting",
        "weighted for age, with site in the weights",
        "treated weights by a logistic model",
        "weighted for loss to follow-up, too",
        "weights cut at percentile 99",
        "up to day 400",
        "no bootstrap",
        "a first start after progression counts, too",
    ):
        assert words in said, words


def test_the_grace_period_is_said_to_be_unused_only_where_no_analysis_uses_it() -> None:
    cox, emulated = {"analysis": "time_dependent_cox"}, {"analysis": "clone_censor_weight"}
    notes = [" ".join(explain(study_with(*a))["Analyses"]) for a in ((cox,), (cox, emulated), (emulated,))]
    assert "no analysis applies the grace period" in notes[0]
    assert "only clone_censor_weight applies the grace period" in notes[1]
    assert "applies the grace period" not in notes[2]


def test_another_outcome_and_the_kind_of_weights_are_said() -> None:
    progression_free = {"analysis": "time_dependent_cox", "endpoint": "progression_free_survival"}
    weighted = {"analysis": "landmark_weighting", "weights": "iptw"}
    said = explain(study_with(progression_free, weighted))["Analyses"]
    assert "of progression-free survival (death or progression, whichever is first)" in said[0]
    assert "inverse probability of treatment" in said[1]


def test_what_becomes_of_missing_covariates_is_said() -> None:
    asked = {"analysis": "time_dependent_cox", "adjusted_for": ["age"]}
    imputes = {**asked, "missing": "impute", "imputations": 40}
    status = {"analysis": "time_dependent_cox", "adjusted_for": ["progressed"]}
    left_out, imputed, none_missing, bare = explain(
        study_with(asked, imputes, status, {"analysis": "time_dependent_cox"})
    )["Analyses"][:4]
    assert "without patients who lack a baseline covariate" in left_out
    assert "missing baseline covariates imputed 40 times" in imputed
    assert "lack" not in imputed + none_missing + bare


def test_negative_controls_have_their_heading() -> None:
    events = [
        {"name": name, "codelist": "ldh", "sources": ["condition"], "handling": handling}
        for name, handling in (("cataract", "treatment_policy"), ("relapse", "composite"))
    ]
    parts = {"intercurrent_events": events, "negative_controls": ["cataract"]}
    primary = {"analysis": "time_dependent_cox", "role": "primary"}
    said = explain(study_with(primary, **parts))["Negative controls"]
    assert said[0].startswith("cataract: no effect is expected")
    assert "before it (death, relapse) censors" in said[0]
    assert FEWEST_CONTROLS == 3
    assert said[1].startswith("From three of them")
    (unused,) = explain(study_with({"analysis": "mantel_byar"}, **parts))["Negative controls"]
    assert unused == "cataract: not run, for no analysis is primary."
    assert "Negative controls" not in explain(study_with(primary))


def test_toxicities_kinetics_subgroups_and_reviews_have_their_headings() -> None:
    parts: dict[str, Any] = {
        "toxicities": [
            {"name": "low_neutrophils", "adverse_event": "neutropenia", "codelist": "neutrophils"}
        ],
        "cart_copies": {"codelist": "copies", "unit": "{copies}/ug"},
        "subgroups": [{"name": "older", "covariate": "age", "cut": 65}],
        "chart_review": {"starts": {"confirmed": 46, "reviewed": 50}},
    }
    said = explain(study_with({"analysis": "mantel_byar"}, **parts))
    assert said["Toxicities"][0].startswith(
        "low_neutrophils: neutropenia, graded day by day from neutrophils ("
    )
    assert "in {copies}/ug (another unit is missing)" in said["Kinetics"][0]
    assert said["Subgroups"] == ["older: age below 65, and 65 and above; with a test of interaction."]
    assert said["Chart review"][0] == "Of 50 recorded starts, 46 confirmed."
    assert len(said["Chart review"]) == 2
    bare = explain(study_with({"analysis": "mantel_byar"}))
    assert not {"Toxicities", "Kinetics", "Subgroups", "Chart review"} & set(bare)
