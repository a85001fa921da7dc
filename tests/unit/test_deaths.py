"""Deaths from a registry's file: stored under pseudonyms, all or nothing, and forgotten when asked."""

from __future__ import annotations

import json
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rwe.blocklist import open_blocklist
from rwe.cli_deaths import import_deaths as import_deaths_command
from rwe.config import Encryption, Workspace
from rwe.deaths import FOLDER, HEADERS, forget, import_deaths, registered_deaths
from rwe.errors import LakeError, UsageError
from rwe.lake.pseudonyms import Pseudonymiser
from tests.integration.landed import land, new_workspace

BY_ID, BY_IDENTIFIER = (",".join(h) for h in HEADERS)
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
MRN = "http://hospital.example.org/mrn"


def registry(folder: Path, *lines: str, header: str = BY_ID) -> Path:
    path = folder / "deaths.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def rows(workspace: Workspace) -> list[tuple[str, str, date | None, str]]:
    table = registered_deaths(workspace).to_pylist()
    return sorted((r["patient_id"], r["source"], r["death_day"], r["death_precision"]) for r in table)


def pseudonym(workspace: Workspace, patient: str, site: str = "north") -> str:
    return Pseudonymiser(workspace.pseudonym_key(), site).of("Patient", patient)


def everything_below(root: Path) -> bytes:
    return b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())


def test_a_file_is_stored_under_pseudonyms_and_no_id_is_kept(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    file = registry(tmp_path, "patient-4711,2024-02-29,state", "patient-4712,2023-11,state")
    done = import_deaths(workspace, file, "north", now=NOON)
    assert (done.lines, done.patients, done.unresolved, done.replaced) == (2, 2, 0, 0)
    assert rows(workspace) == sorted(
        [
            (pseudonym(workspace, "patient-4711"), "state", date(2024, 2, 29), "day"),
            (pseudonym(workspace, "patient-4712"), "state", None, "month"),
        ]
    )
    assert b"patient-471" not in everything_below(workspace.root)
    [stored] = (workspace.root / FOLDER / "site=north").glob("import=*.parquet")
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stat.S_IMODE(stored.parent.stat().st_mode) == 0o700


def test_the_pseudonym_is_that_of_the_landed_patient(tmp_path: Path) -> None:
    """The same function of site and id as in the lake, else no death would find its patient."""
    workspace = new_workspace(tmp_path)
    import_deaths(workspace, registry(tmp_path, "p1,2024-01-01,state"), "north", now=NOON)
    assert rows(workspace)[0][0] == pseudonym(workspace, "p1")
    assert rows(workspace)[0][0] != pseudonym(workspace, "p1", "south")


def test_an_identifier_is_looked_up_in_the_landed_patients_and_not_kept(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    for patient, number in (("p1", "MRN-0815"), ("p2", "MRN-0816"), ("p1-twin", "MRN-0815")):
        identifier = [{"system": MRN, "value": number}, {"value": "without a system"}]
        land(workspace, "north", {"resourceType": "Patient", "id": patient, "identifier": identifier})
    file = registry(
        tmp_path,
        f"{MRN},MRN-0815,2024-01-01,state",
        f"{MRN},MRN-9999,2024-01-02,state",
        "http://other.example.org,MRN-0816,2024-01-03,state",
        header=BY_IDENTIFIER,
    )
    done = import_deaths(workspace, file, "north", now=NOON)
    assert (done.lines, done.patients, done.unresolved) == (3, 2, 2)
    assert {r[0] for r in rows(workspace)} == {pseudonym(workspace, "p1"), pseudonym(workspace, "p1-twin")}
    assert b"MRN" not in everything_below(workspace.root / FOLDER)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("p1,29.02.2024,state", "no date"),
        ("p1,2023-02-29,state", "no date"),
        ("p1,,state", "no date"),
        ("p 1,2024-01-01,state", "no id"),
        (",2024-01-01,state", "no id"),
        ("p1,2024-01-01,the state of", "no name"),
        ("p1,2024-01-01", "number of columns"),
        ("p1,2024-01-01,state,x", "number of columns"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_never_by_its_content_and_nothing_is_stored(
    line: str, problem: str, tmp_path: Path
) -> None:
    workspace = new_workspace(tmp_path)
    with pytest.raises(UsageError, match=problem) as caught:
        import_deaths(workspace, registry(tmp_path, "p0,2024-01-01,state", line), "north")
    assert "deaths.csv, line 3" in str(caught.value)
    assert "p1" not in str(caught.value)
    assert rows(workspace) == []


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    with pytest.raises(UsageError, match="header"):
        import_deaths(workspace, registry(tmp_path, "p1,2024-01-01", header="id,death"), "north")
    with pytest.raises(UsageError, match="not readable"):
        import_deaths(workspace, tmp_path / "missing.csv", "north")
    with pytest.raises(UsageError, match="name of a site"):
        import_deaths(workspace, registry(tmp_path), "../north")


def test_with_replace_a_source_says_only_what_its_new_file_says(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    import_deaths(
        workspace, registry(tmp_path, "p1,2024-01-01,state", "p2,2024-01-01,church"), "north", now=NOON
    )
    later = NOON + timedelta(days=1)
    import_deaths(workspace, registry(tmp_path, "p3,2024-01-03,state"), "north", now=later)
    assert len(rows(workspace)) == 3
    done = import_deaths(
        workspace, registry(tmp_path, "p4,2024-01-04,state"), "north", replace=True, now=later
    )
    assert done.replaced == 2
    assert {r[0] for r in rows(workspace)} == {pseudonym(workspace, "p2"), pseudonym(workspace, "p4")}


def test_the_forgotten_are_in_no_file(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    for day in (1, 2):
        file = registry(tmp_path, f"p1,2024-01-0{day},state", f"p2,2024-01-0{day},state")
        import_deaths(workspace, file, "north", now=NOON + timedelta(days=day))
    gone = pseudonym(workspace, "p1")
    assert forget(workspace, "north", {gone}) == 2
    assert {r[0] for r in rows(workspace)} == {pseudonym(workspace, "p2")}
    assert forget(workspace, "north", {gone}) == 0
    assert forget(workspace, "nowhere", {gone}) == 0


def test_whoever_was_erased_is_not_brought_back(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    erased = open_blocklist(workspace, make=True)
    assert erased is not None
    erased.add([erased.by_id("north", "p1"), erased.by_pseudonym(pseudonym(workspace, "p2"))])
    file = registry(tmp_path, *(f"p{n},2024-01-01,state" for n in (1, 2, 3)))
    assert import_deaths(workspace, file, "north", now=NOON).patients == 1
    assert {r[0] for r in rows(workspace)} == {pseudonym(workspace, "p3")}


def test_where_the_lake_is_encrypted_the_registry_is_too(tmp_path: Path) -> None:
    plain = new_workspace(tmp_path)
    key = tmp_path / "encryption.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    encryption = Encryption(key_file=key)
    workspace = Workspace(plain.root, plain.settings.model_copy(update={"encryption": encryption}))
    import_deaths(workspace, registry(tmp_path, "p1,2024-01-01,registry-of-state"), "north", now=NOON)
    assert [r[1] for r in rows(workspace)] == ["registry-of-state"]
    [stored] = (workspace.root / FOLDER / "site=north").glob("import=*")
    assert stored.name.endswith(".parquet.enc")
    assert b"registry-of-state" not in stored.read_bytes()
    with pytest.raises(LakeError, match="encrypted"):
        registered_deaths(plain)


def test_the_command_brings_in_and_says_so_in_the_audit_log_without_an_id(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command("import-deaths")(import_deaths_command)
    workspace = new_workspace(tmp_path)
    file = registry(tmp_path, "p-4711,2024-01-01,state", "p-4712,2024-01,state")
    root = ["-w", str(workspace.root), "--site", "north"]
    done = CliRunner().invoke(app, [str(file), *root, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {
        "site": "north",
        "lines": 2,
        "patients": 2,
        "unresolved": 0,
        "replaced": 0,
    }
    assert "2 patients" in CliRunner().invoke(app, [str(file), *root, "--replace"]).output
    logged = (workspace.root / "audit.ndjson").read_text()
    assert logged.count('"import-deaths"') == 2
    assert "p-47" not in logged


def test_a_damaged_file_is_named_and_no_death_is_lost_in_silence(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    import_deaths(workspace, registry(tmp_path, "p1,2024-01-01,state"), "north", now=NOON)
    [stored] = (workspace.root / FOLDER / "site=north").glob("import=*")
    stored.write_bytes(b"PAR1 and no more")
    with pytest.raises(LakeError, match="cannot be read"):
        registered_deaths(workspace)
