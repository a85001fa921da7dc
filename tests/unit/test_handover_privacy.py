"""Names that a hospital gave to files, suffixes and types never reach a message or a manifest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rwe.config import Workspace, init_workspace, open_workspace
from rwe.errors import ConfigError
from rwe.handover import find_files
from rwe.intake import PartlyImportedError, import_folder
from rwe.landing import UNREADABLE
from rwe.resource_types import R4_RESOURCE_TYPES

PATIENT = b'{"resourceType":"Patient","id":"p1","birthDate":"1950"}'
SECRET = "Zebedee_Quill"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "ws", tmp_path / "keys" / "key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def partly(workspace: Workspace, folder: Path) -> PartlyImportedError:
    with pytest.raises(PartlyImportedError) as caught:
        import_folder(workspace, folder, "a")
    return caught.value


def test_files_named_after_patients_are_told_by_number(workspace: Workspace, folder: Path) -> None:
    """Synthea names each file after its patient."""
    (folder / SECRET).mkdir()
    (folder / SECRET / f"{SECRET}_1.ndjson").write_bytes(PATIENT + b"\n{nope\n")
    (folder / SECRET / f"{SECRET}_2.json.gz").write_bytes(b"no gzip")
    (folder / f"scan.{SECRET}").write_bytes(b"")
    (folder / f".{SECRET}.ndjson").write_bytes(b"")
    error = partly(workspace, folder)
    manifest = (error.result.run.path / "manifest.json").read_text()
    for text in (str(error), manifest, *error.result.warnings):
        assert SECRET.lower() not in text.lower()
    assert "file 2 of 4 (.ndjson), line 2" in str(error)
    assert "file 3 of 4 (.json.gz): the compressed data is damaged" in manifest
    assert error.result.warnings[0] == "passed over, being of another kind: 1 .ndjson, 1 other"


def test_numbers_are_places_in_the_listing_that_messages_name(folder: Path, tmp_path: Path) -> None:
    names = [
        "b.ndjson",
        "B.json",
        "a/z.ndjson.gz",
        "a.json",
        "a b.json",
        "ä.ndjson",
        ".h.json",
        "n.txt",
        "a/b.csv",
    ]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "link.json").symlink_to(folder / "b.ndjson")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "dir.ndjson").symlink_to(tmp_path)
    command = f"find {folder}/ ! -type d | LC_ALL=C sort"
    listed = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = find_files(folder)
    assert found.total == len(listed) == len(names) + 3
    assert len(found.files) == 7
    for file in found.files:
        assert Path(listed[file.number - 1]) == file.path
    assert sum(found.others.values()) + len(found.files) == found.total


def test_a_type_that_r4_does_not_have_lands_as_unreadable(workspace: Workspace, folder: Path) -> None:
    invented = [b'{"resourceType":"Zebedee%s"}' % bytes([65 + i // 26, 65 + i % 26]) for i in range(600)]
    newer = b'{"resourceType":"SubscriptionTopic"}'
    lower = b'{"resourceType":"patient"}'
    entry = b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"ZebedeeX"}},{"resource":'
    (folder / "x.ndjson").write_bytes(b"\n".join([*invented, newer, lower, entry + PATIENT + b"}]}"]))
    error = partly(workspace, folder)
    run = error.result.run
    assert run.resources == {"Patient": 1, UNREADABLE: 603}
    assert list(run.open(UNREADABLE)) == [*invented, newer, lower, b'{"resourceType":"ZebedeeX"}']
    assert "Zebedee" not in str(error) + (run.path / "manifest.json").read_text()
    assert "file 1 of 1 (.ndjson), line 1: of no type that R4 has" in str(error)
    assert sorted(p.name for p in run.path.iterdir()) == [
        "Patient.ndjson.zst", "_unreadable.ndjson.zst", "manifest.json",
    ]  # fmt: skip


def test_r4_has_146_types_that_can_be_exchanged() -> None:
    """The code system has 148; Resource and DomainResource are abstract."""
    assert len(R4_RESOURCE_TYPES) == 146
    assert {"MedicinalProduct", "EffectEvidenceSynthesis", "List", "Parameters"} <= R4_RESOURCE_TYPES
    assert (
        not {"Resource", "DomainResource", "Citation", "NutritionProduct", "Ingredient"} & R4_RESOURCE_TYPES
    )


@pytest.mark.parametrize("content", ['{"name": "x"}', '{\n "name": "x",\n "list": [\n{}\n]\n}\n'])
def test_json_of_another_kind_is_passed_over_and_counted(
    workspace: Workspace, folder: Path, content: str
) -> None:
    (folder / "package.json").write_text(content)
    (folder / "x.json").write_bytes(PATIENT)
    result = import_folder(workspace, folder, "a")
    assert result.run.resources == {"Patient": 1}
    assert "passed over, being JSON but no FHIR: 1" in result.warnings


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.ndjson", b'{"name":"x"}'),  # in NDJSON every line is meant to be a resource
        ("x.json", b'{"name":"x"}\n' + PATIENT),
        ("x.json", b'[{"name":"x"}]'),
        ("x.json", b'{"resourceType":null}'),
        ("x.json", b'{"name":"x"'),
    ],
)
def test_what_should_have_been_a_resource_is_not_passed_over(
    workspace: Workspace, folder: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    (folder / "y.ndjson").write_bytes(PATIENT)
    assert partly(workspace, folder).result.unreadable == 1


def test_a_new_site_is_declared_with_its_time_zone(workspace: Workspace, folder: Path) -> None:
    (folder / "x.ndjson").write_bytes(PATIENT)
    result = import_folder(workspace, folder, "berlin", time_zone="Europe/Berlin")
    assert result.warnings == ()
    assert result.run.manifest.time_zone == "Europe/Berlin"
    again = open_workspace(workspace.root)
    assert again.site("berlin").time_zone == "Europe/Berlin"
    import_folder(again, folder, "berlin", time_zone="Europe/Berlin")
    with pytest.raises(ConfigError, match="declared with time_zone Europe/Berlin"):
        import_folder(again, folder, "berlin", time_zone="Europe/Paris")


def test_a_new_site_without_a_time_zone_is_told_so_once(workspace: Workspace, folder: Path) -> None:
    (folder / "x.ndjson").write_bytes(PATIENT)
    said = import_folder(workspace, folder, "north").warnings
    assert said == (
        "site north is declared with time_zone UTC;"
        " set time_zone in rwe.yaml if its records hold instants in Z",
    )
    assert import_folder(open_workspace(workspace.root), folder, "north").warnings == ()


def test_an_impossible_time_zone_changes_nothing(workspace: Workspace, folder: Path) -> None:
    (folder / "x.ndjson").write_bytes(PATIENT)
    text = (workspace.root / "rwe.yaml").read_text()
    with pytest.raises(ConfigError, match="no IANA time zone"):
        import_folder(workspace, folder, "north", time_zone="Berlin")
    assert (workspace.root / "rwe.yaml").read_text() == text
    assert not list(workspace.landing.glob("*/run=*"))
