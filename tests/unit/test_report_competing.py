"""The table of competing events."""

from __future__ import annotations

import pytest

from rwe.evidence.contract import Parameters
from rwe.report import contrasts
from rwe.report.names import names_of, protocol_of
from tests.unit.evidence_example import competing, estimate, evidence


@pytest.mark.parametrize(("p", "shown"), [(0.0, "<\u202f0.001"), (0.0004, "<\u202f0.001"), (0.04, "0.040")])
def test_a_test_of_incidences_is_told_also_where_its_p_value_rounds_to_nothing(p: float, shown: str) -> None:
    """A release has three digits: 0.0004 leaves as 0."""
    at = Parameters(landmark_day=60, cause="relapse")
    test = estimate(analysis="landmark_competing_risks", estimand="chi_square", parameters=at, p_value=p)
    found = evidence(estimates=[*competing(), test])
    first, second = contrasts.competing(found, names_of(protocol_of(found)))
    assert first.incidence[-1] == f"Gray’s test: p {shown}"
    assert not any("Gray" in told for told in second.incidence)
