"""The audit log: complete, in order, private, never rewritten."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import pytest

from rwe import audit
from rwe.config import Workspace, init_workspace, open_workspace
from rwe.errors import PartialError, RweError, SiteError


def _record_many(root: Path) -> None:
    for _ in range(20):
        audit.record(root, "extract", site="north", counts={"Observation": 1})


def test_entries_are_appended_in_order_and_only_the_owner_may_read_them(tmp_path: Path) -> None:
    audit.record(tmp_path, "extract", site="north", run="r1", approval="EK-17", counts={"Patient": 3})
    before = (tmp_path / audit.FILE).read_bytes()
    audit.record(tmp_path, "erase", site="north", outcome="failed")
    assert (tmp_path / audit.FILE).read_bytes().startswith(before)
    assert [(e.command, e.approval, e.outcome) for e in audit.entries(tmp_path)] == [
        ("extract", "EK-17", "done"),
        ("erase", None, "failed"),
    ]
    assert (tmp_path / audit.FILE).stat().st_mode & 0o777 == 0o600


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    workers = [get_context("fork").Process(target=_record_many, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(list(audit.entries(tmp_path))) == 60


def test_a_line_cut_off_by_a_crash_costs_nothing_else(tmp_path: Path) -> None:
    audit.record(tmp_path, "extract")
    with (tmp_path / audit.FILE).open("ab") as f:
        f.write(b'{"at": "2026-\n')
    audit.record(tmp_path, "build")
    assert [e.command for e in audit.entries(tmp_path)] == ["extract", "build"]


def test_what_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RweError, match="audit log cannot be written"):
        audit.record(tmp_path / "nowhere", "extract")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = init_workspace(tmp_path / "ws", key_file=tmp_path / "ws.key").root
    path = root / "rwe.yaml"
    path.write_text(path.read_text().replace("approval: null", 'approval: "EK 2024-017"'))
    return open_workspace(root)


def test_a_deed_is_recorded_with_the_approval_of_the_workspace(workspace: Workspace) -> None:
    with audit.audited(workspace, "build") as deed:
        assert list(audit.entries(workspace.root)) == []
        deed.counts = {"cohort.patient": 12}
    (entry,) = audit.entries(workspace.root)
    assert (entry.command, entry.outcome, entry.approval) == ("build", "done", "EK 2024-017")
    assert entry.counts == {"cohort.patient": 12}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (PartialError("some of it"), "partly"),
        (SiteError("canary-text"), "failed"),
        (ValueError("canary-text"), "failed"),
        (KeyboardInterrupt(), "failed"),
    ],
)
def test_a_deed_that_ends_early_is_recorded_as_that_and_without_the_reason(
    workspace: Workspace, error: BaseException, outcome: str
) -> None:
    def work() -> None:
        with audit.audited(workspace, "analyse", study="a_study") as deed:
            deed.counts = {"Patient": 2}
            raise error

    with pytest.raises(type(error)):
        work()
    (entry,) = audit.entries(workspace.root)
    assert (entry.study, entry.outcome, entry.counts) == ("a_study", outcome, {"Patient": 2})
    assert "canary" not in (workspace.root / audit.FILE).read_text()


def test_what_cannot_be_recorded_is_not_begun(workspace: Workspace) -> None:
    (workspace.root / audit.FILE).mkdir()
    begun = False
    with pytest.raises(RweError, match="audit log cannot be written"), audit.audited(workspace, "build"):
        begun = True
    assert not begun


def test_a_log_that_is_lost_on_the_way_stops_the_work(workspace: Workspace) -> None:
    def work() -> None:
        with audit.audited(workspace, "build"):
            (workspace.root / audit.FILE).unlink()
            (workspace.root / audit.FILE).mkdir()

    with pytest.raises(RweError, match="audit log cannot be written"):
        work()
