"""Several requests at once: what waits for one answer need not wait for the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rwe.progress import Step

_T = TypeVar("_T")


def batches(values: Sequence[_T], size: int) -> list[tuple[_T, ...]]:
    """The values in order, `size` of them at a time."""
    return [tuple(values[i : i + size]) for i in range(0, len(values), size)]


def side_by_side(works: Sequence[Callable[[], _T]], *, workers: int, step: Step) -> list[_T]:
    """Do the works in `workers` threads; their results in order. `step` advances with each.

    The first error, in the order of the works, is raised; what has not begun by then never does.
    """
    results: list[_T] = []
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work) for work in works]
        try:
            for future in futures:
                results.append(future.result())
                step.advance()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return results
