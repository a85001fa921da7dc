"""What the commands say, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rwe.audit import entries
from rwe.cli import main
from tests.federate.hospitals import THREE, Hospitals


def run(
    capsys: pytest.CaptureFixture[str], made: Hospitals, name: str, *words: object
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `rwe` in one of the workspaces."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "-w", str(made.folder(name))])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_protocol_is_approved_by_a_person_or_by_its_hash(
    hospitals: Hospitals, capsys: pytest.CaptureFixture[str]
) -> None:
    made = hospitals
    status, out, err = run(capsys, made, "siteA", "federate", "approve", "three_sites")
    assert status == 2
    assert "approved by a person" in err
    assert "Time zero" in out  # it was shown in words
    sha256 = made.study("siteA").protocol_sha256
    assert sha256 in out
    status, _, err = run(capsys, made, "siteA", "federate", "approve", "three_sites", "--protocol", "0" * 64)
    assert status == 2
    assert "not that of this workspace's protocol" in err
    status, out, _ = run(capsys, made, "siteA", "federate", "approve", "three_sites", "--protocol", sha256)
    assert (status, f"protocol {sha256}" in out) == (0, True)
    log = [e.outcome for e in entries(made.folder("siteA")) if e.command == "federate approve"]
    assert log[-1:] == ["done"]


def test_commands_say_what_left_and_what_is_awaited(
    hospitals: Hospitals, capsys: pytest.CaptureFixture[str], post: Path
) -> None:
    made = hospitals
    sites = [word for name in THREE for word in ("--site", name)]
    status, out, _ = run(capsys, made, "hub", "federate", "init", "three_sites", *sites, "--to", post)
    assert status == 0
    (request,) = post.glob("*.request.0.json")
    refresh = request.name.split(".")[1]
    assert f"Refresh {refresh}, step 0, for siteA, siteB, siteC" in out

    status, out, err = run(capsys, made, "siteA", "federate", "answer", request, "--to", post)
    assert status == 2
    assert "rwe federate approve three_sites" in err
    assert not list(post.glob("answer-*"))
    sha256 = made.study().protocol_sha256
    run(capsys, made, "siteA", "federate", "approve", "three_sites", "--protocol", sha256)
    status, out, _ = run(capsys, made, "siteA", "federate", "answer", request, "--to", post)
    assert status == 0
    assert "masked: they show nothing without those of all sites" in out
    status, out, _ = run(capsys, made, "siteA", "federate", "answer", request, "--to", post, "--json")
    assert json.loads(out)["is_repeat"] is True
    deeds = [e for e in entries(made.folder("siteA")) if e.command == "federate answer"]
    assert [e.outcome for e in deeds[-3:]] == ["failed", "done", "done"]
    assert deeds[-1].run == refresh
    refused = deeds[-3]
    assert (refused.run, refused.site, refused.study) == (refresh, "hub", "three_sites")
    assert refused.counts == {"step": 0}
    assert refused.reason == "nobody at this site has approved this protocol"
    assert (deeds[-1].reason, deeds[-1].study) == (None, "three_sites")

    waiting = ("federate", "combine", refresh, "--from", post, "--to", post)
    status, _, err = run(capsys, made, "hub", *waiting)
    assert status == 3  # partly done: what came is kept
    assert "no answer of siteB, siteC yet" in err
    _, out, _ = run(capsys, made, "hub", "federate", "status")
    assert f"refresh {refresh}: waits for answers to step 0" in " ".join(out.split())
    _, out, _ = run(capsys, made, "siteA", "federate", "status", "--json")
    told = json.loads(out)
    assert told["answered"] == [{"refresh": refresh, "study": "three_sites", "step": 0, "mode": "masked"}]
    assert told["approved"] == ["three_sites"]


def test_state_and_files_are_for_their_owner_only(
    hospitals: Hospitals, capsys: pytest.CaptureFixture[str], post: Path
) -> None:
    made = hospitals
    sites = [word for name in THREE for word in ("--site", name)]
    run(capsys, made, "hub", "federate", "init", "three_sites", *sites, "--to", post)
    (request,) = post.glob("*.request.0.json")
    run(
        capsys,
        made,
        "siteA",
        "federate",
        "approve",
        "three_sites",
        "--protocol",
        made.study().protocol_sha256,
    )
    run(capsys, made, "siteA", "federate", "answer", request, "--to", post)
    files = [p for n in ("hub", "siteA") for p in (made.folder(n) / "federate").rglob("*")]
    assert len(files) > 6
    for path in (*files, *post.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
