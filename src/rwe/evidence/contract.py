"""The contract of evidence.json: everything a report may say, in one typed document.

The report reads this document and nothing else, ever. Numbers are in full double precision; what is infinite
or undefined is null, with a warning that says why. The JSON Schema beside this module
(`evidence.schema.json`) is generated from these models and validated against on every write.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Literal

import jsonschema
from pydantic import Field

from rwe.durable import AS_UMASK, write_whole
from rwe.errors import EvidenceError
from rwe.evidence.federated import FederatedEstimate
from rwe.evidence.grid import SensitivityGrid
from rwe.evidence.history import History
from rwe.evidence.parts import (
    BiasAutopsy,
    Diagnostics,
    Kinetics,
    LockSummary,
    Part,
    Safety,
    is_empty,
    is_none,
)
from rwe.evidence.synthesis import Synthesis
from rwe.study.analyses import AnalysisName

SCHEMA_VERSION: Final = "1.2"
SCHEMA_PATH = Path(__file__).with_name("evidence.schema.json")

AnalysisKind = AnalysisName
Estimand = Literal[
    "hazard_ratio",
    "chi_square",
    "p_value",
    "median_days",
    "survival",
    "survival_difference",
    "survival_ratio",
    "rmst_days",
    "rmst_difference_days",
    "cumulative_incidence",
    "cause_specific_hazard_ratio",
    "subdistribution_hazard_ratio",
]
Groups = Literal["ever_started", "started_by_landmark", "started_so_far", "follows_strategy"]
"""Who stands for a strategy: whoever ever starts (looks ahead: biased), whoever had started by the landmark,
whoever has started so far, patients changing groups on the day they start, or everybody's copy that follows
the strategy with its grace period from day 0."""


def groups_of(analysis: AnalysisKind) -> Groups:
    """Who stands for the strategies in an analysis."""
    if analysis.startswith("naive_"):
        return "ever_started"
    if analysis == "clone_censor_weight":
        return "follows_strategy"
    return "started_by_landmark" if analysis.startswith("landmark_") else "started_so_far"


class StudyIdentity(Part):
    name: str
    version: str
    title: str
    question: str
    protocol_sha256: str


class CodelistEntry(Part):
    codelist: str
    system: str
    code: str
    is_prefix: bool
    display: str
    source: str
    valid_from: date | None
    valid_to: date | None


class Refresh(Part):
    id: str
    created_at: datetime
    data_cutoff: date | None = Field(description="Last day of recorded care in the data analysed.")
    code_version: str
    content_sha256: str = Field(description="Identity of the cohort tables analysed, over sorted rows.")


class SiteSummary(Part):
    name: str
    patients: int = Field(description="Patients of this site in the analysed cohort.")
    resources: dict[str, int] = Field(description="Latest versions in the lake, by resource type.")
    quarantined: dict[str, int] = Field(
        default={}, description="Landed lines that did not pass validation, by resource type."
    )
    last_updated: datetime | None


class RunSummary(Part):
    site: str
    run: str
    route: str
    server_software: str | None
    manifest_sha256: str


class QualityFinding(Part):
    check: str
    severity: Literal["error", "warning"]
    rows: int
    message: str


class Cohort(Part):
    """Counts by strategy: `ever started` for patients, by time-dependent exposure for days and events."""

    n: int
    n_by_strategy: dict[str, int]
    outcome: list[str] = Field(description="What counts as the event: death, and events of a composite.")
    events_by_strategy: dict[str, int] = Field(description="Events while exposed / while not exposed.")
    deaths_by_strategy: dict[str, int] = Field(
        description="The deaths among these events: of a composite, the deaths that came first."
    )
    person_days_by_strategy: dict[str, float] = Field(description="Days while exposed / while not.")
    started_after_grace: int = Field(
        description="Started by the strategy, but after its grace period. They count as started from then on."
    )
    started_after_progression: int = Field(
        description="First start after progression: salvage, not counted as the treated strategy."
    )
    resumed_after_progression: int = Field(
        description="Started before progression, and continued or resumed after it. They count as started."
    )
    end_of_follow_up: dict[str, int] = Field(description="Patients by reason why follow-up ended.")
    median_follow_up_days: float | None = Field(description="Reverse Kaplan-Meier.")


class AttritionStep(Part):
    step: str
    n_before: int
    n_excluded: int
    n_after: int


class BaselineRow(Part):
    """A covariate at index in one strategy. With a `level`, `mean` is the share of patients who have it."""

    variable: str
    label: str
    level: str | None
    strategy: str
    n: int = Field(description="Patients in whom it is known.")
    missing: int
    mean: float | None
    sd: float | None
    median: float | None
    q1: float | None
    q3: float | None
    smd_before: float | None
    smd_after: float | None


class Contrast(Part):
    strategy: str
    reference: str | None = Field(description="Null where the estimate is of one arm (a median).")
    groups: Groups = Field(description="Who stands for the strategies.")


class Parameters(Part):
    """What pins an estimate down. Null where it does not apply."""

    landmark_day: int | None = None
    grace_days: int | None = None
    horizon_days: int | None = None
    time_days: int | None = Field(
        default=None, description="The day of a survival probability, counted from time_origin_day."
    )
    time_origin_day: int | None = Field(
        default=None,
        description="Where the clock of a curve, a median or a survival starts: 0 or the landmark.",
    )
    adjusted_for: list[str] = Field(default=[])
    stratified_by: list[str] = Field(default=[])
    status_after_start: Literal["follow", "freeze"] | None = Field(
        default=None,
        description="Disease status adjusted for: as it changes, or as on the day of the start.",
    )
    ties: str | None = None
    compared_with: Literal["no_start_by_grace", "never"] | None = Field(
        default=None, description="The control strategy of clone-censor-weight."
    )
    weight_model: str | None = Field(default=None, description="How weights were modelled.")
    weight_for_loss: bool | None = None
    truncate_percentile: float | None = None
    replicates: int | None = Field(default=None, description="Of the bootstrap that gave the interval.")
    salvage: Literal["apart", "counts_as_start"] | None = Field(
        default=None, description="counts_as_start: a first start after progression counts, as sensitivity."
    )
    endpoint: Literal["progression_free_survival"] | None = Field(
        default=None, description="Null: the protocol's outcome."
    )
    cause: str | None = Field(default=None, description="Of competing risks: the event in question.")
    variant: str | None = Field(
        default=None, description="A rule of the protocol that this estimate changes, as a sensitivity."
    )
    imputations: int | None = Field(
        default=None,
        exclude_if=is_none,
        description="Tables with missing baseline covariates imputed, pooled by Rubin's rules.",
    )


class Coefficient(Part):
    """One coefficient of a fitted model, on the log scale."""

    name: str
    estimate: float | None
    se: float | None


class Estimate(Part):
    analysis: AnalysisKind
    estimand: Estimand
    effect_type: Literal["conditional", "marginal"] | None
    role: Literal["primary", "sensitivity", "contrast", "posthoc"]
    asked_role: Literal["primary", "sensitivity", "contrast"] | None = Field(
        default=None,
        exclude_if=is_none,
        description="Of an estimate outside the protocol's lock: the role that the protocol gives it. The "
        "role of a naive one is contrast then, too.",
    )
    downgraded_from: AnalysisKind | None = Field(
        default=None,
        exclude_if=is_none,
        description="The analysis that the protocol wants as primary and that these data cannot carry.",
    )
    contrast: Contrast
    site: str | None = Field(description="Null is all sites.")
    method: str
    parameters: Parameters
    estimate: float | None
    log_estimate: float | None
    se: float | None
    se_scale: Literal["log", "natural"] | None
    variance_method: str | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float | None
    ci_method: str | None
    df: float | None
    p_value: float | None
    n: int = Field(description="Patients, not rows.")
    events: int
    n_by_strategy: dict[str, int]
    events_by_strategy: dict[str, int]
    expected_by_strategy: dict[str, float] | None = Field(
        default=None, description="Expected events of a log-rank type test."
    )
    variance: float | None = Field(default=None, description="Variance of observed minus expected.")
    coefficients: list[Coefficient] = Field(default=[])
    status: Literal["ok", "refused", "did_not_converge"]
    is_biased: bool
    assumptions: list[str] = Field(default=[], description="What must hold for it to be what it says.")
    warnings: list[str]

    @property
    def is_posthoc(self) -> bool:
        """Whether it is outside the protocol's lock."""
        return self.role == "posthoc" or self.asked_role is not None

    @property
    def is_the_answer(self) -> bool:
        """Whether it is the hazard ratio of all sites that answers the study's question: the primary one, or
        outside the lock the one that the protocol wants as such."""
        is_primary = "primary" in (self.role, self.asked_role)
        return is_primary and self.estimand == "hazard_ratio" and self.site is None


class CurvePoint(Part):
    time_days: float
    survival: float | None
    ci_low: float | None
    ci_high: float | None
    at_risk: int
    events: int


class Curve(Part):
    analysis: AnalysisKind
    strategy: str
    site: str | None
    is_biased: bool
    parameters: Parameters
    points: list[CurvePoint]


class Refusal(Part):
    analysis: str
    reason: str


class Evidence(Part):
    """One refresh of one study."""

    schema_version: Literal["1.2"]
    audience: Literal["internal", "release"]
    seed: int
    study: StudyIdentity
    protocol: dict[str, Any]
    codelists: list[CodelistEntry]
    refresh: Refresh
    sites: list[SiteSummary]
    runs: list[RunSummary]
    quality: list[QualityFinding]
    is_made_up: bool = Field(
        default=False, exclude_if=is_empty, description="The patients are made up: this is no evidence."
    )
    cohort: Cohort
    attrition: list[AttritionStep]
    baseline: list[BaselineRow]
    estimates: list[Estimate]
    curves: list[Curve]
    refused: list[Refusal]
    warnings: list[str]
    diagnostics: Diagnostics | None = None
    synthesis: Synthesis | None = None
    history: History | None = None
    kinetics: Kinetics | None = None
    safety: Safety | None = None
    bias_autopsy: BiasAutopsy | None = None
    protocol_lock: LockSummary | None = None
    sensitivity_grid: SensitivityGrid | None = Field(default=None, exclude_if=is_none)
    federated: list[FederatedEstimate] = Field(
        default=[],
        exclude_if=is_empty,
        description="What this workspace found as a hub, from sums of sites whose patients are not here.",
    )


def evidence_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of evidence.json, generated from the models above."""
    schema = Evidence.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$id"] = f"urn:rwe:evidence:{SCHEMA_VERSION}"
    return schema


def write_evidence(evidence: Evidence, path: Path) -> None:
    """Validate against the schema, then write: complete or absent.

    Raises EvidenceError if the document breaks its contract; nothing is written then.
    """
    document = evidence.model_dump(mode="json")
    _validate(document, str(path))
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(path, text.encode(), AS_UMASK)


def read_evidence(path: Path) -> Evidence:
    """Read and validate an evidence.json. Raises EvidenceError if it is missing, cut or of another schema."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise EvidenceError(
            "there is no evidence here", where=str(path), advice="run `rwe analyse` first"
        ) from e
    except (OSError, ValueError) as e:
        raise EvidenceError(
            "the evidence is not readable JSON", where=str(path), advice="run `rwe analyse` again"
        ) from e
    _validate(document, str(path))
    return Evidence.model_validate(document)


def _validate(document: Any, where: str) -> None:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    mistake = jsonschema.exceptions.best_match(found)
    if mistake is not None:
        field = "/".join(str(p) for p in mistake.absolute_path) or "the document"
        raise EvidenceError(f"the evidence breaks its schema at {field} ({mistake.validator})", where=where)
