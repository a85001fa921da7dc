"""The patient-level bootstrap: replicates in processes, each with a random stream of its own.

Replicate b draws from SeedSequence(seed, spawn_key=(b,)), so results do not depend on who computes it: same
seed, same bytes, whatever the number of workers. Source: Efron & Tibshirani 1993; intervals are percentiles.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from rwe.progress import SILENT, Progress
from rwe.survival.data import FloatArray, IntArray, SurvivalDataError, frozen_floats

State_contra = TypeVar("State_contra", contravariant=True)
State = TypeVar("State")

_CHUNK = 5
_WORTH_PROCESSES_S = 4.0
"""Work shorter than this is done here: starting processes takes a second or two."""


class Replicate(Protocol[State_contra]):
    """Estimates (q numbers, NaN where undefined) of patients drawn `counts` times each."""

    def __call__(self, state: State_contra, counts: FloatArray, /) -> FloatArray: ...


@dataclass(frozen=True)
class Draws:
    """Estimates by replicate (B x q). `failed`: replicates in which each estimate (q) was undefined."""

    values: FloatArray
    seed: int

    @property
    def replicates(self) -> int:
        return len(self.values)

    @property
    def failed(self) -> IntArray:
        return np.asarray(np.isnan(self.values).sum(axis=0))


@dataclass(frozen=True)
class Interval:
    """Standard error (standard deviation of the replicates) and percentile limits; None where undefined."""

    se: float | None
    ci_low: float | None
    ci_high: float | None
    replicates: int
    failed: int


def bootstrap(
    replicate: Replicate[State],
    state: State,
    strata: IntArray,
    *,
    replicates: int,
    seed: int,
    workers: int | None = None,
    progress: Progress = SILENT,
    label: str = "bootstrap",
) -> Draws:
    """Draw patients with replacement within `strata` (a code each, such as the site) and estimate again.

    `workers`: processes; None takes the machine's cores where the work is worth starting them. `replicate`
    must be a function of a module and `state` picklable. Raises SurvivalDataError for fewer than two.
    """
    if replicates < 2:
        raise SurvivalDataError(f"{replicates} bootstrap replicates give no interval")
    many = workers if workers is not None else _cores()
    chunks = [range(b, min(b + _CHUNK, replicates)) for b in range(0, replicates, _CHUNK)]
    work = _Work(replicate, state, strata, seed)
    found: dict[int, list[FloatArray]] = {}
    with progress.step(label, total=replicates, unit="replicates") as step:
        waiting = list(chunks)
        begun = time.perf_counter()
        while waiting and (many <= 1 or workers is None):
            chunk = waiting.pop(0)
            found[chunk.start] = work.run(chunk)
            step.advance(len(chunk))
            each = (time.perf_counter() - begun) / len(found)
            if many > 1 and each * len(waiting) > _WORTH_PROCESSES_S:
                break
        if waiting:
            with _pool(min(many, len(waiting)), work) as pool:
                running: dict[Future[list[FloatArray]], range] = {pool.submit(_run, c): c for c in waiting}
                for done in as_completed(running):
                    chunk = running[done]
                    found[chunk.start] = done.result()
                    step.advance(len(chunk))
    values = np.array([row for chunk in chunks for row in found[chunk.start]], dtype=np.float64)
    return Draws(frozen_floats(values), seed)


def percentile_interval(values: FloatArray, level: float = 0.95) -> Interval:
    """Percentile limits (type 7 quantiles) of one estimate's replicates, without the undefined ones.

    No interval where more than a tenth of the replicates are undefined: those left are a selection.
    """
    good = values[np.isfinite(values)]
    failed = len(values) - len(good)
    if len(good) < 2 or failed > len(values) / 10:
        return Interval(None, None, None, len(values), failed)
    low, high = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(good.std(ddof=1)), float(low), float(high), len(values), failed)


def draw_counts(strata: IntArray, seed: int, replicate: int) -> FloatArray:
    """How often each patient is drawn in replicate number `replicate`: a sample of its stratum's size."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(replicate,)))
    counts = np.zeros(len(strata))
    for code in np.unique(strata):
        members = np.flatnonzero(strata == code)
        counts[members] = np.bincount(rng.integers(0, len(members), len(members)), minlength=len(members))
    return counts


def _cores() -> int:
    """Cores that this process may use: a container or a scheduler may grant fewer than the machine has."""
    granted = getattr(os, "sched_getaffinity", None)
    return len(granted(0)) if granted else os.cpu_count() or 1


@dataclass(frozen=True)
class _Work(Generic[State]):
    replicate: Replicate[State]
    state: State
    strata: IntArray
    seed: int

    def run(self, chunk: range) -> list[FloatArray]:
        return [self.replicate(self.state, draw_counts(self.strata, self.seed, b)) for b in chunk]


_held: list[_Work[Any]] = []


def _hold(work: _Work[Any]) -> None:
    """In a worker: keep the state, and leave Ctrl-C to the parent, which stops the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _held[:] = [work]


def _run(chunk: range) -> list[FloatArray]:
    return _held[0].run(chunk)


@contextmanager
def _pool(workers: int, work: _Work[Any]) -> Iterator[ProcessPoolExecutor]:
    # spawn: a fork would copy the locks of the threads that draw progress or serve Prefect.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_hold, initargs=(work,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
