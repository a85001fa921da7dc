"""What is kept out of the lake: keyless hashes, sentences in coded fields, what is not to be used."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.config import Workspace, add_site, open_workspace
from rwe.errors import LakeError
from rwe.lake.connection import open_duckdb
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.lake.rows import RejectedError
from rwe.lake.validate import minimal, refuse_repeated_keys
from rwe.lake.write import TypeCounts, update_lake
from rwe.warehouse import lake_views
from tests.integration.landed import land, land_lines, new_workspace

SENTENCE = "for Jane Doe of Elm Street"
UCUM = "http://unitsofmeasure.org"
SUBJECT = {"subject": {"reference": "Patient/p1"}}
ATC = {"coding": [{"system": "http://www.whocc.no/atc", "code": "L04AX04"}]}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Without the sample that fhir.resources looks at: which ones it is depends on the key."""
    made = new_workspace(tmp_path)
    return Workspace(made.root, made.settings.model_copy(update={"validation": "off"}))


def of(resource_type: str, **fields: Any) -> dict[str, Any]:
    return {"resourceType": resource_type, "id": "r1", **fields}


def lake(workspace: Workspace, query: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect()) as db:
        lake_views.create(db, workspace.lake, workspace.quarantine)
        return db.execute(query).fetchall()


def findings(workspace: Workspace) -> list[tuple[str, str, str]]:
    return lake(workspace, "select action, rule, json_path from lake.quarantine order by all")


def bring_in(workspace: Workspace, resource: dict[str, Any]) -> list[tuple[str, str, str]]:
    land(workspace, "north", resource)
    update_lake(workspace)
    return findings(workspace)


def test_the_hash_of_a_record_tells_nothing_that_its_row_does_not(workspace: Workspace) -> None:
    """It could else be used to try all likely names and ids."""
    records = [of("Patient", gender="female", name=[{"family": name}]) for name in ("Doe", "Roe")]
    records.append(of("Patient", gender="male", name=[{"family": "Doe"}]))
    for record in records:
        land(workspace, "north", record)
    update_lake(workspace)
    stored = str(workspace.lake / "Patient" / "*" / "*.parquet")
    with closing(duckdb.connect()) as db:
        found = db.execute(
            "select gender, content_hash from read_parquet(?) order by run", [stored]
        ).fetchall()
    # the second says nothing new, so it was not stored
    assert sorted(gender for gender, _ in found) == ["female", "male"]
    assert len({digest for _, digest in found}) == 2
    for record in records:
        plain = hashlib.sha256(json.dumps(record).encode()).hexdigest()
        assert all(digest not in plain for _, digest in found)


def old_marker(workspace: Workspace) -> None:
    [marker] = workspace.lake.glob("_runs/site=north/*.json")
    content = json.loads(marker.read_bytes())
    version, _, rest = content["fingerprint"].partition("|")
    marker.write_text(json.dumps(content | {"fingerprint": f"{int(version) - 1}|{rest}"}))


def test_a_lake_of_an_older_version_is_made_anew_from_what_landed(workspace: Workspace) -> None:
    land(workspace, "north", of("Patient"))
    update_lake(workspace)
    old_marker(workspace)
    assert len(update_lake(workspace).added) == 1
    assert update_lake(workspace).added == ()


def test_a_lake_of_an_older_version_is_refused_if_nothing_landed_is_left(workspace: Workspace) -> None:
    run = land(workspace, "north", of("Patient"))
    update_lake(workspace)
    old_marker(workspace)
    (run.path / "manifest.json").unlink()
    (run.path / "Patient.ndjson.zst").unlink()
    run.path.rmdir()
    with pytest.raises(LakeError, match="landed runs are gone"):
        update_lake(workspace)


def coded(code: str) -> dict[str, Any]:
    return {"coding": [{"code": code}]}


@pytest.mark.parametrize(
    ("resource_type", "fields", "table", "column", "json_path"),
    [
        ("Patient", {"gender": SENTENCE}, "patient", "gender", "$.gender"),
        ("Observation", SUBJECT | {"status": SENTENCE}, "observation", "status", "$.status"),
        ("Procedure", SUBJECT | {"status": "Completed"}, "procedure", "status", "$.status"),
        ("Encounter", SUBJECT | {"class": {"code": SENTENCE}}, "encounter", "class_code", "$.class.code"),
        (
            "Condition",
            SUBJECT | {"clinicalStatus": coded(SENTENCE)},
            "condition",
            "clinical_status",
            "$.clinicalStatus.coding",
        ),
        (
            "Condition",
            SUBJECT | {"verificationStatus": coded(SENTENCE)},
            "condition",
            "verification_status",
            "$.verificationStatus.coding",
        ),
        ("MedicationRequest", SUBJECT | {"intent": SENTENCE}, "medication_request", "intent", "$.intent"),
        ("MedicationRequest", SUBJECT | {"status": "not-done"}, "medication_request", "status", "$.status"),
        ("MedicationDispense", SUBJECT | {"status": SENTENCE}, "medication_dispense", "status", "$.status"),
        ("MedicationStatement", SUBJECT | {"status": "draft"}, "medication_statement", "status", "$.status"),
        ("Medication", {"status": SENTENCE}, "medication", "status", "$.status"),
    ],
)
def test_a_coded_field_holds_a_code_of_r4_or_nothing(
    resource_type: str, fields: dict[str, Any], table: str, column: str, json_path: str, workspace: Workspace
) -> None:
    found = bring_in(workspace, of(resource_type, **fields))
    assert lake(workspace, f"select {column} from lake.{table}") == [(None,)]
    assert found == [("flag", "unknown_code", json_path)]


def test_a_code_of_the_hospital_beside_that_of_r4_is_passed_over(workspace: Workspace) -> None:
    both = {"coding": [{"system": "urn:local", "code": "X7"}, {"code": "refuted"}]}
    assert bring_in(workspace, of("Condition", **SUBJECT, verificationStatus=both)) == []
    assert lake(workspace, "select verification_status from lake.condition") == [("refuted",)]


def test_a_consent_to_something_else_does_not_become_one_without_a_scope(workspace: Workspace) -> None:
    who = {"patient": {"reference": "Patient/p1"}, "status": "active"}
    found = bring_in(workspace, of("Consent", **who, scope=coded("newsletter")))
    assert lake(workspace, "select scope_code from lake.consent") == [("other",)]
    assert found == [("flag", "unknown_code", "$.scope.coding")]


@pytest.mark.parametrize(
    ("quantity", "unit", "is_flagged"),
    [
        ({"unit": "mg/dl", "system": UCUM, "code": "mg/dL"}, "mg/dL", False),
        ({"system": UCUM, "code": "10*3/uL"}, "10*3/uL", False),
        ({"unit": "10^9/L"}, "10^9/L", False),
        ({"unit": "µmol/l"}, "µmol/l", False),
        ({"unit": "U/L", "system": "urn:local", "code": "4711"}, "U/L", False),
        ({"unit": "U/L", "system": UCUM, "code": SENTENCE}, "U/L", False),
        ({"unit": SENTENCE, "system": UCUM, "code": "U/L"}, "U/L", False),
        ({"unit": SENTENCE}, None, True),
        ({"unit": "x" * 21}, None, True),
        ({"system": "urn:local", "code": "4711"}, None, True),
        ({}, None, False),
    ],
)
def test_a_unit_is_a_code_of_ucum_or_one_short_word(
    quantity: dict[str, str], unit: str | None, is_flagged: bool, workspace: Workspace
) -> None:
    found = bring_in(workspace, of("Observation", **SUBJECT, valueQuantity={"value": 7.1, **quantity}))
    query = "select value_number, coalesce(value_unit_code, value_unit) from lake.observation"
    assert lake(workspace, query) == [(7.1, unit)]
    assert found == ([("flag", "unit_shape", "$.valueQuantity")] if is_flagged else [])


def test_a_bound_that_is_not_understood_is_no_number(workspace: Workspace) -> None:
    found = bring_in(
        workspace, of("Observation", **SUBJECT, valueQuantity={"value": 5, "comparator": "below"})
    )
    assert lake(workspace, "select value_number, value_comparator from lake.observation") == [(None, None)]
    assert found == [("flag", "unknown_code", "$.valueQuantity.comparator")]


@pytest.mark.parametrize(
    ("system", "code", "kept", "rules"),
    [
        ("http://loinc.org", "2532-0", ("http://loinc.org", "2532-0"), []),
        ("urn:oid:1.2.276.0.76.5", "WBC COUNT", ("urn:oid:1.2.276.0.76.5", "WBC COUNT"), []),
        ("urn:local", "two  blanks", ("urn:local", None), ["code_shape"]),
        ("urn:local", " x", ("urn:local", None), ["code_shape"]),
        ("urn:local", "a\nb", ("urn:local", None), ["code_shape"]),
        ("urn:local", "x" * 65, ("urn:local", None), ["code_shape"]),
        ("of Jane Doe", "x", (None, "x"), ["system_shape"]),
        ("urn:of Jane Doe", "x", (None, "x"), ["system_shape"]),
        ("urn:" + "x" * 253, "x", (None, "x"), ["system_shape"]),
        ("", "", (None, None), ["code_shape", "system_shape"]),
    ],
)
def test_a_code_and_its_system_have_the_shape_of_one(
    system: str, code: str, kept: tuple[str | None, str | None], rules: list[str], workspace: Workspace
) -> None:
    coding = {"system": system, "code": code, "display": SENTENCE}
    found = bring_in(workspace, of("Observation", **SUBJECT, code={"coding": [coding, coding]}))
    [(codings,)] = lake(workspace, "select codings from lake.observation")
    assert [(c["system"], c["code"]) for c in codings] == [kept, kept]
    assert [rule for _, rule, _ in found] == rules


MEDICATED = SUBJECT | {"status": "completed"}
INNER = {"resourceType": "Medication", "id": "m", "code": ATC}
POINTER = MEDICATED | {"medicationReference": {"reference": "#m"}}
MODIFIED = {"modifierExtension": [{"url": "http://example.org/not"}]}


@pytest.mark.parametrize(
    ("resource_type", "fields", "rule", "json_path"),
    [
        ("Patient", {"meta": {"tag": [{"code": "HTEST"}]}}, "test_data", "$.meta.tag"),
        ("Patient", {"implicitRules": "http://example.org/rules"}, "implicit_rules", "$.implicitRules"),
        (
            "MedicationAdministration",
            MEDICATED | {"medicationCodeableConcept": ATC, "dosage": MODIFIED},
            "modifier_extension",
            "$.dosage.modifierExtension",
        ),
        (
            "MedicationStatement",
            POINTER | {"contained": [INNER | MODIFIED]},
            "modifier_extension",
            "$.contained[0].modifierExtension",
        ),
        (
            "MedicationRequest",
            POINTER | {"contained": [{"id": "x"}, INNER | {"implicitRules": "urn:x"}]},
            "implicit_rules",
            "$.contained[1].implicitRules",
        ),
        (
            "Patient",
            {"link": [{"other": {"reference": "Patient/2"}, "type": "replaced-by"} | MODIFIED]},
            "modifier_extension",
            "$.link[0].modifierExtension",
        ),
        (
            "Consent",
            {"patient": {"reference": "Patient/p1"}, "provision": {"type": "permit"} | MODIFIED},
            "modifier_extension",
            "$.provision.modifierExtension",
        ),
    ],
)
def test_what_says_not_to_be_used_is_refused_and_retires_what_was_there(
    resource_type: str, fields: dict[str, Any], rule: str, json_path: str, workspace: Workspace
) -> None:
    plain = {k: v for k, v in fields.items() if k in {"patient", "subject"}}
    land(workspace, "north", of(resource_type, **plain))
    update_lake(workspace)
    table = lake_views.table_name(resource_type)
    assert lake(workspace, f"select count(*) from lake.{table}") == [(1,)]
    assert bring_in(workspace, of(resource_type, **fields)) == [("reject", rule, json_path)]
    assert lake(workspace, f"select count(*) from lake.{table}") == [(0,)]


@pytest.mark.parametrize(
    ("line", "json_path"),
    [
        ('{"resourceType":"Patient","id":"1","meta":{"tag":[{"code":"HTEST"}]},"meta":{}}', "$.meta"),
        ('{"resourceType":"Patient","id":"1","meta":{"tag":[{"code":"HTEST"}]}, "m\\u0065ta":{}}', "$.meta"),
        ('{"resourceType":"Patient","id":"1","meta":{"tag":[{"code":"HTEST"}],"tag":[]}}', "$.meta.tag"),
        ('{"resourceType":"Patient","id":"1","id":"2"}', "$.id"),
        ('{"resourceType":"Patient","id":"1","gender":"male","gender":"female"}', "$.gender"),
        (
            '{"resourceType":"Patient","id":"1","modifierExtension":[{"url":"x"}],"modifierExtension":[]}',
            "$.modifierExtension",
        ),
    ],
)
def test_a_key_that_decides_and_stands_twice_is_refused(
    line: str, json_path: str, workspace: Workspace
) -> None:
    land_lines(workspace, "north", [("Patient", line.encode())])
    update_lake(workspace)
    assert findings(workspace) == [("reject", "repeated_key", json_path)]


@pytest.mark.parametrize(
    "line",
    [
        '{"resourceType":"Patient","id":"1","text":{"status":"empty"},"contact":[{"id":"1","meta":1}]}',
        '{"resourceType":"Patient","id":"1","photo":[],"photo":[]}',
        '{"resourceType":"Patient","id":"1","nam\\u0065":[{"family":"\\u00e4\\ud83d\\ude00"}]}',
    ],
)
def test_keys_of_parts_and_keys_that_nobody_reads_may_repeat(line: str, workspace: Workspace) -> None:
    land_lines(workspace, "north", [("Patient", line.encode())])
    assert update_lake(workspace).added[0].types["Patient"] == TypeCounts(landed=1, stored=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text() | st.just("meta"), JSON, max_size=6), st.booleans())
def test_no_object_without_repeated_keys_is_refused_and_each_with_one_is(
    members: dict[str, Any], ascii_only: bool
) -> None:
    line = minimal(json.dumps(members, ensure_ascii=ascii_only).encode())
    refuse_repeated_keys(line, "Patient")
    doubled = b'{"gender":1,"gender":2' + (b"," + line[1:] if members else b"}")
    with pytest.raises(RejectedError):
        refuse_repeated_keys(doubled, "Patient")


KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("reference", "is_own"),
    [
        ("Patient/1", True),
        ("/Patient/1", True),
        ("urn:uuid:1", True),
        ("https://fhir.example.org/r4/Patient/1", True),
        ("https://FHIR.example.org/r4/Patient/1/_history/2", True),
        ("http://fhir.example.org/r4/Patient/1", True),
        ("https://fhir.example.org/R4/Patient/1", False),
        ("https://fhir.example.org/r4/other/Patient/1", False),
        ("https://fhir.example.org/Patient/1", False),
        ("https://fhir.example.org.evil.example/r4/Patient/1", False),
        ("https://evil.example/https://fhir.example.org/r4/Patient/1", False),
        ("https://fhir.example.org@evil.example/r4/Patient/1", False),
    ],
)
def test_an_absolute_reference_is_to_a_patient_of_the_site_if_it_begins_with_its_address(
    reference: str, is_own: bool
) -> None:
    of_server = Pseudonymiser(KEY, "north", "https://fhir.example.org/r4")
    assert (of_server.of_reference(reference, "Patient") == of_server.of("Patient", "1")) == is_own
    handed_over = Pseudonymiser(KEY, "north")
    assert handed_over.of_reference(reference, "Patient") == of_server.of("Patient", "1")


def test_a_record_about_a_patient_of_another_server_is_refused(workspace: Workspace) -> None:
    add_site(workspace, "north", {"base_url": "https://fhir.example.org/r4"})
    workspace = open_workspace(workspace.root)
    elsewhere = {"subject": {"reference": "https://other.example.org/r4/Patient/p1"}}
    found = bring_in(workspace, of("Procedure", status="completed", **elsewhere))
    assert found == [("reject", "subject_of_other_server", "$.subject.reference")]


def test_a_path_names_fields_of_fhir_and_never_a_key_of_the_record(workspace: Workspace) -> None:
    strict = Workspace(workspace.root, workspace.settings.model_copy(update={"validation": "strict"}))
    found = bring_in(strict, of("Patient", JaneDoe=1))
    assert found == [("reject", "fhir_invalid", "$.?")]
    found = bring_in(strict, of("Patient", contact=[{"name": {"Jane": {"Doe": 1}}}]))
    assert ("reject", "fhir_invalid", "$.contact[0].name.?") in found
    # `value` is a field of FHIR, but not of a HumanName
    found = bring_in(strict, of("Patient", name=[{"value": 1}]))
    assert ("reject", "fhir_invalid", "$.name[0].?") in found


def test_types_that_r4_does_not_know_are_counted_under_one_name(workspace: Workspace) -> None:
    lines = [("JaneDoe", b"{}"), ("ElmStreet", b"{}"), ("ElmStreet", b"{}"), ("Group", b"{}")]
    land_lines(workspace, "north", lines)
    assert update_lake(workspace).added[0].types == {
        "_unknown": TypeCounts(landed=3, not_mapped=3),
        "Group": TypeCounts(landed=1, not_mapped=1),
    }
    assert not any(b"Jane" in p.read_bytes() for p in workspace.lake.rglob("*") if p.is_file())


def test_duckdb_spills_into_a_private_folder_and_fetches_nothing(tmp_path: Path) -> None:
    names = ("temp_directory", "autoinstall_known_extensions", "autoload_known_extensions")
    with open_duckdb(tmp_path) as connection:
        query = ", ".join(f"current_setting('{name}')" for name in names)
        folder, *fetches = connection.execute(f"select {query}").fetchone() or ()
        assert Path(folder).is_relative_to(tmp_path)
        assert fetches == [False, False]
        connection.execute("set memory_limit = '20MB'")
        connection.execute(
            "create table t as select range as i, repeat('x', 100) || range as s from range(400000)"
        )
        assert list(Path(folder).iterdir())
