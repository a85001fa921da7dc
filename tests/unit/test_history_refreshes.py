"""Refreshes: written once, sealed, chained; nothing new is said; looks are counted; ledgers stay private."""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from typer.testing import CliRunner

from rwe.analyse import analyse, latest_folder
from rwe.analyse.differences import difference
from rwe.blocklist import open_blocklist
from rwe.cli import app
from rwe.config import Workspace, open_workspace
from rwe.errors import EvidenceError, UsageError
from rwe.evidence.contract import read_evidence
from rwe.evidence.synthesis import Pooling, SiteSource
from rwe.history.inputs import tables_sha256
from rwe.history.ledger import forget_erased, ledger_path, read_ledger
from rwe.history.manifest import read_manifest, verify
from rwe.history.past import read_past, resolve
from rwe.history.report import report_of
from tests.integration.cohort_nights import STUDY, people
from tests.unit.history_tables import Nights, tables

FIRST = people(40)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    made = Nights(tmp_path, monkeypatch)
    made.now = tables(FIRST)
    return made


def refreshes(workspace: Workspace) -> list[str]:
    return sorted(p.parent.name for p in (workspace.evidence / STUDY).glob("2*/manifest.json"))


def test_the_same_inputs_give_nothing_new_and_write_nothing(nights: Nights) -> None:
    first = analyse(nights.workspace, nights.study)
    again = analyse(nights.workspace, nights.study)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.note.startswith("Nothing new since the refresh of")
    assert again.path == first.path
    assert again.evidence == first.evidence
    assert refreshes(nights.workspace) == [first.refresh]


@pytest.mark.parametrize("what", ["data", "protocol", "code", "lock", "force"])
def test_whatever_an_estimate_depends_on_makes_a_new_refresh(
    what: str, nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(nights.workspace, nights.study)
    if what == "data":
        nights.now = tables([replace(FIRST[0], seen=FIRST[0].seen + 1, died=None), *FIRST[1:]])
    elif what == "protocol":
        nights.asking(landmarks=[45])
    elif what == "code":
        monkeypatch.setattr("rwe.history.inputs.code_sha256", lambda: "0" * 64)
    elif what == "lock":
        CliRunner().invoke(app, ["study", "lock", STUDY, "-w", str(nights.workspace.root)])
    found = analyse(nights.workspace, nights.study, force=what == "force")
    assert found.is_new
    assert len(refreshes(nights.workspace)) == 2
    look = read_past(nights.workspace, STUDY).looks[-1]
    # Only new data are a new look at data.
    assert look.number == (2 if what == "data" else 1)
    assert look.protocol_changed == (["landmarks"] if what == "protocol" else [])
    assert look.code_changed == (what == "code")


def test_a_process_that_is_killed_leaves_no_refresh(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rwe.analyse.refresh.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            analyse(nights.workspace, nights.study)
    assert read_past(nights.workspace, STUDY).looks == ()
    with pytest.raises(UsageError, match="there is no refresh"):
        resolve(nights.workspace, "latest", STUDY)
    first = analyse(nights.workspace, nights.study)
    assert {p.name for p in first.path.parents[1].iterdir()} == {first.refresh, "latest"}


def test_the_hash_of_the_tables_lets_no_guess_be_checked(nights: Nights) -> None:
    """Who knows all rows cannot tell that they are these: the hash is under the pseudonyms' key."""
    first = read_manifest(analyse(nights.workspace, nights.study).path.parent)
    assert nights.now is not None
    assert first is not None
    assert first.inputs.tables_sha256 != tables_sha256(nights.now)
    assert tables_sha256(tables(FIRST)) == tables_sha256(nights.now)
    assert tables_sha256(tables(FIRST[1:])) != tables_sha256(nights.now)


def test_the_same_rows_shared_once_more_are_nothing_new(nights: Nights) -> None:
    def shared(share: str, once: int | None = None) -> str:
        source = SiteSource(site="river", source="shared", patients=12, share=share)
        return tables_sha256(replace(tables(FIRST), pooling=Pooling((source,), once, ())))

    assert shared("monday") == shared("tuesday") != tables_sha256(tables(FIRST))
    assert shared("monday") != shared("monday", 2)


def test_a_refresh_is_sealed_and_its_manifest_holds_the_hashes_of_its_files(nights: Nights) -> None:
    folder = analyse(nights.workspace, nights.study).path.parent
    page = report_of(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        path = folder / entry["name"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert not stat.S_IMODE(path.stat().st_mode) & 0o222
    assert {e["name"] for e in manifest["files"]} == {"evidence.json", "report.html"}
    assert not stat.S_IMODE((folder / "manifest.json").stat().st_mode) & 0o222
    assert manifest["inputs"]["protocol_sha256"] == nights.study.protocol_sha256
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
    before = page.stat().st_mtime_ns
    assert report_of(latest_folder(nights.workspace, STUDY)).stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["evidence.json", "report.html", "manifest.json"])
def test_an_altered_refresh_is_named_and_not_used(name: str, nights: Nights) -> None:
    first = analyse(nights.workspace, nights.study).path.parent
    report_of(first)
    nights.now = tables(FIRST[:-1])
    analyse(nights.workspace, nights.study)
    path = first / name
    path.chmod(0o644)
    path.write_bytes(
        path.read_bytes().replace(b"hazard" if name != "manifest.json" else b'"refresh', b"HAZARD", 1)
    )
    past = read_past(nights.workspace, STUDY)
    assert [look.refresh for look in past.looks] == [refreshes(nights.workspace)[-1]]
    said = "was changed since it was written" if name != "manifest.json" else "damaged"
    assert any(said in note and first.name in note for note in past.notes)
    with pytest.raises(EvidenceError, match=said):
        report_of(first)
    ran = CliRunner().invoke(app, ["history", STUDY, "-w", str(nights.workspace.root)])
    assert ran.exit_code == 0
    assert "Note: " in ran.output


def test_an_altered_newest_refresh_is_not_nothing_new(nights: Nights) -> None:
    path = analyse(nights.workspace, nights.study).path
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"n": 40', '"n": 41'))
    again = analyse(nights.workspace, nights.study)
    assert again.is_new
    assert again.evidence.history is not None
    assert any("was changed since it was written" in n for n in again.evidence.history.notes)


def test_a_manifest_that_was_written_anew_breaks_the_chain(nights: Nights) -> None:
    first = analyse(nights.workspace, nights.study).path.parent
    nights.now = tables(FIRST[:-1])
    analyse(nights.workspace, nights.study)
    assert read_past(nights.workspace, STUDY).notes == ()
    report_of(first)  # a late report is no forgery
    assert read_past(nights.workspace, STUDY).notes == ()
    manifest = first / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"n": 40', '"n": 30'))
    assert verify(first).problems == ()
    assert any("was made after another" in n for n in read_past(nights.workspace, STUDY).notes)


def test_a_refresh_that_is_gone_is_missed(nights: Nights) -> None:
    first = analyse(nights.workspace, nights.study).path.parent
    nights.now = tables(FIRST[:-1])
    analyse(nights.workspace, nights.study)
    first.rename(nights.workspace.root / "elsewhere")
    assert [n for n in read_past(nights.workspace, STUDY).notes if "is no longer here" in n]


def test_the_evidence_tells_all_looks_and_only_counts(nights: Nights) -> None:
    analyse(nights.workspace, nights.study)
    new = people(3, seed=8, first=200)
    nights.now = tables([replace(FIRST[0], start=None if FIRST[0].start else 9), *FIRST[1:-2], *new])
    found = analyse(nights.workspace, nights.study)
    history = found.evidence.history
    assert history is not None
    assert history.change is not None
    assert (history.look, len(history.looks)) == (2, 2)
    assert (history.change.entered, sum(history.change.left.values())) == (3, 2)
    moved = history.change.corrections
    assert moved.moved_to_treated + moved.moved_to_control == 1
    primary = next(
        e for e in found.evidence.estimates if e.role == "primary" and e.estimand == "hazard_ratio"
    )
    assert history.change.steps[-1].estimate == pytest.approx(primary.estimate, rel=1e-9)
    text = found.path.read_text() + (found.path.parent / "manifest.json").read_text()
    assert not [p.name for p in (*FIRST, *new) if p.name in text]
    assert history.repeated is not None
    assert read_evidence(found.path).history == history


def test_an_older_refresh_without_a_manifest_is_told_as_far_as_it_says(nights: Nights) -> None:
    first = analyse(nights.workspace, nights.study).path.parent
    (first / "manifest.json").unlink()
    content = json.loads((first / "evidence.json").read_text())
    del content["history"]
    (first / "evidence.json").chmod(0o644)
    (first / "evidence.json").write_text(json.dumps({**content, "schema_version": "1.1", "unknown": 1}))
    nights.now = tables(FIRST[:-1])
    found = analyse(nights.workspace, nights.study).evidence.history
    assert found is not None
    assert [(look.number, look.n) for look in found.looks] == [(1, 40), (2, 39)]
    assert any("has no manifest" in n for n in found.notes)


def test_ledgers_are_private_and_only_so_many_are_kept(nights: Nights) -> None:
    text = (nights.workspace.root / "rwe.yaml").read_text()
    (nights.workspace.root / "rwe.yaml").write_text(text.replace("keep_ledgers: 30", "keep_ledgers: 2"))
    nights.workspace = open_workspace(nights.workspace.root)
    made = []
    for n in (40, 39, 38):
        nights.now = tables(FIRST[:n])
        made.append(analyse(nights.workspace, nights.study).refresh)
    kept = [r for r in made if read_ledger(nights.workspace, STUDY, r) is not None]
    assert kept == made[1:]
    for r in kept:
        assert stat.S_IMODE(ledger_path(nights.workspace, STUDY, r).stat().st_mode) == 0o600
    first, second, last = (nights.workspace.evidence / STUDY / r for r in made)
    told = difference(nights.workspace, last, first)
    assert told.change is None
    assert [look.refresh for look in told.between] == made[1:]
    assert difference(nights.workspace, second, last).change is not None


def test_where_the_workspace_is_encrypted_so_is_the_ledger(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = analyse(nights.workspace, nights.study).refresh
    open_path = ledger_path(nights.workspace, STUDY, plain)
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", "ab" * 32)
    nights.now = tables(FIRST[:-1])
    sealed = analyse(nights.workspace, nights.study).refresh
    path = ledger_path(nights.workspace, STUDY, sealed)
    assert path.name.endswith(".enc")
    assert path.read_bytes().startswith(b"RWE1")
    assert not open_path.exists(), "one that lay open is sealed with the first key"
    before = read_ledger(nights.workspace, STUDY, plain)
    assert before is not None
    assert len(before.survival) == 40
    found = read_ledger(nights.workspace, STUDY, sealed)
    assert found is not None
    assert len(found.survival) == 39
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", "cd" * 32)
    assert read_ledger(nights.workspace, STUDY, sealed) is None


def test_under_another_pseudonym_key_nobody_is_said_to_have_moved(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(nights.workspace, nights.study)
    monkeypatch.setenv("RWE_PSEUDONYM_KEY", "ef" * 32)
    nights.now = tables([replace(p, name=f"other-{p.name}") for p in FIRST])
    found = analyse(nights.workspace, nights.study).evidence.history
    assert found is not None
    assert found.change is None
    assert any("key is another one" in n for n in found.notes)
    assert {s.new_patients for s in found.looks[-1].sites} == {None}


def test_the_erased_leave_every_ledger_and_are_counted(nights: Nights) -> None:
    gone = FIRST[3].name
    refresh = analyse(nights.workspace, nights.study).refresh
    blocklist = open_blocklist(nights.workspace, make=True)
    assert blocklist is not None
    blocklist.add({blocklist.by_pseudonym(gone)})
    stray = ledger_path(nights.workspace, STUDY, refresh).with_name(".left.part")
    stray.write_bytes(b"of a process that was killed")
    assert forget_erased(nights.workspace) == 1
    assert forget_erased(nights.workspace) == 0
    assert not stray.exists()
    content = zstandard.decompress(ledger_path(nights.workspace, STUDY, refresh).read_bytes())
    assert gone.encode() not in content
    nights.now = tables([p for p in FIRST if p.name != gone])
    found = analyse(nights.workspace, nights.study).evidence.history
    assert found is not None
    assert found.change is not None
    assert (found.change.erased, found.change.left) == (1, {})
    assert (found.change.n_before, found.change.n_after) == (40, 39)


def test_an_open_ledger_is_sealed_when_somebody_is_taken_out_of_it_in_an_encrypted_workspace(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = FIRST[3].name
    refresh = analyse(nights.workspace, nights.study).refresh
    open_path = ledger_path(nights.workspace, STUDY, refresh)
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", "ab" * 32)
    blocklist = open_blocklist(nights.workspace, make=True)
    assert blocklist is not None
    blocklist.add({blocklist.by_pseudonym(gone)})
    assert forget_erased(nights.workspace) == 1
    assert not open_path.exists()
    kept = read_ledger(nights.workspace, STUDY, refresh)
    assert kept is not None, "the others stay in it"
    assert set(kept.survival["patient_id"]) == {p.name for p in FIRST} - {gone}


def test_other_words_are_no_other_protocol_and_another_code_is(nights: Nights) -> None:
    analyse(nights.workspace, nights.study)
    nights.asking(title="Looked at once more")
    worded = analyse(nights.workspace, nights.study).evidence.history
    assert worded is not None
    assert worded.looks[0].protocol_sha256 != worded.looks[1].protocol_sha256
    assert worded.looks[1].protocol_changed == []
    assert worded.change is not None
    assert [s.what for s in worded.change.steps] == ["before"]
    codes = nights.study.codelists["lenalidomide"].codes
    changed = replace(nights.study.codelists["lenalidomide"], codes=codes[:-1])
    nights.study = replace(nights.study, codelists={**nights.study.codelists, "lenalidomide": changed})
    coded = analyse(nights.workspace, nights.study).evidence.history
    assert coded is not None
    assert coded.looks[2].protocol_changed == ["codelists"]


def test_a_ledger_that_cannot_be_read_is_removed_when_somebody_is_erased(nights: Nights) -> None:
    refresh = analyse(nights.workspace, nights.study).refresh
    path = ledger_path(nights.workspace, STUDY, refresh)
    path.write_bytes(path.read_bytes()[:50])
    blocklist = open_blocklist(nights.workspace, make=True)
    assert blocklist is not None
    forget_erased(nights.workspace)
    assert not path.exists()


def test_refreshes_are_named_by_number_by_latest_and_by_how_they_begin(nights: Nights) -> None:
    first = analyse(nights.workspace, nights.study).path.parent
    nights.now = tables(FIRST[:-1])
    second = analyse(nights.workspace, nights.study).path.parent
    assert resolve(nights.workspace, "#1") == first
    assert resolve(nights.workspace, "latest", STUDY) == second
    assert resolve(nights.workspace, second.name[:22]) == second
    for wrong in ("#3", "#x", "2", "nobody", ""):
        with pytest.raises(UsageError, match="refresh"):
            resolve(nights.workspace, wrong)
    with pytest.raises(UsageError, match="one and the same"):
        difference(nights.workspace, first, first)


def test_the_commands_say_it_in_80_columns_and_in_json(nights: Nights) -> None:
    root = str(nights.workspace.root)
    analyse(nights.workspace, nights.study)
    nights.now = tables([*FIRST[:-1], *people(7, seed=4, first=300)])
    analyse(nights.workspace, nights.study)
    run = CliRunner().invoke
    told = run(app, ["history", STUDY, "-w", root])
    assert "This is look 2 at this study; intervals are not adjusted for looking repeatedly." in told.output
    assert "biased by immortal time" in " ".join(told.output.split())
    compared = run(app, ["diff", "#1", "latest", "-w", root])
    assert "Left: no longer recorded" in compared.output
    assert all(len(line) <= 80 for line in (told.output + compared.output).splitlines())
    exact = json.loads(run(app, ["diff", "#1", "--json", "-w", root]).output)
    assert exact["change"]["entered"] == 7
    assert exact["change"]["left"] == {"no longer recorded": 1}
    looks = json.loads(run(app, ["history", STUDY, "--json", "-w", root]).output)["looks"]
    assert [look["n"] for look in looks] == [40, 46]


def test_analyse_says_nothing_new_and_ends_well(nights: Nights) -> None:
    run, root = CliRunner().invoke, str(nights.workspace.root)
    first = run(app, ["analyse", STUDY, "-w", root])
    assert first.exit_code == 0
    assert "This is the first look at this study." in " ".join(first.output.split())
    again = run(app, ["analyse", STUDY, "-w", root])
    assert again.exit_code == 0
    assert "Nothing new since the refresh of" in again.output
    assert json.loads(run(app, ["analyse", STUDY, "--json", "-w", root]).output)["is_new"] is False
    forced = run(app, ["analyse", STUDY, "--force", "-w", root])
    assert forced.exit_code == 0
    assert len(refreshes(nights.workspace)) == 2


def test_the_report_shows_the_history(nights: Nights) -> None:
    analyse(nights.workspace, nights.study)
    nights.now = tables([*FIRST[:-1], *people(7, seed=4, first=300)])
    page = report_of(analyse(nights.workspace, nights.study).path.parent).read_text()
    assert "This is look 2 at this study; intervals are not adjusted for looking repeatedly." in page
    assert "A confidence sequence holds at all looks together" in page
    assert 'aria-labelledby="history-title history-summary"' in page
    assert "Since the look before" in page
    assert "sections that this page does not show: history" not in page


def test_a_manifest_says_what_it_was_made_after(nights: Nights) -> None:
    first = analyse(nights.workspace, nights.study).path.parent
    nights.now = tables(FIRST[:-1])
    second = read_manifest(analyse(nights.workspace, nights.study).path.parent)
    assert second is not None
    assert second.before_refresh == first.name
    assert second.the_look() is not None
