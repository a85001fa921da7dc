"""The synthetic truth: what an analysis of the latent patients must and must not find."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, CoxTimeVaryingFitter, KaplanMeierFitter

from rwe.sandbox.hospital import demo_specs
from rwe.sandbox.truth import LatentCohort, Truth, latent_table, simulate_patients

SITES = ("north", "river", "summit")


def three_sites(truth: Truth, seed: int, n: int = 300) -> pd.DataFrame:
    return pd.concat(
        [latent_table(simulate_patients(truth, site=site, n=n, seed=seed)) for site in SITES],
        ignore_index=True,
    )


def counting_process(patients: pd.DataFrame) -> pd.DataFrame:
    """Rows (start, stop] by the textbook: a change on day d acts from the end of d."""
    rows = []
    for p in patients.itertuples():
        changes = (p.start_day, p.response_day, p.progression_day)
        cuts = sorted({0.0, *(d for d in changes if d < p.time_days), float(p.time_days)})
        for start, stop in itertools.pairwise(cuts):
            progressed = start >= p.progression_day
            rows.append(
                {
                    "id": p.patient_id,
                    "site": p.site,
                    "start": start,
                    "stop": stop,
                    "event": bool(p.is_event) and stop == p.time_days,
                    "maintenance": float(start >= p.start_day),
                    "responding": float(start >= p.response_day and not progressed),
                    "progressed": float(progressed),
                    "age": p.age,
                    "ecog": p.ecog,
                    "log_ldh": p.log_ldh,
                }
            )
    return pd.DataFrame(rows)


def adjusted_cox(patients: pd.DataFrame) -> CoxTimeVaryingFitter:
    return CoxTimeVaryingFitter().fit(
        counting_process(patients),
        id_col="id",
        event_col="event",
        start_col="start",
        stop_col="stop",
        strata=["site"],
    )


@pytest.fixture(scope="module")
def demo() -> pd.DataFrame:
    return pd.concat([latent_table(spec.cohort()) for spec in demo_specs(1)], ignore_index=True)


@pytest.fixture(scope="module")
def fitted(demo: pd.DataFrame) -> CoxTimeVaryingFitter:
    return adjusted_cox(demo)


def test_the_adjusted_time_dependent_interval_covers_the_truth(fitted: CoxTimeVaryingFitter) -> None:
    low, high = np.exp(fitted.confidence_intervals_.loc["maintenance"])
    assert low < Truth().hazard_ratio < high
    assert high / low < 2.0, "an interval this wide would cover anything"


def test_every_other_coefficient_of_the_model_is_near_its_truth(fitted: CoxTimeVaryingFitter) -> None:
    truth = Truth()
    known = {
        "responding": truth.responding_log_hr,
        "progressed": truth.progressed_log_hr,
        "age": truth.age_log_hr,
        "ecog": truth.ecog_log_hr,
        "log_ldh": truth.ldh_log_hr,
    }
    z = (fitted.params_[list(known)] - pd.Series(known)) / fitted.standard_errors_[list(known)]
    assert z.abs().max() < 3.3


def test_ever_against_never_from_day_zero_is_far_from_the_truth(demo: pd.DataFrame) -> None:
    ever = demo.assign(ever=demo["start_day"].notna().astype(float))
    naive = CoxPHFitter().fit(ever[["time_days", "is_event", "ever"]], "time_days", "is_event")
    assert naive.hazard_ratios_["ever"] < 0.40
    assert np.exp(naive.confidence_intervals_.loc["ever"]).iloc[1] < Truth().hazard_ratio


def test_without_an_effect_the_adjusted_analysis_finds_none() -> None:
    model = adjusted_cox(three_sites(Truth(hazard_ratio=1.0), seed=4))
    low, high = np.exp(model.confidence_intervals_.loc["maintenance"])
    assert low < 1.0 < high


def test_the_cohort_looks_like_the_disease(demo: pd.DataFrame) -> None:
    assert len(demo) == 900
    assert 0.27 < demo["start_day"].notna().mean() < 0.40
    assert 0.45 < demo["is_event"].mean() < 0.64
    assert 0.07 < demo["salvage_day"].notna().mean() < 0.15
    assert demo["start_day"].median() > 100, "late starts make the immortal time"
    responders_start = demo["start_day"].notna()[demo["response_day"].notna()].mean()
    others_start = demo["start_day"].notna()[demo["response_day"].isna()].mean()
    assert responders_start > 5 * others_start


def test_untreated_patients_of_an_average_site_live_about_a_year() -> None:
    untreated = Truth(hazard_ratio=1.0, loss_rate=1e-9, site_log_sd=0.0)
    table = latent_table(simulate_patients(untreated, site="x", n=4000, seed=3))
    median = KaplanMeierFitter().fit(table["time_days"], table["is_event"]).median_survival_time_
    assert 330 < median < 460


def test_deaths_follow_the_exponential_law_where_only_the_baseline_acts() -> None:
    plain = Truth(
        baseline_hazard=0.002,
        early_hazard_ratio=1.0,
        site_log_sd=0.0,
        age_log_hr=0.0,
        ecog_log_hr=0.0,
        ldh_log_hr=0.0,
        responding_log_hr=0.0,
        progressed_log_hr=0.0,
        hazard_ratio=1.0,
        loss_rate=1e-9,
    )
    table = latent_table(simulate_patients(plain, site="x", n=20_000, seed=11))
    for day in (10, 30, 100, 365):
        expected = 1 - math.exp(-0.002 * day)
        died = (table["is_event"] & (table["time_days"] <= day)).mean()
        assert died == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 20_000))


def test_nothing_is_recorded_on_the_day_of_death_or_after_the_last_contact() -> None:
    table = three_sites(Truth(), seed=2)
    for column in ("start_day", "response_day", "progression_day", "salvage_day"):
        recorded = table[table[column].notna()]
        assert (recorded[column] <= recorded["time_days"]).all()
        assert (recorded[column] < recorded["time_days"])[recorded["is_event"]].all()


def test_maintenance_starts_before_progression_and_salvage_after_it() -> None:
    table = three_sites(Truth(), seed=2)
    both = table.dropna(subset=["start_day", "progression_day"])
    assert (both["start_day"] < both["progression_day"]).all()
    assert len(both) > 20
    salvaged = table[table["salvage_day"].notna()]
    assert (salvaged["salvage_day"] > salvaged["progression_day"]).all()
    assert salvaged["start_day"].isna().all()


def same(one: LatentCohort, other: LatentCohort) -> bool:
    pairs = zip(dataclasses.astuple(one.course), dataclasses.astuple(other.course), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_the_same_seed_makes_the_same_patients_and_another_makes_others() -> None:
    one = simulate_patients(Truth(), site="north", n=50, seed=1)
    assert same(one, simulate_patients(Truth(), site="north", n=50, seed=1))
    assert not same(one, simulate_patients(Truth(), site="north", n=50, seed=2))
    assert not same(one, simulate_patients(Truth(), site="river", n=50, seed=1))


def test_extras_come_on_top_of_the_eligible_and_are_none_of_them() -> None:
    cohort = simulate_patients(Truth(), site="north", n=200, seed=1)
    assert cohort.is_eligible.sum() == 200
    assert set(cohort.baseline.kind) == {"eligible", "washout", "other_disease", "no_car_t", "under_18"}
    is_young = cohort.baseline.age < 18
    assert (is_young == (cohort.baseline.kind == "under_18")).all()
    assert len(latent_table(cohort, eligible_only=False)) == len(cohort.time_days) > 200


def test_all_calendar_dates_lie_in_the_years_of_the_records() -> None:
    cohort = simulate_patients(Truth(), site="north", n=300, seed=1)
    index = cohort.baseline.index_date
    assert index.min() >= np.datetime64("2018-06-01")
    assert index.max() <= np.datetime64("2023-06-30")
    assert (index + cohort.time_days).max() < np.datetime64("2025-06-01")


@pytest.mark.parametrize(
    "wrong", [{"share_messy": 1.2}, {"hazard_ratio": 0.0}, {"last_index": Truth().end_of_records}]
)
def test_an_impossible_truth_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Truth(**wrong)  # type: ignore[arg-type]
