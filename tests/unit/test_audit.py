"""The audit log: complete, in order, private, never rewritten."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import pytest

from rwe import audit
from rwe.errors import RweError


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
