"""What a refresh tells of: a check that stops the build, an estimate that moved, studies that failed."""

from __future__ import annotations

from math import log
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rwe.config import Workspace, init_workspace
from rwe.deploying import telling
from rwe.deploying.orders import Refreshed
from rwe.errors import BuildError, EvidenceError
from rwe.evidence.contract import Evidence
from rwe.resources import load_flow
from tests.unit.evidence_example import evidence

Emitted = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> Emitted:
    """What would go to Prefect's server; that it arrives and is passed on is tested with a real one."""
    seen: Emitted = []
    monkeypatch.setattr(telling, "_emit", lambda *event: seen.append(event))
    return seen


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "ws", key_file=tmp_path / "key")


@pytest.fixture
def refresh() -> ModuleType:
    return load_flow("evidence_refresh")


def with_primary(ratio: float | None, refresh: str) -> Evidence:
    """The example's evidence with another primary hazard ratio."""
    whole = evidence()
    value = None if ratio is None else log(ratio)
    changed = [
        e.model_copy(update={"estimate": ratio, "log_estimate": value}) if e.is_the_answer else e
        for e in whole.estimates
    ]
    assert changed != whole.estimates
    again = whole.refresh.model_copy(update={"id": refresh})
    return whole.model_copy(update={"estimates": changed, "refresh": again})


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (0.60, 0.70, True),  # log(0.70 / 0.60) is 0.154
        (0.70, 0.60, True),
        (0.60, 0.65, False),  # 0.080: less than the workspace's 0.1
        (None, 0.65, False),
    ],
)
def test_an_estimate_that_moved_is_told_of(
    workspace: Workspace,
    refresh: ModuleType,
    emitted: Emitted,
    monkeypatch: pytest.MonkeyPatch,
    before: float | None,
    after: float,
    told: bool,
) -> None:
    monkeypatch.setattr(telling, "show_refresh", lambda *_: None)
    found = Refreshed(with_primary(before, "r1"), with_primary(after, "r2"), Path("report.html"))
    refresh._tell_of_study(workspace, found)
    if not told:
        assert emitted == []
        return
    ((event, resource, payload),) = emitted
    assert (event, resource) == ("rwe.estimate.moved", f"rwe.study.{found.after.study.name}")
    # By how much it moved may be what one patient did, and a refresh's id holds some of the private hash.
    assert payload == {"study": found.after.study.name, "moved_more_than_log": 0.1}


def test_a_refresh_without_anything_new_moves_nothing() -> None:
    same = with_primary(0.6, "r1")
    answers = [e for e in same.estimates if e.is_the_answer]
    assert telling.primary_change(same, same, answers) is None
    assert telling.primary_change(None, same, answers) is None


def test_a_check_that_stops_the_build_is_told_of_and_other_failures_of_it_are_not(
    workspace: Workspace, refresh: ModuleType, emitted: Emitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: BuildError) -> Any:
        def build(*_: object, **__: object) -> None:
            raise error

        return build

    broken = BuildError("a start before the index event: 3 rows", where="check starts_after_index")
    monkeypatch.setattr(refresh, "build", failing(broken))
    with pytest.raises(BuildError):
        refresh.build_database.fn(str(workspace.root))
    assert emitted == [
        (
            "rwe.check.failed",
            "rwe.build",
            {"check": "starts_after_index"},  # not how many rows: that may be one patient's
        )
    ]
    emitted.clear()
    monkeypatch.setattr(refresh, "build", failing(BuildError("another build is under way")))
    with pytest.raises(BuildError):
        refresh.build_database.fn(str(workspace.root))
    assert emitted == []


def test_a_study_that_fails_does_not_stop_the_others_and_is_named(
    workspace: Workspace, refresh: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def analyse(_: str, study: str) -> Refreshed:
        if study == "empty":
            raise EvidenceError("nobody is left in the cohort", where="study empty")
        return Refreshed(None, evidence(), Path(f"/evidence/{study}/report.html"))

    monkeypatch.setattr(refresh, "analyse_study", analyse)
    monkeypatch.setattr(telling, "show_refresh", lambda *_: None)
    with pytest.raises(refresh.PartlyRefreshedError, match="1 of 2 studies failed: empty: ") as caught:
        refresh._analyse_all(workspace, ["empty", "full"])
    assert caught.value.reports == {"full": "/evidence/full/report.html"}
    with pytest.raises(EvidenceError, match="nobody is left"):
        refresh._analyse_all(workspace, ["empty"])
