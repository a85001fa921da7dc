"""What an analysis of few events must say: in simulations the intervals of its method held the truth too
rarely.

The figures are those of `coverage.json` beside this module, which `rwe simulate` writes: the coverage of each
estimator in scenarios where its assumptions hold and its estimates rest on fewer than 100 events.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

ENOUGH_EVENTS = 100
"""Events from which on the coverage is judged by the harness, and no warning is given here."""
LOWEST = 0.93
"""A coverage below this, beyond twice its Monte Carlo error, is worth a warning."""


@dataclass(frozen=True)
class FewEvents:
    """The coverage of one estimator that rests on `events` on average; `cohorts` gave an answer.

    `analysis` and `estimand` as in the evidence; `options` tell several of one analysis apart.
    """

    analysis: str
    estimand: str
    options: tuple[str, ...]
    events: float
    cohorts: int
    coverage: float
    is_test: bool = False

    @property
    def is_low(self) -> bool:
        """Below 93 % by more than chance."""
        return self.coverage + 2 * math.sqrt(LOWEST * (1 - LOWEST) / max(self.cohorts, 1)) < LOWEST


def few_events_warning(
    analysis: str, estimand: str, events: int, *, options: Collection[str] = ()
) -> str | None:
    """A sentence for an estimate with fewer than 100 events, None where the simulations give no reason.

    `analysis` and `estimand` as in the evidence. `options` of the analysis that matter to its interval:
    adjusted, robust, freeze, bootstrap, and the weights or their model (overlap, iptw, cox, logistic). Of the
    cohorts simulated for it, those with the most similar number of events are taken.
    """
    if events >= ENOUGH_EVENTS:
        return None
    known = [row for row in table() if (row.analysis, row.estimand) == (analysis, estimand)]
    if not known:
        return None
    asked = set(options)
    likeness = max(_likeness(row, asked) for row in known)
    alike = [row for row in known if _likeness(row, asked) == likeness]
    nearest = min(alike, key=lambda row: (abs(math.log(row.events / max(events, 1))), row.coverage))
    return _sentence(nearest) if nearest.is_low else None


@lru_cache(maxsize=1)
def table() -> tuple[FewEvents, ...]:
    """The packaged figures."""
    text = files("rwe.simulate").joinpath("coverage.json").read_text(encoding="utf-8")
    rows = json.loads(text)["few_events"]
    return tuple(FewEvents(**{**row, "options": tuple(row["options"])}) for row in rows)


def _likeness(row: FewEvents, asked: set[str]) -> tuple[int, int]:
    return len(asked & set(row.options)), -len(set(row.options) - asked)


def _sentence(row: FewEvents) -> str:
    about = f"in simulations with about {row.events:.0f} of them,"
    if row.is_test:
        rejected = f"{100 * (1 - row.coverage):.1f} %"
        return (
            f"Fewer than {ENOUGH_EVENTS} events: {about} this test rejected a true null hypothesis in "
            f"{rejected} of {row.cohorts:,} cohorts instead of 5 %."
        )
    return (
        f"Fewer than {ENOUGH_EVENTS} events: {about} 95 % intervals of this method held the truth in "
        f"{100 * row.coverage:.1f} % of {row.cohorts:,} cohorts."
    )
