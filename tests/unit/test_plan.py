"""What the plan of analyses says of data that carry little: refused, null, or warned, never quietly ok."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from rwe.analyse.plan import CONFOUNDED, DILUTED, NO_GROUP, Findings, run_analyses
from rwe.analyse.positivity import positivity_at_landmarks
from rwe.evidence.contract import Estimate
from rwe.sandbox.truth import Truth, latent_table, simulate_patients
from rwe.simulate import coverage
from rwe.simulate.scenarios import cohort_table
from rwe.study import Protocol
from rwe.survival.data import CohortTable
from tests.support import ROOT
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_data import NEVER, table

AGE = {"name": "age", "kind": "age_at_index"}
ECOG = {"name": "ecog", "kind": "observation", "label": "ECOG", "codelist": "car_t"}


def protocol_with(*analyses: dict[str, Any], **protocol: Any) -> Protocol:
    content = yaml.safe_load((ROOT / "tests" / "cases_studies" / "tiny_7v9.yaml").read_text())
    content |= {"covariates": [AGE, ECOG], "landmarks": [30], "horizons": [50], **protocol}
    content["analyses"] = list(analyses)
    return Protocol.model_validate(content)


def run(cohort: CohortTable, *analyses: dict[str, Any], **protocol: Any) -> Findings:
    return run_analyses(protocol_with(*analyses, **protocol), cohort)


def one(cohort: CohortTable, analysis: str, **asked: Any) -> Estimate:
    protocol = asked.pop("protocol", {})
    (found,) = run(cohort, {"analysis": analysis, **asked}, **protocol).estimates
    return found


def eight(**covariates: list[float]) -> CohortTable:
    """Four start on day 5; everybody dies, between days 20 and 42."""
    rows = [(f"e{i}", 20 + 7 * i, True, 5.0) for i in range(4)]
    rows += [(f"u{i}", 21 + 7 * i, True, NEVER) for i in range(4)]
    return table(rows, **covariates)


def nobody_starts() -> CohortTable:
    return table([(f"u{i}", 21 + 7 * i, True, NEVER) for i in range(4)])


MISSING = {"age": [60.0, 50, 70, NEVER, 55, 65, 45, 40], "ecog": [NEVER] * 8}


def test_a_model_that_missing_covariates_empty_says_which_are_missing_in_how_many() -> None:
    cohort = eight(**MISSING)
    found = run(cohort, {"analysis": "time_dependent_cox", "adjusted_for": ["age", "ecog"]})
    (e,), (refusal,) = found.estimates, found.refused
    assert (e.status, e.estimate, e.n) == ("refused", None, 0)
    assert e.warnings == [
        "8 patients were left out because a covariate is missing (age, ecog).",
        "no patient has all covariates (age missing in 1, ecog missing in 8, of 8).",
    ]
    assert refusal.reason == e.warnings[1]


def test_a_refused_model_still_says_who_was_left_out() -> None:
    ages = [60.0, NEVER, NEVER, NEVER, 55, 65, 45, 40]
    rows = eight(age=ages).patients.assign(is_event=False)
    e = one(CohortTable(rows, eight().changes), "time_dependent_cox", adjusted_for=["age"])
    assert e.status == "refused"
    assert e.warnings[0] == "3 patients were left out because a covariate is missing (age)."
    assert "no event" in e.warnings[1]


@pytest.mark.parametrize(
    ("analysis", "role"),
    [
        ("naive_logrank", "contrast"),
        ("landmark_logrank", "sensitivity"),
        ("mantel_byar", "sensitivity"),
        ("time_dependent_cox", "sensitivity"),
        ("landmark_cox", "sensitivity"),
    ],
)
def test_where_nobody_started_nothing_is_compared(analysis: str, role: str) -> None:
    days = {"landmarks": [22]} if analysis.startswith("landmark") else {}
    found = run(nobody_starts(), {"analysis": analysis, "role": role, **days})
    (e,), (refusal,) = found.estimates, found.refused
    n = 3 if analysis.startswith("landmark") else 4
    assert (e.status, e.estimate, refusal.reason) == ("refused", None, f"nobody started (0 of {n}).")


def test_a_test_without_a_statistic_is_refused() -> None:
    # The exposed are at risk only after the last death of the others, and none of them dies.
    cohort = table([("a", 90, False, 30.0), ("b", 80, False, 30.0), ("c", 20, True, NEVER)])
    found = run(cohort, {"analysis": "mantel_byar"})
    assert found.estimates[0].status == "refused"
    assert "no test" in found.refused[0].reason


def test_survival_beyond_all_follow_up_is_null_and_says_so() -> None:
    rows = [("a", 90, False, 10.0), ("b", 50, True, 5.0), ("c", 70, False, NEVER), ("d", 80, True, NEVER)]
    found = run(table(rows), {"analysis": "landmark_kaplan_meier"}, horizons=[40, 55]).estimates
    early, late = (
        next(e for e in found if e.parameters.time_days == day and e.contrast.strategy == "maintenance")
        for day in (40, 55)
    )
    # Followed from the landmark of day 30: 60 days for a, 20 for b. Both curves end above 0.
    assert early.estimate == 0.5
    assert (early.parameters.time_origin_day, early.contrast.groups) == (30, "started_by_landmark")
    beyond = next(
        e for e in run(table(rows), {"analysis": "landmark_kaplan_meier"}, horizons=[61]).estimates
        if e.estimand == "survival" and e.contrast.strategy == "maintenance"
    )  # fmt: skip
    assert late.estimate == 0.5
    assert (beyond.estimate, beyond.se, beyond.ci_low, beyond.ci_high) == (None, None, None, None)
    assert beyond.warnings == [
        "Nobody was followed until 61 days after the landmark, so there is no estimate."
    ]


def test_a_value_of_changing_groups_is_no_groups_survival_and_says_so() -> None:
    found = run(eight(), {"analysis": "simon_makuch"}, horizons=[25]).estimates
    assert len(found) == 2
    assert all(NO_GROUP in e.warnings and e.parameters.time_origin_day == 0 for e in found)


def test_an_unadjusted_ratio_is_called_confounded_unless_it_is_called_biased() -> None:
    ages = [60.0, 50, 70, 62, 55, 65, 45, 40]
    cohort = eight(age=ages)
    assert CONFOUNDED in one(cohort, "time_dependent_cox").warnings
    assert CONFOUNDED in one(cohort, "landmark_cox", landmarks=[6]).warnings
    assert CONFOUNDED not in one(cohort, "time_dependent_cox", adjusted_for=["age"]).warnings
    assert CONFOUNDED not in one(cohort, "naive_cox", role="contrast").warnings


def test_freezing_the_status_keeps_an_effect_through_it_and_tells_its_price() -> None:
    rows = [(f"e{i}", 60 + 9 * i, True, 10.0 + i) for i in range(8)]
    rows += [(f"u{i}", 30 + 11 * i, True, NEVER) for i in range(8)]
    progressed = [(f"u{i}", "progressed", 5 + 4 * i, 1.0) for i in range(8)] + [("e1", "progressed", 50, 1.0)]
    cohort = table(rows, progressed)
    status = {"name": "progressed", "kind": "disease_status", "label": "P", "status": "progressed"}
    protocol = {
        "covariates": [status],
        "disease_status": {"codelist": "car_t", "responding": "car_t", "progressed": "car_t"},
    }
    asked = {"adjusted_for": ["progressed"], "variance": "robust", "protocol": protocol}
    frozen = one(cohort, "time_dependent_cox", **asked, status_after_start="freeze")
    followed = one(cohort, "time_dependent_cox", **asked)
    assert (frozen.status, followed.status) == ("ok", "ok")
    assert frozen.estimate != followed.estimate
    assert (DILUTED in frozen.warnings, DILUTED in followed.warnings) == (True, False)
    assert [e.parameters.status_after_start for e in (frozen, followed)] == ["freeze", "follow"]
    # Everybody outlives the first start, and counts once however many comparisons he is in.
    assert (frozen.n, frozen.events, frozen.n_by_strategy["maintenance"]) == (16, 16, 8)


COMPOSITE = {"name": "second", "codelist": "car_t", "sources": ["medication"], "handling": "composite"}


def test_few_events_are_told_for_the_model_and_for_the_smaller_group() -> None:
    rows = [("e0", 24, True, 5.0), *((f"e{i}", 40 + i, False, 5.0) for i in range(1, 10))]
    rows += [(f"u{i}", 20 + i, True, NEVER) for i in range(10)]
    cohort = table(rows)
    few = "Only 1 death among those who started: the interval is unreliable."
    assert few in one(cohort, "time_dependent_cox").warnings
    strict = {"min_events_per_parameter": 12}
    told = one(cohort, "time_dependent_cox", protocol=strict).warnings
    assert "Only 11 deaths for 1 coefficient: estimates and intervals are unreliable." in told
    composite = one(cohort, "time_dependent_cox", protocol={"intercurrent_events": [COMPOSITE]}).warnings
    assert few.replace("death", "event") in composite
    both = table([*rows, *((f"f{i}", 60 + i, True, 5.0) for i in range(5))])
    assert not any("Only" in w for w in one(both, "time_dependent_cox").warnings)


def registry(n: int = 160) -> CohortTable:
    """Synthetic patients of two sites, with progression as a day and as a covariate that changes."""
    latent = pd.concat(
        [latent_table(simulate_patients(Truth(), site=s, n=n, seed=11)) for s in ("north", "river")],
        ignore_index=True,
    )
    drawn = cohort_table(latent)
    patients = drawn.patients.assign(
        progression_day=latent["progression_day"], salvage_start_day=latent["salvage_day"]
    )
    return CohortTable(patients, drawn.changes)


STATUSES = [
    {"name": "responding", "kind": "disease_status", "label": "Responding", "status": "responding"},
    {"name": "progressed", "kind": "disease_status", "label": "Progressed", "status": "progressed"},
]
LDH = {"name": "log_ldh", "kind": "observation", "label": "LDH", "codelist": "car_t"}
WITH_STATUS = {
    "covariates": [AGE, ECOG, LDH, *STATUSES],
    "disease_status": {"codelist": "car_t", "responding": "car_t", "progressed": "car_t"},
    "landmarks": [180],
    "horizons": [400],
    "strategies": {
        "treated": {"name": "on", "label": "On", "grace_days": 180, "unless_progressed": True},
        "control": {"name": "off", "label": "Off"},
    },
}
ADJUSTED = ["age", "ecog", "log_ldh", "responding", "progressed"]


@pytest.mark.parametrize(
    ("asked", "estimands"),
    [
        (
            {"analysis": "clone_censor_weight", "replicates": 20},
            {"hazard_ratio", "survival", "survival_difference", "survival_ratio", "rmst_days"},
        ),
        ({"analysis": "clone_censor_weight", "replicates": 0, "compared_with": "never"}, {"hazard_ratio"}),
        (
            {"analysis": "clone_censor_weight", "replicates": 0, "weight_for_loss": True, "grace_days": 120},
            {"hazard_ratio"},
        ),
        ({"analysis": "sequential_trials"}, {"hazard_ratio"}),
        ({"analysis": "marginal_structural_model", "salvage": "counts_as_start"}, {"hazard_ratio"}),
        ({"analysis": "landmark_weighting", "replicates": 20}, {"hazard_ratio", "survival_difference"}),
        ({"analysis": "landmark_weighting", "weights": "iptw", "replicates": 0}, {"hazard_ratio"}),
        ({"analysis": "landmark_aiptw", "replicates": 20}, {"survival", "survival_difference"}),
        ({"analysis": "landmark_firth"}, {"hazard_ratio"}),
        (
            {"analysis": "landmark_competing_risks"},
            {"cumulative_incidence", "cause_specific_hazard_ratio", "subdistribution_hazard_ratio"},
        ),
        ({"analysis": "time_dependent_cox", "endpoint": "progression_free_survival"}, {"hazard_ratio"}),
        ({"analysis": "time_dependent_cox", "salvage": "counts_as_start"}, {"hazard_ratio"}),
    ],
)
def test_every_method_gives_what_it_promises(asked: dict[str, Any], estimands: set[str]) -> None:
    is_to_progression = asked.get("endpoint") or asked["analysis"] == "landmark_competing_risks"
    adjusted = ADJUSTED[:3] if is_to_progression else ADJUSTED
    found = run(registry(), {"adjusted_for": adjusted, **asked}, **WITH_STATUS)
    assert not found.refused
    assert estimands <= {e.estimand for e in found.estimates}
    for e in found.estimates:
        assert e.status == "ok"
        assert e.estimate is not None
        assert not e.is_biased
    if asked["analysis"] == "clone_censor_weight":
        assert {c.strategy for c in found.curves} == {"on", "off"}
        assert len(found.weights) == 1


def test_weights_that_are_worth_a_handful_of_patients_are_refused() -> None:
    found = run(
        registry(12),
        {"analysis": "clone_censor_weight", "adjusted_for": ["age"], "replicates": 0},
        **WITH_STATUS,
    )
    (refusal,) = found.refused
    assert "patients" in refusal.reason or "started" in refusal.reason


def test_a_structural_model_is_refused_where_progression_ends_the_strategy() -> None:
    """Nobody who progressed could start: such weights leave the ratio as confounded as without them."""
    asked = {"analysis": "marginal_structural_model", "adjusted_for": ADJUSTED}
    (refusal,) = run(registry(), asked, **WITH_STATUS).refused
    assert "ends at progression" in refusal.reason


def test_an_option_of_another_analysis_is_refused() -> None:
    with pytest.raises(ValidationError, match="takes no grace_days: only clone_censor_weight"):
        protocol_with({"analysis": "landmark_cox", "grace_days": 90})
    with pytest.raises(ValidationError, match="salvage is not maintenance"):
        protocol_with({"analysis": "time_dependent_cox", "role": "primary", "salvage": "counts_as_start"})


def test_who_starts_after_a_landmark_is_counted_beside_its_contrast() -> None:
    cohort = table(
        [("a", 90, True, 10.0), ("b", 80, True, 40.0), ("c", 70, True, NEVER), ("d", 25, True, NEVER)]
    )
    found = one(cohort, "landmark_cox", landmarks=[30])
    assert any(w.startswith("1 of the 2 who had not started by day 30 start later") for w in found.warnings)


def test_an_analysis_that_adjusts_for_less_than_the_primary_says_so() -> None:
    primary = {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ADJUSTED}
    less = {"analysis": "landmark_firth", "adjusted_for": ["age", "ecog"]}
    found = run(registry(), primary, less, **WITH_STATUS).estimates[1]
    assert "Not adjusted for log_ldh, responding, progressed, as the primary analysis is" in " ".join(
        found.warnings
    )


def test_landmark_weights_leave_out_who_could_not_choose() -> None:
    cohort = registry()
    asked = {"analysis": "landmark_weighting", "adjusted_for": ADJUSTED, "replicates": 0}
    (found,) = [e for e in run(cohort, asked, **WITH_STATUS).estimates if e.estimand == "hazard_ratio"]
    patients = cohort.patients
    at_risk = patients[(patients["time_days"] > 180) & ~(patients["progression_day"] <= 180)]
    assert found.n == len(at_risk)
    assert any("had progressed could not start" in w for w in found.warnings)


def test_a_primary_landmark_has_one_day() -> None:
    with pytest.raises(ValidationError, match="exactly one day"):
        protocol_with({"analysis": "landmark_firth", "role": "primary"}, landmarks=[30, 60])


def test_an_incidence_is_not_called_adjusted() -> None:
    asked = {"analysis": "landmark_competing_risks", "adjusted_for": ADJUSTED[:3]}
    found = run(registry(), asked, **WITH_STATUS).estimates
    incidences = [e for e in found if e.estimand == "cumulative_incidence"]
    assert incidences
    assert all(e.parameters.adjusted_for == [] and CONFOUNDED in e.warnings for e in incidences)


def test_few_events_are_told_what_simulations_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an interval of this method that was too narrow, and of no other; none where nothing is judged."""
    row = coverage.FewEvents(
        "time_dependent_cox", "hazard_ratio", (), events=9.0, cohorts=2000, coverage=0.88
    )
    monkeypatch.setattr(coverage, "table", lambda: (row,))
    judged = one(eight(), "time_dependent_cox")
    assert any("in simulations with about 9" in w for w in judged.warnings)
    assert not any("simulations" in w for w in one(eight(), "landmark_cox", landmarks=[6]).warnings)
    assert not any("simulations" in w for w in one(nobody_starts(), "time_dependent_cox").warnings)


def test_incidences_are_compared_by_grays_test_as_in_r(tmp_path: Path) -> None:
    asked = {"analysis": "landmark_competing_risks", "adjusted_for": ADJUSTED[:3]}
    cohort = registry()
    found = [e for e in run(cohort, asked, **WITH_STATUS).estimates if e.estimand == "chi_square"]
    p = cohort.patients
    day = p["progression_day"].where(p["progression_day"] <= p["time_days"])
    end = day.fillna(p["time_days"])
    frame = pd.DataFrame(
        {
            "time": end - 180,
            "cause": np.where(day.notna(), 1, np.where(p["is_event"], 2, 0)),
            "started": (p["start_day"] <= 180).astype(int),
        }
    )[end > 180]
    r = in_r(
        "t <- cuminc(d$time, d$cause, d$started)$Tests; out <- list(stat = t[, 'stat'], p = t[, 'pv'])",
        frame, tmp_path, libraries=("cmprsk",),
    )  # fmt: skip
    assert [e.parameters.cause for e in found] == ["relapse", "non_relapse_death"]
    assert [e.estimate for e in found] == pytest.approx(r["stat"], rel=1e-6)
    assert [e.p_value for e in found] == pytest.approx(r["p"], rel=1e-6)
    assert all(e.parameters.adjusted_for == [] and CONFOUNDED in e.warnings for e in found)


def test_overlap_and_empty_cells_are_counted_at_each_landmark() -> None:
    """ECOG 2 is seen only in those who started; everything else overlaps."""
    rows = [(f"p{i:02d}", 100 + i, i % 3 > 0, 5.0 if i % 2 else NEVER) for i in range(40)]
    cohort = table(
        rows,
        age=[50.0 + (i * 7) % 20 for i in range(40)],
        ecog=[2.0 if i % 8 == 1 else i % 4 // 2 for i in range(40)],
    )
    protocol = protocol_with(
        {"analysis": "time_dependent_cox", "adjusted_for": ["age", "ecog"]}, landmarks=[30, 110]
    )
    found = positivity_at_landmarks(protocol, cohort)
    assert [(c.landmark_day, c.kind, c.started, c.not_started) for c in found.empty_cells] == [
        (30, {"ecog": "2"}, 5, 0),
        (110, {"ecog": "2"}, 3, 0),
    ]
    shown = {(o.landmark_day, o.strategy): o.patients for o in found.overlap}
    on, off = "maintenance", "no_maintenance"
    assert shown == {(30, on): 20, (30, off): 20, (110, on): 15, (110, off): 14}
    assert all(0 <= o.q1 <= o.median <= o.q3 <= 1 and 0 <= o.overlap <= 1 for o in found.overlap)
