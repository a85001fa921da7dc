"""Diagnostics speak of the model that the protocol asks for, at its confidence level."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines.statistics import logrank_test

from rwe.analyse.diagnose import diagnose
from rwe.analyse.plan import run_analyses
from rwe.evidence.parts import Detectable, Diagnostics
from rwe.report.diagnostics import diagnostics
from rwe.report.names import names_of
from rwe.study import Protocol
from rwe.survival.data import CohortTable, exposure_split
from tests.unit.r_oracle import in_r
from tests.unit.test_plan import WITH_STATUS, protocol_with, registry
from tests.unit.test_survival_data import NEVER, table

Z90, Z80, Z975 = 1.2815515655446, 0.8416212335729, 1.9599639845401
"""Quantiles of the normal distribution, as tabulated."""


def protocol(asked: dict[str, Any] | None = None, **fields: Any) -> Protocol:
    cox = {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["age", "progressed"]}
    return protocol_with(
        {**cox, **(asked or {})},
        **{**WITH_STATUS, "subgroups": [{"name": "old", "covariate": "age", "cut": 60}], **fields},
    )


def told(asked: Protocol, cohort: CohortTable) -> Diagnostics:
    return diagnose(asked, cohort, run_analyses(asked, cohort))


def tied() -> CohortTable:
    """The registry with its times in whole quarters: many deaths on one day."""
    drawn = registry()
    days = np.ceil(drawn.patients["time_days"] / 90).astype(int) * 90
    return CohortTable(drawn.patients.assign(time_days=days), drawn.changes)


@pytest.mark.parametrize(("ties", "variance"), [("breslow", "model"), ("efron", "robust")])
def test_hazards_and_subgroups_are_of_the_protocols_model(ties: str, variance: str, tmp_path: Path) -> None:
    cohort = tied()
    rows = exposure_split(cohort, ["age"], ["progressed"])
    frame = pd.DataFrame(rows.X, columns=["age", "progressed"]).assign(
        start=rows.start,
        stop=rows.stop,
        event=rows.event.astype(int),
        trt=rows.exposed.astype(int),
        patient=rows.patient,
        old=(cohort.patients["age"].to_numpy()[rows.patient] >= 60).astype(int),
    )
    cluster = ", cluster = patient" if variance == "robust" else ""
    r = in_r(
        f"""k <- coxph.control(eps = 1e-14, iter.max = 100)
            s <- Surv(d$start, d$stop, d$event)
            a <- coxph(s ~ trt + age + progressed, d, ties = "{ties}", control = k)
            b <- coxph(s ~ I(trt * (1 - old)) + I(trt * old) + old + age + progressed, d, ties = "{ties}",
                       control = k{cluster})
            z <- cox.zph(a, transform = "km")
            ci <- exp(confint(b))[1:2, ]
            list(chisq = z$table["trt", "chisq"], hr = exp(coef(b))[1:2], low = ci[, 1], high = ci[, 2])""",
        frame,
        tmp_path,
    )
    found = told(protocol({"ties": ties, "variance": variance}), cohort)
    assert found.proportional_hazards[0].chi_square == pytest.approx(r["chisq"][0], abs=1e-6)
    levels = found.subgroups[0].levels
    assert [e.level for e in levels] == ["60 and above", "below 60"]
    for e, hr, low, high in zip(levels[::-1], r["hr"], r["low"], r["high"], strict=True):
        assert (e.hazard_ratio, e.ci_low, e.ci_high) == pytest.approx((hr, low, high), rel=1e-6)


def test_what_could_be_detected_and_what_a_review_leaves_are_at_the_protocols_level() -> None:
    """A perfect review of many charts leaves the Wald interval of the estimate."""
    review = {"chart_review": {"starts": {"confirmed": 36_500, "reviewed": 36_500}}}
    for level, z in ((0.8, Z90), (0.95, Z975)):
        asked = protocol(confidence_level=level, **review)
        findings = run_analyses(asked, registry())
        (answer,) = [e for e in findings.estimates if e.role == "primary"]
        found = diagnose(asked, registry(), findings)
        assert answer.se is not None
        assert answer.log_estimate is not None
        assert found.detectable is not None
        assert -math.log(found.detectable.protective) == pytest.approx((z + Z80) * answer.se, rel=1e-9)
        (corrected,) = found.misclassification
        for limit, side in ((corrected.ci_low, -1), (corrected.ci_high, 1)):
            # 100,000 draws: limits are good to some hundredths of a standard error.
            assert math.log(limit) == pytest.approx(
                answer.log_estimate + side * z * answer.se, abs=0.03 * answer.se
            )


def test_without_an_estimate_the_events_say_at_that_level_what_could_be_detected() -> None:
    """Schoenfeld's formula: the reach of both levels has the ratio of their quantiles."""
    asked = [
        protocol_with({"analysis": "mantel_byar"}, **WITH_STATUS, confidence_level=c) for c in (0.8, 0.95)
    ]
    found = [told(p, registry()).detectable for p in asked]
    assert found[0] is not None
    assert found[1] is not None
    ratio = math.log(found[0].protective) / math.log(found[1].protective)
    assert ratio == pytest.approx((Z90 + Z80) / (Z975 + Z80), rel=1e-9)


def test_the_lost_are_counted_against_the_protocols_level() -> None:
    """A log-rank p between 0.05 and 0.2: no difference to overturn at 95 %, one at 80 %."""
    rows = [(f"e{i}", 60 + 40 * i, i % 2 == 0, 0.0) for i in range(10)]
    rows += [(f"u{i}", 50 + 26 * i, i % 3 != 0, NEVER) for i in range(10)]
    cohort = table(rows)
    frame = cohort.patients
    ever = frame["start_day"].notna()
    p = logrank_test(
        frame["time_days"][ever], frame["time_days"][~ever], frame["is_event"][ever], frame["is_event"][~ever]
    ).p_value
    assert 0.05 < p < 0.2
    counts = []
    for level in (0.95, 0.8):
        asked = protocol_with({"analysis": "time_dependent_cox", "role": "primary"}, confidence_level=level)
        lost = told(asked, cohort).lost_deaths
        assert lost is not None
        counts.append(lost.deaths)
    assert counts[0] == 0
    assert counts[1] is None or counts[1] > 0


def test_an_interval_beside_its_estimate_costs_one_sentence_and_not_the_analysis() -> None:
    """Of two replicates both may lie on one side of the estimate."""
    asked = protocol_with(
        {
            "analysis": "clone_censor_weight",
            "role": "primary",
            "adjusted_for": ["age", "ecog"],
            "replicates": 2,
        },
        **WITH_STATUS,
    )
    findings = run_analyses(asked, registry())
    (answer,) = [e for e in findings.estimates if e.role == "primary" and e.estimand == "hazard_ratio"]
    assert answer.estimate is not None
    assert answer.ci_low is not None
    assert answer.ci_low > answer.estimate
    found = diagnose(asked, registry(), findings)
    assert found.unmeasured_confounding is None
    assert "Unmeasured confounding: the confidence limits do not hold the hazard ratio." in found.notes
    assert found.detectable is not None
    assert found.weights


def test_the_share_of_the_formula_is_not_called_one_of_follow_up() -> None:
    """p (1 - p) is the mean of the products of both shares at risk: a p of 0.16 is one of 0.84, too."""
    blank = told(protocol(), registry())
    share = Detectable(events=193, share_exposed=0.159, power=0.8, protective=0.54, harmful=1.84)
    asked = protocol()
    shown = diagnostics(blank.model_copy(update={"detectable": share}), names_of(asked), asked).detectable
    assert shown.startswith(
        "With 193 deaths, at which those at risk were divided (started, or not yet) as if into "
        "16\u202f% and 84\u202f%, the power is 80\u202f% to find"
    )
    assert "follow-up" not in shown
