"""Sequential target trials against the start-day comparison, slow loops, and a known truth."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rwe.survival.cox import cox_data, exposure_cox, fit_cox
from rwe.survival.data import CohortTable, NotEstimableError, SurvivalDataError, start_day_split
from rwe.survival.sequential import sequential_trials
from tests.unit.emulation_cohorts import mixed_cohort
from tests.unit.emulation_reference import people, starting_hazard
from tests.unit.test_survival_emulation_truth import simulate, simulate_status


@pytest.mark.parametrize(("fixed", "varying"), [([], []), (["x", "z"], []), (["x"], ["status"])])
@pytest.mark.parametrize("by_site", [False, True])
def test_as_started_is_the_comparison_by_start_day(
    fixed: list[str], varying: list[str], by_site: bool
) -> None:
    table = mixed_cohort(120, seed=2, sites=2)
    found = sequential_trials(table, fixed, varying, contrast="as_started", stratify_by_site=by_site)
    expected = exposure_cox(start_day_split(table, fixed, varying), stratify_by_site=by_site, robust=True)
    assert found.fit.names == expected.names
    assert found.fit.coefficients == pytest.approx(expected.coefficients, abs=1e-9)
    assert found.fit.se == pytest.approx(expected.se, abs=1e-9)
    assert found.window_days == 1
    assert found.weights is None


def slow_per_protocol(
    table: CohortTable, fixed: list[str], varying: list[str], unless: str | None
) -> tuple[float, float]:
    """Every trial's every person, cut at every start, weighted by loops."""
    group = people(table, fixed, varying, unless)
    models = []
    for changing in (varying, []):
        same = people(table, fixed, changing, unless)
        models.append((same, *starting_hazard(same, lambda p: p.excused - 0.5)))
    hazard = models[0][2]

    def weight(i: int, s: float, t: float) -> float:
        total = 0.0
        for sign, (same, beta, steps) in zip((1, -1), models, strict=True):
            p = same[i]
            between = [u for u in steps if s < u < t and u < p.excused]
            total += sign * sum(steps[u] * np.exp(p.covariates(u) @ beta) for u in between)
        return float(np.exp(total))

    rows = []
    for s in sorted({p.start for p in group if p.start < np.inf}):
        for i, p in enumerate(group):
            if p.time <= s or p.start < s or p.excused <= s:
                continue
            # As known on s, the day included.
            x = p.covariates(s + 0.25)
            if p.start == s:
                rows.append((s, i, s, p.time, p.event, 1.0, x, 1.0))
                continue
            end, event = (p.start, False) if p.start < np.inf else (p.time, p.event)
            cuts = [s, *(u for u in sorted(hazard) if s < u < end), end]
            for a, b in pairwise(cuts):
                rows.append((s, i, a, b, event and b == end, 0.0, x, weight(i, s, b)))
    trial, who, start, stop, event, exposed, x, w = (list(c) for c in zip(*rows, strict=True))
    names = ("exposed", *fixed, *varying)
    data = cox_data(
        np.column_stack([exposed, np.array(x)]),
        stop,
        event,
        names=names,
        start=start,
        weights=w,
        strata=trial,
        cluster=who,
    )
    fit = fit_cox(data, robust=True)
    return float(fit.coefficients[0]), float(fit.se[0])


@pytest.mark.parametrize("unless", [None, "progression_day"])
def test_per_protocol_is_what_slow_loops_give(unless: str | None) -> None:
    table = mixed_cohort(50, seed=14)
    found = sequential_trials(table, ["x"], ["status"], contrast="per_protocol", unless=unless)
    log_hr, se = slow_per_protocol(table, ["x"], ["status"], unless)
    assert found.window_days == 1
    assert found.hazard_ratio.log_estimate == pytest.approx(log_hr, abs=1e-7)
    assert found.fit.se[0] == pytest.approx(se, abs=1e-6)
    assert found.hazard_ratio.se > se, "the sandwich is too small in the small risk sets of late trial days"


def test_the_conditional_ratio_is_found_per_protocol_and_diluted_as_started() -> None:
    table = simulate(1500, seed=5, ratio=0.5)
    full = sequential_trials(table, ["x"], last_start_day=120, window_days=14)
    diluted = sequential_trials(table, ["x"], contrast="as_started", last_start_day=120, window_days=14)
    assert full.hazard_ratio.ci_low < 0.5 < full.hazard_ratio.ci_high
    assert full.hazard_ratio.se < 0.2
    assert full.hazard_ratio.estimate < diluted.hazard_ratio.estimate
    assert full.window_days == 14
    assert any("windows of 14 days" in w for w in full.warnings)


def test_windows_of_a_week_give_nearly_what_single_days_give() -> None:
    table = simulate(250, seed=6, ratio=0.5)
    single = sequential_trials(table, ["x"], last_start_day=60, window_days=1)
    week = sequential_trials(table, ["x"], last_start_day=60, window_days=7)
    assert week.n_trials < single.n_trials / 3
    assert week.person_trials[1] == single.person_trials[1]
    assert week.hazard_ratio.log_estimate == pytest.approx(
        single.hazard_ratio.log_estimate, abs=0.3 * single.hazard_ratio.se
    )


def test_a_status_that_changes_is_weighted_for() -> None:
    # The drug halves the hazard at any status; those not started are the sicker, the longer they wait.
    table, _ = simulate_status(1200, seed=3)
    found = sequential_trials(table, [], ["bad"], last_start_day=90, window_days=14)
    ignored = sequential_trials(table, [], [], last_start_day=90, window_days=14)
    assert found.hazard_ratio.ci_low < 0.55
    assert ignored.hazard_ratio.estimate < found.hazard_ratio.estimate


def test_truncation_bounds_the_weights() -> None:
    table = mixed_cohort(100, seed=9)
    plain = sequential_trials(table, ["x"], ["status"])
    cut = sequential_trials(table, ["x"], ["status"], truncate_percentile=90)
    assert plain.weights is not None
    assert cut.weights is not None
    assert cut.weights.maximum == cut.weights.capped_at < plain.weights.maximum


def test_without_a_covariate_that_changes_there_are_no_weights() -> None:
    # Given what the model adjusts for, a later start then says nothing: censoring at it is enough.
    found = sequential_trials(mixed_cohort(100, seed=9), ["x"])
    assert found.weights is None
    assert "censored at a later start" in found.method


def test_follow_up_may_end_before_the_data_do() -> None:
    table = mixed_cohort(120, seed=2)
    starts = (table.patients["start_day"] < 20) & (table.patients["time_days"] > 10)
    patients = table.patients.assign(start_day=np.where(starts, 10.0, np.nan))
    table = CohortTable(patients, table.changes)
    short = sequential_trials(table, ["x"], follow_up_days=30)
    late = patients["time_days"] > 40
    cut = patients.assign(
        is_event=patients["is_event"] & ~late, time_days=patients["time_days"].clip(upper=40)
    )
    expected = sequential_trials(CohortTable(cut, table.changes), ["x"])
    assert short.fit.coefficients == pytest.approx(expected.fit.coefficients, abs=1e-12)
    assert short.events == expected.events
    with pytest.raises(SurvivalDataError, match="at least one day"):
        sequential_trials(table, follow_up_days=0)


def test_nobody_to_compare() -> None:
    table = mixed_cohort(30, seed=1)
    nobody = CohortTable(table.patients.assign(start_day=np.nan), table.changes)
    with pytest.raises(NotEstimableError, match=r"nobody started \(0 of 30\)"):
        sequential_trials(nobody, ["x"])
    everybody = CohortTable(table.patients.assign(start_day=0.0), table.changes)
    with pytest.raises(NotEstimableError, match="anybody to compare"):
        sequential_trials(everybody, ["x"])
    with pytest.raises(SurvivalDataError, match="before index"):
        sequential_trials(table, last_start_day=-1)
    with pytest.raises(SurvivalDataError, match="at least one day"):
        sequential_trials(table, window_days=0)
