"""Whole or absent, and never through somebody else's link."""

from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rwe.durable import append, move_whole, part_of, write_new, write_whole


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "evidence.json"
    part_of(target).write_bytes(b'{"cut')
    write_whole(target, b"{}")
    assert target.read_bytes() == b"{}"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("writes", [write_whole, write_new])
def test_only_the_owner_reads_unless_asked(tmp_path: Path, writes: object) -> None:
    assert callable(writes)
    writes(tmp_path / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Who may write in the folder could else have any file of the owner overwritten."""
    precious, target = tmp_path / "precious", tmp_path / "report.html"
    precious.write_text("mine")
    part_of(target).symlink_to(precious)
    target.symlink_to(precious)
    write_whole(target, b"page")
    assert precious.read_text() == "mine"
    assert target.read_bytes() == b"page"
    assert not target.is_symlink()
    (tmp_path / "new").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "new", b"page")
    assert not (tmp_path / "nowhere").exists()


def test_a_full_disk_leaves_the_file_of_before(tmp_path: Path) -> None:
    target = tmp_path / "ledger"
    write_whole(target, b"before")
    script = (
        "import resource, signal, sys; from pathlib import Path; from rwe.durable import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_whole(Path(sys.argv[1]), bytes(5000))\n"
        "except OSError as e: sys.exit(e.errno)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(target)], timeout=60, check=False)
    assert ended.returncode == errno.EFBIG
    assert target.read_bytes() == b"before"


def test_a_finished_file_takes_its_place_with_its_mode(tmp_path: Path) -> None:
    part, target = tmp_path / "made", tmp_path / "kept"
    part.write_bytes(b"new")
    part.chmod(0o666)
    target.write_bytes(b"old")
    move_whole(part, target)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", 0o600)
    assert not part.exists()


def test_lines_of_several_processes_are_not_mixed(tmp_path: Path) -> None:
    log = tmp_path / "audit.ndjson"
    script = (
        "import sys; from pathlib import Path; from rwe.durable import append\n"
        "for _ in range(50): append(Path(sys.argv[1]), sys.argv[2].encode() * 3000 + b'\\n')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(log), who]) for who in "abc"]
    assert [p.wait(timeout=60) for p in processes] == [0, 0, 0]
    lines = log.read_bytes().splitlines()
    assert len(lines) == 150
    assert {(len(line), len(set(line))) for line in lines} == {(3000, 1)}
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_an_empty_line_only_makes_the_log(tmp_path: Path) -> None:
    append(tmp_path / "log", b"")
    assert (tmp_path / "log").read_bytes() == b""


def test_a_line_cut_by_a_full_disk_is_an_error_and_takes_no_other_with_it(tmp_path: Path) -> None:
    log = tmp_path / "audit.ndjson"
    append(log, b"a" * 900 + b"\n")
    script = (
        "import resource, signal, sys; from pathlib import Path; from rwe.durable import append\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: append(Path(sys.argv[1]), b'b' * 900 + b'\\n')\n"
        "except OSError as e: sys.exit(e.errno)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(log)], timeout=60, check=False)
    assert ended.returncode == errno.ENOSPC
    append(log, b"c\n")
    first, cut, last = log.read_bytes().splitlines()
    assert (len(first), set(cut), last) == (900, set(b"b"), b"c")
