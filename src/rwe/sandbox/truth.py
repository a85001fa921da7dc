"""The truth behind the synthetic hospitals: latent patients whose hazard ratio is known.

The model is built so that its truth is exactly the estimand of a time-dependent Cox model adjusted for age,
ECOG, log LDH, responding(t) and progressed(t), stratified by site:

    h(t) = h0_site(t) * exp(log(HR) * A(t) + b'x + g * responding(t) + d * progressed(t))

- A(t) = 1 on (start, death]: the whole day of the start is still unexposed, as in every analysis here. The
  effect is one hazard ratio, unless `late_hazard_ratio` says that it changes some time after the start.
- responding(t) = 1 from the recorded assessment until the recorded progression, progressed(t) = 1 after it.
- Progression depends on response, age and LDH, but not on A: it confounds and does not mediate, so adjusting
  for it removes bias and takes nothing away from the effect.
- Maintenance starts late, mostly in responders, and only in those alive and not progressed: whoever starts
  has survived until then. Ever against never is therefore badly biased; that is the point.
- Salvage lenalidomide after progression does not change the hazard.
- Censoring is independent of all of it, unless `loss_ldh_log_rate` says that the sicker are lost earlier.

Death is drawn exactly by inverting the piecewise cumulative hazard (Bender, Augustin, Blettner 2005, extended
to step functions); a death at a continuous time is recorded on the day that this time ends (ceil).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
DayArray = npt.NDArray[np.datetime64]
TextArray = npt.NDArray[np.str_]
PatientKind = Literal["eligible", "washout", "other_disease", "no_car_t", "under_18"]
DAYS_PER_YEAR = 365.25
CYCLE_DAYS = 28
"""Length of a cycle of lenalidomide: how far apart its records lie."""


@dataclass(frozen=True)
class Truth:
    """All that decides what happens to a synthetic patient. Hazards and rates are per day."""

    hazard_ratio: float = 0.60
    """True conditional hazard ratio of maintenance on death: a benefit worth a trial, and no cure."""

    late_hazard_ratio: float | None = None
    """The hazard ratio from `late_days` after the start on, where the effect changes over time."""
    late_days: int = 180

    baseline_hazard: float = 0.00095
    """Death hazard at age 62, ECOG 0, LDH 250 U/L, neither responding nor progressed. With the rest of the
    defaults the median survival would be about 13 months if nobody took maintenance."""
    early_hazard_ratio: float = 1.6
    """Toxicity (cytokine release, infection) multiplies the hazard of the first `early_days`."""
    early_days: int = 30
    site_log_sd: float = 0.20
    """Sites differ: the standard deviation of the log baseline hazard. Hence strata by site."""

    age_log_hr: float = 0.02
    """Per year from 62."""
    ecog_log_hr: float = 0.35
    """Per point."""
    ldh_log_hr: float = 0.50
    """Per log unit from log 250."""
    responding_log_hr: float = -1.0
    progressed_log_hr: float = 1.25

    assessment_day: int = 28
    """First response assessment, give or take `assessment_spread` days."""
    assessment_spread: int = 4
    share_responding: float = 0.62
    """At the mean covariates; lower with higher LDH and ECOG."""
    share_stable: float = 0.50
    """Of those who do not respond."""
    progression_hazard_responding: float = 0.0011
    """Median about 21 months."""
    progression_hazard_stable: float = 0.0060

    start_lag_days: int = 14
    """Nobody starts earlier than this after the assessment."""
    start_rate_responding: float = 0.0034
    """Mean delay about ten months: long, so that the immortal time is strong."""
    start_rate_stable: float = 0.0006
    """Responders start about six times as often: confounding by response."""
    maintenance_days_mean: float = 330.0
    """How long it is taken; progression ends it earlier. The effect stays on, as in A(t)."""

    share_salvage: float = 0.32
    """Of the progressed who never took maintenance."""
    salvage_lag_days_mean: float = 30.0

    loss_rate: float = 0.0010
    """Random last contact: three in ten a year move or are followed elsewhere, whatever the treatment."""
    loss_ldh_log_rate: float = 0.0
    """Per log unit from log 250: above 0 the sicker are lost earlier, so that censoring informs of death."""
    first_index: date = date(2018, 6, 1)
    last_index: date = date(2023, 6, 30)
    end_of_records: date = date(2025, 5, 31)
    """Administrative end: no record is later."""

    share_messy: float = 0.05
    """Patients with one kind of messy record (see rwe.sandbox.mess)."""
    share_washout: float = 0.03
    """Extras, relative to the eligible: lenalidomide in the half year before infusion."""
    share_other_disease: float = 0.04
    """Extras: a CAR-T infusion for another lymphoma."""
    share_no_car_t: float = 0.08
    """Extras: the lymphoma without a CAR-T infusion; extraction must leave them alone."""
    share_under_18: float = 0.015
    """Extras: too young."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("share_") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} must lie between 0 and 1")
        if self.hazard_ratio <= 0 or self.baseline_hazard <= 0:
            raise ValueError("hazard_ratio and baseline_hazard must be positive")
        if self.late_hazard_ratio is not None and (self.late_hazard_ratio <= 0 or self.late_days <= 0):
            raise ValueError("late_hazard_ratio and late_days must be positive")
        if not self.first_index <= self.last_index < self.end_of_records:
            raise ValueError("first_index, last_index and end_of_records must be in order")


@dataclass(frozen=True)
class Regime:
    """What everybody is made to do, to learn what would have been. Without fields: nature.

    `start_by`: whoever has not started by this day starts on it, unless progressed. `no_start_by`: nobody
    starts until the end of this day; those who would have may start later.
    """

    start_by: int | None = None
    no_start_by: int | None = None


NATURE = Regime()


@dataclass(frozen=True)
class Baseline:
    """Who the patients are on day 0; one element a patient."""

    patient_id: TextArray
    kind: TextArray
    sex: TextArray
    birth_date: DayArray
    index_date: DayArray
    ecog: IntArray
    ldh: IntArray

    @property
    def age(self) -> FloatArray:
        """Years at index, not floored."""
        days: FloatArray = (self.index_date - self.birth_date).astype(np.float64)
        return days / DAYS_PER_YEAR

    @property
    def log_ldh(self) -> FloatArray:
        return np.log(self.ldh.astype(np.float64))


@dataclass(frozen=True)
class Course:
    """What happens to them, in days from index; NaN is never."""

    status: TextArray
    assessment_day: FloatArray
    response_day: FloatArray
    progression_day: FloatArray
    start_day: FloatArray
    maintenance_end_day: FloatArray
    salvage_day: FloatArray


@dataclass(frozen=True)
class LatentCohort:
    """The patients of one hospital as they truly are: arrays with one element a patient, whole days.

    Days count from index. NaN is a thing that did not happen, or never could be recorded: a day after the
    last contact, or on or after the day of death. `time_days` ends at death (`is_event`) or at the last
    contact. Extras that no cohort may count have a `kind` other than eligible. `baseline.ldh` is in U/L,
    `course.status` the outcome of the first assessment (responding, stable, progressing).
    """

    site: str
    seed: int
    truth: Truth
    baseline: Baseline
    course: Course
    time_days: IntArray
    is_event: BoolArray

    @property
    def is_eligible(self) -> BoolArray:
        eligible: BoolArray = self.baseline.kind == "eligible"
        return eligible


def site_hash(site: str) -> int:
    """A number for a site's name that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big")


def simulate_patients(truth: Truth, *, site: str, n: int, seed: int, regime: Regime = NATURE) -> LatentCohort:
    """Simulate one hospital: `n` eligible patients, and beside them the extras that no cohort may count."""
    rng = np.random.default_rng([seed, site_hash(site)])
    extras: dict[PatientKind, float] = {
        "washout": truth.share_washout,
        "other_disease": truth.share_other_disease,
        "no_car_t": truth.share_no_car_t,
        "under_18": truth.share_under_18,
    }
    kinds: list[PatientKind] = ["eligible"] * n
    for kind, share in extras.items():
        kinds += [kind] * int(np.ceil(share * n))
    baseline = _draw_baseline(truth, rng, rng.permutation(np.array(kinds, dtype=np.str_)))
    course = _draw_course(truth, rng, baseline, regime)
    site_factor = float(np.exp(rng.normal(0.0, truth.site_log_sd)))
    death = _draw_death(truth, rng, baseline, course, site_factor)
    last_contact = _draw_last_contact(truth, rng, baseline)
    death_day = np.ceil(death)
    is_event = death_day <= last_contact
    time_days = np.where(is_event, death_day, last_contact).astype(np.int64)
    recorded = _recorded(course, death_day, last_contact)
    return LatentCohort(site, seed, truth, baseline, recorded, time_days, is_event)


def latent_table(cohort: LatentCohort, *, eligible_only: bool = True) -> pd.DataFrame:
    """What a perfect extraction would find: one row a patient, whole days; needs no HTTP.

    Columns: patient_id (the Patient's id at the hospital), site, time_days, is_event, start_day
    (maintenance only), age (years), ecog, log_ldh, response_day, progression_day, salvage_day. NaN is never.
    """
    import pandas as pd  # noqa: PLC0415  (a second and a half that a hospital's process can do without)

    baseline, course = cohort.baseline, cohort.course
    table = pd.DataFrame(
        {
            "patient_id": baseline.patient_id.astype(object),
            "site": cohort.site,
            "time_days": cohort.time_days,
            "is_event": cohort.is_event,
            "start_day": course.start_day,
            "age": baseline.age,
            "ecog": baseline.ecog,
            "log_ldh": baseline.log_ldh,
            "response_day": course.response_day,
            "progression_day": course.progression_day,
            "salvage_day": course.salvage_day,
        }
    )
    return table[cohort.is_eligible].reset_index(drop=True) if eligible_only else table


def _draw_baseline(truth: Truth, rng: np.random.Generator, kind: TextArray) -> Baseline:
    n = len(kind)
    span = (truth.last_index - truth.first_index).days
    index = np.datetime64(truth.first_index, "D") + rng.integers(0, span + 1, n)
    years = np.clip(rng.normal(62.0, 11.0, n), 18.5, 88.0)
    years = np.where(kind == "under_18", rng.uniform(11.0, 17.5, n), years)
    return Baseline(
        patient_id=np.array([f"{x:016x}" for x in rng.integers(1 << 60, 1 << 63, n)], dtype=np.str_),
        kind=kind,
        sex=np.where(rng.random(n) < 0.42, "female", "male"),
        birth_date=index - np.round(years * DAYS_PER_YEAR).astype(np.int64),
        index_date=index,
        ecog=rng.choice(3, n, p=[0.45, 0.40, 0.15]),
        ldh=np.round(np.exp(rng.normal(np.log(260.0), 0.45, n))).astype(np.int64),
    )


def _draw_course(truth: Truth, rng: np.random.Generator, baseline: Baseline, regime: Regime) -> Course:
    """Days on which things would happen to a patient who lives long enough."""
    n = len(baseline.ldh)
    ldh = baseline.log_ldh - np.log(250.0)
    spread = truth.assessment_spread
    assessment = truth.assessment_day + rng.integers(-spread, spread + 1, n).astype(np.float64)
    share = min(max(truth.share_responding, 1e-12), 1 - 1e-12)
    logit = np.log(share / (1 - share)) - 0.6 * ldh - 0.3 * (baseline.ecog - 0.7)
    responds = rng.random(n) < 1 / (1 + np.exp(-logit))
    stable = ~responds & (rng.random(n) < truth.share_stable)

    hazard = np.where(responds, truth.progression_hazard_responding, truth.progression_hazard_stable)
    hazard = hazard * np.exp(0.30 * ldh + 0.005 * (baseline.age - 62.0))
    wait = np.where(responds | stable, np.ceil(rng.exponential(1.0, n) / hazard), 0.0)
    progression = assessment + wait

    rate = np.where(responds, truth.start_rate_responding, np.where(stable, truth.start_rate_stable, 0.0))
    with np.errstate(divide="ignore"):
        delay = np.ceil(rng.exponential(1.0, n) / rate)
    start = assessment + truth.start_lag_days + delay
    if regime.start_by is not None:
        start = np.minimum(start, regime.start_by)
    if regime.no_start_by is not None:
        # The wait has no memory: whoever is held back waits anew from that day on.
        with np.errstate(divide="ignore"):
            again = regime.no_start_by + np.ceil(rng.exponential(1.0, n) / rate)
        start = np.where(start > regime.no_start_by, start, again)
    start = np.where(start < progression, start, np.nan)
    end = start + np.ceil(CYCLE_DAYS + rng.exponential(truth.maintenance_days_mean, n))

    salvaged = np.isnan(start) & (rng.random(n) < truth.share_salvage)
    salvage = progression + 5 + np.ceil(rng.exponential(truth.salvage_lag_days_mean, n))
    return Course(
        status=np.select([responds, stable], ["responding", "stable"], "progressing"),
        assessment_day=assessment,
        response_day=np.where(responds, assessment, np.nan),
        progression_day=progression,
        start_day=start,
        maintenance_end_day=np.minimum(end, progression),
        salvage_day=np.where(salvaged, salvage, np.nan),
    )


def _draw_death(
    truth: Truth, rng: np.random.Generator, baseline: Baseline, course: Course, site_factor: float
) -> FloatArray:
    """Continuous days from index to death: the cumulative hazard inverted at a unit exponential."""
    n = len(baseline.ldh)
    start = np.nan_to_num(course.start_day, nan=np.inf)[:, None]
    response = np.nan_to_num(course.response_day, nan=np.inf)[:, None]
    progression = course.progression_day[:, None]
    early = np.full((n, 1), float(truth.early_days))
    late = start + (truth.late_days if truth.late_hazard_ratio is not None else np.inf)
    edges = np.sort(np.hstack([np.zeros((n, 1)), early, response, progression, start, late]), axis=1)

    progressed = edges >= progression
    log_hazard = (
        np.log(truth.baseline_hazard * site_factor)
        + truth.age_log_hr * (baseline.age - 62.0)
        + truth.ecog_log_hr * baseline.ecog
        + truth.ldh_log_hr * (baseline.log_ldh - np.log(250.0))
    )[:, None] + (
        np.log(truth.early_hazard_ratio) * (edges < early)
        + np.log(truth.hazard_ratio) * ((edges >= start) & (edges < late))
        + np.log(truth.late_hazard_ratio or 1.0) * (edges >= late)
        + truth.progressed_log_hr * progressed
        + truth.responding_log_hr * ((edges >= response) & ~progressed)
    )
    hazard = np.exp(log_hazard)

    # What never happens sorts last, at infinity: no cumulative hazard is ever reached there.
    with np.errstate(invalid="ignore"):
        gained = np.where(np.isfinite(edges[:, 1:]), hazard[:, :-1] * np.diff(edges, axis=1), np.inf)
    reached = np.hstack([np.zeros((n, 1)), np.cumsum(gained, axis=1)])
    target = rng.exponential(1.0, n)
    rows, piece = np.arange(n), (reached <= target[:, None]).sum(axis=1) - 1
    death: FloatArray = edges[rows, piece] + (target - reached[rows, piece]) / hazard[rows, piece]
    return death


def _draw_last_contact(truth: Truth, rng: np.random.Generator, baseline: Baseline) -> FloatArray:
    """The last visit before the end of records, or an earlier one after which a patient is lost."""
    n = len(baseline.ldh)
    available = (np.datetime64(truth.end_of_records, "D") - baseline.index_date).astype(np.float64)
    last_visit = available - rng.integers(3, 60, n)
    rate = max(truth.loss_rate, 1e-12) * np.exp(truth.loss_ldh_log_rate * (baseline.log_ldh - np.log(250.0)))
    lost = np.ceil(rng.exponential(1.0, n) / rate)
    earliest: FloatArray = np.minimum(last_visit, lost)
    return earliest


def _recorded(course: Course, death_day: FloatArray, last_contact: FloatArray) -> Course:
    """Cut the course at death and last contact. What would happen on the day of death does not."""

    def seen(day: FloatArray) -> FloatArray:
        return np.where((day < death_day) & (day <= last_contact), day, np.nan)

    start = seen(course.start_day)
    end = np.minimum(course.maintenance_end_day, np.minimum(death_day, last_contact))
    return replace(
        course,
        assessment_day=seen(course.assessment_day),
        response_day=seen(course.response_day),
        progression_day=seen(course.progression_day),
        start_day=start,
        maintenance_end_day=np.where(np.isnan(start), np.nan, end),
        salvage_day=seen(course.salvage_day),
    )
