"""Which model is fitted, and which numbers go with it: derived from the study file, by hub and sites alike.

A request names a study, the hash of its protocol, and the place of one analysis in it. Everything else is
worked out here from the site's own copy of that study, so a hub cannot ask for other columns, other days or
other numbers. The hash of the plan makes sure that hub and sites worked out the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import msgspec

from rwe.errors import UsageError
from rwe.study import Analysis, Protocol, Study
from rwe.survival.cox_fit import EXPOSURE
from rwe.survival.cox_kernel import Ties

Kind = Literal["cox", "firth", "weighted"]

_KINDS: dict[str, Kind] = {
    "naive_cox": "cox",
    "landmark_cox": "cox",
    "time_dependent_cox": "cox",
    "landmark_firth": "firth",
    "time_dependent_firth": "firth",
    "naive_firth": "firth",
    "clone_censor_weight": "weighted",
}
_INTERVAL_DAYS = 90
_MOST_DAYS = 3600
_DEFAULT_HORIZON = 1080

COUNTS = ("patients", "ever_exposed", "events", "events_exposed", "incomplete")
ARMS = ("unexposed", "exposed")
MOVES = ("entered", "left", "events")
LOGRANK = ("observed", "expected")


@dataclass(frozen=True)
class Plan:
    """A model to be fitted over sites, each a stratum (and each trial within it).

    `coefficients`: the exposure, then the covariates in the order of the protocol, in the units of the study.
    `life_table_days` cut follow-up into intervals; none for weighted rows, whose counts are of copies.
    `largest_coefficient` bounds each coefficient, `largest_standardised` it times the covariate's standard
    deviation in the risk sets, and a refresh ends after `most_steps`.
    """

    study: str
    protocol_sha256: str
    analysis: int
    name: str
    kind: Kind
    landmark_day: int | None
    coefficients: tuple[str, ...]
    ties: Ties
    is_robust: bool
    level: float
    life_table_days: tuple[int, ...]
    largest_coefficient: float = 5.0
    largest_standardised: float = 3.0
    most_steps: int = 25

    @property
    def rows_kind(self) -> str:
        """Which rows the model is fitted to, whatever its penalty, covariates or landmark."""
        return self.name if self.kind == "weighted" else self.name.rsplit("_", 1)[0]

    @property
    def sha256(self) -> str:
        """The hash of all of it."""
        return hashlib.sha256(b"rwe federate plan 2\0" + msgspec.json.encode(self)).hexdigest()

    def layout(self, step: int) -> tuple[str, ...]:
        """The names of the numbers of a step, in their order; the counts come with step 0 alone."""
        names = [f"score[{a}]" for a in self.coefficients]
        names += [f"information[{a},{b}]" for a, b in self.pairs()]
        if self.is_robust:
            names += [f"meat[{a},{b}]" for a, b in self.pairs()]
        if self.kind == "firth":
            names += [f"information_change[{a},{b},{c}]" for a, b, c in self.triples()]
        if step == 0:
            names += self._counts()
        return tuple(names)

    def _counts(self) -> list[str]:
        names = [f"count[{c}]" for c in COUNTS]
        if self.life_table_days:
            names += [f"logrank.{what}[{arm}]" for what in LOGRANK for arm in ARMS] + ["logrank.variance"]
            names += [f"{m}[{arm},{d}]" for arm in ARMS for d in (0, *self.life_table_days) for m in MOVES]
        return names

    def pairs(self) -> list[tuple[str, str]]:
        """The upper triangle of a symmetric matrix."""
        c = self.coefficients
        return [(c[i], c[j]) for i in range(len(c)) for j in range(i, len(c))]

    def triples(self) -> list[tuple[str, str, str]]:
        """The entries of an array symmetric in three indices, each once."""
        c = self.coefficients
        span = range(len(c))
        return [(c[i], c[j], c[k]) for i in span for j in span[i:] for k in span[j:]]


def make_plan(study: Study, analysis: int, landmark_day: int | None = None) -> Plan:
    """The plan for one analysis of a study.

    Raises UsageError where there is no such analysis or landmark, or it cannot be federated.
    """
    p = study.protocol
    where = f"study {study.name}, analysis {analysis}"
    if not 0 <= analysis < len(p.analyses):
        raise UsageError("the protocol has no such analysis", where=where)
    asked = p.analyses[analysis]
    kind = _KINDS.get(asked.analysis)
    if kind is None:
        able = ", ".join(sorted(_KINDS))
        raise UsageError(f"{asked.analysis} cannot be federated", where=where, advice=f"these can: {able}")
    if "site" not in asked.stratify_by:
        raise UsageError(
            "a federated estimate is stratified by site, and this analysis is not",
            where=where,
            advice="add `stratify_by: [site]` to it in the study file",
        )
    if asked.missing == "impute" or any(e.handling == "censored_with_weights" for e in p.intercurrent_events):
        raise UsageError(
            "imputed covariates and weights for intercurrent events cannot be federated",
            where=where,
            advice="name an analysis of complete cases, in a protocol without them",
        )
    is_weighted = kind == "weighted"
    return Plan(
        study=study.name,
        protocol_sha256=study.protocol_sha256,
        analysis=analysis,
        name=asked.analysis,
        kind=kind,
        landmark_day=_landmark(p, asked, landmark_day, where),
        coefficients=(EXPOSURE,) if is_weighted else (EXPOSURE, *_covariates(p, asked)),
        ties="breslow" if kind == "firth" else asked.ties,
        is_robust=is_weighted or asked.variance == "robust",
        level=p.confidence_level,
        life_table_days=() if is_weighted else _life_table_days(p),
    )


def default_analysis(protocol: Protocol) -> int:
    """The place of the primary analysis, else of the first. Raises UsageError where there is none."""
    if not protocol.analyses:
        raise UsageError("the protocol asks for no analysis", where=f"study {protocol.name}")
    roles = [a.role for a in protocol.analyses]
    return roles.index("primary") if "primary" in roles else 0


def _covariates(p: Protocol, asked: Analysis) -> list[str]:
    changing = p.changing(asked)
    fixed = [n for n in asked.adjusted_for if n not in changing]
    return [*fixed, *(n for n in asked.adjusted_for if n in changing)]


def _landmark(p: Protocol, asked: Analysis, day: int | None, where: str) -> int | None:
    days = list(asked.landmarks or p.landmarks) if asked.analysis.startswith("landmark_") else []
    if not days and day is None:
        return None
    if day is None and len(days) == 1:
        return days[0]
    if day not in days:
        known = ", ".join(map(str, days)) or "none"
        raise UsageError("the analysis has no such landmark", where=where, advice=f"its landmarks: {known}")
    return day


def _life_table_days(p: Protocol) -> tuple[int, ...]:
    last = min(max(p.horizons, default=_DEFAULT_HORIZON), _MOST_DAYS)
    return (*range(_INTERVAL_DAYS, last, _INTERVAL_DAYS), last)
