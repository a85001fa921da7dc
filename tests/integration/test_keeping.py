"""Erasing, tracing, rolling back, backing up: on real workspaces, with every file opened afterwards."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from rwe.admission import KeptOut
from rwe.audit import entries
from rwe.blocklist import gate_of, key_path, open_blocklist
from rwe.cli_keep import _show_erased, keep_app
from rwe.config import Workspace, add_site, open_workspace
from rwe.errors import BuildError, ConfigError, PartialError, RweError, UsageError
from rwe.intake import import_folder
from rwe.keeping.backup import MANIFEST, back_up, known_backups, restore
from rwe.keeping.erase import erase, erase_blocked
from rwe.keeping.rollback import roll_back
from rwe.keeping.search import Sought, files_with
from rwe.keeping.trace import landed_line, trace
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.landing import list_runs
from rwe.study import Study, load_study
from rwe.warehouse.build import build
from rwe.warehouse.builds import current_build, kept_builds
from tests.integration.landed import land, land_lines, new_workspace
from tests.support import ROOT

RAW = "zq7secretid"
OTHER = "friend-of-the-secret"


def study() -> Study:
    return load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")


def records(name: str, *, year: int = 2020, **fields: Any) -> list[dict[str, Any]]:
    """A patient, an infusion, a diagnosis and a laboratory value."""
    subject = {"subject": {"reference": f"Patient/{name}"}}

    def concept(system: str, code: str) -> dict[str, Any]:
        return {"coding": [{"system": system, "code": code}]}

    return [
        {"resourceType": "Patient", "id": name, "birthDate": "1960-01-01", "gender": "male",
         "name": [{"family": f"Family{name}"}], **fields},
        {"resourceType": "MedicationAdministration", "id": f"{name}-1", "status": "completed", **subject,
         "medicationCodeableConcept": concept("http://www.whocc.no/atc", "L01XL03"),
         "effectiveDateTime": f"{year}-03-01"},
        {"resourceType": "Condition", "id": f"{name}-2", **subject, "onsetDateTime": f"{year}-01-01",
         "code": concept("http://hl7.org/fhir/sid/icd-10-cm", "C83.30")},
        {"resourceType": "Observation", "id": f"{name}-3", "status": "final", **subject,
         "code": concept("http://loinc.org", "2532-0"), "effectiveDateTime": f"{year}-02-20",
         "valueQuantity": {"value": 200, "unit": "U/L"}},
    ]  # fmt: skip


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect(str(path), read_only=True)) as db:
        return db.execute(query).fetchall()


def contents(path: Path) -> bytes:
    """All that a file holds, whatever its form: written here anew, not by the code under test."""
    raw = path.read_bytes()
    if path.suffix == ".zst":
        return (
            raw + zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw), read_across_frames=True).read()
        )
    if path.suffix == ".gz":
        return raw + gzip.decompress(raw)
    if path.suffix == ".parquet":
        return raw + json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
    if path.suffix == ".duckdb":
        with closing(duckdb.connect(str(path), read_only=True)) as db:
            tables = db.execute("select schema_name, table_name from duckdb_tables()").fetchall()
            return raw + repr([db.execute(f'from {s}."{t}"').fetchall() for s, t in tables]).encode()
    return raw


def holding(root: Path, *words: str) -> set[str]:
    """The files of a workspace that hold one of the words; also by a file's own name."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
        and any(w.encode() in contents(path) or w in str(path.relative_to(root)) for w in words)
    }


def pseudonym(workspace: Workspace, name: str, kind: str = "Patient") -> str:
    return Pseudonymiser(workspace.pseudonym_key(), "north").of(kind, name)


@pytest.fixture(scope="module")
def landed_twice(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two nights of one site, each built: the second with a mention, a tombstone and a line cut short."""
    made = new_workspace(tmp_path_factory.mktemp("keeping"))
    land(made, "north", *records(RAW), *records("anna"), *records(OTHER))
    build(made, [study()])
    link = [{"other": {"reference": f"Patient/{RAW}"}, "type": "seealso"}]
    second = [*records("bela", link=link), {**records(RAW)[3], "id": f"{RAW}-9"}]
    unreadable = [("_unreadable", f'{{"resourceType":"Observation","subject":"Patient/{RAW}'.encode())]
    lines = [(r["resourceType"], json.dumps(r).encode()) for r in second]
    gone = {"resourceType": "Observation", "id": f"{RAW}-3", "deletedAt": "2024-01-01T00:00:00Z"}
    land_lines(made, "north", [*lines, *unreadable, ("_deleted", json.dumps(gone).encode())])
    build(made, [study()])
    return made


@pytest.fixture
def workspace(landed_twice: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it with a copy of the key, so that each test has a list of the erased of its own."""
    root, key = tmp_path / "workspace", tmp_path / "own" / "pseudonyms.key"
    shutil.copytree(landed_twice.root, root)
    key.parent.mkdir()
    shutil.copy(landed_twice.settings.pseudonyms.key_file, key)
    settings = root / "rwe.yaml"
    text = settings.read_text().replace(str(landed_twice.settings.pseudonyms.key_file), str(key))
    settings.write_text(text)
    return open_workspace(root)


def test_an_erased_patient_is_in_no_file_and_the_others_are_as_before(workspace: Workspace) -> None:
    old = "older-record-of-the-same-person"  # merged into the patient's: it goes too
    merged = [{"other": {"reference": f"Patient/{RAW}"}, "type": "replaced-by"}]
    land(workspace, "north", {"resourceType": "Patient", "id": old, "link": merged})
    words = (
        RAW,
        pseudonym(workspace, RAW),
        pseudonym(workspace, f"{RAW}-1", "MedicationAdministration"),
        old,
        pseudonym(workspace, old),
    )
    assert len(holding(workspace.root, *words)) > 8  # landing, lake, quarantine, four databases
    before = rows(
        workspace.private_database, f"from cohort.survival where patient_id <> '{words[1]}' order by all"
    )
    cache = workspace.evidence / "s" / "cache" / "boot.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({"patients": [words[1]]}))
    found = erase(workspace, "north", [study()], patient_ids=[RAW])
    assert holding(workspace.root, *words) == set()
    assert found.was_found
    gone = {"Condition": 1, "MedicationAdministration": 1, "Observation": 2, "Patient": 2}
    gone |= {"_deleted": 1, "_unreadable": 1}
    assert {t: n for t, n in found.lines.items() if n} == gone
    assert found.remaining == ()
    assert rows(workspace.private_database, "from cohort.survival order by all") == before
    assert len(before) == 3
    assert [k.build for k in kept_builds(workspace)] == [current_build(workspace).build]  # type: ignore[union-attr]
    for run in list_runs(workspace.landing, "north"):
        for kind in run.types:
            assert len(list(run.open(kind))) == run.resources[kind]  # hash and count are the manifest's
    assert b"Patient/erased" in b"".join(list_runs(workspace.landing)[1].open("Patient"))


def test_neither_a_second_import_nor_the_pseudonym_alone_brings_the_patient_back(
    workspace: Workspace,
) -> None:
    secret = pseudonym(workspace, RAW)
    erase(workspace, "north", [study()], pseudonyms=[secret])
    assert holding(workspace.root, RAW, secret) == set()
    handed = workspace.root.parent / "handed-over"
    handed.mkdir()
    lines = [json.dumps(r) for r in (*records(RAW), *records("carl"))]
    (handed / "all.ndjson").write_text("\n".join(lines))
    workspace = add_site(workspace, "north", {})
    assert import_folder(workspace, handed, "north").run.resources == {
        "Condition": 1, "MedicationAdministration": 1, "Observation": 1, "Patient": 1
    }  # fmt: skip
    path = build(workspace, [study()]).path
    assert rows(path, "select count(*) from cohort.survival") == [(4,)]
    assert holding(workspace.root, RAW, secret) == set()
    assert erase_blocked(workspace, [study()]) == 0


def test_who_was_erased_and_lies_in_the_lake_again_is_in_no_table(workspace: Workspace) -> None:
    made = open_blocklist(workspace, make=True)
    assert made is not None
    made.add([made.by_id("north", RAW), made.by_pseudonym(pseudonym(workspace, RAW))])
    path = build(workspace, [study()]).path
    assert rows(path, "select count(*) from cohort.survival") == [(3,)]
    assert rows(path, "select reason, patients from meta.admission") == [("erased", 1)]
    kept_out = KeptOut({"opted"}, gate_of(workspace, "north")) | {"another"}
    assert [p in kept_out for p in (RAW, "opted", "another", "anna")] == [True, True, True, False]


def test_where_raw_bytes_are_gone_the_rows_are_taken_out_of_the_lake(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = pseudonym(workspace, RAW)
    for run in list_runs(workspace.landing):
        run.path.rename(workspace.root.parent / run.run)
    found = erase(workspace, "north", [study()], pseudonyms=[secret])
    assert not found.knows_ids  # no landed file tells it any more
    assert found.rows >= 5
    assert holding(workspace.root, RAW, secret) == set()
    assert rows(workspace.database, "select count(*) from cohort.survival") == [(3,)]
    _show_erased(replace(found, rows=0, other_sites=("south",)))
    shown = " ".join(capsys.readouterr().out.split())
    assert "Nothing of that pseudonym was here" in shown
    assert "looked for the pseudonym alone" in shown
    assert "rwe erase --site south" in shown


def test_the_list_of_the_erased_lies_outside_and_names_nobody(workspace: Workspace) -> None:
    made = open_blocklist(workspace, make=True)
    assert made is not None
    made.add([made.by_id("north", RAW), made.by_pseudonym(pseudonym(workspace, "anna"))])
    key = key_path(workspace)
    assert not key.is_relative_to(workspace.root)
    listed = key.with_suffix(".list").read_text()
    assert RAW not in listed
    assert pseudonym(workspace, "anna") not in listed
    assert stat.S_IMODE(key.stat().st_mode) == stat.S_IMODE(key.with_suffix(".list").stat().st_mode) == 0o600
    gate = gate_of(workspace, "north")
    assert gate is not None
    assert gate.patients([RAW, "anna", "bela"]) == {RAW, "anna"}
    key.unlink()
    with pytest.raises(ConfigError, match="missing or damaged"):
        gate_of(workspace, "north")
    with pytest.raises(UsageError, match="nobody is named"):
        erase(workspace, "north", [study()])


KILLED = """
import sys, os, signal
from pathlib import Path
import rwe.keeping.{module} as module
from rwe.config import open_workspace
from rwe.keeping.erase import erase
from rwe.study import load_study
real = module.{name}
calls = 0
def killed(*a, **k):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)
module.{name} = killed
w = open_workspace(Path(sys.argv[1]))
erase(w, "north", [load_study(Path(sys.argv[2]))], patient_ids=["zq7secretid"])
"""


@pytest.mark.parametrize(("module", "name", "call"), [("landed", "sync_path", 2), ("erase", "build", 1)])
def test_an_erasure_that_is_killed_is_finished_by_the_next(
    module: str, name: str, call: int, workspace: Workspace
) -> None:
    program = KILLED.format(module=module, name=name, call=call)
    path = ROOT / "studies" / "lenalidomide_after_car_t.yaml"
    ended = subprocess.run([sys.executable, "-c", program, str(workspace.root), str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    erase(workspace, "north", [study()], patient_ids=[RAW])
    assert holding(workspace.root, RAW, pseudonym(workspace, RAW)) == set()
    assert rows(workspace.database, "select count(*) from cohort.survival") == [(3,)]


def test_a_row_leads_back_to_its_line(workspace: Workspace) -> None:
    anna = pseudonym(workspace, "anna-3", "Observation")
    (traced,) = trace(workspace, "staging.observation", anna)
    assert (traced.site, traced.resource_type, traced.line) == ("north", "Observation", 2)
    assert json.loads(landed_line(workspace, traced))["id"] == "anna-3"
    assert traced.path is not None
    assert traced.path.is_file()
    (matched,) = trace(workspace, "cohort.codelist_match", anna)
    assert matched.run == traced.run
    with pytest.raises(UsageError, match="no row of this table") as refused:
        trace(workspace, "staging.patient", "no-such-key")
    assert "no-such-key" not in str(refused.value)


def test_rolling_back_shows_the_build_before_in_both_databases(workspace: Workspace) -> None:
    count = "select count(*) from staging.patient"
    assert rows(workspace.database, count) == [(4,)]
    log = workspace.database.with_name("rwe.duckdb.wal")
    log.write_bytes(b"of a crashed reader")
    before = roll_back(workspace)
    assert not log.exists()
    assert rows(workspace.database, count) == rows(workspace.private_database, count) == [(3,)]
    assert current_build(workspace) == before
    with pytest.raises(BuildError, match="no earlier build is kept"):
        roll_back(workspace)
    newest = kept_builds(workspace)[0]
    assert roll_back(workspace, newest.build) == newest
    assert rows(workspace.database, count) == [(4,)]
    with pytest.raises(UsageError, match="no such build"):
        roll_back(workspace, "20200101T000000000000Z-aaaaaaaa")


def test_a_kept_build_that_was_changed_is_not_shown(workspace: Workspace) -> None:
    kept = kept_builds(workspace)[1]
    file = workspace.published_builds / f"{kept.build}.duckdb"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(BuildError, match="a file was changed"):
        roll_back(workspace)
    assert rows(workspace.database, "select count(*) from staging.patient") == [(4,)]


def test_only_the_last_builds_are_kept(workspace: Workspace) -> None:
    published = workspace.settings.published.model_copy(update={"keep_builds": 2})
    few = Workspace(workspace.root, workspace.settings.model_copy(update={"published": published}))
    build(few, [])
    kept = kept_builds(few)
    assert len(kept) == 2
    assert {p.stem for p in few.published_builds.iterdir()} == {k.build for k in kept}
    assert {p.suffix for p in few.private_builds.iterdir()} == {".json", ".duckdb"}
    assert len(list(few.private_builds.iterdir())) == 4
    modes = {stat.S_IMODE(p.stat().st_mode) for p in few.published_builds.iterdir()}
    assert modes == {0o444}
    assert stat.S_IMODE(few.private.stat().st_mode) == 0o700


def test_a_backup_brings_everything_back_but_no_key_and_no_erased_patient(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder, backup = back_up(workspace, tmp_path / "backups")
    key = workspace.settings.pseudonyms.key_file.read_text().strip().encode()
    assert not any(key in p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert [b.path for b in known_backups(workspace)] == [folder]
    restored = restore(folder, tmp_path / "again")
    back = open_workspace(restored.root)
    assert rows(back.database, "from cohort.survival order by all") == rows(
        workspace.database, "from cohort.survival order by all"
    )
    assert build(back, [study()]).content_sha256 == build(workspace, [study()]).content_sha256
    found = erase(workspace, "north", [study()], patient_ids=[RAW])
    assert found.backups == (str(folder),)
    once_more = open_workspace(restore(folder, tmp_path / "third").root)
    assert holding(once_more.root, RAW)
    assert erase_blocked(once_more, [study()]) > 0
    assert holding(once_more.root, RAW, pseudonym(workspace, RAW)) == set()
    assert len(backup.files) > 10


def test_a_damaged_backup_is_refused_whole(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = back_up(workspace, tmp_path / "backups")
    victim = next((folder / "files" / "landing").rglob("*.zst"))
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(RweError, match="damaged or gone"):
        restore(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    manifest = json.loads((folder / MANIFEST).read_text()) | {"version": 9}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="of version 9"):
        restore(folder, tmp_path / "again")
    with pytest.raises(UsageError, match="inside the workspace"):
        back_up(workspace, workspace.root / "backups")


def typed(workspace: Workspace, *words: str) -> str:
    done = CliRunner().invoke(keep_app, [*words, "-w", str(workspace.root)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_builds_rollback_and_trace(workspace: Workspace, tmp_path: Path) -> None:
    newest = current_build(workspace)
    assert newest is not None
    listed = typed(workspace, "builds").splitlines()
    assert listed[0].split()[0] == newest.build
    assert "published" in listed[0]
    assert "published" not in listed[1]
    typed(workspace, "rollback")
    shown = json.loads(typed(workspace, "builds", "--json"))
    assert shown["current"] == shown["builds"][1]
    typed(workspace, "rollback", "--to", newest.build)
    key = pseudonym(workspace, "anna")
    told = typed(workspace, "trace", "staging.patient", key)
    assert "Patient.ndjson.zst, line 2" in " ".join(told.split())
    assert "Familyanna" not in told
    with pytest.raises(UsageError, match="on a terminal only"):
        typed(workspace, "trace", "staging.patient", key, "--show")
    out = tmp_path / "record.json"
    typed(workspace, "trace", "staging.patient", key, "--show", "--out", str(out))
    assert json.loads(out.read_bytes())["name"] == [{"family": "Familyanna"}]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    done = [(e.command, e.outcome, e.counts) for e in entries(workspace.root)]
    assert done[-2:] == [
        ("trace", "done", {"rows": 1, "shown": 0}),
        ("trace", "done", {"rows": 1, "shown": 1}),
    ]
    assert key not in (workspace.root / "audit.ndjson").read_text()


def test_erase_says_which_files_of_ours_still_name_the_patient(workspace: Workspace, tmp_path: Path) -> None:
    workspace = add_site(workspace, "north", {})
    kept = workspace.root / "opted-out.txt"
    kept.write_text(f"{RAW}\n")
    listed = tmp_path / "withdrawn.txt"
    listed.write_text(f"Patient/{RAW}  # asked on the phone\n")
    with pytest.raises(PartialError, match="1 file kept by hand still name them"):
        typed(workspace, "erase", "--site", "north", "--patient-file", str(listed), "--yes")
    assert holding(workspace.root, RAW, pseudonym(workspace, RAW)) == {"opted-out.txt"}
    last = list(entries(workspace.root))[-1]
    assert (last.command, last.site, last.outcome) == ("erase", "north", "partly")


def test_a_short_id_and_what_others_say_of_the_patient_go_too(workspace: Workspace) -> None:
    who = {"reference": "Patient/p7", "display": "LongIdName, Hans", "identifier": {"value": "MRN-4711"}}
    told = {
        "resourceType": "Observation",
        "id": "told",
        "subject": {"reference": "Patient/anna"},
        "focus": [who],
    }
    askew = {"resourceType": "Observation", "id": "askew", "subject": [who]}
    cut = json.dumps({"resourceType": "Patient", "id": "p7", "name": [{"family": "LongIdName"}]})[:-2]
    readable = [("Observation", json.dumps(r).encode()) for r in (told, askew)]
    land_lines(workspace, "north", [*readable, ("_unreadable", cut.encode())])
    land(workspace, "south", *records("p7"))  # of the same index of persons
    before = {r.run: r.manifest_sha256 for r in list_runs(workspace.landing, "south")}
    found = erase(workspace, "north", [study()], patient_ids=["p7"])
    assert found.lines == {"Observation": 1, "_unreadable": 1}
    assert (found.blanked, found.remaining, found.other_sites) == (1, (), ("south",))
    assert holding(workspace.root, "LongIdName", "MRN-4711") == set()
    assert all("site=south" in path for path in holding(workspace.root, "Patient/p7"))
    assert {r.run: r.manifest_sha256 for r in list_runs(workspace.landing, "south")} == before
    for text in ("p7\n", "- p7  # asked\n", '["p7"]', "of Patient/p7."):
        (workspace.root / "by-hand.txt").write_text(text)
        assert workspace.root / "by-hand.txt" in files_with(workspace, Sought((), ("p7",)))
    (workspace.root / "by-hand.txt").write_text("p77\nap7\nPatient/p77")
    held = {p.relative_to(workspace.root).parts[:2] for p in files_with(workspace, Sought((), ("p7",)))}
    assert held == {("landing", "site=south")}
