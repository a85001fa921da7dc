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
    ]  # fmt: skip


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
        curve("naive_kaplan_meier", TREATED, 0.0003, 180, is_biased=True),
        curve("naive_kaplan_meier", CONTROL, 0.0021, 400, is_biased=True),
    ]


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
    }  # fmt: skip
    return Evidence(**fields)
