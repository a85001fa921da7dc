"""Models with competing risks: weights from their definition, R's finegray and cmprsk, and edges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import (
    CountingProcess,
    NotEstimableError,
    exposure_split,
    frozen_flags,
    frozen_floats,
    frozen_ints,
    naive_split,
)
from rwe.survival.fine_gray import cause_specific_cox, fine_gray, subdistribution_rows
from rwe.survival.first_events import CompetingRows, competing_rows, first_events
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_data import NEVER, table

CAUSES = ("relapse", "death")


def rows_of(frame: pd.DataFrame) -> CompetingRows:
    data = CountingProcess(
        start=frozen_floats(frame["entry"]),
        stop=frozen_floats(frame["stop"]),
        event=frozen_flags(frame["cause"] > 0),
        exposed=frozen_flags(frame["g"] == 1),
        X=frozen_floats(frame[["age"]]),
        names=("age",),
        patient=frozen_ints(np.arange(len(frame))),
        site=frame["site"].to_numpy(dtype=object),
        n_patients=len(frame),
    )
    return CompetingRows(data, frozen_ints(frame["cause"]), CAUSES)


def simulated(seed: int, late: bool = False, n: int = 150) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, age, site = rng.integers(0, 2, n), rng.normal(0, 1, n).round(2), rng.choice(["a", "b"], n)
    entry = np.where(rng.random(n) < 0.5, rng.integers(1, 60, n), 0) if late else np.zeros(n, dtype=int)
    first, second = rng.exponential(200 * np.exp(0.5 * g), n), rng.exponential(300, n)
    lost = rng.integers(50, 600, n)
    stop = np.ceil(np.minimum(np.minimum(first, second), lost) / 5) * 5
    cause = np.where(first <= np.minimum(second, lost), 1, np.where(second <= lost, 2, 0))
    frame = pd.DataFrame(
        {"id": np.arange(n), "entry": entry, "stop": stop, "cause": cause, "g": g, "age": age, "site": site}
    )
    return frame[frame["stop"] > frame["entry"]].reset_index(drop=True)


@pytest.mark.parametrize("late", [False, True])
def test_agrees_with_finegray_of_r_on_coefficients_and_robust_errors(late, tmp_path):
    frame = simulated(3, late)
    outcome = "Surv(entry, stop, f)" if late else "Surv(stop, f)"
    r = in_r(
        f"""d$f <- factor(d$cause, 0:2, c("none", "relapse", "death"))
            fg <- finegray({outcome} ~ id + g + age, d, id = id, etype = "relapse")
            m <- coxph(Surv(fgstart, fgstop, fgstatus) ~ g + age, fg, weights = fgwt, cluster = id)
            list(coef = coef(m), se = sqrt(diag(vcov(m))))""",
        frame,
        tmp_path,
    )
    found = fine_gray(rows_of(frame), "relapse")
    assert found.fit.coefficients == pytest.approx(r["coef"], abs=1e-6)
    assert found.fit.se == pytest.approx(r["se"], abs=1e-6)
    assert found.fit.n_patients == len(frame)
    assert found.fit.events == int((frame["cause"] == 1).sum())


def test_agrees_with_finegray_of_r_with_a_baseline_and_censoring_of_each_site(tmp_path):
    frame = simulated(7)
    r = in_r(
        """d$f <- factor(d$cause, 0:2, c("none", "relapse", "death"))
           fg <- finegray(Surv(stop, f) ~ id + g + age + site + strata(site), d, etype = "relapse")
           m <- coxph(Surv(fgstart, fgstop, fgstatus) ~ g + age + strata(site), fg,
                      weights = fgwt, cluster = id)
           list(coef = coef(m), se = sqrt(diag(vcov(m))))""",
        frame,
        tmp_path,
    )
    found = fine_gray(rows_of(frame), "relapse", stratify_by_site=True, censoring_by="site")
    assert found.fit.coefficients == pytest.approx(r["coef"], abs=1e-6)
    assert found.fit.se == pytest.approx(r["se"], abs=1e-6)
    assert "within each site" in found.assumptions[1]


def test_agrees_with_crr_of_cmprsk_without_ties(tmp_path):
    frame = simulated(8)
    frame["stop"] += np.arange(len(frame)) / 1000  # no ties, so Breslow and Efron are one
    r = in_r(
        """m <- crr(d$stop, d$cause, cbind(d$g, d$age), failcode = 1, gtol = 1e-12)
           list(coef = m$coef, se = sqrt(diag(m$var)))""",
        frame,
        tmp_path,
        libraries=("cmprsk",),
    )
    found = fine_gray(rows_of(frame), "relapse").fit
    assert found.coefficients == pytest.approx(r["coef"], abs=1e-6)
    assert found.se == pytest.approx(r["se"], rel=0.03)  # cmprsk counts the weights as estimated


def chance(frame: pd.DataFrame, t: float) -> float:
    """G(t-) H(t-) from the definition: of being censored, and in reversed time of having entered."""
    stay = have_entered = 1.0
    for c in sorted(frame.loc[(frame["cause"] == 0) & (frame["stop"] < t), "stop"].unique()):
        at_risk = ((frame["entry"] < c) & (frame["stop"] >= c)).sum()
        at_risk -= ((frame["stop"] == c) & (frame["cause"] > 0)).sum()  # events come first
        stay *= 1 - ((frame["stop"] == c) & (frame["cause"] == 0)).sum() / at_risk
    for e in frame.loc[(frame["entry"] >= t) & (frame["entry"] > 0), "entry"].unique():
        inside = ((frame["entry"] <= e) & (frame["stop"] > e)).sum()
        have_entered *= 1 - (frame["entry"] == e).sum() / inside
    return stay * have_entered


@pytest.mark.parametrize("censoring_by", ["all", "exposure"])
@pytest.mark.parametrize("late", [False, True])
def test_weights_after_a_competing_event_are_those_of_the_definition(censoring_by, late):
    frame = simulated(9, late, n=60)
    weighted = subdistribution_rows(rows_of(frame), "relapse", censoring_by=censoring_by)
    data, last = weighted.data, frame.loc[frame["cause"] == 1, "stop"].max()
    assert (weighted.weight[: len(frame)] == 1).all()
    for i in np.flatnonzero(frame["cause"] == 2):
        mine = frame if censoring_by == "all" else frame[frame["g"] == frame.loc[i, "g"]]
        for t in frame.loc[(frame["cause"] == 1) & (frame["stop"] > frame.loc[i, "stop"]), "stop"].unique():
            here = (data.patient == i) & (data.start < t) & (t <= data.stop)
            expected = chance(mine, t) / chance(mine, frame.loc[i, "stop"])
            assert weighted.weight[here].sum() == pytest.approx(expected, abs=1e-12)
    tails = np.arange(len(data)) >= len(frame)
    assert not data.event[tails].any()
    assert data.stop[tails].max() <= last


def test_without_competing_events_it_is_the_cox_model():
    frame = simulated(10)
    frame["cause"] = np.minimum(frame["cause"], 1)
    rows = rows_of(frame)
    found, plain = fine_gray(rows, "relapse").fit, exposure_cox(rows.data, robust=True)
    np.testing.assert_allclose(found.coefficients, plain.coefficients, atol=1e-12)
    np.testing.assert_allclose(found.se, plain.se, atol=1e-12)


def test_the_cause_specific_model_is_cox_with_other_causes_censored_and_time_dependent_exposure():
    rows = [(f"p{i}", 50 + 7 * i, i % 3 > 0, 5.0 + i if i % 2 else NEVER) for i in range(14)]
    events = first_events(
        table(rows), {"relapse": [20 + i if i % 4 == 0 else float("nan") for i in range(14)]}
    )
    found = cause_specific_cox(competing_rows(events, exposure_split(events.table)), "death")
    patients = events.table.patients.assign(is_event=events.cause == 2)
    by_hand = exposure_cox(exposure_split(type(events.table)(patients, events.table.changes)))
    assert found.fit.coefficients == pytest.approx(by_hand.coefficients, abs=1e-12)
    assert found.fit.events == int((events.cause == 2).sum())
    assert found.hazard_ratio().estimate == pytest.approx(float(np.exp(by_hand.coefficients[0])))


def test_refusals_have_a_sentence():
    days = {"relapse": [float("nan"), 30, float("nan"), float("nan")]}
    events = first_events(
        table([("a", 40, True, 5.0), ("b", 50, True, NEVER), ("c", 60, False, 7.0), ("d", 70, False, NEVER)]),
        days,
    )
    with pytest.raises(NotEstimableError, match="groups fixed at time zero"):
        fine_gray(competing_rows(events, exposure_split(events.table)), "relapse")
    none = first_events(events.table, {"transplant": [float("nan")] * 4})
    with pytest.raises(NotEstimableError, match="there is no event"):
        fine_gray(competing_rows(none, naive_split(none.table)), "transplant")
    # No relapse among those who start: no estimate, and a warning that says why.
    fit = fine_gray(competing_rows(events, naive_split(events.table)), "relapse")
    assert fit.hazard_ratio().estimate is None
    assert "no event among the exposed" in fit.warnings[0]


def test_entry_so_late_that_weights_are_undefined_is_refused():
    # Whoever was there at the death on day 5 has left before the others enter on day 10.
    frame = pd.DataFrame(
        {
            "entry": [0, 0, 10, 10],
            "stop": [5, 7, 20, 25],
            "cause": [2, 0, 1, 1],
            "g": [0, 1, 0, 1],
            "age": [1.0, 2, 3, 4],
            "site": list("aaaa"),
        }
    )
    with pytest.raises(NotEstimableError, match="weights after a competing event are not defined"):
        fine_gray(rows_of(frame), "relapse")
