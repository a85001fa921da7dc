"""`rwe study lock`: the lock, its amendment and what is said of them, as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwe.cli import main

NAME = "lenalidomide_after_car_t"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    out = capsys.readouterr()
    return int(stop.value.code or 0), " ".join((out.out + out.err).split())


def test_a_protocol_is_locked_amended_and_both_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "ws")
    assert run(capsys, "init", folder, "--key-file", str(tmp_path / "key"))[0] == 0
    assert "Not locked" in run(capsys, "-w", folder, "study", "check", NAME)[1]
    status, text = run(capsys, "-w", folder, "study", "lock", NAME, "--registration", "EUPAS100000")
    assert (status, "EUPAS100000" in text) == (0, True)
    assert "Locked as it stands" in run(capsys, "-w", folder, "study", "check", NAME)[1]
    file = tmp_path / "ws" / "studies" / f"{NAME}.yaml"
    file.write_text(
        file.read_text(encoding="utf-8")
        .replace("grace_days: 180", "grace_days: 90")
        .replace("version: 1.2.0", "version: 1.3.0"),
        encoding="utf-8",
    )
    assert "Changed since it was locked" in run(capsys, "-w", folder, "study", "check", NAME)[1]
    status, text = run(capsys, "-w", folder, "study", "lock", NAME)
    assert status == 2
    assert "--amendment" in text
    status, text = run(capsys, "-w", folder, "study", "lock", NAME, "--amendment", "shorter grace")
    assert status == 0
    assert "1.2.0" in text
    assert "shorter grace" in text
    log = (tmp_path / "ws" / "audit.ndjson").read_text(encoding="utf-8")
    assert [line.count('"study lock"') for line in log.splitlines()].count(1) >= 2
