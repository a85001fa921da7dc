"""Two analyses at once: `latest` is the newest refresh, whoever ends last."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from rwe.analyse import analyse, latest_folder
from rwe.history.manifest import Verified, verify
from tests.integration.cohort_nights import STUDY, people
from tests.unit.history_tables import Nights, tables


def test_who_finds_nothing_new_does_not_take_latest_back_from_who_wrote_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one run reads the newest refresh, another (`--force`) writes the next one, if it may."""
    nights = Nights(tmp_path, monkeypatch)
    nights.now = tables(people(40))
    first = analyse(nights.workspace, nights.study).refresh
    made: list[str] = []
    other = Thread(target=lambda: made.append(analyse(nights.workspace, nights.study, force=True).refresh))

    def slow(folder: Path) -> Verified:
        monkeypatch.setattr("rwe.analyse.refresh.verify", verify)
        other.start()
        other.join(timeout=3)
        return verify(folder)

    monkeypatch.setattr("rwe.analyse.refresh.verify", slow)
    assert analyse(nights.workspace, nights.study).refresh == first
    other.join(timeout=60)
    assert made
    assert made[0] > first
    assert latest_folder(nights.workspace, STUDY).resolve().name == made[0]
