"""With a key nothing that was served, nor what becomes of it before publication, can be read on disk."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import shutil
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
import zstandard

from rwe.config import Encryption, Workspace, open_workspace
from rwe.crypt import SUFFIX, Cipher
from rwe.errors import BuildError, ConfigError, LakeError, LandingError
from rwe.export import export_site, finish_export
from rwe.export_job import JobStore
from rwe.extract import extract_site
from rwe.extraction_plan import plan_extraction
from rwe.fhir import bulk
from rwe.fhir.client import FhirClient
from rwe.intake import PartlyImportedError, import_folder
from rwe.lake import connection as connection_module
from rwe.lake import write
from rwe.lake.connection import open_duckdb
from rwe.lake.sealed import address, attach
from rwe.lake.store import store_quarantine
from rwe.lake.write import update_lake
from rwe.landing import RunFacts, list_runs, new_run
from rwe.sandbox.hospital import write_ndjson
from rwe.sandbox.options import Bulk
from rwe.sandbox.server import HospitalSpec, running_hospitals
from rwe.study import Study, load_study
from rwe.warehouse.build import build
from tests.contract.exporter import TYPES, workspace_for
from tests.integration.landed import new_workspace
from tests.support import ROOT

CANARY = "canary-7319"
#: Nothing of a patient is in these, and they are not encrypted.
PLAIN = {"manifest.json", ".lock"}


@pytest.fixture(autouse=True)
def one_pseudonym_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that workspaces can be compared."""
    monkeypatch.setenv("RWE_PSEUDONYM_KEY", "5a" * 32)
    monkeypatch.setattr(bulk, "FIRST_POLL_SECONDS", 0.02)


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital's files, with a patient and a diagnosis that bear the canary, and a line that is none."""
    folder = tmp_path_factory.mktemp("handed")
    write_ndjson(HospitalSpec("north", "a", patients=30, seed=5), folder)
    condition = {
        "resourceType": "Condition",
        "id": "c1",
        "subject": {"reference": f"Patient/{CANARY}"},
        "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": CANARY}]},
    }
    patient = {"resourceType": "Patient", "id": CANARY, "name": [{"family": CANARY}]}
    lines = [json.dumps(patient), json.dumps(condition), f"{CANARY} is no resource"]
    (folder / "more.ndjson").write_text("\n".join(lines))
    return folder


def with_key(workspace: Workspace, key: bytes | None = None) -> Workspace:
    """The same workspace with a key beside it."""
    path = workspace.root.parent / f"encryption-{secrets.token_hex(4)}.key"
    path.write_text((key or secrets.token_bytes(32)).hex())
    path.chmod(0o600)
    settings = workspace.settings.model_copy(update={"encryption": Encryption(key_file=path)})
    return Workspace(workspace.root, settings)


def import_and_update(workspace: Workspace, handed_over: Path) -> None:
    with pytest.raises(PartlyImportedError):  # the line that is no resource
        import_folder(workspace, handed_over, "north")
    update_lake(workspace)


def open_layers(content: bytes, path: Path) -> bytes:
    """The content, and what is in it if it is compressed or Parquet, as far as it can be opened."""
    found = content
    with suppress(zstandard.ZstdError):
        found += zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
    with suppress(zlib.error):
        found += zlib.decompress(content, zlib.MAX_WBITS | 32)
    if content.startswith(b"PAR1"):
        with closing(duckdb.connect()) as db:
            found += repr(db.execute("from read_parquet(?)", [str(path)]).fetchall()).encode()
    return found


def giving_away(workspace: Workspace, *canaries: str) -> set[str]:
    """The files of landing, lake and quarantine in which a canary can be read, by their last name."""
    forms = [form for c in canaries for form in (c.encode(), c.encode().hex().encode())]
    forms += [base64.b64encode(c.encode()).rstrip(b"=")[:-1] for c in canaries]
    return {
        path.name
        for folder in (workspace.landing, workspace.lake, workspace.quarantine)
        for path in folder.rglob("*")
        if path.is_file() and any(f in open_layers(path.read_bytes(), path) for f in forms)
    }


def not_encrypted(workspace: Workspace) -> set[str]:
    """Files of landing, lake and quarantine that are not encrypted, but for those that hold no patient."""
    return {
        str(path.relative_to(workspace.root))
        for folder in (workspace.landing, workspace.lake, workspace.quarantine)
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in PLAIN
        and path.parents[1].name != "_runs"
        and not path.read_bytes().startswith(b"RWE1")
    }


def everything(workspace: Workspace) -> dict[str, bytes]:
    folders = (workspace.landing, workspace.lake, workspace.quarantine, workspace.root / "published")
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(workspace.root)): p.read_bytes() for p in files}


def test_nothing_served_can_be_read_on_disk(tmp_path: Path, handed_over: Path) -> None:
    plain = new_workspace(tmp_path / "plain")
    sealed = with_key(new_workspace(tmp_path / "sealed"))
    for workspace in (plain, sealed):
        import_and_update(workspace, handed_over)
    # "not_json" is the rule under which the line that is no resource was refused.
    found = giving_away(plain, CANARY, "not_json")
    assert {"Patient.ndjson.zst", "Condition.ndjson.zst", "_unreadable.ndjson.zst"} <= found
    assert any(name.endswith(".parquet") for name in found)  # the scan looks into Parquet
    assert giving_away(sealed, CANARY, "not_json") == set()
    assert not_encrypted(sealed) == set()
    assert not_encrypted(plain)
    for path in (
        sealed.lake,
        *sealed.lake.rglob("*"),
        *sealed.quarantine.rglob("*"),
        *sealed.landing.rglob("*"),
    ):
        assert path.stat().st_mode & 0o077 == 0


def test_what_lies_aside_while_a_run_is_brought_in_is_encrypted(
    tmp_path: Path, handed_over: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process leaves it behind."""
    sealed = with_key(new_workspace(tmp_path))
    seen: list[str] = []

    def look(ndjson: Path, *given: Any) -> None:
        seen.extend(p.name for p in ndjson.parent.iterdir())
        assert not_encrypted(sealed) == set()
        assert giving_away(sealed, CANARY, "not_json") == set()
        store_quarantine(ndjson, *given)

    monkeypatch.setattr(write, "store_quarantine", look)
    import_and_update(sealed, handed_over)
    assert {"Patient.ndjson.enc", "quarantine.ndjson.enc"} <= set(seen)


def test_the_published_database_is_the_same_with_and_without(
    tmp_path: Path, handed_over: Path, study: Study
) -> None:
    plain = new_workspace(tmp_path / "plain")
    sealed = with_key(new_workspace(tmp_path / "sealed"))
    results = []
    for workspace in (plain, sealed):
        import_and_update(workspace, handed_over)
        results.append(build(open_again(workspace), [study]))
    assert results[0].tables == results[1].tables
    assert results[0].tables["cohort.follow_up"] > 10
    assert results[0].content_sha256 == results[1].content_sha256


def open_again(workspace: Workspace) -> Workspace:
    """With the sites that were added to rwe.yaml meanwhile."""
    settings = open_workspace(workspace.root).settings
    return Workspace(
        workspace.root, settings.model_copy(update={"encryption": workspace.settings.encryption})
    )


def test_a_search_lands_encrypted_and_remembers_who_it_was_about(tmp_path: Path, study: Study) -> None:
    spec = HospitalSpec("a", "a", patients=8, seed=3)
    with running_hospitals([spec]) as [hospital]:
        workspace = with_key(workspace_for(tmp_path, hospital.base_url))
        first = extract_site(workspace, "a", [study])
        second = extract_site(workspace, "a", [study])
    assert first.patients > 0
    assert second.patients == first.patients
    assert sum(second.resources.values()) < sum(first.resources.values()) / 2  # only what is new since
    assert not_encrypted(workspace) == set()
    (ids, *_) = [json.loads(line)["id"] for line in first.run.open("Patient")]
    assert giving_away(workspace, ids) == set()


def test_an_export_under_way_is_encrypted_and_gone_on_with(tmp_path: Path, study: Study) -> None:
    spec = HospitalSpec("a", "a", patients=8, seed=3, bulk=Bulk(retry_after="absent"))
    with running_hospitals([spec]) as [hospital]:
        workspace = with_key(workspace_for(tmp_path, hospital.base_url))
        site, plan = workspace.site("a"), plan_extraction([study])
        for night in (1, 2):
            with (
                FhirClient("a", site) as client,
                new_run(workspace.landing, "a", cipher=workspace.cipher()) as writer,
            ):
                export_site(workspace, "a", site, client, plan, writer, types=TYPES, level="system")
                if night == 2:
                    run = writer.commit(RunFacts(route="export", time_zone="UTC"))
                    continue
            # The night broke off before its run was landed: the files are here, and a second try reads them.
            folder = workspace.landing / "site=a"
            spilled = sorted(p.name for p in (folder / ".export").iterdir())
            assert len(spilled) > 5
            assert all(name.endswith(".ndjson" + SUFFIX) for name in spilled)
            assert (folder / f".export.json{SUFFIX}").stat().st_mode & 0o777 == 0o600
            assert not_encrypted(workspace) == set()
            assert giving_away(workspace, "resourceType", hospital.base_url) == set()
            with pytest.raises(LandingError, match="another key"):
                JobStore(workspace.landing, "a", Cipher(bytes(32))).load()
        kick_offs = [s for s in hospital.control.requests() if s.path.endswith("$export")]
        assert len([s for s in kick_offs if s.status == 202]) == 1
        finish_export(workspace, "a")
    assert not (folder / ".export").exists()
    assert run.resources["Patient"] > 0
    assert sum(1 for _ in run.open("Patient")) == run.resources["Patient"]


def test_a_workspace_that_gets_a_key_keeps_what_it_has(
    tmp_path: Path, handed_over: Path, study: Study
) -> None:
    plain = new_workspace(tmp_path)
    import_and_update(plain, handed_over)
    before = build(open_again(plain), [study])
    sealed = with_key(plain)
    old = {p for p in everything(plain) if p.endswith((".zst", ".parquet"))}
    import_and_update(open_again(sealed), handed_over)
    assert old <= everything(sealed).keys()
    assert not_encrypted(sealed) == old
    runs = list_runs(sealed.landing, cipher=sealed.cipher())
    assert len({r.manifest.key_id for r in runs}) == 2
    assert runs[0].manifest.key_id is None or runs[1].manifest.key_id is None
    assert build(open_again(sealed), [study]).content_sha256 == before.content_sha256
    # As docs/encryption.md says: the old run goes, and the lake is made anew from what landed again.
    shutil.rmtree(next(r.path for r in runs if r.manifest.key_id is None))
    for folder in (sealed.lake, sealed.quarantine):
        shutil.rmtree(folder)
    assert build(open_again(sealed), [study]).content_sha256 == before.content_sha256
    assert not_encrypted(sealed) == set()


def test_with_another_key_or_none_nothing_is_changed(tmp_path: Path, handed_over: Path, study: Study) -> None:
    sealed = with_key(new_workspace(tmp_path))
    import_and_update(sealed, handed_over)
    build(open_again(sealed), [study])
    sealed = open_again(sealed)
    before = everything(sealed)
    without = Workspace(sealed.root, sealed.settings.model_copy(update={"encryption": None}))
    for other, sentence in ((with_key(sealed), "another key"), (without, "no key is set")):
        for deed in (
            lambda w: import_folder(w, handed_over, "north"),
            update_lake,
            lambda w: build(w, [study]),
        ):
            with pytest.raises((LandingError, LakeError), match=sentence) as caught:
                deed(other)
            assert "RWE_ENCRYPTION_KEY" in str(caught.value)
            assert everything(sealed) == before


def test_a_lost_or_open_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = with_key(new_workspace(tmp_path))
    assert sealed.settings.encryption
    path = sealed.settings.encryption.key_file
    key = path.read_text()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read the encryption key"):
        sealed.cipher()
    path.unlink()
    with pytest.raises(ConfigError, match="the encryption key cannot be read"):
        update_lake(sealed)
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", key)
    again = Workspace(sealed.root, sealed.settings.model_copy(update={"encryption": None})).cipher()
    assert again
    assert again.key_id == Cipher(bytes.fromhex(key)).key_id
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", key[2:])
    with pytest.raises(ConfigError, match="not 32 bytes in hex") as caught:
        sealed.cipher()
    assert key[2:] not in str(caught.value)


def test_the_setting_is_one_line_of_rwe_yaml(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    assert workspace.cipher() is None
    path = tmp_path / "encryption.key"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    settings = workspace.root / "rwe.yaml"
    settings.write_text(f"encryption: {{key_file: {path}}}\n{settings.read_text()}")
    cipher = open_workspace(workspace.root).cipher()
    assert cipher
    assert cipher.key_id == Cipher(b"\xab" * 32).key_id


def test_a_changed_file_of_the_lake_stops_the_build(tmp_path: Path, handed_over: Path, study: Study) -> None:
    sealed = with_key(new_workspace(tmp_path))
    import_and_update(sealed, handed_over)
    (path,) = (sealed.lake / "Patient").rglob(f"*{SUFFIX}")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(BuildError) as caught:
        build(open_again(sealed), [study])
    assert not sealed.database.exists()
    assert CANARY not in str(caught.value)
    moved = (sealed.lake / "Condition").rglob(f"*{SUFFIX}")
    path.write_bytes(next(moved).read_bytes())  # whole, but of another type
    with pytest.raises(BuildError):
        build(open_again(sealed), [study])


def test_many_threads_read_one_encrypted_file(tmp_path: Path) -> None:
    rows, path = 1_500_000, tmp_path / f"many.parquet{SUFFIX}"
    cipher = Cipher(bytes(32))
    with closing(duckdb.connect(config={"threads": 4})) as db:
        attach(db, cipher)
        db.execute(
            f"copy (select i, hash(i) as noise, 'value ' || i as text from range({rows}) as t(i))"
            f" to '{address(path)}' (format parquet, row_group_size 50000)"
        )
        assert path.stat().st_size > 10 << 20  # more than ten chunks
        assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(3):
            found = db.execute(
                "select count(*), sum(i), count(*) filter (where noise = hash(i) and text = 'value ' || i)"
                f" from read_parquet('{address(path)}')"
            ).fetchone()
            assert found == (rows, rows * (rows - 1) // 2, rows)


def spilled_content(folder: Path, cipher: Cipher | None) -> bytes:
    """What lies in DuckDB's spill while a table larger than its memory is sorted."""
    folder.mkdir()
    with closing(open_duckdb(folder, cipher=cipher)) as db:
        db.execute("set memory_limit = '40MB'")
        db.execute("set threads = 1")
        db.execute(
            f"create table t as select '{CANARY}' || hash(i) || hash(i + 1) || hash(i * 3) as text"
            " from range(700000) as r(i)"
        )
        return b"".join(p.read_bytes() for p in (folder / "duckdb-spill").iterdir())


def test_what_duckdb_spills_is_encrypted_or_not_spilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CANARY.encode() in spilled_content(tmp_path / "plain", None)
    cipher = Cipher(os.urandom(32))
    if connection_module._httpfs() is not None:
        content = spilled_content(tmp_path / "sealed", cipher)
        assert content
        assert CANARY.encode() not in content
    monkeypatch.setattr(connection_module, "_httpfs", lambda: None)
    with pytest.raises(duckdb.OutOfMemoryException):
        spilled_content(tmp_path / "without", cipher)
    assert [p for p in tmp_path.rglob("without/**/*") if p.is_file()] == []
