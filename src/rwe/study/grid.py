"""The sensitivity grid of a protocol: one of its own rules changed at a time, everything else as it is.

Each entry names a rule and the other value that it might have had. What the analysis gives under it stands
beside what it gives under the protocol's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rwe.study.analyses import Analysis, AnalysisName
from rwe.study.parts import DayAfter, EvidenceTier, Part, Span, refuse_repeats


class _Change(Part):
    """What every entry of the grid can say of itself."""

    def words(self) -> str:
        """The other value, as a reader sees it."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """`rule: value`, which `Parameters.variant` of an estimate holds."""
        return f"{self.rule}: {self.words()}"  # type: ignore[attr-defined]  # every entry has a rule


class TiersChange(_Change):
    """Other evidence counts as exposure."""

    rule: Literal["exposure_tiers"]
    value: list[EvidenceTier] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_repeats("value", self.value)
        return self

    def words(self) -> str:
        return ", ".join(self.value)


class CensoringChange(_Change):
    """The living are censored by another rule."""

    rule: Literal["censoring"]
    value: Literal["last_activity", "data_cutoff"]
    data_cutoff: date | None = Field(
        default=None,
        description="For data_cutoff: the day. If absent, the protocol's own; if it has none, the earliest "
        "of the sites' last days of follow-up: until then the records of all sites reach.",
    )

    @model_validator(mode="after")
    def _has_no_needless_day(self) -> Self:
        if self.data_cutoff is not None and self.value != "data_cutoff":
            raise ValueError(f"censoring at {self.value} takes no data_cutoff")
        return self

    def words(self) -> str:
        return self.value if self.data_cutoff is None else f"{self.value} {self.data_cutoff}"


class UndatedDeathChange(_Change):
    """Another rule for who is known to be dead on no known day."""

    rule: Literal["death_without_date"]
    value: Literal["exclude", "last_contact"]

    def words(self) -> str:
        return self.value


class GapChange(_Change):
    """Records of the exposure further apart, or only those nearer, are one episode."""

    rule: Literal["gap_days"]
    value: Span

    def words(self) -> str:
        return str(self.value)


class GraceChange(_Change):
    """Another grace period, for the analyses that have one."""

    rule: Literal["grace_days"]
    value: Span

    def words(self) -> str:
        return str(self.value)


class LandmarkChange(_Change):
    """Another landmark, for the analyses from a landmark."""

    rule: Literal["landmark"]
    value: DayAfter

    def words(self) -> str:
        return str(self.value)


class SalvageChange(_Change):
    """A first start after progression counts as a start of the strategy."""

    rule: Literal["salvage"]
    value: Literal["counts_as_start"]

    def words(self) -> str:
        return self.value


class LagChange(_Change):
    """Whoever starts counts as exposed only from so many days after the start on."""

    rule: Literal["lag_days"]
    value: DayAfter

    def words(self) -> str:
        return str(self.value)


RuleChange = Annotated[
    TiersChange
    | CensoringChange
    | UndatedDeathChange
    | GapChange
    | GraceChange
    | LandmarkChange
    | SalvageChange
    | LagChange,
    Field(discriminator="rule"),
]
RuleName = Literal[
    "exposure_tiers",
    "censoring",
    "death_without_date",
    "gap_days",
    "grace_days",
    "landmark",
    "salvage",
    "lag_days",
]
TableChange = TiersChange | CensoringChange | UndatedDeathChange | GapChange
"""The entries that change the cohort's tables, and not only what an analysis makes of them."""

_OF_GRACE: frozenset[AnalysisName] = frozenset({"clone_censor_weight", "sequential_trials"})
_OF_LANDMARK: frozenset[AnalysisName] = frozenset({"landmark_cox", "landmark_firth", "landmark_weighting"})
_OF_LAG: frozenset[AnalysisName] = frozenset({"time_dependent_cox", "time_dependent_firth"})
_RATIOS = _OF_GRACE | _OF_LANDMARK | _OF_LAG | {"marginal_structural_model"}
_ONLY: dict[RuleName, frozenset[AnalysisName]] = {
    "grace_days": _OF_GRACE,
    "landmark": _OF_LANDMARK,
    "lag_days": _OF_LAG,
}


def analysis_of(rule: RuleName, analyses: Sequence[Analysis]) -> Analysis | None:
    """The analysis that a rule is tried on: the primary one where it knows the rule, else the first adjusted
    one that does, else the first. None where none does.

    Only analyses of the protocol's outcome that give a hazard ratio and no immortal time away are tried.
    """
    able = [a for a in analyses if a.analysis in _ONLY.get(rule, _RATIOS) and _is_of_the_question(a, rule)]
    return min(able, key=lambda a: (a.role != "primary", not a.adjusted_for), default=None)


def _is_of_the_question(a: Analysis, rule: RuleName) -> bool:
    is_plain = a.endpoint == "outcome" and a.salvage == "apart"
    return is_plain and not (rule == "lag_days" and a.status_after_start == "freeze")
