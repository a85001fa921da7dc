"""Draw, estimate, compare: bias, coverage, error and power of every estimator in every scenario."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from rwe.errors import RweError
from rwe.progress import SILENT, Progress
from rwe.simulate.estimators import ESTIMATORS, Answer, Estimator
from rwe.simulate.scenarios import Scenario, scenario
from rwe.simulate.truths import estimand

_FIRST_SEED = 1_000
_CHUNK = 10


@dataclass(frozen=True)
class Performance:
    """One estimator in one scenario, on the log scale; null where it cannot be said.

    `coverage` is the share of intervals that hold the estimand, `coverage_error` its Monte Carlo standard
    error; `power` is the share of intervals without 0; `answered` of `replicates` gave a finite estimate with
    an interval. `holds`: every assumption of the estimator is true in the scenario.
    """

    scenario: str
    estimator: str
    estimand: str
    truth: float | None
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


@dataclass(frozen=True)
class Simulation:
    """What a run of the harness found; the same seed gives the same numbers, whatever the workers."""

    seed: int
    performances: tuple[Performance, ...]


def simulate(
    scenarios: Sequence[Scenario],
    *,
    replicates: int,
    seed: int = 1,
    estimators: Sequence[Estimator] = ESTIMATORS,
    workers: int = 1,
    progress: Progress = SILENT,
) -> Simulation:
    """Judge `estimators` in `scenarios`, `replicates` cohorts each; expensive ones take fewer (`share`)."""
    names = [e.name for e in estimators]
    found: list[Performance] = []
    with progress.step("simulating", total=len(scenarios) * replicates, unit="cohorts") as step:
        for s in scenarios:
            answers: dict[str, list[Answer | None]] = {name: [] for name in names}
            events: list[int] = []
            for chunk in _chunks(s, names, replicates, seed, workers):
                for n_events, replicate in chunk:
                    events.append(n_events)
                    for name, answer in replicate.items():
                        answers[name].append(answer)
                step.advance(len(chunk))
            found += [
                _performance(s, e, answers[e.name], estimand(s, e, seed), float(np.mean(events)))
                for e in estimators
                if answers[e.name]
            ]
    return Simulation(seed, tuple(found))


_Replicate = tuple[int, dict[str, Answer | None]]


def _chunks(
    s: Scenario, names: Sequence[str], replicates: int, seed: int, workers: int
) -> Iterator[list[_Replicate]]:
    work = [
        (s.name, tuple(names), seed, range(a, min(a + _CHUNK, replicates)), replicates)
        for a in range(0, replicates, _CHUNK)
    ]
    if workers <= 1:
        yield from map(_run_chunk, work)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_run_chunk, work)


def _run_chunk(work: tuple[str, tuple[str, ...], int, range, int]) -> list[_Replicate]:
    name, names, seed, numbers, replicates = work
    s, chosen = scenario(name), [e for e in ESTIMATORS if e.name in names]
    found = []
    for k in numbers:
        table = s.draw(_FIRST_SEED + seed * 1_000_003 + k)
        answers = {
            e.name: _answer(e, s, table, seed + k) for e in chosen if k < math.ceil(e.share * replicates)
        }
        found.append((int(table.patients["is_event"].sum()), answers))
    return found


def _answer(e: Estimator, s: Scenario, table: object, seed: int) -> Answer | None:
    try:
        return e.run(table, s, seed)  # type: ignore[arg-type]
    except RweError:
        return None  # refused: counted as not answered


def _performance(
    s: Scenario, e: Estimator, answers: Sequence[Answer | None], truth: float | None, events: float
) -> Performance:
    usable = [a for a in answers if a is not None and np.isfinite([a.estimate, a.low, a.high]).all()]
    blank = dict.fromkeys(("bias", "empirical_se", "mean_se", "rmse", "coverage", "coverage_error", "power"))
    numbers: dict[str, float | None] = dict(blank)
    if usable:
        estimates = np.array([a.estimate for a in usable])
        low, high = np.array([a.low for a in usable]), np.array([a.high for a in usable])
        errors = [a.se for a in usable if a.se is not None]
        numbers["power"] = float(np.mean((low > 0) | (high < 0)))
        numbers["mean_se"] = float(np.mean(errors)) if errors else None
        numbers["empirical_se"] = float(estimates.std(ddof=1)) if len(usable) > 1 else None
        if truth is not None:
            covered = float(np.mean((low <= truth) & (truth <= high)))
            numbers |= {
                "bias": float(estimates.mean() - truth),
                "rmse": float(np.sqrt(np.mean((estimates - truth) ** 2))),
                "coverage": covered,
                "coverage_error": math.sqrt(covered * (1 - covered) / len(usable)),
            }
    return Performance(
        scenario=s.name,
        estimator=e.name,
        estimand=e.estimand,
        truth=truth,
        replicates=len(answers),
        answered=len(usable),
        mean_events=events,
        is_biased=e.is_biased,
        holds=not e.is_biased and not (e.needs & s.broken),
        **numbers,
    )
