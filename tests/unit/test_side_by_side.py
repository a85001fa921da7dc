"""Work side by side: results in order, as many at once as allowed, and one failure ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from rwe.side_by_side import side_by_side


class Counted:
    """A step that counts."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def total(self, total: int) -> None: ...


def test_works_wait_for_each_other_and_their_results_are_in_order() -> None:
    step, meeting = Counted(), threading.Barrier(3, timeout=30)

    def work(number: int) -> int:
        meeting.wait()  # nobody gets past it alone
        return number

    works = [partial(work, n) for n in range(3)]
    assert side_by_side(works, workers=3, step=step) == [0, 1, 2]
    assert step.done == 3


def test_the_first_error_ends_it_and_the_rest_never_begins() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError("the second work")
        time.sleep(0.02)

    with pytest.raises(ValueError, match="the second work"):
        side_by_side([partial(work, n) for n in range(500)], workers=1, step=Counted())
    assert len(begun) < 500


def test_nothing_to_do_is_done() -> None:
    assert side_by_side(list[Callable[[], int]](), workers=4, step=Counted()) == []
