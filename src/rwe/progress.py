"""How long work shows that it moves. Rooms report steps; the command line draws them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol


class Step(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int = 1) -> None: ...
    def total(self, total: int) -> None: ...


class Progress(Protocol):
    """Opens steps. `label` names sites, types and tables only, never a patient."""

    def step(self, label: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]: ...


class _SilentStep:
    def advance(self, amount: int = 1) -> None: ...
    def total(self, total: int) -> None: ...


class Silent:
    """The progress of a program that nobody watches."""

    def step(self, label: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:  # noqa: ARG002
        return nullcontext(_SilentStep())


SILENT: Progress = Silent()

_current: ContextVar[Progress] = ContextVar("rwe_progress", default=SILENT)


def current() -> Progress:
    """The progress that whoever started this work watches: how a Prefect task reports without a parameter."""
    return _current.get()


@contextmanager
def watched_by(progress: Progress) -> Iterator[None]:
    """Everything started inside reports to `progress`."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)
