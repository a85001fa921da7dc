"""Sites put together: counts that time since index does not bias, and what may enter by inverse variance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwe.analyse.plan import run_analyses
from rwe.analyse.run_synthesis import synthesise
from rwe.evidence.synthesis import Synthesis
from rwe.survival.data import CohortTable, CountingProcess, exposure_split, no_changes
from rwe.survival.firth import exposure_firth
from rwe.survival.meta_analysis import leave_one_out, mantel_haenszel_rates, meta_analysis
from rwe.survival.site_effects import risk_set_counts
from tests.unit.test_plan import protocol_with

COX = {"analysis": "time_dependent_cox", "role": "primary", "by_site": True}
FIRTH = {"analysis": "time_dependent_firth", "role": "primary", "by_site": True}


def synthesis(patients: pd.DataFrame, analysis: dict[str, Any]) -> Synthesis:
    cohort = CohortTable(patients, no_changes())
    protocol = protocol_with(analysis)
    found = synthesise(protocol, cohort, run_analyses(protocol, cohort))
    assert found is not None
    return found


def site(name: str, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """A hazard that falls steeply from index on (Weibull, shape 0.6) and that a start changes in nothing."""
    died, followed = 800 * rng.weibull(0.6, n), rng.uniform(300, 1500, n)
    time = np.ceil(np.minimum(died, followed))
    start = np.floor(rng.exponential(300, n))
    return pd.DataFrame(
        {
            "patient_id": [f"{name}{i:05d}" for i in range(n)],
            "site": name,
            "time_days": time.astype(int),
            "is_event": died <= followed,
            "start_day": np.where(start < time, start, np.nan),
        }
    )


@pytest.fixture(scope="module")
def null() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.concat([site(name, 1500, rng) for name in "abc"], ignore_index=True)


def test_of_a_start_without_effect_no_way_of_counting_makes_one(null: pd.DataFrame) -> None:
    """Deaths per day of exposure would: the exposed are at risk later, when fewer die (0.5 in place of 1)."""
    found = {w.method: w for w in synthesis(null, COX).with_every_site}
    for w in found.values():
        assert w.log_estimate is not None
        assert w.se is not None
        assert w.se < 0.06
        assert abs(w.log_estimate) < 2.5 * w.se
    haenszel, likelihood = found["mantel_haenszel"], found["profile_likelihood"]
    assert haenszel.log_estimate == pytest.approx(likelihood.log_estimate, abs=0.01)
    assert haenszel.se == pytest.approx(likelihood.se, rel=0.03)


def test_the_risk_sets_of_the_event_times_by_hand() -> None:
    """b starts on day 4: unexposed when a dies on day 3, exposed when c dies on day 6, as b does."""
    start, stop = [0.0, 0, 4, 0, 0, 0], [3.0, 4, 6, 6, 9, 7]
    event = [True, False, True, True, False, True]
    rows = CountingProcess(
        start=np.array(start),
        stop=np.array(stop),
        event=np.array(event),
        exposed=np.array([False, False, True, False, False, True]),
        X=np.empty((6, 0)),
        names=(),
        patient=np.array([0, 1, 1, 2, 3, 4]),
        site=np.array(["x", "x", "x", "x", "x", "y"], dtype=object),
        n_patients=5,
    )
    found = risk_set_counts(rows)
    assert found.sites == ("x", "x", "y")
    assert found.events.tolist() == [[1, 0], [1, 1], [0, 1]]
    assert found.at_risk.tolist() == [[4, 0], [2, 1], [0, 1]]
    ratio = mantel_haenszel_rates(found.events, found.at_risk, sites=found.sites)
    assert ratio.estimate == pytest.approx((1 * 2 / 3) / (1 * 1 / 3))
    assert ratio.sites == 1  # y has never both groups at risk


def small(name: str, exposed_events: int, seed: int) -> pd.DataFrame:
    """Sixteen patients; seven start on the day of index, of whom the first few die."""
    rng = np.random.default_rng(seed)
    time = np.concatenate([rng.permutation(np.arange(200, 900, 100)), np.arange(40, 850, 90)]).astype(int)
    dies = np.concatenate([np.arange(7) < exposed_events, np.arange(9) < 6])
    return pd.DataFrame(
        {
            "patient_id": [f"{name}{i:02d}" for i in range(16)],
            "site": name,
            "time_days": time,
            "is_event": dies,
            "start_day": np.where(np.arange(16) < 7, 0.0, np.nan),
        }
    )


def test_an_estimate_that_only_the_penalty_keeps_finite_enters_no_mean() -> None:
    patients = pd.concat([small("a", 4, 1), small("b", 3, 2), small("c", 0, 3)], ignore_index=True)
    found = synthesis(patients, FIRTH)
    a, b, c = found.sites
    assert c.estimate is not None
    assert c.counted == "pooled_only"
    assert (c.weight_common, c.weight_random) == (None, None)
    assert c.reason is not None
    assert "penalty alone" in c.reason
    assert (a.reason, b.reason) == (None, None)
    common = next(m for m in found.meta if m.model == "common")
    alone = meta_analysis([a.log_estimate, b.log_estimate], [a.se, b.se], model="common")
    assert (common.sites, common.log_estimate) == (2, alone.log_estimate)
    assert any(note.startswith("Site c has no event in one group") for note in found.notes)
    assert any("Wald's standard errors" in note for note in found.notes)


def test_the_penalised_interval_of_no_event_is_wider_than_its_standard_error_says() -> None:
    """Why it may not enter: the profile goes several times farther down than Wald's interval."""
    hr = exposure_firth(exposure_split(CohortTable(small("c", 0, 3), no_changes()))).hazard_ratio()
    assert hr.ci_low is None or hr.ci_low < hr.wald_low / 2


def test_who_is_left_out_is_told_with_an_interval_that_agreement_by_chance_cannot_narrow(
    null: pd.DataFrame,
) -> None:
    found = synthesis(null, COX)
    y = [s.log_estimate for s in found.sites]
    se = [s.se for s in found.sites]
    left = leave_one_out(y, se, model="reml", interval="hksj_adhoc")
    assert [(one.ci_low, one.ci_high) for one in found.leave_one_out] == [
        (one.without.ci_low, one.without.ci_high) for one in left
    ]
    (note,) = [n for n in found.notes if n.startswith("Only 3 sites")]
    assert "Untruncated HKSJ can be narrower" in note
    assert "ad hoc cannot" in note


def test_sites_that_agree_by_chance_narrow_untruncated_hksj_below_the_common_effect() -> None:
    y, se = np.log([0.59, 0.60, 0.61]), [0.35, 0.40, 0.45]
    common, plain, adhoc = (
        meta_analysis(y, se, model=m, interval=i)
        for m, i in (("common", "wald"), ("reml", "hksj"), ("reml", "hksj_adhoc"))
    )
    widths = [math.log(m.ci_high / m.ci_low) for m in (common, plain, adhoc)]
    assert widths[1] < widths[0] < widths[2]
