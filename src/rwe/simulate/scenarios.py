"""Situations in which estimators are judged: what is true, and which assumptions break."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from rwe.sandbox.truth import NATURE, Regime, Truth, latent_table, simulate_patients
from rwe.survival.tables import CohortTable

Assumption = Literal["no_confounding", "no_baseline_confounding", "one_hazard_ratio", "independent_censoring"]

BASELINE = ("age", "ecog", "log_ldh")
TIME_VARYING = ("responding", "progressed")


@dataclass(frozen=True)
class Scenario:
    """A truth, a number of patients a site, and what does not hold in it.

    Everybody who starts has survived until then, so immortal time is in all of them.
    """

    name: str
    words: str
    truth: Truth
    sites: int
    patients: int
    grace_days: int = 180
    landmark: int = 180
    horizon: int = 730
    broken: frozenset[Assumption] = frozenset()

    @property
    def n(self) -> int:
        return self.sites * self.patients

    def draw(self, seed: int, *, regime: Regime = NATURE, patients: int | None = None) -> CohortTable:
        """One cohort: all eligible patients of all sites, with their disease status over time."""
        tables = [
            latent_table(
                simulate_patients(
                    self.truth, site=f"site_{k}", n=patients or self.patients, seed=seed, regime=regime
                )
            )
            for k in range(1, self.sites + 1)
        ]
        return cohort_table(pd.concat(tables, ignore_index=True))


def cohort_table(latent: pd.DataFrame) -> CohortTable:
    """The columns of `latent_table` as an estimator reads them: disease status as changes over time."""
    patients = latent[["patient_id", "site", "time_days", "is_event", "start_day", *BASELINE]].copy()
    parts = []
    for covariate, begins, ends in (
        ("responding", "response_day", "progression_day"),
        ("progressed", "progression_day", None),
    ):
        parts.append(_changes(latent, covariate, begins, 1.0))
        if ends:
            ended = latent[latent[begins].notna() & latent[ends].notna()]
            parts.append(_changes(ended, covariate, ends, 0.0))
    return CohortTable(patients=patients, changes=pd.concat(parts, ignore_index=True))


def _changes(latent: pd.DataFrame, covariate: str, day: str, value: float) -> pd.DataFrame:
    known = latent[latent[day].notna()]
    return pd.DataFrame(
        {
            "patient_id": known["patient_id"],
            "covariate": covariate,
            "day": known[day].astype("int64"),
            "value": value,
        }
    )


#: Nobody's start depends on anything, and sites do not differ: immortal time is the only bias.
_RANDOM = Truth(
    start_rate_responding=0.0024,
    start_rate_stable=0.0024,
    site_log_sd=0.0,
)
_CONFOUNDED = Truth()

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "null",
        "no effect; started by confounders alone",
        replace(_CONFOUNDED, hazard_ratio=1.0),
        sites=3,
        patients=200,
        broken=frozenset({"no_confounding"}),
    ),
    Scenario(
        "confounded",
        "hazard ratio 0.60; responders start six times as often",
        _CONFOUNDED,
        sites=3,
        patients=200,
        broken=frozenset({"no_confounding"}),
    ),
    Scenario(
        "unconfounded",
        "hazard ratio 0.60; whoever has not progressed starts as often as any other",
        _RANDOM,
        sites=3,
        patients=200,
        broken=frozenset({"no_confounding"}),
    ),
    Scenario(
        "waning",
        "hazard ratio 0.45 for half a year, then 1",
        replace(_CONFOUNDED, hazard_ratio=0.45, late_hazard_ratio=1.0, late_days=180),
        sites=3,
        patients=200,
        broken=frozenset({"no_confounding", "one_hazard_ratio"}),
    ),
    Scenario(
        "informative_censoring",
        "hazard ratio 0.60; the sicker are lost earlier",
        replace(_CONFOUNDED, loss_ldh_log_rate=1.0),
        sites=3,
        patients=200,
        broken=frozenset({"no_confounding", "independent_censoring"}),
    ),
    Scenario(
        "large",
        "hazard ratio 0.60, 5,000 patients",
        _CONFOUNDED,
        sites=5,
        patients=1000,
        broken=frozenset({"no_confounding"}),
    ),
    Scenario(
        "tiny",
        "hazard ratio 0.60, 16 patients, as in a case series",
        _CONFOUNDED,
        sites=1,
        patients=16,
        broken=frozenset({"no_confounding"}),
    ),
)


def scenario(name: str) -> Scenario:
    """The scenario of that name; KeyError where there is none."""
    return {s.name: s for s in SCENARIOS}[name]
