"""Where covariates tell who started nobody can be weighted to be like others, whatever the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.analyse.plan import Findings, run_analyses
from rwe.progress import SILENT, Step
from rwe.survival.clone_plan import grace_overlap
from rwe.survival.clones import clone
from rwe.survival.data import CohortTable, no_changes
from rwe.survival.logistic import overlap_of, overlapping
from rwe.survival.propensity import landmark_weighted
from tests.unit.test_plan import AGE, ECOG, protocol_with

WEIGHTED: list[dict[str, Any]] = [
    {"analysis": "landmark_weighting", "weights": "iptw", "replicates": 20},
    {"analysis": "landmark_weighting", "weights": "overlap", "replicates": 20},
    {"analysis": "clone_censor_weight", "weight_model": "logistic", "replicates": 20},
    {"analysis": "clone_censor_weight", "weight_model": "cox", "replicates": 20},
    {"analysis": "landmark_aiptw", "replicates": 20},
]
TOLD = "the covariates tell without error who started"


class Watch:
    """Keeps the labels of the steps of a run."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def step(self, label: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        self.labels.append(label)
        return SILENT.step(label, total, unit)


def cohort(age: np.ndarray, starts: np.ndarray, **covariates: np.ndarray) -> CohortTable:
    """The old die sooner; starting (days 0 to 19) changes nothing. All are followed beyond 30."""
    n, g = len(age), np.random.default_rng(0)
    days = np.ceil(g.exponential(np.where(age > 60, 150, 600))).astype(int) + 31
    patients = pd.DataFrame(
        {"patient_id": [f"p{i}" for i in range(n)], "site": "a", "time_days": days, "is_event": True}
    )
    start = np.where(starts, g.integers(0, 20, n).astype(float), np.nan)
    return CohortTable(patients.assign(start_day=start, age=age, **covariates), no_changes())


def apart(n: int = 60, gap: float = 20.0) -> CohortTable:
    """The younger half starts, the older half does not; `gap` years lie between them."""
    half = n // 2
    age = np.concatenate([np.linspace(40, 50, half), np.linspace(50 + gap, 60 + gap, half)])
    return cohort(age, np.arange(n) < half)


def run(table: CohortTable, watch: Watch | None = None, **asked: Any) -> Findings:
    days = {"landmarks": [30]} if asked["analysis"].startswith("landmark_") else {}
    covariates = [AGE, ECOG] if "ecog" in table.patients else [AGE]
    protocol = protocol_with(
        {"adjusted_for": [str(c["name"]) for c in covariates], **days, **asked}, covariates=covariates
    )
    return run_analyses(protocol, table, watch or SILENT)


@pytest.mark.parametrize("gap", [20.0, 0.001])
@pytest.mark.parametrize("asked", WEIGHTED)
def test_disjoint_ages_are_not_weighted(asked: dict[str, Any], gap: float) -> None:
    """With weights near 1 the effective size is that of the arm, and the estimate the crude one."""
    watch = Watch()
    found = run(apart(400, gap), watch, **asked)
    (e,), (refusal,) = found.estimates, found.refused
    assert (e.status, e.estimate) == ("refused", None)
    assert refusal.reason.startswith(f"{TOLD}: nobody is left in an arm to be compared; ask the question in")
    assert not any("bootstrap" in label for label in watch.labels)


@pytest.mark.parametrize("asked", WEIGHTED[:4])
def test_a_primary_analysis_of_disjoint_arms_is_not_the_answer(asked: dict[str, Any]) -> None:
    found = run(apart(), role="primary", **asked)
    (answer,) = [e for e in found.estimates if e.role == "primary"]
    assert answer.downgraded_from == asked["analysis"]
    assert answer.analysis.endswith("_firth")
    assert TOLD in answer.warnings[0]


@pytest.mark.parametrize("asked", WEIGHTED)
def test_a_stratum_in_which_nobody_starts_leaves_the_others_comparable(asked: dict[str, Any]) -> None:
    g = np.random.default_rng(1)
    age, ecog = g.normal(60, 8, 300), (g.random(300) < 0.1).astype(float)
    starts = (g.random(300) < 1 / (1 + np.exp(-(age - 60) / 8))) & (ecog == 0)
    once = {} if asked["analysis"] == "landmark_aiptw" else {"replicates": 0}
    found = run(cohort(age, starts, ecog=ecog), **{**asked, **once})
    assert not found.refused
    assert all(e.status == "ok" for e in found.estimates)


def test_weights_worth_a_handful_are_refused_before_any_bootstrap() -> None:
    g = np.random.default_rng(3)
    for asked in WEIGHTED:
        watch = Watch()
        found = run(cohort(g.normal(60, 8, 30), np.arange(30) < 6), watch, **asked)
        assert "the weights of an arm are worth" in found.refused[0].reason
        assert not any("bootstrap" in label for label in watch.labels)


def test_what_can_be_compared_is_still_bootstrapped() -> None:
    g = np.random.default_rng(3)
    table = cohort(g.normal(60, 8, 200), g.random(200) < 0.5)
    for asked in WEIGHTED:
        watch = Watch()
        (ratio, *_) = run(table, watch, **asked).estimates
        assert ratio.ci_low is not None
        assert "bootstrap" in (ratio.variance_method or "") + (ratio.ci_method or "")
        assert sum("bootstrap" in label for label in watch.labels) == 1


def test_overlap_counts_whom_no_rule_tells_apart() -> None:
    """Albert & Anderson 1984: complete separation, quasi-complete separation, overlap."""
    x = np.array([1.0, 2, 3, 4, 5, 6])[:, None]
    complete = np.array([False, False, False, True, True, True])
    assert overlapping(x, complete).tolist() == [False] * 6
    assert overlap_of(x, complete) == (0, 0)
    # Both classes at 3, and there only: a rule through 3 leaves these two undecided and tells the others.
    tied = np.array([1.0, 2, 3, 3, 5, 6])[:, None]
    assert overlapping(tied, complete).tolist() == [False, False, True, True, False, False]
    assert overlap_of(tied, complete) == (1, 1)
    mixed = np.array([False, True, False, True, False, True])
    assert overlapping(x, mixed).all()
    assert overlap_of(x, mixed) is None
    # Exclusive or: each covariate alone and both together tell nobody.
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    assert overlap_of(corners, np.array([True, False, False, True])) is None
    # One class only: there is nothing to be told apart.
    assert overlap_of(x, np.ones(6, dtype=bool)) is None


def test_a_rule_that_takes_two_covariates_is_found() -> None:
    g = np.random.default_rng(2)
    X = g.normal(size=(500, 3))
    y = X[:, 0] - 2 * X[:, 1] > 0.3
    assert overlap_of(X, y) == (0, 0)
    noisy = y.copy()
    far = int(np.argmax(X[:, 0] - 2 * X[:, 1]))
    noisy[far] = False  # the one furthest in on the other side: nearly nobody is beyond him
    assert overlapping(X, noisy)[far]


def test_the_overlap_stands_in_the_results() -> None:
    weighted = landmark_weighted(apart(), 30, ["age"], horizon_days=100, replicates=0)
    assert weighted.in_overlap == (0, 0)
    assert grace_overlap(clone(apart(), 25, ["age"])) == (0, 0)
    g = np.random.default_rng(3)
    mixed = cohort(g.normal(60, 8, 100), g.random(100) < 0.5)
    assert landmark_weighted(mixed, 30, ["age"], horizon_days=100, replicates=0).in_overlap is None
    assert grace_overlap(clone(mixed, 25, ["age"])) is None
