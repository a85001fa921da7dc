"""Draw, estimate, compare: bias, coverage, error and power of every estimator in every scenario."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol, TypeVar

import numpy as np

from rwe.errors import RweError
from rwe.progress import SILENT, Progress
from rwe.simulate.answers import Answer, PValue
from rwe.simulate.cohorts import Cohort
from rwe.simulate.definition import Estimator
from rwe.simulate.estimators import ESTIMATORS, estimator
from rwe.simulate.scenarios import Scenario
from rwe.simulate.truths import Truth, estimands, found_in, large_cohorts

BOOTSTRAP_REPLICATES = 200
"""Of each bootstrap of a simulated cohort. Percentiles of so few hold about 0.9 points less than 95 %."""
LEVEL = 0.05
_FIRST_SEED = 1_000
_CHUNK = 10
SMALL_TRUTH_ERROR = 0.1
"""Up to this share of the estimates' spread, the Monte Carlo error of the truth does not count."""

Work = TypeVar("Work")
Done = TypeVar("Done")
RunAll = Callable[[Callable[[Work], Done], Sequence[Work]], Iterable[Done]]


@dataclass(frozen=True)
class Performance:
    """One estimator in one scenario, on the estimator's scale; null where it cannot be said.

    `coverage` is the share of intervals that hold the estimand (of a test: the share of cohorts in which it
    does not reject), `coverage_error` its Monte Carlo standard error, with that of the truth where it is not
    small; `power` is the share of intervals without 0, of a test the share that it rejects; `answered` of
    `replicates` gave a finite estimate with an interval. `truth_error`: Monte Carlo error of the truth.
    `mean_events`: those that the estimate rests on. `holds`: every assumption of the estimator is true in
    the scenario.
    """

    scenario: str
    estimator: str
    estimand: str
    scale: str
    truth: float | None
    truth_error: float | None
    replicates: int
    answered: int
    bias: float | None
    empirical_se: float | None
    mean_se: float | None
    rmse: float | None
    coverage: float | None
    coverage_error: float | None
    power: float | None
    mean_events: float
    is_biased: bool
    holds: bool


#: An answer (None: refused) and the events that it rests on.
Counted = tuple[Answer | PValue | None, int]


@dataclass(frozen=True)
class Simulation:
    """What a run of the harness found; the same seed gives the same numbers, whatever the workers."""

    seed: int
    performances: tuple[Performance, ...]


class Store(Protocol):
    """Where finished scenarios are kept; see `kept`."""

    def read(self, s: Scenario, /) -> tuple[Performance, ...] | None: ...

    def write(self, s: Scenario, found: Sequence[Performance], /) -> None: ...


def simulate(
    scenarios: Sequence[Scenario],
    *,
    replicates: int,
    seed: int = 1,
    estimators: Sequence[Estimator] = ESTIMATORS,
    workers: int = 1,
    progress: Progress = SILENT,
    store: Store | None = None,
) -> Simulation:
    """Judge `estimators` in `scenarios`, `replicates` cohorts each; expensive ones take fewer (`share`).

    A scenario that `store` holds is not done again; each that is done is written to it.
    """
    found: list[Performance] = []
    with (
        progress.step(
            "simulating", total=sum(math.ceil(s.share * replicates) for s in scenarios), unit="cohorts"
        ) as step,
        _runner(workers) as run_all,
    ):
        for s in scenarios:
            before = store.read(s) if store else None
            if before is not None:
                found += before
                step.advance(math.ceil(s.share * replicates))
                continue
            asked = [e for e in estimators if s.asks(e.name)]
            many = math.ceil(s.share * replicates)
            truths = estimands(s, asked, run_all(found_in, large_cohorts(s, asked)))
            answers: dict[str, list[Counted]] = {e.name: [] for e in asked}
            for chunk in run_all(_run_chunk, _chunks(s, asked, many, seed)):
                for replicate in chunk:
                    for name, answer in replicate.items():
                        answers[name].append(answer)
                step.advance(len(chunk))
            here = tuple(
                performance(
                    s,
                    e,
                    [answer for answer, _ in answers[e.name]],
                    truths.get(e.name),
                    float(np.mean([events for _, events in answers[e.name]])),
                )
                for e in asked
                if answers[e.name]
            )
            if store:
                store.write(s, here)
            found += here
    return Simulation(seed, tuple(found))


@contextmanager
def _runner(workers: int) -> Iterator[RunAll]:  # type: ignore[type-arg]
    """A map, in `workers` processes where there are several; results keep their order."""
    if workers <= 1:
        yield map
        return
    # spawn: a fork would copy the locks of the thread that draws progress.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map


_Chunk = tuple[Scenario, tuple[str, ...], int, range, int]
_Replicate = dict[str, Counted]


def _chunks(s: Scenario, asked: Sequence[Estimator], replicates: int, seed: int) -> list[_Chunk]:
    names = tuple(e.name for e in asked)
    return [
        (s, names, seed, range(a, min(a + _CHUNK, replicates)), replicates)
        for a in range(0, replicates, _CHUNK)
    ]


def _run_chunk(work: _Chunk) -> list[_Replicate]:
    s, names, seed, numbers, replicates = work
    chosen = [estimator(name) for name in names]
    found = []
    for k in numbers:
        table = s.draw(_FIRST_SEED + seed * 1_000_003 + k)
        cohort = Cohort(table, s, seed=seed + k, replicates=BOOTSTRAP_REPLICATES)
        found.append(
            {
                e.name: (_answer(e, cohort), cohort.events(e.counted))
                for e in chosen
                if k < math.ceil(e.share * replicates)
            }
        )
    return found


def _answer(e: Estimator, cohort: Cohort) -> Answer | PValue | None:
    try:
        return e.run(cohort)
    except RweError:
        return None  # refused: counted as not answered


_Numbers = dict[str, float | None]


def performance(
    s: Scenario,
    e: Estimator,
    answers: Sequence[Answer | PValue | None],
    truth: Truth | None,
    events: float,
) -> Performance:
    """The answers of `e` in cohorts of `s` (None: refused), judged against the truth."""
    holds = not e.is_biased and not (e.needs & s.broken)
    tested = [a.p_value for a in answers if isinstance(a, PValue)]
    usable = [a for a in answers if isinstance(a, Answer) and _has_limits(a)]
    numbers: _Numbers = dict.fromkeys(
        ("bias", "empirical_se", "mean_se", "rmse", "coverage", "coverage_error", "power")
    )
    if tested:
        numbers |= _of_test(np.array(tested), is_null="no_effect" not in e.needs & s.broken)
    if usable:
        numbers |= _of_intervals(usable, truth, is_contrast=e.is_contrast)
    return Performance(
        scenario=s.name,
        estimator=e.name,
        estimand=e.estimand,
        scale=e.scale,
        truth=truth.value if truth else None,
        truth_error=truth.error if truth else None,
        replicates=len(answers),
        answered=len(tested) or len(usable),
        mean_events=events,
        is_biased=e.is_biased,
        holds=holds,
        **numbers,
    )


def _has_limits(a: Answer) -> bool:
    """An open upper limit is one, a missing limit is not."""
    return math.isfinite(a.estimate) and math.isfinite(a.low) and not math.isnan(a.high)


def _of_test(p_values: np.ndarray[tuple[int], np.dtype[np.float64]], *, is_null: bool) -> _Numbers:
    rejected = float(np.mean(p_values <= LEVEL))
    if not is_null:
        return {"power": rejected}
    error = math.sqrt(rejected * (1 - rejected) / len(p_values))
    return {"power": rejected, "coverage": 1 - rejected, "coverage_error": error}


def _of_intervals(usable: Sequence[Answer], truth: Truth | None, *, is_contrast: bool) -> _Numbers:
    estimates = np.array([a.estimate for a in usable])
    low, high = np.array([a.low for a in usable]), np.array([a.high for a in usable])
    errors = [a.se for a in usable if a.se is not None and math.isfinite(a.se)]
    empirical = float(estimates.std(ddof=1)) if len(usable) > 1 else None
    numbers: _Numbers = {
        "power": float(np.mean((low > 0) | (high < 0))) if is_contrast else None,
        "mean_se": float(np.mean(errors)) if errors else None,
        "empirical_se": empirical,
    }
    if truth is None:
        return numbers

    def covered(value: float) -> float:
        return float(np.mean((low <= value) & (value <= high)))

    at = covered(truth.value)
    error = math.sqrt(at * (1 - at) / len(usable))
    if truth.error > SMALL_TRUTH_ERROR * (empirical or math.inf):
        shifts = [abs(covered(truth.value + sign * truth.error) - at) for sign in (-1, 1)]
        error = math.hypot(error, max(shifts))
    return numbers | {
        "bias": float(estimates.mean() - truth.value),
        "rmse": float(np.sqrt(np.mean((estimates - truth.value) ** 2))),
        "coverage": at,
        "coverage_error": error,
    }
