"""How the tests share two workers: a file stays together, so its fixtures are made once; long ones first."""

from __future__ import annotations

import pytest

#: Files that lean on one costly session fixture stay on one worker.
_TOGETHER = {"test_third_party_server.py": "third party", "test_three_ways.py": "third party"}
_LONG_FIRST = ("integration", "faults", "golden", "contract")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group by file; order by how long a folder's tests take."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            name = _TOGETHER.get(item.path.name, f"{item.path.parent.name}/{item.path.name}")
            item.add_marker(pytest.mark.xdist_group(name))
    rank = {folder: place for place, folder in enumerate(_LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))
