"""Which flow run the work under way belongs to: what ties a flow run, landing, build and evidence together.

Rooms below Prefect do not know it; they know a name that whoever started the work may have given it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("rwe_flow_run", default=None)


def current_flow_run() -> str | None:
    """The id of the flow run that this work is part of; None where it was started by hand."""
    return _current.get()


@contextmanager
def part_of_flow_run(flow_run: str | None) -> Iterator[None]:
    """Everything recorded inside (manifests, the audit log) names `flow_run`."""
    token = _current.set(flow_run)
    try:
        yield
    finally:
        _current.reset(token)
