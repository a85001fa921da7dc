"""Negative controls through the plan: the outcome that takes the place of death, and the calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from rwe.analyse.diagnose import diagnose
from rwe.analyse.negative import follow_up_of_controls, negative_controls, with_outcome
from rwe.analyse.plan import run_analyses
from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, exposure_split
from rwe.survival.negative_controls import NegativeControl, calibrate, systematic_error
from tests.unit.test_plan import ADJUSTED, WITH_STATUS, protocol_with, registry
from tests.unit.test_survival_data import NEVER, drawn, table

CONTROLS = ["fracture", "cataract", "hernia"]
EVENTS = [
    {"name": name, "codelist": "car_t", "sources": ["condition"], "handling": "treatment_policy"}
    for name in CONTROLS
]
PRIMARY = {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ADJUSTED[:3]}


def records(cohort: CohortTable, *, effect: float = 1.0, seed: int = 2) -> pd.DataFrame:
    """A first record of each control for some patients; at `effect` times the rate in who ever starts."""
    g = np.random.default_rng(seed)
    rate = np.where(cohort.patients["start_day"].notna(), effect, 1.0) / 900
    rows = []
    for name in CONTROLS:
        days = np.ceil(g.exponential(1 / rate)).astype(int)
        rows += [
            (p, name, d)
            for p, d, end in zip(
                cohort.patients["patient_id"], days, cohort.patients["time_days"], strict=True
            )
            if d <= end
        ]
    return pd.DataFrame(rows, columns=["patient_id", "event", "day"])


def controls_of(cohort: CohortTable, found: pd.DataFrame, **protocol: Any) -> Any:
    asked = {**WITH_STATUS, "intercurrent_events": EVENTS, "negative_controls": CONTROLS, **protocol}
    p = protocol_with(PRIMARY, **asked)
    return negative_controls(run_analyses(p, cohort), found), p


def test_the_outcome_is_the_first_record_and_death_before_it_censors() -> None:
    cohort = table(
        [("a", 90, True, 10.0), ("b", 80, False, 60.0), ("c", 70, True, NEVER), ("d", 0, True, NEVER)]
    )
    changed = with_outcome(cohort, np.array([40.0, 50.0, NEVER, NEVER]))
    rows = exposure_split(changed)
    assert drawn(rows) == [
        (0, 10, False, False),
        (10, 40, True, True),  # a: the record, not the death
        (0, 50, True, False),  # b: before a start that no longer matters
        (0, 70, False, False),  # c: died without one, so is censored
        (0, 0.5, False, False),  # d: likewise
    ]


def test_a_record_after_the_end_of_follow_up_is_none() -> None:
    changed = with_outcome(table([("a", 90, False, NEVER)]), np.array([91.0]))
    assert drawn(exposure_split(changed)) == [(0, 90, False, False)]


def test_a_record_on_the_day_of_the_start_is_of_the_unexposed() -> None:
    """A start on the day of death is before it; of a record at the visit of the start nobody knows."""
    cohort = table([("a", 90, True, 40.0), ("b", 80, False, 80.0), ("c", 70, False, 40.0)])
    rows = exposure_split(with_outcome(cohort, np.array([40.0, NEVER, 41.0])))
    assert drawn(rows) == [
        (0, 40, True, False),
        (0, 79.5, False, False),  # b: no record, so a start on the last day stays one
        (79.5, 80, False, True),
        (0, 40, False, False),
        (40, 41, True, True),
    ]


def test_records_and_starts_at_the_same_visits_show_no_effect_where_there_is_none() -> None:
    """At each visit a record (5 %) and a start (8 %), independently. Counted as exposed it gave 1.22."""
    g = np.random.default_rng(3)
    n, visits = 3000, 60
    days = np.ceil(np.cumsum(g.exponential(30, (n, visits)), axis=1))
    seen = days < 1000

    def first(chance: float) -> np.ndarray:
        return np.where(seen & (g.random((n, visits)) < chance), days, np.inf).min(axis=1)

    start, record = (np.where(np.isfinite(d), d, np.nan) for d in (first(0.08), first(0.05)))
    cohort = table([(f"p{i:04d}", 1000, False, start[i]) for i in range(n)])
    fit = exposure_cox(exposure_split(with_outcome(cohort, record)))
    assert fit.se[0] < 0.06
    assert abs(fit.coefficients[0]) < 2 * fit.se[0]


def test_each_control_is_the_primary_model_on_another_outcome() -> None:
    cohort = registry()
    found = records(cohort)
    shown, _ = controls_of(cohort, found)
    assert [c.outcome for c in shown.controls] == CONTROLS
    for c in shown.controls:
        first = found[found["event"] == c.outcome].set_index("patient_id")["day"]
        day = cohort.patients["patient_id"].map(first).to_numpy(dtype=float)
        fit = exposure_cox(exposure_split(with_outcome(cohort, day), ADJUSTED[:3])).hazard_ratio()
        assert c.hazard_ratio == fit.estimate
        assert (c.ci_low, c.ci_high, c.refused) == (fit.ci_low, fit.ci_high, None)
        assert c.events == int((day <= cohort.patients["time_days"]).sum())


def test_three_controls_calibrate_the_primary_estimate() -> None:
    cohort = registry()
    shown, protocol = controls_of(cohort, records(cohort))
    found = run_analyses(protocol, cohort)
    (primary,) = [e for e in found.estimates if e.role == "primary"]
    width = 2 * 1.959963984540054
    known = [
        NegativeControl(c.outcome, math.log(c.hazard_ratio), math.log(c.ci_high / c.ci_low) / width)
        for c in shown.controls
    ]
    right = calibrate(primary.log_estimate, primary.se, systematic_error(known))
    assert shown.calibrated.hazard_ratio == pytest.approx(right.estimate, rel=1e-9)
    assert shown.calibrated.p_value == pytest.approx(right.p_value, rel=1e-6)
    assert any("Only 3 negative controls" in w for w in shown.calibrated.warnings)


def test_a_bias_that_the_controls_share_is_taken_off() -> None:
    """Records twice as frequent in who ever starts: the analysis errs upwards, so the estimate comes down."""
    cohort = registry()
    shown, protocol = controls_of(cohort, records(cohort, effect=3.0))
    (primary,) = [e for e in run_analyses(protocol, cohort).estimates if e.role == "primary"]
    assert shown.calibrated.error_mean > 0
    assert shown.calibrated.hazard_ratio < primary.estimate


def test_with_fewer_than_three_there_is_no_calibration_and_it_says_why() -> None:
    cohort = registry()
    found = records(cohort)
    shown, _ = controls_of(cohort, found[found["event"] == "fracture"])
    assert shown.calibrated is None
    assert "1 negative controls cannot show" in shown.not_calibrated
    assert shown.fewest == 3
    assert [c.hazard_ratio is None for c in shown.controls] == [False, True, True]
    assert all("there is no event" in c.refused for c in shown.controls[1:])


def test_the_diagnostics_hold_them_only_where_the_protocol_names_some() -> None:
    cohort = registry()
    found = records(cohort)
    _, protocol = controls_of(cohort, found)
    assert diagnose(protocol, cohort, run_analyses(protocol, cohort), found).negative_controls is not None
    plain = protocol_with(PRIMARY, **WITH_STATUS)
    assert diagnose(plain, cohort, run_analyses(plain, cohort), found).negative_controls is None


def test_what_else_ends_follow_up_there_is_noted() -> None:
    cohort = registry()
    found = records(cohort)
    relapse = {"name": "relapse", "codelist": "car_t", "sources": ["condition"], "handling": "composite"}
    notes = []
    for events in (EVENTS, [*EVENTS, relapse]):
        _, protocol = controls_of(cohort, found, intercurrent_events=events)
        shown = diagnose(protocol, cohort, run_analyses(protocol, cohort), found)
        notes.append([n for n in shown.notes if "negative controls" in n])
    assert notes == [
        [],
        [
            "The runs on negative controls end at death and relapse (part of the outcome): only a record "
            "before those counts."
        ],
    ]


def test_events_that_censor_are_named_too() -> None:
    censors = {
        **EVENTS[0],
        "name": "transplant",
        "handling": "censored_with_weights",
        "weighted_for": ["age"],
    }
    protocol = protocol_with(
        PRIMARY, **WITH_STATUS, intercurrent_events=[*EVENTS, censors], negative_controls=CONTROLS
    )
    (note,) = follow_up_of_controls(protocol)
    assert "death and transplant (ends follow-up in this study)" in note


def test_a_calibration_of_firths_model_says_that_it_is_walds() -> None:
    cohort = registry()
    found = records(cohort)
    for analysis, is_warned in (("time_dependent_firth", True), ("time_dependent_cox", False)):
        asked = {**WITH_STATUS, "intercurrent_events": EVENTS, "negative_controls": CONTROLS}
        protocol = protocol_with({**PRIMARY, "analysis": analysis}, **asked)
        shown = negative_controls(run_analyses(protocol, cohort), found)
        assert shown is not None
        assert shown.calibrated is not None
        assert any("(Wald), not by the profile" in w for w in shown.calibrated.warnings) is is_warned


def test_a_negative_control_is_an_event_that_follow_up_goes_on_after() -> None:
    composite = [{**EVENTS[0], "handling": "composite"}]
    with pytest.raises(ValidationError, match="no intercurrent event handled as treatment_policy"):
        protocol_with(PRIMARY, **WITH_STATUS, intercurrent_events=composite, negative_controls=["fracture"])
    with pytest.raises(ValidationError, match="no intercurrent event"):
        protocol_with(PRIMARY, **WITH_STATUS, negative_controls=["fracture"])
