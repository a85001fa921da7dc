"""The protocol of a study, as its file says it.

A study file is a target-trial protocol: who is eligible, when time zero is, which strategies are compared,
what ends follow-up, which covariates are adjusted for, which analyses are asked for. Nothing in `rwe` knows
a drug or a disease: a second study is a second file. `load_study` reads a file and its code lists;
every mistake in them is a `StudyError` that names the field.

All windows and days are whole days relative to the index event (day 0), both ends inclusive.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rwe.codes import Code, InvalidCodeError
from rwe.errors import StudyError
from rwe.yaml_text import YamlMistakeError, read_yaml

EvidenceTier = Literal["administration", "dispense", "statement", "request"]
IndexSource = Literal["MedicationAdministration", "Procedure"]
AnalysisName = Literal[
    "naive_kaplan_meier",
    "naive_logrank",
    "naive_cox",
    "landmark_kaplan_meier",
    "landmark_logrank",
    "landmark_cox",
    "mantel_byar",
    "simon_makuch",
    "time_dependent_cox",
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
_CENTURY = 36_525
Day = Annotated[int, Field(strict=True, ge=-_CENTURY, le=_CENTURY)]
DayAfter = Annotated[int, Field(strict=True, ge=1, le=_CENTURY)]
Span = Annotated[int, Field(strict=True, ge=0, le=_CENTURY)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Window(_Part):
    """Days relative to index, both inclusive. A missing from_day is open.

    It ends on day 0 at the latest: what is known only later may not decide who is eligible or what a baseline
    covariate is. Whoever has it has survived until then, and that is immortal time.
    """

    from_day: Day | None = None
    to_day: Day = 0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.to_day > 0:
            raise ValueError("the window reaches beyond day 0: it would count what only survivors have")
        if self.from_day is not None and self.from_day > self.to_day:
            raise ValueError(f"from_day {self.from_day} is after to_day {self.to_day}")
        return self


class AgeCriterion(_Part):
    """Age at index, in years: (index - birth) / 365.25, not floored."""

    kind: Literal["age_at_index"]
    name: Name
    min_years: Number | None = None
    max_years: Number | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _refuse_reversed("min_years", self.min_years, "max_years", self.max_years)
        return self


class EventCriterion(_Part):
    """A coded event that must (or must not) be recorded in the window."""

    kind: Literal["condition", "procedure", "medication"]
    name: Name
    codelist: Name
    window: Window = Window()
    must_be: Literal["present", "absent"] = "present"


class ValueCriterion(_Part):
    """The observed value nearest to index in the window lies between two bounds (inclusive)."""

    kind: Literal["observation"]
    name: Name
    codelist: Name
    window: Window
    unit: str | None = Field(default=None, description="UCUM code; a value in another unit is missing.")
    min_value: Number | None = None
    max_value: Number | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _refuse_reversed("min_value", self.min_value, "max_value", self.max_value)
        return self


class PeriodCriterion(_Part):
    """The index date lies in a calendar period (inclusive)."""

    kind: Literal["index_period"]
    name: Name
    not_before: date | None = None
    not_after: date | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _refuse_reversed("not_before", self.not_before, "not_after", self.not_after)
        return self


Criterion = Annotated[
    AgeCriterion | EventCriterion | ValueCriterion | PeriodCriterion, Field(discriminator="kind")
]


class IndexEvent(_Part):
    """Time zero: the first event of a code list. Its days count from 0."""

    codelist: Name
    sources: list[IndexSource] = Field(default=["MedicationAdministration", "Procedure"], min_length=1)
    occurrence: Literal["first"] = "first"
    same_event_days: Span = Field(
        default=14, description="Records this close together are one event (two bags of one dose)."
    )


class Washout(_Part):
    """New users only: whoever took the exposure in the `days` before index is excluded."""

    days: DayAfter | None = Field(default=None, description="None reaches back over the whole record.")


class Exposure(_Part):
    """The treatment under study and the evidence that counts for it."""

    codelist: Name
    tiers: list[EvidenceTier] = Field(
        min_length=1, description="Evidence that counts; a start is the earliest over these tiers."
    )
    gap_days: Span = Field(
        default=60, description="Records of one tier at most this far apart are one episode."
    )
    start_without_day: Literal["exclude", "latest_day"] = Field(
        default="exclude",
        description="A first record after index known only to the month or year: the patient is excluded, or "
        "starts on its latest possible day.",
    )


class TreatedStrategy(_Part):
    """Start the exposure within the grace period, unless the disease has progressed first."""

    name: Name
    label: str
    grace_days: Span = Field(description="A start on this day still counts (inclusive).")
    unless_progressed: bool = Field(
        default=True, description="A start on or after progression is salvage, not this strategy."
    )


class ControlStrategy(_Part):
    """No start of the exposure within the grace period."""

    name: Name
    label: str


class Strategies(_Part):
    treated: TreatedStrategy
    control: ControlStrategy


class DiseaseStatus(_Part):
    """How response and progression are read off Observations: the question's codes and the answers' codes."""

    codelist: Name
    responding: Name = Field(description="Code list of the values that mean a response.")
    progressed: Name = Field(description="Code list of the values that mean progression or relapse.")


class IntercurrentEvent(_Part):
    """An event after index that changes what the outcome means (ICH E9 R1)."""

    name: Name
    codelist: Name
    sources: list[Literal["medication", "procedure", "condition"]] = Field(min_length=1)
    handling: Literal["treatment_policy", "composite"] = Field(
        description="treatment_policy: follow-up goes on; composite: the event counts as the outcome."
    )


class Outcome(_Part):
    name: Literal["overall_survival"] = "overall_survival"
    death_without_date: Literal["exclude", "last_contact"] = Field(
        default="last_contact", description="What becomes of a patient known to be dead on no known day."
    )
    incomplete_death_date: Literal["midpoint", "exclude"] = Field(
        default="midpoint",
        description="A death known to the month or year: its middle, but never before the last contact.",
    )


class Censoring(_Part):
    """Until when the living count: the last recorded care, or a day on which all records were complete."""

    rule: Literal["last_activity", "data_cutoff"] = "last_activity"
    data_cutoff: date | None = None

    @model_validator(mode="after")
    def _has_day(self) -> Self:
        if self.rule == "data_cutoff" and self.data_cutoff is None:
            raise ValueError("rule data_cutoff needs the day data_cutoff")
        return self


class AgeCovariate(_Part):
    kind: Literal["age_at_index"]
    name: Name
    label: str = "Age at index (years)"


class SexCovariate(_Part):
    """Administrative gender as a number; a gender not listed is missing."""

    kind: Literal["sex"]
    name: Name
    label: str = "Sex"
    values: dict[Literal["female", "male", "other"], float] = {"female": 1.0, "male": 0.0}


class ObservationCovariate(_Part):
    """A measured value: the one nearest to index inside the window, the later of two equally near.

    Of several on one day it is their mean.
    """

    kind: Literal["observation"]
    name: Name
    label: str
    codelist: Name
    window: Window = Window(from_day=-30, to_day=0)
    unit: str | None = Field(default=None, description="UCUM code; a value in another unit is missing.")
    transform: Literal["none", "log"] = "none"


class CalendarCovariate(_Part):
    """Years (365.25 days) from a fixed day to index."""

    kind: Literal["years_since"]
    name: Name
    label: str
    origin: date


class StatusCovariate(_Part):
    """1 while in the status, else 0; it changes over time. Only statuses after index count.

    `responding`: the last known status is a response. `progressed`: from the first progression on, for good.
    """

    kind: Literal["disease_status"]
    name: Name
    label: str
    status: Literal["responding", "progressed"]


Covariate = Annotated[
    AgeCovariate | SexCovariate | ObservationCovariate | CalendarCovariate | StatusCovariate,
    Field(discriminator="kind"),
]


class Analysis(_Part):
    """One analysis asked for. `stratify_by: [site]` gives each site a baseline hazard of its own."""

    analysis: AnalysisName
    role: Literal["primary", "sensitivity", "contrast"] = "sensitivity"
    adjusted_for: list[Name] = []
    stratify_by: list[Literal["site"]] = []
    ties: Literal["efron", "breslow"] = "efron"
    variance: Literal["model", "robust"] = "model"
    landmarks: list[DayAfter] | None = Field(
        default=None, description="Days; the study's landmarks if absent."
    )
    by_site: bool = Field(default=False, description="Also one estimate for each site.")
    status_after_start: Literal["follow", "freeze"] = Field(
        default="follow",
        description="time_dependent_cox only. follow: adjusts for disease status as it changes, also after "
        "the start. freeze: each start is compared with those not yet started on that day, both with the "
        "status of that day (one stratum a start day; later starters stay unexposed), so that an effect "
        "through progression stays in the ratio.",
    )

    @model_validator(mode="after")
    def _freezes_what_changes(self) -> Self:
        if self.status_after_start == "follow":
            return self
        if self.analysis != "time_dependent_cox":
            raise ValueError(f"{self.analysis} takes no status_after_start: only time_dependent_cox does")
        if self.variance != "robust":
            raise ValueError(
                "status_after_start: freeze needs variance: robust, for patients come up repeatedly"
            )
        return self

    @model_validator(mode="after")
    def _adjusts_only_models(self) -> Self:
        if self.adjusted_for and not self.analysis.endswith("_cox"):
            raise ValueError(f"{self.analysis} takes no adjusted_for: only Cox models do")
        if self.analysis.startswith("naive_") and self.role != "contrast":
            raise ValueError(f"{self.analysis} gives immortal time away: its role can only be contrast")
        if self.role == "primary" and not self.analysis.endswith("_cox"):
            raise ValueError(f"{self.analysis} gives no hazard ratio, so it cannot be primary")
        return self


#: Columns that estimators read; a covariate of such a name would stand in their place.
RESERVED_NAMES = frozenset(
    {"study", "patient_id", "site", "index_date", "time_days", "is_event", "start_day", "salvage_start_day"}
    | {"progression_day", "strategy", "end_reason", "exposed"}
)


class Protocol(_Part):
    """A study file, validated. Field by field this is the specification of a target trial."""

    schema_version: Literal[1] = 1
    name: Name
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    title: str = Field(min_length=1)
    question: str = Field(min_length=1)
    index_event: IndexEvent
    eligibility: list[Criterion] = []
    new_user_washout: Washout | None = None
    exposure: Exposure
    strategies: Strategies
    disease_status: DiseaseStatus | None = None
    intercurrent_events: list[IntercurrentEvent] = []
    outcome: Outcome = Outcome()
    censoring: Censoring = Censoring()
    covariates: list[Covariate] = []
    landmarks: list[DayAfter] = []
    horizons: list[DayAfter] = []
    analyses: list[Analysis] = Field(min_length=1)
    confidence_level: float = Field(default=0.95, gt=0.5, lt=1)
    min_events_per_parameter: float = Field(
        default=5, ge=0, description="A Cox model with fewer events a parameter carries a warning."
    )
    seed: int = 20220331

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        known = [c.name for c in self.covariates]
        _refuse_repeats("covariates", known)
        for name in known:
            if name in RESERVED_NAMES:
                raise ValueError(f"covariates: {name!r} is a column of cohort.survival; choose another name")
        _refuse_repeats("landmarks", self.landmarks)
        _refuse_repeats("horizons", self.horizons)
        _refuse_repeats("exposure.tiers", self.exposure.tiers)
        _refuse_repeats("eligibility", [c.name for c in self.eligibility])
        _refuse_repeats("intercurrent_events", [e.name for e in self.intercurrent_events])
        for i, a in enumerate(self.analyses):
            _refuse_repeats(f"analyses[{i}].adjusted_for", a.adjusted_for)
            for name in a.adjusted_for:
                if name not in known:
                    raise ValueError(
                        f"analyses[{i}] adjusts for {name!r}, which is no covariate of this study"
                    )
            if a.status_after_start == "freeze" and not self.statuses() & set(a.adjusted_for):
                raise ValueError(f"analyses[{i}] freezes the disease status but adjusts for none")
            if a.analysis.startswith("landmark_") and not (a.landmarks or self.landmarks):
                raise ValueError(f"analyses[{i}] needs landmarks")
        if self.disease_status is None:
            if self.strategies.treated.unless_progressed:
                raise ValueError("strategies.treated.unless_progressed needs disease_status")
            if any(isinstance(c, StatusCovariate) for c in self.covariates):
                raise ValueError("a covariate of kind disease_status needs disease_status")
        return self

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        primary = [a for a in self.analyses if a.role == "primary"]
        if len(primary) > 1:
            raise ValueError("more than one analysis has the role primary")
        for a in primary:
            if a.analysis == "landmark_cox" and len(a.landmarks or self.landmarks) != 1:
                raise ValueError("a primary landmark_cox needs exactly one day in its own landmarks")
        if self.strategies.treated.name == self.strategies.control.name:
            raise ValueError("strategies.treated and strategies.control have one name")
        return self

    def statuses(self) -> frozenset[str]:
        """The covariates that follow the disease status: they change over time."""
        return frozenset(c.name for c in self.covariates if isinstance(c, StatusCovariate))

    def composite_events(self) -> list[str]:
        """The intercurrent events that count as the outcome besides death."""
        return [e.name for e in self.intercurrent_events if e.handling == "composite"]

    def codelist_names(self) -> list[str]:
        """Every code list the protocol names, in order of appearance."""
        names = [self.index_event.codelist]
        names += [c.codelist for c in self.eligibility if isinstance(c, EventCriterion | ValueCriterion)]
        names.append(self.exposure.codelist)
        if self.disease_status:
            names += [
                self.disease_status.codelist,
                self.disease_status.responding,
                self.disease_status.progressed,
            ]
        names += [e.codelist for e in self.intercurrent_events]
        names += [c.codelist for c in self.covariates if isinstance(c, ObservationCovariate)]
        return list(dict.fromkeys(names))

    def observation_codelists(self) -> list[str]:
        """The code lists that select Observations by their code: what extraction must ask a server for."""
        names = [c.codelist for c in self.eligibility if isinstance(c, ValueCriterion)]
        if self.disease_status:
            names.append(self.disease_status.codelist)
        names += [c.codelist for c in self.covariates if isinstance(c, ObservationCovariate)]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Codelist:
    """A named list of codes, as its CSV file says."""

    name: str
    codes: tuple[Code, ...]


@dataclass(frozen=True)
class Study:
    """A protocol with its code lists. `protocol_sha256` covers both: a changed code is a changed protocol."""

    protocol: Protocol
    codelists: dict[str, Codelist]
    path: Path

    @property
    def name(self) -> str:
        return self.protocol.name

    @property
    def protocol_sha256(self) -> str:
        content = {
            "protocol": self.protocol.model_dump(mode="json"),
            "codelists": {n: [_code_row(c) for c in cl.codes] for n, cl in sorted(self.codelists.items())},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def codes(self, codelist: str) -> tuple[Code, ...]:
        return self.codelists[codelist].codes


def _code_row(code: Code) -> dict[str, str | bool | None]:
    return {
        "system": code.system,
        "code": code.code,
        "is_prefix": code.is_prefix,
        "display": code.display,
        "source": code.source,
        "valid_from": code.valid_from.isoformat() if code.valid_from else None,
        "valid_to": code.valid_to.isoformat() if code.valid_to else None,
    }


def _refuse_reversed(low_name: str, low: Any, high_name: str, high: Any) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"{low_name} {low} is above {high_name} {high}")


def _refuse_repeats(where: str, names: Sequence[object]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where} has {name!r} twice")


CODELIST_COLUMNS = ("system", "code", "display", "source", "valid_from", "valid_to")


def load_codelist(name: str, path: Path) -> Codelist:
    """Read `NAME.csv`. Raises StudyError naming the file and line of the first mistake."""
    if not path.is_file():
        near = difflib.get_close_matches(name, [p.stem for p in path.parent.glob("*.csv")], n=1)
        hint = f"did you mean {near[0]}" if near else "write it there"
        raise StudyError(f"code list {name!r} is missing", where=str(path), advice=hint)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise StudyError("the code list is not readable as UTF-8 text", where=str(path)) from e
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(rows.fieldnames or ()) != CODELIST_COLUMNS:
        raise StudyError(
            "the header is not the one of a code list",
            where=str(path),
            advice=f"make its first line {','.join(CODELIST_COLUMNS)}",
        )
    codes: list[Code] = []
    for row in rows:
        line = f"{path}, line {rows.line_num}"
        if None in row or None in row.values():
            raise StudyError(
                f"not {len(CODELIST_COLUMNS)} columns", where=line, advice="quote commas in texts"
            )
        try:
            codes.append(
                Code(
                    system=row["system"].strip(),
                    code=row["code"].strip().removesuffix("*"),
                    display=row["display"].strip(),
                    source=row["source"].strip(),
                    valid_from=date.fromisoformat(row["valid_from"]) if row["valid_from"].strip() else None,
                    valid_to=date.fromisoformat(row["valid_to"]) if row["valid_to"].strip() else None,
                    is_prefix=row["code"].strip().endswith("*"),
                )
            )
        except InvalidCodeError as e:
            raise StudyError(str(e), where=line, advice="correct the code or its system") from e
        except ValueError as e:
            raise StudyError(
                "valid_from or valid_to is no date", where=line, advice="write YYYY-MM-DD"
            ) from e
    for code in codes:
        if codes.count(code) > 1:
            raise StudyError(f"the code {code.code} stands twice", where=str(path), advice="remove one")
    if not codes:
        raise StudyError("the code list has no code", where=str(path), advice="add at least one line")
    return Codelist(name, tuple(codes))


def load_study(path: Path) -> Study:
    """Read a study file and, from `codelists/` beside it, every code list it names.

    Raises StudyError: what is wrong, in which field or line, and how to mend it.
    """
    if not path.is_file():
        raise StudyError(
            "there is no such study file", where=str(path), advice="see `rwe study check --help`"
        )
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except YamlMistakeError as e:
        raise StudyError(str(e), where=str(path), advice="correct it there") from None
    except (OSError, UnicodeDecodeError) as e:
        raise StudyError("the file is not readable as UTF-8 text", where=str(path)) from e
    if not isinstance(content, dict):
        raise StudyError(
            "the file holds no mapping of fields", where=str(path), advice="see `rwe study schema`"
        )
    try:
        protocol = Protocol.model_validate(content)
    except ValidationError as e:
        raise StudyError(_first_mistake(e), where=str(path), advice=_remedy(e, content)) from e
    folder = path.parent / "codelists"
    lists = {name: load_codelist(name, folder / f"{name}.csv") for name in protocol.codelist_names()}
    return Study(protocol, lists, path)


def load_studies(folder: Path) -> list[Study]:
    """Every study of a folder, in the order of the file names. Two of one name are a StudyError."""
    studies = [load_study(path) for path in sorted(folder.glob("*.yaml"))]
    names = [study.name for study in studies]
    for study in studies:
        if names.count(study.name) > 1:
            files = " and ".join(s.path.name for s in studies if s.name == study.name)
            raise StudyError(
                f"{files} name their study {study.name!r} both", where=str(folder), advice="change one name:"
            )
        if study.path.stem != study.name:
            raise StudyError(
                f"the file is called {study.path.name}, its study {study.name}",
                where=str(folder),
                advice=f"call the file {study.name}.yaml, or change its field name",
            )
    return studies


def find_study(name_or_path: str, folder: Path) -> Study:
    """A study by the path of its file, or by the name it has among the studies of `folder`."""
    path = Path(name_or_path).expanduser()
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return load_study(path)
    candidate = folder / f"{name_or_path}.yaml"
    if not candidate.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise StudyError(
            f"there is no study {name_or_path!r}", where=str(folder), advice=f"there are: {known}"
        )
    return load_study(candidate)


def _location(parts: tuple[int | str, ...]) -> str:
    kinds = {k for union in (Criterion, Covariate) for k in _union_kinds(union)}
    shown = [f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts if p not in kinds]
    return "".join(shown).lstrip(".") or "the study"


def _union_kinds(union: Any) -> list[str]:
    members = get_args(get_args(union)[0])
    return [k for m in members for k in get_args(m.model_fields["kind"].annotation)]


def _first_mistake(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)
    first, rest = details[0], len(details) - 1
    place = _location(first["loc"])
    more = f" (and {rest} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        return f"unknown field {place}{more}"
    if first["type"] == "missing":
        return f"the field {place} is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{more}"


def _remedy(error: ValidationError, content: dict[str, Any]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        near = difflib.get_close_matches(str(first["loc"][0]), list(Protocol.model_fields), n=1)
        if near and near[0] not in content:
            return f"did you mean {near[0]}"
    return "`rwe study schema` lists every field"


def study_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a study file."""
    schema = Protocol.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "rwe study protocol"
    return schema
