"""Rates of a toxicity from a day on: what was before neither counts nor takes anybody out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import pandas as pd
import pytest

from rwe.analyse.safety import describe_safety
from rwe.evidence.parts import EventRate
from rwe.study import Study
from rwe.study.files import _asked
from rwe.study_words import explain
from rwe.warehouse.study_tables import insert_studies
from tests.unit.test_describe import cohort_of

_GRADE_3 = [("a", 5), ("a", 50), ("b", 5), ("b", 29), ("c", 5), ("d", 28), ("d", 29), ("e", 27)]
"""Conditioning gives it to everybody before day 29; on or after it to a (exposed), b (on the day of the
start, so not yet exposed) and d (exposed since day 28)."""


def _found(**asked: Any) -> tuple[Study, list[EventRate], list[str]]:
    """Rates of neutropenia; a starts on day 10, b on day 29, d on day 28; e is followed until day 28."""
    toxicity = {"name": "anc", "adverse_event": "neutropenia", "codelist": "car_t", **asked}
    outcome = {"time_days": [100, 100, 60, 100, 28], "start_day": [10.0, 29.0, None, 28.0, None]}
    study, tables = cohort_of({}, outcome, toxicities=[toxicity], intercurrent_events=[])
    rows = pd.DataFrame(_GRADE_3, columns=["patient_id", "day"]).assign(toxicity="anc", grade=3)
    safety = describe_safety(study, replace(tables, toxicity=rows))
    assert safety is not None
    return study, safety.rates, safety.notes


def test_from_day_29_counts_what_is_not_of_the_conditioning() -> None:
    """At risk on (28, …]: a 22 days exposed, b 1 day not, c 32 days not, d 1 day exposed; e is gone."""
    _, (control, treated), notes = _found(from_day=29)
    assert control.event == treated.event == "anc, grade 3 or 4, from day 29 on"
    assert (control.patients_at_risk, control.events) == (2, 1)
    assert control.person_years == pytest.approx((1 + 32) / 365.25)
    assert (treated.patients_at_risk, treated.events) == (2, 2)
    assert treated.person_years == pytest.approx((22 + 1) / 365.25)
    assert not any("conditioning" in n for n in notes)
    assert any("neither count nor take anybody out" in n for n in notes)


def test_without_a_day_the_first_event_since_index_takes_everybody_out() -> None:
    """5 days each of a, b and c, 28 of d, 27 of e; nobody is exposed before it."""
    _, (control, treated), notes = _found()
    assert (control.patients_at_risk, control.events) == (5, 5)
    assert control.person_years == pytest.approx((5 + 5 + 5 + 28 + 27) / 365.25)
    assert (treated.patients_at_risk, treated.events) == (0, 0)
    assert any("from_day of a toxicity" in n for n in notes)


def test_nobody_followed_until_then_has_no_rate() -> None:
    _, (control, treated), _ = _found(from_day=101)
    assert (control.patients_at_risk, control.rate_per_100_years) == (0, None)
    assert (treated.patients_at_risk, treated.rate_per_100_years) == (0, None)


def test_the_day_is_told_and_a_study_without_it_keeps_its_hash() -> None:
    late, early, zero = _found(from_day=29)[0], _found()[0], _found(from_day=0)[0]
    assert "; rates from day 29 on, earlier events do not count." in explain(late)["Toxicities"][0]
    assert "from day" not in explain(early)["Toxicities"][0]
    assert "from_day" not in _asked(early.protocol)["toxicities"][0]
    assert early.protocol_sha256 == zero.protocol_sha256 != late.protocol_sha256


def test_sql_sees_the_day() -> None:
    with duckdb.connect() as db:
        insert_studies(db, [_found(from_day=29)[0]])
        assert db.execute("select toxicity, from_day from study.toxicity").fetchall() == [("anc", 29)]
