"""One effect common to sites whose own models differ, and the test that they have one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, CountingProcess, NotEstimableError, exposure_split, no_changes
from rwe.survival.site_effects import common_effect, site_interaction


def site(name: str, n: int, *, seed: int, log_hr: float = -0.5, started: float = 0.5) -> pd.DataFrame:
    """Patients whose exposure begins early, and whose hazard it multiplies."""
    rng = np.random.default_rng(seed)
    exposed = rng.random(n) < started
    age = rng.normal(60, 8, n).round(1)
    hazard = np.exp(log_hr * exposed + 0.02 * (age - 60)) / 300
    died = np.ceil(rng.exponential(1 / hazard))
    followed = np.ceil(rng.uniform(200, 900, n))
    time = np.minimum(died, followed)
    return pd.DataFrame(
        {
            "patient_id": [f"{name}{i}" for i in range(n)],
            "site": name,
            "time_days": time,
            "is_event": died <= followed,
            "start_day": np.where(exposed, 0.0, np.nan),
            "age": age,
        }
    )


def rows(*sites: pd.DataFrame) -> CountingProcess:
    return exposure_split(CohortTable(pd.concat(sites, ignore_index=True), no_changes()), ["age"])


def test_of_one_site_it_is_that_sites_model() -> None:
    data = rows(site("a", 120, seed=1))
    found, own = common_effect(data).fit.hazard_ratio(), exposure_cox(data).hazard_ratio()
    assert (found.log_estimate, found.se) == pytest.approx((own.log_estimate, own.se), abs=1e-9)


def test_two_copies_of_a_site_halve_its_variance_and_do_not_differ() -> None:
    a = site("a", 120, seed=1)
    b = a.assign(site="b", patient_id=a["patient_id"].str.replace("a", "b"))
    own, both = exposure_cox(rows(a)).hazard_ratio(), common_effect(rows(a, b)).fit.hazard_ratio()
    assert both.log_estimate == pytest.approx(own.log_estimate, abs=1e-9)
    assert both.se == pytest.approx(own.se / np.sqrt(2), abs=1e-9)  # type: ignore[operator]
    test = site_interaction(rows(a, b)).test
    assert (test.chi_square, test.df) == (pytest.approx(0, abs=1e-8), 1)


def test_each_site_keeps_its_own_coefficients_where_it_has_any() -> None:
    """At b all are of one age, so that b has no coefficient of age, and counts none the less."""
    a, b = site("a", 120, seed=1), site("b", 80, seed=2).assign(age=60.0)
    found = common_effect(rows(a, b))
    assert found.fit.names == ("exposed", "age at a")
    assert found.contributing == ("a", "b")
    assert found.fit.hazard_ratio().se < exposure_cox(rows(a)).hazard_ratio().se  # type: ignore[operator]


def test_a_site_where_nobody_started_is_silent() -> None:
    a, b = site("a", 120, seed=1), site("b", 80, seed=2, started=0.0)
    found = common_effect(rows(a, b))
    assert (found.contributing, found.silent) == (("a",), ("b",))
    alone = common_effect(rows(a))
    assert found.fit.hazard_ratio().log_estimate == alone.fit.hazard_ratio().log_estimate
    with pytest.raises(NotEstimableError, match="fewer than two sites"):
        site_interaction(rows(a, b))


def test_sites_of_opposite_effects_differ_by_either_test() -> None:
    data = rows(site("a", 300, seed=1, log_hr=-1.0), site("b", 300, seed=2, log_hr=1.0))
    ratio, wald = site_interaction(data).test, site_interaction(data, robust=True).test
    assert ratio.method == "likelihood ratio"
    assert wald.method == "Wald, robust variance"
    for test in (ratio, wald):
        assert test.p_value is not None
        assert test.p_value < 1e-10
    assert ratio.chi_square == pytest.approx(wald.chi_square, rel=0.25)


def test_no_site_with_both_groups_is_refused() -> None:
    with pytest.raises(NotEstimableError):
        common_effect(rows(site("a", 50, seed=1, started=0.0), site("b", 50, seed=2, started=1.0)))
