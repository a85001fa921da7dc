"""The sensitivity grid: what a protocol may ask for, what each rule does, and how it is shown."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from rwe.analyse.plan import run_analyses
from rwe.analyse.read import StudyTables, VariantTables
from rwe.analyse.run_grid import run_grid
from rwe.analyse.tasks import Findings
from rwe.errors import EvidenceError, StudyError
from rwe.evidence.contract import Parameters
from rwe.evidence.grid import GridRow, SensitivityGrid
from rwe.report.forest import forest_groups
from rwe.report.grid import grid as shown
from rwe.report.names import names_of
from rwe.resources import bundled
from rwe.study import Protocol, load_study
from rwe.study.grid import analysis_of
from rwe.study.lock import lock_study, read_lock
from rwe.study_words import explain
from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, SurvivalDataError, exposure_split, landmark_split
from rwe.survival.histories import with_salvage
from rwe.survival.lag import lagged
from tests.support import ROOT
from tests.unit.evidence_example import estimate, evidence
from tests.unit.test_survival_data import NEVER, table

NAME = "lenalidomide_after_car_t"
ADJUSTED = {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["age"]}
CLONES = {
    "analysis": "clone_censor_weight", "adjusted_for": ["age"], "replicates": 0, "horizon_days": 300,
}  # fmt: skip
LANDMARK = {"analysis": "landmark_cox", "landmarks": [40]}


def protocol_with(*grid: dict[str, Any], analyses: list[dict[str, Any]] | None = None) -> Protocol:
    """Progression is salvage's limit here; grace 60 days; administrations count."""
    content = yaml.safe_load((ROOT / "studies" / f"{NAME}.yaml").read_text())
    content["strategies"]["treated"]["grace_days"] = 60
    content |= {"subgroups": [], "analyses": analyses or [ADJUSTED, CLONES, LANDMARK]}
    return Protocol.model_validate(content | {"sensitivity_grid": list(grid)})


def cohort(n: int = 400, seed: int = 5) -> CohortTable:
    """Deaths at random in 600 days; half start, some of them only after progression (salvage)."""
    g = np.random.default_rng(seed)
    time = np.ceil(g.exponential(300, n)).clip(1, 600)
    start = np.floor(g.exponential(50, n))
    progression = np.ceil(g.exponential(200, n))
    starts = (g.random(n) < 0.6) & (start <= time)
    salvage = starts & (start >= progression)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i:04d}" for i in range(n)],
            "site": np.where(np.arange(n) % 2, "b", "a"),
            "time_days": time.astype(int),
            "is_event": g.random(n) < 0.7,
            "start_day": np.where(starts & ~salvage, start, np.nan),
            "salvage_start_day": np.where(salvage, start, np.nan),
            "progression_day": np.where(progression <= time, progression, np.nan),
            "end_reason": "death",
            "age": g.normal(60, 8, n),
        }
    )
    no_changes = pd.DataFrame({"patient_id": [], "covariate": [], "day": [], "value": []})
    kinds = {"patient_id": str, "covariate": str, "day": int, "value": float}
    return CohortTable(patients, no_changes.astype(kinds))


def tables_of(found: CohortTable, *variants: VariantTables) -> StudyTables:
    """As `read_study` gives them, as far as the grid takes them."""
    empty = pd.DataFrame()
    return StudyTables(
        survival=found.patients.drop(columns="age"),
        covariates=found.patients[["age"]],
        changes=found.changes,
        toxicity=empty,
        intercurrent=empty,
        copies=empty,
        expansion=empty,
        response=empty,
        attrition=[],
        runs=[],
        quality=[],
        resources={},
        quarantined={},
        last_updated={},
        data_cutoff=None,
        content_sha256="0",
        variants=variants,
    )


def run(
    found: CohortTable, *grid: dict[str, Any], variants: list[CohortTable] | None = None
) -> tuple[list[GridRow], Findings]:
    protocol = protocol_with(*grid)
    of_tables = [
        VariantTables(c, v.patients.drop(columns="age"), v.patients[["age"]], v.changes)
        for c, v in zip(protocol.sensitivity_grid, variants or [], strict=False)
    ]
    findings = run_analyses(protocol, found)
    made = run_grid(protocol, tables_of(found, *of_tables), findings)
    assert made is not None
    return made.rows, findings


def log_ratio(found: CohortTable) -> float | None:
    return exposure_cox(exposure_split(found, ["age"])).hazard_ratio().log_estimate


# What a protocol may ask for


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([{"rule": "gap_days", "value": 60}], "gap_days: 60 is the protocol's own rule"),
        ([{"rule": "grace_days", "value": 60}], "own rule"),
        ([{"rule": "exposure_tiers", "value": ["statement", "dispense", "administration"]}], "own rule"),
        ([{"rule": "censoring", "value": "last_activity"}], "own rule"),
        ([{"rule": "death_without_date", "value": "last_contact"}], "own rule"),
        ([{"rule": "lag_days", "value": 0}], "greater than or equal to 1"),
        ([{"rule": "lag_days", "value": 30}] * 2, "sensitivity_grid has 'lag_days: 30' twice"),
        ([{"rule": "washout", "value": 30}], "washout"),
        ([{"rule": "censoring", "value": "data_cutoff", "days": 3}], "extra"),
        ([{"rule": "exposure_tiers", "value": []}], "at least 1"),
    ],
)
def test_an_entry_that_changes_nothing_or_is_none_is_refused(
    entries: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        protocol_with(*entries)
    assert told.lower() in str(caught.value).lower()


def test_the_own_grace_of_the_analysis_is_what_an_entry_must_change() -> None:
    """The protocol has 60 days, the analysis 90: to try 60 changes something, to try 90 does not."""
    ninety = [{**CLONES, "grace_days": 90}]
    assert protocol_with({"rule": "grace_days", "value": 60}, analyses=ninety).sensitivity_grid
    with pytest.raises(ValidationError, match="grace_days: 90 is the protocol's own rule"):
        protocol_with({"rule": "grace_days", "value": 90}, analyses=ninety)
    study = load_study(ROOT / "studies" / f"{NAME}.yaml")
    asked = protocol_with({"rule": "grace_days", "value": 60}, analyses=ninety)
    said = explain(replace(study, protocol=asked))["Sensitivity grid"]
    assert said == ["Grace of 60 days instead of 90 days: clone censor weight is rerun."]


@pytest.mark.parametrize("rule", ["grace_days", "landmark"])
def test_a_rule_that_no_analysis_knows_is_refused(rule: str) -> None:
    with pytest.raises(ValidationError, match=f"no analysis of this study with a hazard ratio knows {rule}"):
        protocol_with({"rule": rule, "value": 100}, analyses=[ADJUSTED])


def test_salvage_is_no_rule_where_every_start_counts() -> None:
    content = protocol_with({"rule": "salvage", "value": "counts_as_start"}).model_dump(mode="json")
    content["strategies"]["treated"]["unless_progressed"] = False
    with pytest.raises(ValidationError, match="no start is salvage"):
        Protocol.model_validate(content)


def test_a_mistake_in_an_entry_is_named_by_its_place(tmp_path: Path) -> None:
    shutil.copytree(bundled("studies"), tmp_path / "studies")
    path = tmp_path / "studies" / f"{NAME}.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("{rule: lag_days, value: 30}", "{rule: lag_days, value: soon}"))
    with pytest.raises(StudyError, match=r"sensitivity_grid #5\.value: "):
        load_study(path)


def test_the_primary_analysis_is_rerun_unless_it_does_not_know_the_rule() -> None:
    analyses = load_study(ROOT / "studies" / f"{NAME}.yaml").protocol.analyses
    tried = {rule: analysis_of(rule, analyses) for rule in ("exposure_tiers", "lag_days", "grace_days")}
    assert [a.role for a in tried.values() if a] == ["primary", "primary", "sensitivity"]
    assert tried["grace_days"] is not None
    assert (tried["grace_days"].analysis, tried["grace_days"].compared_with) == (
        "clone_censor_weight",
        "no_start_by_grace",
    )
    landmark = analysis_of("landmark", analyses)
    assert landmark is not None
    assert landmark.adjusted_for  # the adjusted one, though another stands before it


def test_a_protocol_without_a_grid_keeps_its_hash(tmp_path: Path) -> None:
    shutil.copytree(bundled("studies"), tmp_path / "studies")
    path = tmp_path / "studies" / f"{NAME}.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.index("sensitivity_grid:")], encoding="utf-8")
    content = load_study(path).content()["protocol"]
    assert "sensitivity_grid" not in content
    assert all("weighted_for" not in e for e in content["intercurrent_events"])


# What each rule does


def test_a_rule_that_bites_nobody_gives_the_primary_estimate_to_the_last_digit() -> None:
    found = cohort()
    (own, row), findings = run(found, {"rule": "gap_days", "value": 30}, variants=[found])
    assert row.changed == 0
    assert (row.estimate, row.ci_low, row.ci_high, row.n, row.events) == (
        own.estimate,
        own.ci_low,
        own.ci_high,
        own.n,
        own.events,
    )
    primary = next(e for e in findings.estimates if e.role == "primary")
    assert own.estimate == primary.estimate


def test_a_changed_cohort_is_analysed_as_the_primary_analysis_would() -> None:
    found = cohort()
    without = found.patients.assign(start_day=found.patients["start_day"].where(found.patients.index % 3 > 0))
    lost = found.patients["start_day"].notna() & without["start_day"].isna()
    fewer = CohortTable(without, found.changes)
    (_, row), findings = run(found, {"rule": "exposure_tiers", "value": ["administration"]}, variants=[fewer])
    assert row.changed == int(lost.sum())
    assert row.estimate == pytest.approx(np.exp(log_ratio(fewer)), rel=1e-12)
    variant = findings.estimates[-1]
    assert (variant.role, variant.parameters.variant) == ("sensitivity", "exposure_tiers: administration")
    assert variant.estimate == row.estimate


def test_patients_who_leave_the_cohort_count_as_changed() -> None:
    found = cohort()
    rest = CohortTable(found.patients.iloc[7:].reset_index(drop=True), found.changes)
    (_, row), _ = run(found, {"rule": "death_without_date", "value": "exclude"}, variants=[rest])
    assert (row.changed, row.n) == (7, 393)


def test_a_cohort_that_a_rule_leaves_empty_is_a_refused_row() -> None:
    found = cohort()
    nobody = CohortTable(found.patients.iloc[:0], found.changes)
    (own, row), _ = run(found, {"rule": "death_without_date", "value": "exclude"}, variants=[nobody])
    assert (row.estimate, row.n, row.changed) == (None, 0, 400)
    assert row.reason
    assert own.estimate is not None


def test_salvage_and_lag_are_what_their_tables_give() -> None:
    found = cohort()
    (own, salvage, lag), _ = run(
        found, {"rule": "salvage", "value": "counts_as_start"}, {"rule": "lag_days", "value": 30}
    )
    assert salvage.estimate == pytest.approx(np.exp(log_ratio(with_salvage(found))), rel=1e-12)
    assert salvage.changed == int(found.patients["salvage_start_day"].notna().sum())
    assert lag.estimate == pytest.approx(np.exp(log_ratio(lagged(found, 30))), rel=1e-12)
    assert lag.changed == int(found.patients["start_day"].notna().sum())
    assert len({own.estimate, salvage.estimate, lag.estimate}) == 3


def test_grace_and_landmark_are_tried_on_the_analyses_that_know_them() -> None:
    found = cohort()
    rows, findings = run(found, {"rule": "landmark", "value": 90}, {"rule": "grace_days", "value": 30})
    clones, shorter, landmark, later = rows
    assert [r.analysis for r in rows] == ["clone_censor_weight"] * 2 + ["landmark_cox"] * 2
    assert [clones.rule, shorter.rule] == [None, "grace_days"]
    by_hand = exposure_cox(landmark_split(found, 90)).hazard_ratio()
    assert (later.landmark_day, landmark.landmark_day) == (90, 40)
    assert later.estimate == by_hand.estimate
    alone = run_analyses(protocol_with(analyses=[{**CLONES, "grace_days": 30}]), found)
    thirty = next(e for e in alone.estimates if e.estimand == "hazard_ratio")
    assert shorter.estimate == thirty.estimate
    assert shorter.estimate != clones.estimate
    # Only the ratio of a variant joins the evidence: no curve, no survival, no weights of it.
    variants = [e for e in findings.estimates if e.parameters.variant]
    assert {e.estimand for e in variants} == {"hazard_ratio"}
    assert len(findings.weights) == 1


def test_another_grace_is_tried_where_the_analysis_has_one_of_its_own() -> None:
    """Its own 90 days would go before the value tried: three rows, and all of them of 90 days."""
    found = cohort()
    grid = [{"rule": "grace_days", "value": v} for v in (30, 120)]
    protocol = protocol_with(*grid, analyses=[{**CLONES, "grace_days": 90}])
    findings = run_analyses(protocol, found)
    made = run_grid(protocol, tables_of(found), findings)
    assert made is not None
    own, shorter, longer = made.rows
    assert [shorter.own_value, longer.own_value] == ["90", "90"]
    assert len({own.estimate, shorter.estimate, longer.estimate}) == 3
    variants = [e for e in findings.estimates if e.parameters.variant]
    assert [e.parameters.grace_days for e in variants] == [30, 120]
    alone = run_analyses(protocol_with(analyses=[{**CLONES, "grace_days": 30}]), found)
    assert shorter.estimate == next(e for e in alone.estimates if e.estimand == "hazard_ratio").estimate


def test_the_own_row_is_of_the_analysis_with_the_same_grace() -> None:
    found = cohort()
    analyses = [{**CLONES, "grace_days": 90}, CLONES]
    protocol = protocol_with({"rule": "grace_days", "value": 30}, analyses=list(reversed(analyses)))
    findings = run_analyses(protocol, found)
    findings.estimates.reverse()  # whichever stands first
    made = run_grid(protocol, tables_of(found), findings)
    assert made is not None
    sixty = next(
        e for e in findings.estimates if e.parameters.grace_days == 60 and e.estimand == "hazard_ratio"
    )
    assert made.rows[0].estimate == sixty.estimate


def test_where_the_primary_analysis_was_downgraded_its_stand_in_is_rerun() -> None:
    few = cohort(14, seed=3)
    (own, row), findings = run(few, {"rule": "gap_days", "value": 30}, variants=[few])
    answer = next(e for e in findings.estimates if e.role == "primary")
    assert (answer.analysis, answer.downgraded_from) == ("time_dependent_firth", "time_dependent_cox")
    assert own.analysis == row.analysis == "time_dependent_firth"
    assert own.estimate == row.estimate == answer.estimate


def test_exposure_with_a_lag_by_hand() -> None:
    """Started on day 10: exposed from day 40 on. Followed to day 40 or less: never exposed."""
    given = table(
        [
            ("a", 100, True, 10),
            ("b", 40, True, 10),
            ("c", 39, False, 10),
            ("d", 41, True, 10),
            ("e", 9, True, NEVER),
        ]
    )
    assert lagged(given, 30).patients["start_day"].tolist() == pytest.approx(
        [40, NEVER, NEVER, 40, NEVER], nan_ok=True
    )
    with pytest.raises(SurvivalDataError):
        lagged(given, 0)


def test_a_variant_that_was_not_read_is_a_typed_error() -> None:
    with pytest.raises(EvidenceError, match="under gap_days: 30 was not read"):
        run(cohort(), {"rule": "gap_days", "value": 30})


# The lock, the words, the page


def test_an_entry_added_after_the_lock_is_posthoc_and_nothing_else(tmp_path: Path) -> None:
    shutil.copytree(bundled("studies"), tmp_path / "studies")
    path = tmp_path / "studies" / f"{NAME}.yaml"
    lock_study(load_study(path))
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "  - {rule: lag_days, value: 60}\n", encoding="utf-8")
    later = load_study(path)
    lock, p = read_lock(later), later.protocol
    assert lock.changed == ("sensitivity_grid",)
    assert not any(lock.is_posthoc(a) for a in p.analyses)
    (primary,) = [a for a in p.analyses if a.role == "primary"]
    told = [lock.is_posthoc_change(primary, c) for c in p.sensitivity_grid]
    assert told == [False] * (len(told) - 1) + [True]


def test_study_check_says_each_rule_and_what_is_rerun() -> None:
    said = " ".join(explain(load_study(ROOT / "studies" / f"{NAME}.yaml"))["Sensitivity grid"])
    for words in (
        "Only administrations (MedicationAdministration) count as evidence: the primary analysis",
        "until which the records of every site reach, and whoever is not recorded as dead by then is alive",
        "Deaths on no known day are excluded",
        "Grace of 120 days instead of 180 days: clone censor weight is rerun.",
        "From the landmark of day 120: landmark cox is rerun.",
        "Exposed only from 30 days after the start on",
    ):
        assert words in said


def grid_row(**values: Any) -> GridRow:
    blank: dict[str, Any] = dict.fromkeys(GridRow.model_fields)
    blank |= {"analysis": "time_dependent_cox", "n": 100, "events": 40, "is_posthoc": False}
    return GridRow(**(blank | {"estimate": 0.5, "ci_low": 0.3, "ci_high": 0.8, "ci_level": 0.95} | values))


def test_the_page_shows_each_rule_beside_the_protocols_own() -> None:
    rows = [
        grid_row(),
        grid_row(
            rule="lag_days", value="30", own_value="0", variant="lag_days: 30", changed=12, estimate=0.61
        ),
        grid_row(
            rule="censoring",
            value="data_cutoff",
            own_value="last_activity",
            note="on 2024-05-01",
            changed=1,
            is_posthoc=True,
        ),
        grid_row(
            rule="death_without_date", value="exclude", own_value="last_contact", estimate=None,
            reason="nobody is at risk.", changed=100,
        ),
    ]  # fmt: skip
    found = shown(SensitivityGrid(rows=rows), names_of(protocol_with()))
    own, lag, censoring, deaths = found.lines
    assert (own.rule, own.text) == ("As the protocol says", "0.50 (0.30 to 0.80)")
    assert (lag.value, lag.own_value, lag.changed, lag.text[:4]) == (
        "30 days",
        "0 days",
        "12 patients",
        "0.61",
    )
    assert censoring.value == "on a day of cut-off (2024-05-01)"
    assert (censoring.changed, censoring.is_posthoc) == ("1 patient", True)
    assert (deaths.text, deaths.reason) == ("not estimable", "nobody is at risk.")
    assert "takes whoever is not recorded as dead" in found.notes[0]
    assert 'id="grid' in found.figure or 'href="#grid' in found.figure


def test_estimates_of_the_grid_stand_in_its_figure_and_not_in_the_forest() -> None:
    variant = estimate(parameters=Parameters(ties="efron", variant="lag_days: 30"))
    whole = evidence()
    added = whole.model_copy(update={"estimates": [*whole.estimates, variant]})
    names = replace(names_of(protocol_with()), strategies={"maintenance": "Drug", "no_maintenance": "None"})
    assert forest_groups(added, names) == forest_groups(whole, names)
