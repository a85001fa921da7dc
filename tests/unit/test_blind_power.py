"""The power that is told before the lock: what adjusting costs, against risk sets gone through one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rwe.analyse.blind_power import blind_power, exposure_r_squared
from rwe.study import Protocol, load_study
from rwe.survival.cox import EXPOSURE, exposure_cox
from rwe.survival.data import (
    CohortTable,
    CountingProcess,
    NotEstimableError,
    exposure_split,
    landmark_split,
)
from rwe.survival.emulation import clone_censor_weight
from tests.support import ROOT

BUNDLED = load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml").protocol


def cohort(n: int, seed: int, *, confounded: float = 1.0, effect: float = 0.0) -> CohortTable:
    """Patients of two sites who start the earlier the higher x is; x does not touch the hazard."""
    rng = np.random.default_rng(seed)
    x, site = rng.normal(size=n), rng.integers(0, 2, size=n)
    start = rng.exponential(200 * np.exp(-confounded * x + 0.8 * site)).round()
    before = rng.exponential(500, size=n)
    after = rng.exponential(500 * math.exp(-effect), size=n)
    death = np.where(before < start, before, start + after)
    leaves = rng.uniform(200, 1500, size=n)
    time = np.ceil(np.minimum(death, leaves))
    progressed = np.ceil(rng.exponential(400, size=n))
    changes = [(f"p{i}", "progressed", int(d), 1.0) for i, d in enumerate(progressed) if d < time[i]]
    return CohortTable(
        pd.DataFrame(
            {
                "patient_id": [f"p{i}" for i in range(n)],
                "site": np.where(site == 1, "b", "a"),
                "time_days": time.astype(np.int64),
                "is_event": death <= leaves,
                "start_day": np.where(start < time, start, np.nan),
                "x": x,
            }
        ),
        pd.DataFrame(changes, columns=["patient_id", "covariate", "day", "value"]),
    )


def by_regression(rows: CountingProcess, by_site: bool) -> float:
    """R2 by least squares: each risk set is written out, has an intercept and the weight 1 / its size."""
    is_last = np.append(rows.patient[1:] != rows.patient[:-1], True)
    whole, left = 0.0, 0.0
    blocks = []
    for place in np.flatnonzero(is_last):
        time = rows.stop[place]
        at_risk = (rows.start < time) & (rows.stop >= time)
        z = rows.exposed[at_risk].astype(float)
        whole += float(((z - z.mean()) ** 2).mean())
        if by_site:
            at_risk &= rows.site == rows.site[place]
        z, x = rows.exposed[at_risk].astype(float), rows.X[at_risk]
        blocks.append(np.column_stack([z - z.mean(), x - x.mean(axis=0)]) / math.sqrt(len(z)))
    stacked = np.vstack(blocks)
    fitted, *_ = np.linalg.lstsq(stacked[:, 1:], stacked[:, 0], rcond=None)
    left = float(((stacked[:, 0] - stacked[:, 1:] @ fitted) ** 2).sum())
    return 1 - left / whole


@pytest.mark.parametrize("by_site", [False, True])
def test_it_is_the_r_squared_of_exposure_in_the_risk_sets(by_site: bool) -> None:
    rows = exposure_split(cohort(120, 3), ["x"], ["progressed"])
    expected = by_regression(rows, by_site)
    assert 0.05 < expected < 0.9
    assert exposure_r_squared(rows, by_site=by_site) == pytest.approx(expected, abs=1e-10)


def asked(**primary: object) -> Protocol:
    """The bundled protocol with one analysis."""
    content = BUNDLED.model_dump(mode="json")
    content |= {"sensitivity_grid": [], "subgroups": [], "negative_controls": [], "chart_review": None}
    content["covariates"] = [
        {"kind": "years_since", "name": "x", "label": "X", "origin": "2020-01-01"},
        {"kind": "disease_status", "name": "progressed", "label": "Progressed", "status": "progressed"},
    ]
    content["analyses"] = [{"analysis": "time_dependent_cox", "role": "primary", **primary}]
    return Protocol.model_validate(content)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_is_the_power_of_the_model_that_the_report_takes(seed: int) -> None:
    """Without an effect of anything, the reach told before is that of the standard error afterwards."""
    table = cohort(1500, seed)
    found = blind_power(asked(adjusted_for=["x", "progressed"], stratify_by=["site"]), table)
    rows = exposure_split(table, ["x"], ["progressed"])
    fit = exposure_cox(rows, stratify_by_site=True)
    se = float(fit.se[fit.names.index(EXPOSURE)])
    reach = (1.959964 + 0.841621) * se  # Schoenfeld 1983: two-sided 5 %, power 80 %
    assert -math.log(found.detectable.protective) == pytest.approx(reach, rel=0.05)
    naive = blind_power(asked(), table)
    assert -math.log(naive.detectable.protective) < 0.9 * reach
    assert (naive.r_squared, naive.adjusted_for) == (0.0, ())
    assert "without adjustment" in naive.sentence()
    assert f"{found.r_squared:.0%}".replace("%", " %") in found.sentence()


def test_who_died_does_not_change_it() -> None:
    table = cohort(200, 5, effect=-1.0)
    protocol = asked(adjusted_for=["x"])
    dead = table.patients["is_event"].to_numpy()
    dealt = replace(table, patients=table.patients.assign(is_event=np.sort(dead)[::-1]))
    assert (dealt.patients["is_event"] != table.patients["is_event"]).any()
    assert blind_power(protocol, dealt) == blind_power(protocol, table)


def test_patients_without_a_covariate_are_left_out_as_in_the_model() -> None:
    table = cohort(200, 6)
    x = table.patients["x"].where(np.arange(200) >= 50)
    found = blind_power(asked(adjusted_for=["x"]), replace(table, patients=table.patients.assign(x=x)))
    assert found.detectable.events == int(table.patients["is_event"][50:].sum())


def test_a_covariate_that_tells_exposure_leaves_nothing_to_detect() -> None:
    rows = exposure_split(cohort(60, 7), ["x"])
    told = replace(rows, X=rows.exposed.astype(float)[:, None])
    with pytest.raises(NotEstimableError, match="tell who is exposed"):
        exposure_r_squared(told)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_landmark_has_the_patients_and_events_after_it(seed: int) -> None:
    table = cohort(1500, seed)
    found = blind_power(asked(analysis="landmark_cox", landmarks=[180], adjusted_for=["x"]), table)
    after = table.patients["time_days"] > 180
    assert found.detectable.events == int((after & table.patients["is_event"]).sum())
    rows = landmark_split(table, 180, ["x"])
    fit = exposure_cox(rows)
    reach = (1.959964 + 0.841621) * float(fit.se[fit.names.index(EXPOSURE)])
    assert -math.log(found.detectable.protective) == pytest.approx(reach, rel=0.07)


def test_no_warning_before_the_lock_tells_that_an_arm_has_no_event() -> None:
    table = cohort(120, 8)
    waited = table.patients["start_day"].isna() & (table.patients["time_days"] > 90)
    deathless = table.patients.assign(is_event=table.patients["is_event"] & waited)
    found = clone_censor_weight(replace(table, patients=deathless), 90, ["x"], horizon_days=300, replicates=0)
    assert any("no event in the treated arm" in w for w in found.warnings)
    assert not any("event" in w for w in found.warnings_of_starts)
