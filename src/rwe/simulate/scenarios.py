"""Situations in which estimators are judged: what is true, and which assumptions break."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from rwe.sandbox.truth import NATURE, Regime, Truth, latent_table, simulate_patients
from rwe.survival.tables import CohortTable

Assumption = Literal[
    "no_confounding",
    "one_hazard_ratio",
    "independent_censoring",
    "anybody_may_start",
    "no_covariate_effects",
    "no_effect",
]
"""`anybody_may_start`: no state forbids a start. `no_covariate_effects`: exposure
alone changes the hazard, so that conditional and marginal are one. `no_effect`: exposure does nothing."""

BASELINE = ("age", "ecog", "log_ldh")
TIME_VARYING = ("responding", "progressed")


@dataclass(frozen=True)
class Scenario:
    """A truth, a number of patients a site, and what does not hold in it.

    Everybody who starts has survived until then, so immortal time is in all of them. Sites are the same in
    all replicates: `site_factors` multiply their baseline hazards. `time_varying`: the disease status that
    changes. `only` these estimators are asked (empty: all). `share`: of the replicates, how many it is given.
    """

    name: str
    words: str
    truth: Truth
    sites: int
    patients: int
    grace_days: int = 180
    landmark: int = 180
    horizon: int = 730
    after_landmark: int = 365
    site_factors: tuple[float, ...] = ()
    time_varying: tuple[str, ...] = TIME_VARYING
    breaks: frozenset[Assumption] = frozenset()
    only: frozenset[str] = frozenset()
    share: float = 1.0

    @property
    def n(self) -> int:
        return self.sites * self.patients

    def asks(self, name: str) -> bool:
        """Whether the estimator of that name is judged here."""
        return not self.only or name in self.only

    @property
    def broken(self) -> frozenset[Assumption]:
        """What does not hold here; whether there is an effect is the truth's to say."""
        t = self.truth
        is_null = t.hazard_ratio == 1 and t.late_hazard_ratio in (None, 1.0)
        return self.breaks if is_null else self.breaks | {"no_effect"}

    def draw(self, seed: int, *, regime: Regime = NATURE, patients: int | None = None) -> CohortTable:
        """One cohort: all eligible patients of all sites, with their disease status over time."""
        factors = self.site_factors or (1.0,) * self.sites
        tables = [
            latent_table(
                simulate_patients(
                    replace(
                        self.truth,
                        baseline_hazard=self.truth.baseline_hazard * factor,
                        site_log_sd=0.0,
                    ),
                    site=f"site_{k}",
                    n=patients or self.patients,
                    seed=seed,
                    regime=regime,
                )
            )
            for k, factor in enumerate(factors, start=1)
        ]
        return cohort_table(pd.concat(tables, ignore_index=True))


def cohort_table(latent: pd.DataFrame) -> CohortTable:
    """The columns of `latent_table` as an estimator reads them: disease status as changes over time."""
    patients = latent[["patient_id", "site", "time_days", "is_event", "start_day", *BASELINE]].copy()
    ids = latent["patient_id"].to_numpy()
    response = latent["response_day"].to_numpy(dtype=np.float64)
    progression = latent["progression_day"].to_numpy(dtype=np.float64)
    responded, progressed = ~np.isnan(response), ~np.isnan(progression)
    # One pass over arrays: thousands of cohorts are drawn, and data frames are slow to make.
    changes = [
        ("responding", responded, response, 1.0),
        ("responding", responded & progressed, progression, 0.0),
        ("progressed", progressed, progression, 1.0),
    ]
    many = [int(who.sum()) for _, who, _, _ in changes]
    return CohortTable(
        patients=patients,
        changes=pd.DataFrame(
            {
                "patient_id": np.concatenate([ids[who] for _, who, _, _ in changes]),
                "covariate": np.repeat(np.array([name for name, *_ in changes], dtype=object), many),
                "day": np.concatenate([day[who] for _, who, day, _ in changes]).astype(np.int64),
                "value": np.repeat([value for *_, value in changes], many),
            }
        ),
    )


#: Exposure alone changes the hazard, and nobody's start depends on anything that matters.
_PLAIN = Truth(
    baseline_hazard=0.0014,
    age_log_hr=0.0,
    ecog_log_hr=0.0,
    ldh_log_hr=0.0,
    responding_log_hr=0.0,
    progressed_log_hr=0.0,
    start_rate_responding=0.0040,
    start_rate_stable=0.0040,
)
_CONFOUNDED = Truth()
#: Nobody progresses, so anybody may start at any time, responders six times as often.
_PERSISTENT = Truth(
    share_stable=1.0,
    progression_hazard_responding=1e-9,
    progression_hazard_stable=1e-9,
    baseline_hazard=0.0016,
)
_SITES = (0.8, 1.0, 1.25)

_BY_RESPONSE: frozenset[Assumption] = frozenset({"no_confounding", "no_covariate_effects"})
#: Progression forbids a start.
_FORBIDDEN: frozenset[Assumption] = frozenset({"anybody_may_start"})
_BY_STATUS: frozenset[Assumption] = _BY_RESPONSE | _FORBIDDEN
#: Which estimators are judged where: each where its truth is known or worth finding, in cohorts large enough
#: for a hundred events and small enough for its time.
_BY_TIME = frozenset({"naive", "time_dependent", "time_dependent_adjusted", "time_dependent_robust"})
_EMULATED = frozenset({"clone_censor_weight_sandwich"})
_EMULATED_BOOTSTRAP = frozenset(
    {"clone_censor_weight", "clone_censor_weight_survival", "clone_censor_weight_rmst"}
)
_STRUCTURAL = frozenset({"marginal_structural_model"})
_TRIALS = frozenset({"start_day_strata", "sequential_trials"})
_MODEL_TESTS = frozenset({"proportional_hazards", "interaction"})
_ARMS = frozenset(
    {
        "landmark_rmst_started",
        "landmark_survival_started",
        "landmark_survival_not_started",
        "landmark_median_not_started",
        "relapse_incidence_started",
        "relapse_incidence_not_started",
    }
)
_CRUDE_LANDMARK = frozenset({"landmark_cox", "landmark_rmst", "relapse_cause_specific", "relapse_fine_gray"})
_CRUDE_TESTS = frozenset({"landmark_logrank", "permutation_logrank", "relapse_gray"})
_WEIGHTED_LANDMARK = frozenset({"landmark_adjusted", "landmark_overlap", "landmark_iptw", "landmark_aiptw"})
_WEIGHTED_BOOTSTRAP = frozenset(
    {
        "landmark_iptw_bootstrap",
        "landmark_iptw_survival",
        "landmark_overlap_bootstrap",
        "landmark_overlap_survival",
    }
)
_AUGMENTED_BOOTSTRAP = frozenset({"landmark_aiptw_bootstrap"})
_FEW = _BY_TIME | _EMULATED | _EMULATED_BOOTSTRAP | _WEIGHTED_LANDMARK | _WEIGHTED_BOOTSTRAP
_FEW_PLAIN = _BY_TIME | _STRUCTURAL | _CRUDE_LANDMARK | _ARMS | {"time_dependent_firth", "sequential_trials"}
_FEW_PLAIN_NULL = (
    _CRUDE_LANDMARK
    | _CRUDE_TESTS
    | _MODEL_TESTS
    | {"landmark_firth", "mantel_byar", "start_day_strata", "time_dependent_firth"}
)

_PLAIN_NULL = replace(_PLAIN, hazard_ratio=1.0)
_NULL = replace(_CONFOUNDED, hazard_ratio=1.0)
_CONFOUNDED_IS = "hazard ratio 0.60; responders start six times as often"
_NULL_IS = "no effect; started by confounders alone"
_PLAIN_IS = "hazard ratio 0.60 and nothing else: no covariate acts, starts are random"
_PLAIN_NULL_IS = "no effect and nothing else: no covariate acts, starts are random"


def _plain(name: str, truth: Truth, per_site: int, only: frozenset[str], share: float = 1.0) -> Scenario:
    words = _PLAIN_NULL_IS if truth.hazard_ratio == 1 else _PLAIN_IS
    return Scenario(name, words, truth, 3, per_site, only=only, share=share)


def _confounded(name: str, truth: Truth, per_site: int, only: frozenset[str], share: float = 1.0) -> Scenario:
    """Three sites that differ; progression forbids a start."""
    return Scenario(
        name,
        _NULL_IS if truth.hazard_ratio == 1 else _CONFOUNDED_IS,
        truth,
        3,
        per_site,
        site_factors=_SITES,
        breaks=_BY_STATUS,
        only=only,
        share=share,
    )


def _persistent(name: str, truth: Truth, per_site: int, share: float = 1.0) -> Scenario:
    effect = "no effect" if truth.hazard_ratio == 1 else "hazard ratio 0.60"
    return Scenario(
        name,
        f"{effect}; nobody progresses, responders start six times as often",
        truth,
        3,
        per_site,
        site_factors=_SITES,
        time_varying=("responding",),
        breaks=_BY_RESPONSE,
        only=_BY_TIME | _STRUCTURAL,
        share=share,
    )


SCENARIOS: tuple[Scenario, ...] = (
    replace(
        _plain("plain", _PLAIN, 120, _BY_TIME | _EMULATED | _STRUCTURAL | {"time_dependent_firth"}),
        breaks=_FORBIDDEN,
    ),
    _plain("plain_landmark", _PLAIN, 460, _CRUDE_LANDMARK | _ARMS),
    _plain("plain_landmark_null", _PLAIN_NULL, 260, _CRUDE_LANDMARK | _CRUDE_TESTS | {"landmark_firth"}),
    _plain("plain_null", _PLAIN_NULL, 120, _MODEL_TESTS | {"mantel_byar", "naive_logrank", "time_dependent"}),
    _confounded("landmark_null", _NULL, 200, _WEIGHTED_LANDMARK | _WEIGHTED_BOOTSTRAP),
    _persistent("persistent_null", replace(_PERSISTENT, hazard_ratio=1.0), 120),
    _confounded("confounded", _CONFOUNDED, 120, _BY_TIME | _EMULATED | _EMULATED_BOOTSTRAP),
    _confounded("few", _CONFOUNDED, 20, _FEW, share=0.25),
    replace(_plain("few_plain", _PLAIN, 20, _FEW_PLAIN, share=0.25), breaks=_FORBIDDEN),
    _plain("few_plain_null", _PLAIN_NULL, 20, _FEW_PLAIN_NULL, share=0.25),
    _persistent("few_persistent", _PERSISTENT, 20, share=0.25),
    replace(_confounded("tiny", _CONFOUNDED, 16, _FEW, share=0.25), sites=1, site_factors=()),
    replace(
        _plain("tiny_plain", _PLAIN, 16, _FEW_PLAIN - _STRUCTURAL, share=0.25), sites=1, breaks=_FORBIDDEN
    ),
    replace(_plain("tiny_plain_null", _PLAIN_NULL, 16, _FEW_PLAIN_NULL, share=0.25), sites=1),
    _confounded("trials", _CONFOUNDED, 70, _TRIALS),
    _confounded("augmented_null", _NULL, 200, _AUGMENTED_BOOTSTRAP, share=0.2),
    _confounded("few_augmented", _CONFOUNDED, 20, _AUGMENTED_BOOTSTRAP, share=0.05),
    _persistent("persistent", _PERSISTENT, 120),
    _confounded("null", _NULL, 120, _BY_TIME | _EMULATED | {"clone_censor_weight_cox_sandwich"}),
    _confounded("landmark", _CONFOUNDED, 200, _WEIGHTED_LANDMARK),
    _plain("plain_trials", _PLAIN, 120, frozenset({"sequential_trials"})),
    _confounded("sequential", _CONFOUNDED, 125, frozenset({"sequential_trials"})),
    Scenario(
        "waning",
        "hazard ratio 0.45 for half a year, then 1",
        replace(_CONFOUNDED, hazard_ratio=0.45, late_hazard_ratio=1.0, late_days=180),
        sites=3,
        patients=120,
        site_factors=_SITES,
        breaks=_BY_STATUS | {"one_hazard_ratio"},
        only=_BY_TIME | _EMULATED | _WEIGHTED_LANDMARK | _MODEL_TESTS,
        share=0.2,
    ),
    Scenario(
        "informative_censoring",
        "hazard ratio 0.60; the sicker are lost earlier",
        replace(_CONFOUNDED, loss_ldh_log_rate=1.0),
        sites=3,
        patients=120,
        site_factors=_SITES,
        breaks=_BY_STATUS | {"independent_censoring"},
        only=_BY_TIME | _EMULATED | _WEIGHTED_LANDMARK | _ARMS,
        share=0.2,
    ),
    Scenario(
        "large",
        "hazard ratio 0.60, 5,000 patients",
        _CONFOUNDED,
        sites=5,
        patients=1000,
        site_factors=(0.8, 0.9, 1.0, 1.12, 1.25),
        breaks=_BY_STATUS,
        only=_BY_TIME | _EMULATED | _WEIGHTED_LANDMARK,
        share=0.05,
    ),
)


def scenario(name: str) -> Scenario:
    """The scenario of that name; KeyError where there is none."""
    return {s.name: s for s in SCENARIOS}[name]
