"""An evidence document to render: invented numbers, three sites, and all that can go wrong in one."""

# ruff: noqa: E501  (tables of numbers read better in one line)
from __future__ import annotations

import functools
import math
from datetime import UTC, date, datetime
from typing import Any

from rwe.evidence.contract import (
    AttritionStep,
    BaselineRow,
    CodelistEntry,
    Coefficient,
    Cohort,
    Contrast,
    Curve,
    CurvePoint,
    Estimate,
    Evidence,
    Parameters,
    QualityFinding,
    Refresh,
    Refusal,
    RunSummary,
    SiteSummary,
    StudyIdentity,
    groups_of,
)
from rwe.evidence.parts import (
    Amendment,
    ArmWeights,
    AutopsyStep,
    BiasAutopsy,
    CaseReport,
    ConfoundingTippingPoint,
    CopiesTrace,
    CorrectedEstimate,
    Detectable,
    Diagnostics,
    EventRate,
    ExpansionSummary,
    HazardsTest,
    Kinetics,
    LockSummary,
    Misclassification,
    PositivityCell,
    Safety,
    Subgroup,
    SubgroupEstimate,
    TippingPoint,
    UnmeasuredConfounding,
)

TREATED, CONTROL = "maintenance", "no_maintenance"
ODD_LABEL = "Drug <script>alert(1)</script> & $x_1$"
ODD_STEP = 'known sex <img src="http://evil.example/x.png">'
ADJUSTED = ["age", "ecog", "ldh", "responding"]


def protocol() -> dict[str, Any]:
    """A protocol as a study file would state it, with a treated label that no page may take as markup."""
    return {
        "name": "drug_after_event",
        "version": "1.2.0",
        "title": "Drug after event",
        "question": "Does the drug prolong survival after the event?",
        "index_event": {"codelist": "the_event", "sources": ["MedicationAdministration", "Procedure"]},
        "eligibility": [
            {"name": "adult", "kind": "age_at_index", "min_years": 18},
            {"name": "disease", "kind": "condition", "codelist": "disease", "window": {"to_day": 0}},
        ],
        "new_user_washout": {"days": 180},
        "exposure": {"codelist": "drug", "tiers": ["administration", "dispense"]},
        "strategies": {
            "treated": {"name": TREATED, "label": ODD_LABEL, "grace_days": 180},
            "control": {"name": CONTROL, "label": "No maintenance"},
        },
        "disease_status": {"codelist": "status", "responding": "response", "progressed": "progression"},
        "intercurrent_events": [
            {"name": "second_event", "codelist": "the_event", "sources": ["procedure"],
             "handling": "treatment_policy"}
        ],
        "covariates": [
            {"name": "age", "kind": "age_at_index"},
            {"name": "sex", "kind": "sex"},
            {"name": "ecog", "kind": "observation", "label": "ECOG performance status", "codelist": "ecog"},
            {"name": "ldh", "kind": "observation", "label": "LDH (log U/L)", "codelist": "ldh",
             "transform": "log"},
            {"name": "responding", "kind": "disease_status", "label": "In response", "status": "responding"},
        ],
        "subgroups": [{"name": "older", "covariate": "age", "cut": 65}],
        "landmarks": [60, 90],
        "horizons": [365, 730],
        "analyses": [
            {"analysis": "naive_cox", "role": "contrast"},
            {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ADJUSTED,
             "stratify_by": ["site"], "by_site": True},
        ],
    }  # fmt: skip


def estimate(**changes: Any) -> Estimate:
    """A hazard ratio of 0.712 (0.521 to 0.973); `changes` replace fields."""
    hazard_ratio = changes.get("estimate", 0.712)
    fields: dict[str, Any] = {
        "analysis": "time_dependent_cox",
        "estimand": "hazard_ratio",
        "effect_type": "conditional",
        "role": "sensitivity",
        "contrast": Contrast(
            strategy=TREATED,
            reference=CONTROL,
            groups=groups_of(changes.get("analysis", "time_dependent_cox")),
        ),
        "site": None,
        "method": "partial likelihood, counting process",
        "parameters": Parameters(ties="efron"),
        "estimate": hazard_ratio,
        "log_estimate": None if hazard_ratio is None else math.log(hazard_ratio),
        "se": 0.159,
        "se_scale": "log",
        "variance_method": "model",
        "ci_low": 0.521,
        "ci_high": 0.973,
        "ci_level": 0.95,
        "ci_method": "wald",
        "df": 1,
        "p_value": 0.033,
        "n": 842,
        "events": 418,
        "n_by_strategy": {TREATED: 231, CONTROL: 611},
        "events_by_strategy": {TREATED: 78, CONTROL: 340},
        "status": "ok",
        "is_biased": False,
        "warnings": [],
    }
    return Estimate(**{**fields, **changes})


DIVERGED = "no death among the exposed: the coefficient runs away"
REFUSED = "2 patients were exposed at the landmark"


def estimates() -> list[Estimate]:
    adjusted = Parameters(adjusted_for=ADJUSTED, stratified_by=["site"], ties="efron")
    alone = Parameters(adjusted_for=ADJUSTED, ties="efron")
    nothing = {"estimate": None, "se": None, "ci_low": None, "ci_high": None, "p_value": None, "df": None}
    return [
        estimate(
            role="primary",
            parameters=adjusted,
            coefficients=[
                Coefficient(name="exposed", estimate=-0.3397, se=0.159),
                Coefficient(name="age", estimate=0.0123, se=0.004),
            ],
        ),
        estimate(role="primary", site="alpha", parameters=alone, estimate=0.655, ci_low=0.41, ci_high=1.05, n=300,
                 events=149),
        estimate(role="primary", site="beta", parameters=alone, estimate=0.81, ci_low=0.032, ci_high=23.4, n=530,
                 events=260, warnings=["fewer than 5 events a parameter"]),
        estimate(role="primary", site="gamma", parameters=alone, **nothing, n=12, events=9,
                 status="did_not_converge", warnings=[DIVERGED]),
        estimate(estimate=0.79, ci_low=0.61, ci_high=1.02, p_value=0.07),
        estimate(parameters=adjusted, variance_method="robust", ci_low=0.514, ci_high=0.986),
        estimate(analysis="landmark_cox", parameters=Parameters(landmark_day=60, ties="efron"), estimate=0.9,
                 ci_low=0.7, ci_high=1.16, n=800, events=377),
        estimate(analysis="landmark_cox", parameters=Parameters(landmark_day=90, ties="efron"), estimate=0.04,
                 ci_low=None, ci_high=1.3, n=760, events=340, warnings=["the lower limit is zero: infinite"]),
        estimate(analysis="landmark_cox", parameters=Parameters(landmark_day=180, ties="efron"), **nothing, n=9,
                 events=2, status="refused", warnings=[REFUSED]),
        estimate(analysis="naive_cox", role="contrast", estimate=0.203, ci_low=0.158, ci_high=0.261,
                 p_value=1e-36, is_biased=True),
        estimate(analysis="mantel_byar", estimand="chi_square", effect_type=None, estimate=3.41, se=None,
                 se_scale=None, ci_low=None, ci_high=None, ci_level=None, ci_method=None, p_value=0.0648,
                 expected_by_strategy={TREATED: 95.2, CONTROL: 322.8}, variance=70.1),
        estimate(analysis="simon_makuch", estimand="median_days", effect_type=None, estimate=None,
                 contrast=Contrast(strategy=TREATED, reference=None, groups="started_so_far"), ci_low=410, ci_high=None,
                 warnings=["survival stays above one half: the median is not reached"]),
        *emulated(),
        *small(),
        *competing(),
    ]  # fmt: skip


def alone(strategy: str, groups: Any) -> Contrast:
    """Of one strategy."""
    return Contrast(strategy=strategy, reference=None, groups=groups)


def emulated() -> list[Estimate]:
    """Clone-censor-weight in all its estimands, and the other weighted analyses."""
    ccw: dict[str, Any] = {
        "analysis": "clone_censor_weight",
        "effect_type": "marginal",
        "method": "clone-censor-weight",
    }
    rules = Parameters(
        adjusted_for=["age", "ecog"],
        stratified_by=["site"],
        grace_days=180,
        weight_model="cox",
        compared_with="no_start_by_grace",
        replicates=500,
    )
    at = rules.model_copy(update={"time_days": 365, "time_origin_day": 0})
    mean = rules.model_copy(update={"horizon_days": 730, "time_origin_day": 0})
    days: dict[str, Any] = {"se_scale": "natural", "df": None, "p_value": None, "log_estimate": None}
    follows = "follows_strategy"
    return [
        estimate(**ccw, parameters=rules, estimate=0.86, ci_low=0.71, ci_high=1.04, warnings=["WARNED: largest weight 21"]),
        estimate(**ccw, parameters=rules.model_copy(update={"compared_with": "never"}), estimate=0.83, ci_low=0.66,
                 ci_high=1.05),
        estimate(**{**ccw, "effect_type": None}, **days, estimand="survival", contrast=alone(TREATED, follows), parameters=at,
                 estimate=0.71, ci_low=0.66, ci_high=0.75),
        estimate(**{**ccw, "effect_type": None}, **days, estimand="survival", contrast=alone(CONTROL, follows), parameters=at,
                 estimate=0.674, ci_low=0.64, ci_high=0.71),
        estimate(**ccw, **days, estimand="survival_difference", parameters=at, estimate=0.036, ci_low=-0.012, ci_high=0.08),
        estimate(**ccw, estimand="survival_ratio", parameters=at, estimate=1.053, ci_low=0.98, ci_high=1.12),
        estimate(**{**ccw, "effect_type": None}, **days, estimand="rmst_days", contrast=alone(TREATED, follows),
                 parameters=mean, estimate=541.2, ci_low=520, ci_high=562),
        estimate(**{**ccw, "effect_type": None}, **days, estimand="rmst_days", contrast=alone(CONTROL, follows),
                 parameters=mean, estimate=518.9, ci_low=503, ci_high=535),
        estimate(**ccw, **days, estimand="rmst_difference_days", parameters=mean, estimate=22.3, ci_low=-4.1, ci_high=47.6),
        estimate(analysis="sequential_trials", effect_type="marginal", estimate=0.84, ci_low=0.6, ci_high=1.17),
        estimate(analysis="marginal_structural_model", effect_type="marginal", estimate=0.8, ci_low=0.58, ci_high=1.11,
                 parameters=Parameters(adjusted_for=["responding"], truncate_percentile=99)),
        estimate(analysis="landmark_weighting", effect_type="marginal", estimate=0.88, ci_low=0.66, ci_high=1.18,
                 parameters=Parameters(landmark_day=60, adjusted_for=["age"]), method="overlap weights"),
        estimate(analysis="landmark_aiptw", estimand="survival_difference", effect_type="marginal", estimate=0.02,
                 parameters=Parameters(landmark_day=60, adjusted_for=["age"], time_days=365, time_origin_day=60),
                 log_estimate=None, se=0.04, se_scale="natural", ci_low=-0.06, ci_high=0.1),
    ]  # fmt: skip


def small() -> list[Estimate]:
    """Firth, permutation and restricted means; another endpoint; salvage counted; one outside the lock."""
    natural: dict[str, Any] = {"se_scale": "natural", "log_estimate": None, "df": None}
    mean = Parameters(horizon_days=365, time_origin_day=60, landmark_day=60)
    by_landmark = "started_by_landmark"
    return [
        estimate(analysis="naive_firth", role="contrast", estimate=0.21, ci_low=0.16, ci_high=0.27, is_biased=True),
        estimate(analysis="naive_permutation", role="contrast", estimand="p_value", effect_type=None, **natural,
                 estimate=0.0004, ci_low=0.0002, ci_high=0.0008, ci_level=0.99, p_value=0.0004, is_biased=True),
        estimate(analysis="naive_rmst", role="contrast", estimand="rmst_difference_days", effect_type="marginal", **natural,
                 estimate=131.0, ci_low=116, ci_high=146, is_biased=True, parameters=Parameters(horizon_days=365)),
        estimate(analysis="landmark_firth", parameters=Parameters(landmark_day=60, ties="breslow"), estimate=0.91,
                 ci_low=0.7, ci_high=1.18),
        estimate(analysis="landmark_permutation", estimand="p_value", effect_type=None, parameters=Parameters(landmark_day=60),
                 **natural, estimate=0.41, ci_low=None, ci_high=None, ci_level=None, p_value=0.41),
        estimate(analysis="landmark_rmst", estimand="rmst_days", effect_type=None, contrast=alone(TREATED, by_landmark),
                 **natural, parameters=mean, estimate=318.0, ci_low=301, ci_high=335),
        estimate(analysis="landmark_rmst", estimand="rmst_days", effect_type=None, contrast=alone(CONTROL, by_landmark),
                 **natural, parameters=mean, estimate=307.5, ci_low=299, ci_high=316),
        estimate(analysis="landmark_rmst", estimand="rmst_difference_days", effect_type="marginal", **natural,
                 parameters=mean, estimate=10.5, ci_low=-8.0, ci_high=29),
        estimate(analysis="time_dependent_firth", estimate=0.78, parameters=Parameters(ties="breslow")),
        estimate(parameters=Parameters(ties="efron", endpoint="progression_free_survival"), estimate=0.93, ci_low=0.77,
                 ci_high=1.12, events=533),
        estimate(parameters=Parameters(ties="efron", salvage="counts_as_start"), estimate=0.99, ci_low=0.8, ci_high=1.2),
        estimate(role="posthoc", parameters=Parameters(ties="efron", adjusted_for=["age"]), estimate=0.74),
    ]  # fmt: skip


def competing() -> list[Estimate]:
    """Relapse and death without it from day 60: incidence by strategy, and both ratios of each."""
    found = []
    for cause, treated, control, ratio in (
        ("relapse", 0.31, 0.36, 0.82),
        ("non_relapse_death", 0.09, 0.08, 1.12),
    ):
        at = Parameters(landmark_day=60, time_origin_day=60, time_days=365, cause=cause)
        kind: dict[str, Any] = {"analysis": "landmark_competing_risks"}
        found += [
            estimate(
                **kind,
                estimand="cumulative_incidence",
                effect_type=None,
                contrast=alone(arm, "started_by_landmark"),
                log_estimate=None,
                se=0.03,
                se_scale="natural",
                parameters=at,
                estimate=share,
                ci_low=share - 0.05,
                ci_high=share + 0.05,
            )
            for arm, share in ((TREATED, treated), (CONTROL, control))
        ]
        among = Parameters(landmark_day=60, cause=cause, ties="efron")
        found += [
            estimate(
                **kind,
                estimand="cause_specific_hazard_ratio",
                effect_type="marginal",
                parameters=among,
                estimate=ratio,
                ci_low=0.6,
                ci_high=1.3,
            ),
            estimate(
                **kind,
                estimand="subdistribution_hazard_ratio",
                effect_type="marginal",
                parameters=among,
                estimate=ratio + 0.03,
                ci_low=0.61,
                ci_high=1.33,
            ),
        ]
    return found  # fmt: skip


def curve(analysis: str, strategy: str, rate: float, n: int, **changes: Any) -> Curve:
    """An exponential curve over 30 months with one death a point; `changes` replace fields."""
    points = []
    for i in range(1, n):
        day = 900.0 * i / n
        s = math.exp(-rate * day)
        points.append(
            CurvePoint(time_days=float(round(day, 3)), survival=s, ci_low=s**1.25, ci_high=s**0.8, at_risk=n - i + 1,
                       events=1)
        )  # fmt: skip
    fields = {"site": None, "is_biased": False, "parameters": Parameters(), "points": points}
    return Curve(analysis=analysis, strategy=strategy, **{**fields, **changes})


def curves() -> list[Curve]:
    unknown = CurvePoint(time_days=1.0, survival=None, ci_low=None, ci_high=None, at_risk=0, events=0)
    exposed = curve("simon_makuch", TREATED, 0.0009, 180)
    return [
        exposed.model_copy(update={"points": [unknown, *exposed.points]}),
        curve("simon_makuch", CONTROL, 0.0013, 400),
        *(
            curve(
                "landmark_kaplan_meier",
                arm,
                rate,
                n,
                parameters=Parameters(landmark_day=day, time_origin_day=day),
            )
            for day in (60, 90)
            for arm, rate, n in ((TREATED, 0.001, 90), (CONTROL, 0.0012, 300))
        ),
        *(followed(arm, rate, "no_start_by_grace") for arm, rate in ((CONTROL, 0.0012), (TREATED, 0.001))),
        *(followed(arm, rate, "never") for arm, rate in ((CONTROL, 0.0013), (TREATED, 0.001))),
        curve("naive_kaplan_meier", TREATED, 0.0003, 180, is_biased=True),
        curve("naive_kaplan_meier", CONTROL, 0.0021, 400, is_biased=True),
    ]


def followed(strategy: str, rate: float, compared_with: str) -> Curve:
    """A clone-censor-weight curve: no intervals; numbers at risk count copies."""
    rules = Parameters.model_validate(
        {"grace_days": 180, "weight_model": "cox", "compared_with": compared_with, "time_origin_day": 0}
    )
    drawn = curve("clone_censor_weight", strategy, rate, 300, parameters=rules)
    points = [p.model_copy(update={"ci_low": None, "ci_high": None, "events": 0}) for p in drawn.points]
    return drawn.model_copy(update={"points": points})


def autopsy() -> BiasAutopsy:
    """Immortal days of 231 starters, and five steps; the second has no upper limit."""
    steps = [
        ("naive", "Ever against never started", "naive", 0.203, 0.158, 0.261),
        ("immortal_days_dropped", "Immortal days dropped", "bias_removed", 0.41, 0.3, None),
        ("time_dependent", "Time-dependent exposure", "bias_removed", 0.79, 0.61, 1.02),
        ("adjusted", "Adjusted", "bias_removed", 0.712, 0.521, 0.973),
        ("weighted", "Clone-censor-weight", "estimand_changed", 0.86, 0.71, 1.04),
    ]
    return BiasAutopsy(
        starters=231, immortal_days=24310.5, share_of_treated_days=0.2104, days_q1=51.0, days_median=98.0, days_q3=140.5,
        days_by_site={"alpha": 8000.0, "beta": 15810.5, "gamma": 500.0},
        starters_by_site={"alpha": 80, "beta": 146, "gamma": 5},
        steps=[
            AutopsyStep.model_validate(
                {"step": step, "label": label, "change": change, "words": f"What {label.lower()} did", "hazard_ratio": hr,
                 "ci_low": low, "ci_high": high, "n": 842, "events": 418,
                 "warnings": ["the upper limit is infinite"] if high is None else []}
            )
            for step, label, change, hr, low, high in steps
        ],
    )  # fmt: skip


def diagnostics() -> Diagnostics:
    """Every part of the diagnostics, with an empty positivity cell and a hazard that is not proportional."""
    return Diagnostics(
        proportional_hazards=[HazardsTest(covariate="exposure", chi_square=1.2, df=1, p_value=0.27),
                              HazardsTest(covariate="ecog", chi_square=8.1, df=1, p_value=0.0044),
                              HazardsTest(covariate="all", chi_square=9.8, df=4, p_value=0.044)],
        weights=[ArmWeights(strategy=CONTROL, model="Cox model of starting", patients=600, mean=1.1, maximum=3.2,
                            percentiles={"1": 1.0, "50": 1.05, "99": 2.9}, effective=571.4),
                 ArmWeights(strategy=TREATED, model="Cox model of being censored", patients=190, mean=1.9, maximum=21.4,
                            percentiles={"1": 1.0, "50": 1.6, "99": 14.0}, effective=96.2)],
        positivity=[PositivityCell(covariate="ecog", level="0", started=40, not_started=90),
                    PositivityCell(covariate="ecog", level="3", started=0, not_started=17),
                    PositivityCell(covariate="responding", level="1", started=60, not_started=30)],
        unmeasured_confounding=UnmeasuredConfounding(e_value=1.87, e_value_limit=1.16, array=[
            CorrectedEstimate(confounder_hazard_ratio=strength, prevalence_treated=t, prevalence_control=c,
                              hazard_ratio=0.712 * (1 + c * (strength - 1)) / (1 + t * (strength - 1)),
                              ci_low=0.5, ci_high=1.1)
            for strength in (1.5, 3.0) for t in (0.1, 0.5) for c in (0.1, 0.5)],
            tipping_points=[ConfoundingTippingPoint(prevalence_treated=0.1, prevalence_control=0.5, for_estimate=2.125,
                                                    for_limit=1.0)]),
        lost_deaths=TippingPoint(group="exposed", deaths=11, censored=153),
        misclassification=[Misclassification(what="exposure", confirmed=46, reviewed=50, hazard_ratio=0.69, median=0.68,
                                             ci_low=0.44, ci_high=1.01)],
        detectable=Detectable(events=418, share_exposed=0.23, power=0.8, protective=0.72, harmful=1.38),
        subgroups=[Subgroup(name="older", interaction_p=0.61, warnings=["few events in one level"], levels=[
            SubgroupEstimate(level="below 65", n=500, events=240, hazard_ratio=0.7, ci_low=0.5, ci_high=0.99),
            SubgroupEstimate(level="65 and above", n=342, events=178, hazard_ratio=None, ci_low=None, ci_high=None)])],
        notes=["Misclassified deaths: no chart of a death was reviewed"],
    )  # fmt: skip


def safety() -> Safety:
    """Two kinds of events; one has no person-time in one group."""

    def rate(event: str, strategy: str, events: int, years: float, per_100: float | None) -> EventRate:
        limits = (None, None) if per_100 is None else (per_100 / 2, per_100 * 2)
        return EventRate(
            event=event,
            strategy=strategy,
            patients_at_risk=200,
            events=events,
            person_years=years,
            rate_per_100_years=per_100,
            ci_low=limits[0],
            ci_high=limits[1],
        )

    return Safety(
        rates=[rate("neutropenia, grade 3 or 4", CONTROL, 210, 410.2, 51.2), rate("neutropenia, grade 3 or 4", TREATED, 40, 201.1, 19.9),
               rate("t_cell_malignancy", CONTROL, 1, 826.3, 0.12), rate("t_cell_malignancy", TREATED, 0, 0.0, None)],
        notes=["Rates are not adjusted"],
    )  # fmt: skip


def kinetics() -> Kinetics:
    """Traces of both strategies with a zero, one of a single measurement, and two cases."""
    falls = [(0, 12.0), (7, 21000.0), (14, 52000.5), (28, 3100.0), (90, 240.0), (180, 0.0)]
    traces = [
        CopiesTrace(
            strategy=arm,
            days=[d + shift for d, _ in falls],
            copies=[v * (1 + shift / 3) for _, v in falls],
            start_day=60 if arm == TREATED else None,
            progression_day=100 + shift,
        )
        for arm in (CONTROL, TREATED)
        for shift in range(6)
    ]
    lone = CopiesTrace(strategy=CONTROL, days=[14], copies=[900.0], start_day=None, progression_day=None)
    summary: dict[str, Any] = {
        "peak_q1": 18000.0,
        "peak_median": 52000.0,
        "peak_q3": 81000.0,
        "peak_day_median": 14.0,
        "auc_median": 610000.0,
        "last_detectable_day_median": 90.0,
    }
    nothing = dict.fromkeys(summary)
    return Kinetics(
        unit="{copies}/ug",
        summaries=[ExpansionSummary(strategy=TREATED, patients=6, **summary),
                   ExpansionSummary(strategy=CONTROL, patients=0, **nothing)],
        traces=[*traces, lone],
        case_series=[CaseReport(relapse_day=120, start_day=131, response_day=170, copies_before=80.0, copies_after=4100.0,
                                is_rising=True),
                     CaseReport(relapse_day=210, start_day=215, response_day=280, copies_before=None, copies_after=None,
                                is_rising=None)],
        notes=["Measured at two sites only"],
    )  # fmt: skip


def lock(status: str = "locked", changed: list[str] | None = None) -> LockSummary:
    """A lock and one amendment."""
    log = [
        Amendment(locked_at=datetime(2025, 5, 2, 9, 0, tzinfo=UTC), version="1.0.0", protocol_sha256="12" * 32, reason=None),
        Amendment(locked_at=datetime(2025, 9, 1, 9, 0, tzinfo=UTC), version="1.2.0", protocol_sha256="ab" * 32,
                  reason="grace period as the pharmacists advised"),
    ]  # fmt: skip
    return LockSummary.model_validate(
        {"status": status, "registration": "EUPAS100000", "log": log, "changed": changed or []}
    )


def baseline() -> list[BaselineRow]:
    def row(
        strategy: str, variable: str, label: str, level: str | None = None, **numbers: Any
    ) -> BaselineRow:
        empty = dict.fromkeys(("mean", "sd", "median", "q1", "q3", "smd_before", "smd_after"))
        return BaselineRow(
            variable=variable,
            label=label,
            level=level,
            strategy=strategy,
            **{"missing": 0, **empty, **numbers},
        )

    return [
        row(TREATED, "age", "Age at index (years)", n=231, mean=61.2, sd=9.8, median=62, q1=55, q3=68.5,
            smd_before=-0.21),
        row(CONTROL, "age", "Age at index (years)", n=611, mean=63.3, sd=10.1, median=64.1, q1=57, q3=71,
            smd_before=-0.21),
        row(TREATED, "sex", "Sex", "female", n=201, missing=30, mean=101 / 201, smd_before=0.04),
        row(CONTROL, "sex", "Sex", "female", n=610, missing=1, mean=255 / 610, smd_before=0.04),
        row(TREATED, "sex", "Sex", "male", n=201, missing=30, mean=100 / 201),
        row(CONTROL, "sex", "Sex", "male", n=610, missing=1, mean=355 / 610),
        row(TREATED, "ldh", "LDH (log U/L)", n=220, missing=11, mean=5.61, sd=0.4, median=5.5, q1=5.3, q3=5.9),
        row(CONTROL, "ldh", "LDH (log U/L)", n=590, missing=21, mean=None, sd=None),
    ]  # fmt: skip


def evidence(**changes: Any) -> Evidence:
    """The whole document; `changes` replace fields."""
    return _whole().model_copy(update=changes)


@functools.cache
def _whole() -> Evidence:
    seen = datetime(2026, 3, 1, 3, 12, tzinfo=UTC)
    sites = [
        SiteSummary(
            name=name,
            patients=n,
            resources=resources,
            last_updated=seen if n > 12 else None,
            quarantined={"Observation": 7} if n == 12 else {},
        )
        for name, n, resources in (
            ("alpha", 300, {"Patient": 310, "Observation": 12043, "MedicationAdministration": 811}),
            ("beta", 530, {"Patient": 544, "Observation": 20510, "MedicationDispense": 1502}),
            ("gamma", 12, {"Patient": 12, "Observation": 344}),
        )
    ]
    attrition = [("index event", 901, 0), ("adult", 901, 4), (ODD_STEP, 897, 0), ("new user", 897, 55)]
    fields: dict[str, Any] = {
        "schema_version": "1.2",
        "audience": "internal",
        "seed": 20220331,
        "study": StudyIdentity(
            name="drug_after_event",
            version="1.2.0",
            title="Drug after event: <b>a study</b>",
            question="Does the drug prolong survival after the event?",
            protocol_sha256="ab" * 32,
        ),
        "protocol": protocol(),
        "codelists": [
            CodelistEntry(codelist="drug", system="http://www.whocc.no/atc", code="L04AX04", is_prefix=False,
                          display="the drug", source="WHO", valid_from=None, valid_to=None),
            CodelistEntry(codelist="the_event", system="http://www.whocc.no/atc", code="L01XL", is_prefix=True,
                          display="the event", source="WHO", valid_from=date(2021, 10, 1), valid_to=None),
        ],
        "refresh": Refresh(id="2026-03-01T0312Z", created_at=seen, data_cutoff=date(2026, 2, 27),
                           code_version="0.1.0", content_sha256="cd" * 32),
        "sites": sites,
        "runs": [
            RunSummary(site=s.name, run="20260301T031200Z", route="search", manifest_sha256="ef" * 32,
                       server_software="example 1.0" if s.patients > 12 else None)
            for s in sites
        ],
        "quality": [QualityFinding(check="death_before_index", severity="warning", rows=3,
                                   message="deaths recorded before the index event")],
        "cohort": Cohort(
            n=842,
            n_by_strategy={TREATED: 231, CONTROL: 611},
            outcome=["death"],
            events_by_strategy={TREATED: 78, CONTROL: 340},
            deaths_by_strategy={TREATED: 78, CONTROL: 340},
            person_days_by_strategy={TREATED: 91234.0, CONTROL: 301822.5},
            started_after_grace=110,
            started_after_progression=37,
            resumed_after_progression=5,
            end_of_follow_up={"death": 418, "last_activity": 424},
            median_follow_up_days=791.0,
        ),
        "attrition": [AttritionStep(step=s, n_before=n, n_excluded=k, n_after=n - k) for s, n, k in attrition],
        "baseline": baseline(),
        "estimates": estimates(),
        "curves": curves(),
        "refused": [Refusal(analysis="landmark_logrank", reason="nobody was exposed at day 7")],
        "warnings": ["3 deaths without a date were placed on the last contact"],
        "diagnostics": diagnostics(),
        "bias_autopsy": autopsy(),
        "safety": safety(),
        "kinetics": kinetics(),
        "protocol_lock": lock(),
    }  # fmt: skip
    return Evidence(**fields)
