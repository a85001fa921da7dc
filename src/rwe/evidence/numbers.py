"""Which numbers may leave a site at all, and how many patients and events each is made of.

A number of an arm of few patients is those patients' own. Nor may a contrast leave in which either arm is of
few: with the other arm's number it gives theirs back. And a number leaves again only where enough *of its
own* patients are new: ten new patients in the cohort may all be outside the rows of a landmark model, whose
estimate then moves by the one who is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rwe.evidence.contract import Cohort, Curve, Estimate, Evidence, Parameters
from rwe.evidence.parts import AutopsyStep, BiasAutopsy

FEW = 5
"""An arm of so few patients or fewer gives no number of its own, and is in no contrast."""
FEWEST_IN_A_MEAN = 20
"""Means, and what is read off a curve that is not rounded itself, are of so many patients or more."""
WEIGHTED = frozenset(
    {"clone_censor_weight", "landmark_weighting", "marginal_structural_model", "sequential_trials"}
)
_WITHIN_GRACE = frozenset({"clone_censor_weight", "sequential_trials"})
_KAPLAN_MEIER = frozenset({"naive_kaplan_meier", "landmark_kaplan_meier", "simon_makuch"})
_OF_CURVES = frozenset(
    {
        "survival",
        "survival_difference",
        "survival_ratio",
        "median_days",
        "rmst_days",
        "rmst_difference_days",
        "cumulative_incidence",
    }
)


@dataclass(frozen=True)
class Number:
    """A number that leaves, by the exact counts behind it. It stays at the site, in the release's ledger.

    `kind` is the analysis and what it estimates; `detail` its strategies and parameters. `value` stands for
    the exact number: where it, `n` and `events` are the same again, the rows are the same.
    """

    kind: str
    detail: str
    n: int
    events: int
    value: str


@dataclass(frozen=True)
class Arms:
    """Patients behind the treated strategy of a cohort: who ever started, who did within the grace period,
    and who (counted apart) only after progression."""

    treated: str
    started: int
    within_grace: int
    salvage: int

    @classmethod
    def of(cls, cohort: Cohort, protocol: Mapping[str, object]) -> Arms:
        """From the cohort, and the protocol that names its strategies."""
        strategies = protocol.get("strategies")
        treated = strategies.get("treated") if isinstance(strategies, dict) else None
        name = str(treated.get("name")) if isinstance(treated, dict) else next(iter(cohort.n_by_strategy), "")
        started = cohort.n_by_strategy.get(name, 0)
        within = max(0, started - cohort.started_after_grace)
        return cls(name, started, within, cohort.started_after_progression)

    def size(self, e: Estimate) -> int:
        """Patients of the smallest arm that the estimate is of."""
        names = [e.contrast.strategy, *([e.contrast.reference] if e.contrast.reference else [])]
        return min(self._arm(e.analysis, name, [e.n], e.n_by_strategy) for name in names)

    def of_curve(self, c: Curve) -> int:
        """Patients of the arm that the curve is of; clones count, so a small arm is told by who started."""
        return self._arm(c.analysis, c.strategy, [max((p.at_risk for p in c.points), default=0)], {})

    def _arm(self, analysis: str, name: str, known: Sequence[int], told: Mapping[str, int]) -> int:
        found = [*known, *([told[name]] if name in told else [])]
        if name == self.treated:
            found.append(self.within_grace if analysis in _WITHIN_GRACE else self.started)
        return min(found)


def why_not(e: Estimate, arms: Arms, curves: Sequence[Curve]) -> Literal["near", "few"] | None:
    """Why an estimate never leaves. near: of one site, or beside one from which it differs by the rule for a
    few patients. few: of an arm of few patients."""
    if _is_near(e.site, e.parameters, arms):
        return "near"
    size = arms.size(e)
    if size <= FEW:
        return "few"
    if e.estimand in _OF_CURVES and size < FEWEST_IN_A_MEAN and rounded_curve_of(e, curves) is None:
        return "few"
    return None


def why_not_curve(c: Curve, arms: Arms) -> Literal["near", "few"] | None:
    """Why a curve never leaves: as `why_not`. few: a weighted one, which steps by no rounded counts."""
    if _is_near(c.site, c.parameters, arms):
        return "near"
    return "few" if c.analysis in WEIGHTED and arms.of_curve(c) < FEWEST_IN_A_MEAN else None


def _is_near(site: str | None, p: Parameters, arms: Arms) -> bool:
    """Of one site, or beside the same without a rule that may change a few patients only."""
    is_salvage = p.salvage == "counts_as_start" and arms.salvage <= FEW
    return site is not None or p.variant is not None or is_salvage


def is_of_a_curve(e: Estimate) -> bool:
    """Whether it is a point or an area of a curve, or a contrast of two."""
    return e.estimand in _OF_CURVES


def rounded_curve_of(e: Estimate, curves: Sequence[Curve]) -> Curve | None:
    """The unweighted curve off whose rounded copy a survival or a median is read."""
    if e.analysis not in _KAPLAN_MEIER or e.estimand not in ("survival", "median_days"):
        return None
    asked = e.parameters.model_copy(update={"time_days": None})
    for c in curves:
        is_its = (c.analysis, c.strategy) == (e.analysis, e.contrast.strategy)
        if c.site is None and is_its and c.parameters == asked:
            return c
    return None


def numbers_that_leave(evidence: Evidence) -> tuple[Number, ...]:
    """Every number that the evidence would let out, were enough new, but for rounded counts and what is read
    off rounded curves."""
    arms = Arms.of(evidence.cohort, evidence.protocol)
    found = [
        number_of(e)
        for e in evidence.estimates
        if (e.estimate, e.ci_low, e.ci_high, e.p_value) != (None,) * 4
        and why_not(e, arms, evidence.curves) is None
        and rounded_curve_of(e, evidence.curves) is None
    ]
    curves = [c for c in evidence.curves if c.analysis in WEIGHTED and why_not_curve(c, arms) is None]
    found += [number_of_curve(c) for c in curves]
    if evidence.bias_autopsy is not None:
        found += _of_autopsy(evidence.bias_autopsy)
    return tuple(found)


def number_of(e: Estimate) -> Number:
    """The number that an estimate is."""
    arm, n, events = e.contrast.strategy, e.n, e.events
    if e.contrast.reference is None:
        n, events = min(n, e.n_by_strategy.get(arm, n)), min(events, e.events_by_strategy.get(arm, events))
    of = "of an arm" if e.contrast.reference is None else "of a contrast"
    exact = (e.estimate, e.se, e.ci_low, e.ci_high, e.p_value)
    detail = f"{e.contrast.model_dump_json()} {e.parameters.model_dump_json()}"
    return Number(f"{e.analysis} {e.estimand} {of}", detail, n, events, _hash(exact))


def number_of_curve(c: Curve) -> Number:
    """The number that a weighted curve is."""
    points = [(p.time_days, p.survival) for p in c.points]
    at_risk = max((p.at_risk for p in c.points), default=0)
    detail = f"{c.strategy} {c.parameters.model_dump_json()}"
    return Number(f"{c.analysis} curve", detail, at_risk, sum(p.events for p in c.points), _hash(points))


def number_of_step(s: AutopsyStep) -> Number:
    """The number that a step of the bias autopsy is."""
    exact = (s.hazard_ratio, s.ci_low, s.ci_high)
    return Number(f"bias autopsy {s.step}", "", s.n, s.events, _hash(exact))


def number_of_days(found: BiasAutopsy) -> Number:
    """Immortal days: of those who started; no event is in them."""
    return Number("immortal days", "", found.starters, found.starters, _hash(found.immortal_days))


def _of_autopsy(found: BiasAutopsy) -> Iterator[Number]:
    yield number_of_days(found)
    yield from (number_of_step(s) for s in found.steps)


def _hash(exact: object) -> str:
    return hashlib.sha256(repr(exact).encode()).hexdigest()
