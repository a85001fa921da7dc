"""The bundle of a refresh gives in R the number of the evidence, and names nobody."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxTimeVaryingFitter

from rwe.analyse.bundle import write_bundle
from rwe.analyse.tasks import PrimaryRows
from rwe.sandbox.truth import Truth, latent_table, simulate_patients
from rwe.simulate.scenarios import cohort_table
from rwe.survival.cox import exposure_data, fit_cox
from rwe.survival.data import CohortTable, exposure_split
from tests.unit.evidence_example import estimate
from tests.unit.test_plan import WITH_STATUS, registry, run
from tests.unit.test_survival_data import NEVER, table


def made(folder: Path, *, robust: bool = False) -> tuple[Path, float, list[str]]:
    """The bundle of a time-dependent Cox model of 300 synthetic patients at two sites."""
    latent = pd.concat(
        [latent_table(simulate_patients(Truth(), site=s, n=150, seed=4)) for s in ("north", "river")],
        ignore_index=True,
    )
    rows = exposure_split(cohort_table(latent), ("age", "ecog"), ("responding", "progressed"))
    data = exposure_data(rows, stratify_by_site=True)
    fit = fit_cox(data, robust=robust)
    log_hr, se = float(fit.coefficients[0]), float(fit.se[0])
    folder.mkdir()
    place = write_bundle(
        PrimaryRows(data, "efron", is_robust=robust), estimate(log_estimate=log_hr, se=se), folder
    )
    return place, log_hr, list(latent["patient_id"])


@pytest.mark.parametrize("robust", [False, True])
def test_r_prints_the_same_number(tmp_path: Path, robust: bool) -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    place, log_hr, _ = made(tmp_path / "refresh", robust=robust)
    found = subprocess.run(
        ["Rscript", "analysis.R"], cwd=place, capture_output=True, text=True, timeout=120, check=False
    )
    if "there is no package" in found.stderr:
        pytest.skip("R has no package survival")
    assert found.returncode == 0, found.stderr
    assert "the same number" in found.stdout
    assert f"{np.exp(log_hr):.4f}" in found.stdout


def r_says(place: Path) -> str:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    found = subprocess.run(
        ["Rscript", "analysis.R"], cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    if "there is no package" in found.stderr:
        pytest.skip("R has no package survival")
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def bundle_of(folder: Path, cohort: CohortTable, asked: dict[str, Any], **protocol: Any) -> Path:
    """The bundle of the primary analysis as the plan runs it."""
    found = run(cohort, {"role": "primary", **asked}, **protocol)
    (answer,) = [e for e in found.estimates if e.role == "primary" and e.estimand == "hazard_ratio"]
    assert found.primary is not None
    folder.mkdir()
    return write_bundle(found.primary, answer, folder)


def test_r_prints_the_same_penalised_number(tmp_path: Path) -> None:
    """Nobody of those who start dies, so Firth's model stands in; tied deaths, two sites, a covariate."""
    rows = [(f"e{i}", 100 + 9 * i, False, 5.0 + i) for i in range(12)]
    rows += [(f"u{i}", 30 + 11 * (i // 2), i < 16, NEVER) for i in range(20)]
    cohort = table(rows, age=[50.0 + (7 * i) % 23 for i in range(32)])
    cohort.patients["site"] = ["north", "river"] * 16
    asked = {"analysis": "time_dependent_cox", "adjusted_for": ["age"], "stratify_by": ["site"]}
    place = bundle_of(tmp_path / "refresh", cohort, asked)
    assert "survival" not in (place / "analysis.R").read_text().split("coxph")[0]
    assert "the same number" in r_says(place)


@pytest.mark.parametrize(
    "asked",
    [
        {"analysis": "clone_censor_weight", "replicates": 0},
        {"analysis": "landmark_weighting", "weights": "iptw", "replicates": 0},
        {"analysis": "sequential_trials", "adjusted_for": ["age", "responding"]},
    ],
    ids=lambda asked: asked["analysis"],
)
def test_r_prints_the_same_weighted_number(tmp_path: Path, asked: dict[str, Any]) -> None:
    adjusted = {"adjusted_for": ["age", "ecog"], **asked}
    place = bundle_of(tmp_path / "refresh", registry(60), adjusted, **WITH_STATUS)
    assert "weights = weight, cluster = patient" in (place / "analysis.R").read_text()
    weights = pd.read_csv(place / "analysis.csv")["weight"]
    assert weights.max() > 1
    assert "the same number" in r_says(place)


def test_another_program_finds_the_number_in_the_rows(tmp_path: Path) -> None:
    place, log_hr, _ = made(tmp_path / "refresh")
    rows = pd.read_csv(place / "analysis.csv").drop(columns=["weight"])
    fit = CoxTimeVaryingFitter().fit(
        rows, id_col="patient", event_col="event", start_col="start", stop_col="stop", strata=["stratum"]
    )
    assert fit.params_["x1"] == pytest.approx(log_hr, abs=1e-3)  # the precision that lifelines stops at


def test_it_names_nobody_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    place, _, patients = made(tmp_path / "refresh")
    text = "".join(p.read_text(encoding="ascii") for p in place.iterdir())
    assert not any(p in text for p in patients)
    assert "north" not in text
    assert {p.stat().st_mode & 0o777 for p in place.iterdir()} == {0o600}
    assert place.stat().st_mode & 0o777 == 0o700
    with (place / "analysis.csv").open(encoding="ascii") as f:
        numbers = [int(row["patient"]) for row in csv.DictReader(f)]
    assert set(numbers) == set(range(1, len(patients) + 1))


def test_a_changed_row_is_noticed_by_the_script(tmp_path: Path) -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    place, _, _ = made(tmp_path / "refresh")
    rows = pd.read_csv(place / "analysis.csv")
    rows.loc[rows["event"] == 1, "x1"] = 1
    rows.to_csv(place / "analysis.csv", index=False)
    found = subprocess.run(["Rscript", "analysis.R"], cwd=place, capture_output=True, text=True, check=False)
    if "there is no package" in found.stderr:
        pytest.skip("R has no package survival")
    assert found.returncode == 1
    assert "NOT the same number" in found.stdout


def test_nobody_can_number_the_patients_again(tmp_path: Path) -> None:
    """No seed decides whose row is whose, and no exact covariate stands in it."""
    first, _, _ = made(tmp_path / "one")
    second, _, _ = made(tmp_path / "two")
    assert (first / "analysis.csv").read_bytes() != (second / "analysis.csv").read_bytes()
    ages = latent_table(simulate_patients(Truth(), site="north", n=150, seed=4))["age"]
    for place in (first, second):
        shown = pd.read_csv(place / "analysis.csv")["x2"]
        assert not set(shown.round(6)) & set(ages.round(6))
