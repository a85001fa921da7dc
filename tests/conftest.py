"""Long tests first: the workers of `make test` then end at the same time."""

from __future__ import annotations

import pytest

_LONG_FIRST = ("operation", "integration", "federate", "faults", "golden", "contract")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by how long a folder's tests take. Which worker takes a file is xdist's `--dist loadfile`."""
    rank = {folder: place for place, folder in enumerate(_LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))
