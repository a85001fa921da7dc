"""Files as hospitals hand them over: each resource lands once, byte by byte; each line is accounted for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from rwe.blocklist import open_blocklist
from rwe.config import Workspace, init_workspace, open_workspace
from rwe.errors import ConfigError, UsageError
from rwe.intake import ImportResult, PartlyImportedError, import_folder
from rwe.landing import UNREADABLE, list_runs
from tests.support import shared

PATIENT = b'{"resourceType":"Patient","id":"p1","birthDate":"1950"}'
OBSERVATION = b'{"resourceType":"Observation","id":"o1","valueQuantity":{"value":7.10}}'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "ws", tmp_path / "keys" / "key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def lines(result: ImportResult, resource_type: str) -> list[bytes]:
    return list(result.run.open(resource_type))


def partly(workspace: Workspace, folder: Path) -> PartlyImportedError:
    with pytest.raises(PartlyImportedError) as caught:
        import_folder(workspace, folder, "a")
    return caught.value


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["x.ndjson", "x.json"])
def test_ndjson_lands_as_it_is_whatever_it_is_called_and_packed_with(
    workspace: Workspace, folder: Path, name: str, suffix: str
) -> None:
    content = b"\n".join([PATIENT, b"", OBSERVATION]) + b"\r\n"
    packed = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}[suffix]
    (folder / (name + suffix)).write_bytes(packed)
    result = import_folder(workspace, folder, "a")
    assert lines(result, "Patient") == [PATIENT]
    assert lines(result, "Observation") == [OBSERVATION]
    assert (result.resources, result.unreadable) == ({"Observation": 1, "Patient": 1}, 0)


def test_several_packed_members_are_one_file(workspace: Workspace, folder: Path) -> None:
    halves = (PATIENT + b"\n" + OBSERVATION[:20], OBSERVATION[20:])
    (folder / "a.ndjson.gz").write_bytes(b"".join(gzip.compress(h) for h in halves))
    (folder / "b.ndjson.zst").write_bytes(b"".join(zstandard.compress(h) for h in halves))
    result = import_folder(workspace, folder, "a")
    assert lines(result, "Patient") == [PATIENT] * 2
    assert lines(result, "Observation") == [OBSERVATION] * 2


def test_one_pretty_printed_resource_with_a_byte_order_mark(workspace: Workspace, folder: Path) -> None:
    resource = {
        "resourceType": "MedicationRequest",
        "contained": [{"resourceType": "Medication", "id": "m"}],
        "note": [{"text": "line\nline"}],
    }
    (folder / "r.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(resource, indent=2).encode())
    result = import_folder(workspace, folder, "a")
    assert result.resources == {"MedicationRequest": 1}
    assert json.loads(lines(result, "MedicationRequest")[0]) == resource


def test_bundles_are_cut_into_their_entries_verbatim(workspace: Workspace, folder: Path) -> None:
    inner = b'{"resourceType":"Bundle","type":"collection","entry":[{"resource":' + PATIENT + b"}]}"
    outcome = b'{"resource":{"resourceType":"OperationOutcome"},"search":{"mode":"outcome"}}'
    deletion = b'{"request":{"method":"DELETE","url":"Patient/x"}}'
    outer = (
        b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":'
        + inner + b'},{"resource":' + OBSERVATION + b"}," + outcome + b"," + deletion + b"]}"
    )  # fmt: skip
    (folder / "line.ndjson").write_bytes(outer + b"\n" + PATIENT + b"\n")
    (folder / "array.json").write_bytes(b"[" + PATIENT + b",\n" + OBSERVATION + b"]")
    result = import_folder(workspace, folder, "a")
    assert lines(result, "Patient") == [PATIENT] * 3
    assert lines(result, "Observation") == [OBSERVATION] * 2
    assert set(result.resources) == {"Patient", "Observation"}


def test_r4_types_that_no_table_holds_land_as_well(workspace: Workspace, folder: Path) -> None:
    (folder / "x.ndjson").write_bytes(b'{"resourceType":"Basic","id":"1"}\n{"resourceType":"Binary"}\n')
    assert import_folder(workspace, folder, "a").resources == {"Basic": 1, "Binary": 1}


BROKEN = [
    b'{"resourceType":"Patient","id":"secret-17"',
    b'{"id":"secret-17"}',
    b'"secret-17"',
    b'{"resourceType":17}',
    b'{"resourceType":"../../secret-17"}',
    b'{"resourceType":"Patient","id":"\xff secret-17"}',
    b"secret-17,1950-01-01",
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("at", [1, 2])
def test_a_broken_line_is_kept_and_named_by_file_and_line_only(
    workspace: Workspace, folder: Path, broken: bytes, at: int
) -> None:
    (folder / "sub").mkdir()
    content = [broken, PATIENT, OBSERVATION] if at == 1 else [PATIENT, broken, OBSERVATION]
    (folder / "sub" / "x.ndjson").write_bytes(b"\n".join(content))
    error = partly(workspace, folder)
    assert error.exit_status == 3
    assert f"file 1 of 1 (.ndjson), line {at}" in str(error)
    assert "secret" not in str(error)
    assert error.result.resources == {"Observation": 1, "Patient": 1}
    assert error.result.unreadable == 1
    assert lines(error.result, UNREADABLE) == [broken]
    assert "secret" not in (error.result.run.path / "manifest.json").read_text()
    assert list_runs(workspace.landing) == [error.result.run]


def test_every_line_of_a_wholly_broken_ndjson_counts(workspace: Workspace, folder: Path) -> None:
    (folder / "bad.ndjson").write_bytes(b"{nope\n{nope\n{nope\n")
    (folder / "good.ndjson").write_bytes(PATIENT)
    error = partly(workspace, folder)
    assert error.result.unreadable == 3


def test_a_broken_document_is_one_thing_not_its_lines(workspace: Workspace, folder: Path) -> None:
    contained = (
        '{\n "resourceType": "MedicationRequest",\n "contained": [\n' + '{"resourceType":"Medication"}\n],\n'
    )
    (folder / "cut.json").write_text(contained)
    (folder / "good.ndjson").write_bytes(PATIENT)
    error = partly(workspace, folder)
    assert error.result.resources == {"Patient": 1}
    assert error.result.unreadable == 1
    assert "file 1 of 2 (.json): no FHIR resource" in str(error)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_cut_archive_gives_what_it_has_and_a_damaged_one_nothing_that_could_be_false(
    workspace: Workspace, folder: Path, suffix: str, damage: str
) -> None:
    content = b"".join(b'{"resourceType":"Patient","id":"%064x"}\n' % (i * 7919**19) for i in range(20_000))
    checked = zstandard.ZstdCompressor(write_checksum=True)
    packed = {".gz": gzip.compress, ".zst": checked.compress}[suffix](content)
    half = len(packed) // 2
    flipped = packed[:half] + bytes([packed[half] ^ 0xFF]) + packed[half + 1 :]
    damaged = {"cut": packed[:half], "flipped": flipped, "empty": b""}[damage]
    (folder / f"big.ndjson{suffix}").write_bytes(damaged)
    (folder / "good.ndjson").write_bytes(OBSERVATION)
    error = partly(workspace, folder)
    assert f"file 1 of 2 (.ndjson{suffix}): the compressed data" in str(error)
    assert error.result.resources["Observation"] == 1
    kept = list(error.result.run.open("Patient"))
    assert kept == content.split(b"\n")[: len(kept)]
    assert (len(kept) > 5_000) == (damage == "cut")


def test_other_files_are_counted_and_links_out_of_the_folder_are_not_followed(
    workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.ndjson").write_bytes(OBSERVATION)
    (folder / "dir").symlink_to(tmp_path / "outside", target_is_directory=True)
    (folder / "file.ndjson").symlink_to(tmp_path / "outside" / "x.ndjson")
    (folder / "in.ndjson").write_bytes(PATIENT)
    (folder / "readme.txt").write_text("hello")
    (folder / ".index.json").write_text("{}")
    result = import_folder(workspace, folder, "a")
    assert (result.resources, result.files) == ({"Patient": 1}, 1)
    assert result.warnings[0] == "passed over, being of another kind: 1 .json, 1 .ndjson, 1 .txt, 1 no suffix"


def test_incomplete_resources_are_never_landed(workspace: Workspace, folder: Path) -> None:
    subset = b'{"resourceType":"Patient","meta":{"tag":[{"code":"SUBSETTED"}]}}'
    (folder / "x.ndjson").write_bytes(subset + b"\n" + PATIENT)
    result = import_folder(workspace, folder, "a")
    assert result.resources == {"Patient": 1}
    assert result.warnings[0] == "incomplete (tagged SUBSETTED), and not landed: 1"


def test_an_undeclared_site_is_declared_once_something_landed(workspace: Workspace, folder: Path) -> None:
    (folder / "x.ndjson").write_bytes(PATIENT)
    import_folder(workspace, folder, "new_site")
    again = open_workspace(workspace.root)
    assert again.site("new_site").base_url is None
    import_folder(again, folder, "new_site")
    assert len(list_runs(workspace.landing, "new_site")) == 2


def test_nothing_to_import_changes_nothing(workspace: Workspace, folder: Path) -> None:
    settings = (workspace.root / "rwe.yaml").read_text()
    with pytest.raises(UsageError, match="no file to import"):
        import_folder(workspace, folder, "a")
    (folder / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no file to import"):
        import_folder(workspace, folder, "a")
    (folder / "package.json").write_text('{"name": "x"}')
    with pytest.raises(UsageError, match="the only file holds no FHIR resource"):
        import_folder(workspace, folder, "a")
    with pytest.raises(UsageError, match="no such folder"):
        import_folder(workspace, folder / "none", "a")
    with pytest.raises(UsageError, match="it is a file"):
        import_folder(workspace, folder / "notes.txt", "a")
    with pytest.raises(ConfigError):
        import_folder(workspace, folder, "../a")
    assert (workspace.root / "rwe.yaml").read_text() == settings
    assert list_runs(workspace.landing) == []


def test_published_examples_land_whole(workspace: Workspace) -> None:
    """HL7's and mCODE's examples: as many resources as a plain reading of their JSON finds."""
    folder = shared("fhir-samples")
    expected = 0
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_bytes())
        entries = content.get("entry", []) if content["resourceType"] == "Bundle" else [{"resource": content}]
        expected += sum("resource" in e for e in entries)
    result = import_folder(workspace, folder, "samples")
    assert sum(result.resources.values()) == expected > 385
    assert result.unreadable == 0


def test_an_export_that_was_handed_over_with_its_manifest_brings_its_deletions(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "Patient.ndjson").write_text('{"resourceType":"Patient","id":"p1"}\n')
    deletion = {"request": {"method": "DELETE", "url": "Encounter/e1"}}
    gone = {"resourceType": "Bundle", "type": "transaction", "entry": [deletion]}
    (folder / "gone.ndjson").write_text(json.dumps(gone) + "\n")
    (folder / "errors.ndjson").write_text('{"resourceType":"OperationOutcome","issue":[]}\n')
    manifest = {
        "transactionTime": "2026-03-01T02:00:00Z",
        "request": "https://fhir.example.org/$export",
        "requiresAccessToken": True,
        "output": [{"type": "Patient", "url": "https://fhir.example.org/files/Patient.ndjson"}],
        "deleted": [{"type": "Bundle", "url": "https://fhir.example.org/files/gone.ndjson"}],
        "error": [{"type": "OperationOutcome", "url": "https://fhir.example.org/files/errors.ndjson"}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    workspace = init_workspace(tmp_path / "ws", tmp_path / "key")
    run = import_folder(workspace, folder, "north").run
    assert run.resources == {"Patient": 1, "_deleted": 1}
    tombstone = json.loads(next(run.open("_deleted")))
    assert (tombstone["resourceType"], tombstone["id"]) == ("Encounter", "e1")
    assert tombstone["deletedAt"].startswith("2026-03-01T02:00:00")
    assert any("errors, not landed: 1" in w for w in run.manifest.warnings)


def test_what_an_erased_patient_would_bring_back_is_held_back_and_not_counted_as_landed(
    workspace: Workspace, folder: Path
) -> None:
    erased = open_blocklist(workspace, make=True)
    assert erased is not None
    erased.add([erased.by_id("a", "p1")])
    odd = b'{"resourceType":"Pat1ent","id":"%s","name":[{"family":"Mueller"}]}'
    other = PATIENT.replace(b"p1", b"p2")
    (folder / "x.ndjson").write_bytes(b"\n".join([PATIENT, other, odd % b"p1", odd % b"p2"]))
    failure = partly(workspace, folder)
    assert failure.result.resources == {"Patient": 1}
    assert lines(failure.result, "Patient") == [other]
    assert lines(failure.result, UNREADABLE) == [odd % b"p2"]
    assert "of patients who were erased, and not landed: 1" in failure.result.warnings
