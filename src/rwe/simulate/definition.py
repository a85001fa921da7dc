"""What the harness has to know of an estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rwe.simulate.answers import Answer, PValue
from rwe.simulate.cohorts import Cohort, Counted
from rwe.simulate.scenarios import Assumption

Estimand = Literal["conditional", "strategies", "randomised", "limit", "test"]
Scale = Literal["log", "share", "days"]


@dataclass(frozen=True)
class Estimator:
    """`analysis` and `reports` name it in the evidence (the analysis of the protocol, its estimand).

    `estimand`, see `truths`. `exact_when`: where all of these hold it is the log hazard ratio of the
    simulation, without any simulating. `needs`: what must hold for it to be right. `is_contrast`: 0 is no
    effect. `counted`: the events that it rests on. `share`: of the replicates, how many it is given.
    `largest`: patients of one cohort behind a limit; fewer where the work grows with their square.
    `may_exceed`: why its intervals are conservative by construction. `not_offered`: why no study can ask for
    it; it is tabulated beside what is offered, and not judged.
    """

    name: str
    words: str
    estimand: Estimand
    run: Callable[[Cohort], Answer | PValue]
    analysis: str
    reports: str = "hazard_ratio"
    scale: Scale = "log"
    needs: frozenset[Assumption] = frozenset()
    exact_when: frozenset[Assumption] | None = None
    is_contrast: bool = True
    is_biased: bool = False
    share: float = 1.0
    largest: int = 4_500
    counted: Counted = "everybody"
    option: str = ""
    may_exceed: str = ""
    not_offered: str = ""
