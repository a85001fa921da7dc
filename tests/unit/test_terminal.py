"""The table that the command line prints: what it claims beside each estimate."""

from __future__ import annotations

import io
from typing import get_args

import pytest
from rich.console import Console

from rwe import terminal
from rwe.evidence.contract import AnalysisKind, Estimate, Parameters
from tests.unit.evidence_example import ADJUSTED, estimate

FOLLOWED = Parameters(adjusted_for=ADJUSTED, stratified_by=["site"], status_after_start="follow")


def printed(estimates: list[Estimate], truth: float | None) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(terminal.hazard_ratio_table(estimates, truth))
    return out.getvalue().splitlines()


def test_the_truth_stands_only_beside_estimates_of_the_same_effect() -> None:
    rows = {
        "primary": (estimate(role="primary", parameters=FOLLOWED), True),
        "site": (estimate(site="alpha", parameters=FOLLOWED.model_copy(update={"stratified_by": []})), True),
        "robust": (estimate(variance_method="robust", parameters=FOLLOWED), True),
        "frozen": (estimate(parameters=FOLLOWED.model_copy(update={"status_after_start": "freeze"})), False),
        "crude": (estimate(), False),
        "landmark": (estimate(analysis="landmark_cox", parameters=Parameters(landmark_day=60)), False),
        "naive": (estimate(analysis="naive_cox", role="contrast", is_biased=True), False),
    }
    shown = [line for line in printed([e for e, _ in rows.values()], truth=0.6) if "0.71" in line]
    assert dict(zip(rows, ("0.60" in line for line in shown), strict=True)) == {
        name: is_told for name, (_, is_told) in rows.items()
    }


def test_the_table_fits_a_terminal_of_80_columns_and_calls_events_events() -> None:
    lines = printed([estimate(role="primary", parameters=FOLLOWED)], truth=0.6)
    assert max(map(len, lines)) <= 80
    assert "events" in lines[0]
    assert "deaths" not in lines[0]


@pytest.mark.parametrize("kind", get_args(AnalysisKind))
def test_every_analysis_has_a_line_of_its_own_words(kind: AnalysisKind) -> None:
    parameters = Parameters(landmark_day=60 if kind.startswith("landmark_") else None)
    said = terminal.describe(estimate(analysis=kind, parameters=parameters))
    assert said[0].isupper()
    assert "_" not in said
    assert ("Firth" in said) is kind.endswith("_firth")


def test_sensitivities_are_told_apart_and_post_hoc_is_marked() -> None:
    emulated = {
        "analysis": "clone_censor_weight",
        "parameters": Parameters(grace_days=180, compared_with="never"),
    }
    salvage = Parameters(salvage="counts_as_start")
    lines = printed([estimate(**emulated), estimate(parameters=salvage), estimate(role="posthoc")], None)
    assert "Clone-censor-weight 180 d, against never" in lines[1]
    assert "salvage counts" in lines[2]
    assert lines[3].rstrip().endswith("post hoc")
