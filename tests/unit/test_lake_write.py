"""Landed lines in the lake: which enter, which version counts, what is refused and why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rwe.config import Workspace
from rwe.errors import LakeError, LandingError
from rwe.lake import write
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.lake.write import LakeResult, TypeCounts, update_lake
from rwe.warehouse import lake_views
from tests.integration.landed import land, land_lines, new_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_workspace(tmp_path)


def with_settings(workspace: Workspace, **changes: Any) -> Workspace:
    return Workspace(workspace.root, workspace.settings.model_copy(update=changes))


def patient(identity: str = "p1", **fields: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": identity, "gender": "female", **fields}


def infusion(identity: str = "i1", **fields: Any) -> dict[str, Any]:
    return {
        "resourceType": "MedicationAdministration",
        "id": identity,
        "status": "completed",
        "subject": {"reference": "Patient/p1"},
        "medicationCodeableConcept": {"coding": [{"system": "http://www.whocc.no/atc", "code": "L01XL03"}]},
        "effectiveDateTime": "2020-01-01",
        **fields,
    }


def meta(version: str | None = None, updated: str | None = None, **fields: Any) -> dict[str, Any]:
    known = {"versionId": version, "lastUpdated": updated}
    return {k: v for k, v in known.items() if v} | fields


def counts(result: LakeResult, resource_type: str) -> list[TypeCounts]:
    return [r.types[resource_type] for r in result.added]


def lake(workspace: Workspace, query: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect()) as db:
        lake_views.create(db, workspace.lake, workspace.quarantine)
        return db.execute(query).fetchall()


def refused(workspace: Workspace) -> list[tuple[str, str]]:
    return lake(workspace, "select rule, json_path from lake.quarantine where action = 'reject' order by all")


def genders(workspace: Workspace) -> Sequence[str]:
    return [g for (g,) in lake(workspace, "select gender from lake.patient")]


def test_a_run_is_brought_in_once(workspace: Workspace) -> None:
    land(workspace, "north", patient(), infusion(), {"resourceType": "Group", "id": "g"})
    first = update_lake(workspace)
    assert counts(first, "Patient") == [TypeCounts(landed=1, stored=1)]
    assert counts(first, "Group") == [TypeCounts(landed=1, not_mapped=1)]
    assert update_lake(workspace).added == ()
    assert len(lake(workspace, "select * from lake.medication_administration")) == 1


def test_what_is_served_again_unchanged_is_a_duplicate_however_it_is_printed(workspace: Workspace) -> None:
    line = json.dumps(patient(meta=meta("1", "2020-01-01T00:00:00Z")))
    land_lines(workspace, "north", [("Patient", line.encode())])
    land_lines(workspace, "north", [("Patient", line.replace(" ", "").encode()), ("Patient", line.encode())])
    assert counts(update_lake(workspace), "Patient") == [
        TypeCounts(landed=1, stored=1),
        TypeCounts(landed=2, duplicate=2),
    ]


def test_a_value_that_goes_back_and_forth_without_versions_ends_as_served_last(workspace: Workspace) -> None:
    for gender in ("female", "male", "female"):
        land(workspace, "north", patient(gender=gender))
        update_lake(workspace)
    assert genders(workspace) == ["female"]
    assert lake(workspace, f"select count(*) from read_parquet('{workspace.lake}/Patient/*/*.parquet')") == [
        (3,)
    ]


def test_runs_brought_in_together_give_the_same_as_one_by_one(workspace: Workspace) -> None:
    for gender in ("female", "male", "female"):
        land(workspace, "north", patient(gender=gender))
    assert counts(update_lake(workspace), "Patient") == [TypeCounts(landed=1, stored=1)] * 3
    assert genders(workspace) == ["female"]


def test_the_version_updated_last_counts_whenever_it_arrives(workspace: Workspace) -> None:
    land(workspace, "north", patient(gender="male", meta=meta("2", "2020-02-01T00:00:00Z")))
    land(workspace, "north", patient(gender="female", meta=meta("1", "2020-01-01T00:00:00Z")))
    assert counts(update_lake(workspace), "Patient")[1] == TypeCounts(landed=1, stored=1)
    assert genders(workspace) == ["male"]


def test_moments_are_compared_as_moments_not_as_text(workspace: Workspace) -> None:
    land(
        workspace,
        "north",
        patient(gender="male", meta=meta(updated="2020-01-01T20:00:00-05:00")),
        patient(gender="female", meta=meta(updated="2020-01-02T00:30:00Z")),
    )
    update_lake(workspace)
    assert genders(workspace) == ["male"]


def test_of_versions_updated_at_one_moment_the_highest_number_counts(workspace: Workspace) -> None:
    same = "2020-01-01T00:00:00Z"
    land(
        workspace,
        "north",
        patient(gender="male", meta=meta("10", same)),
        patient(gender="female", meta=meta("9", same)),
    )
    update_lake(workspace)
    assert genders(workspace) == ["male"]


def test_of_equal_versions_in_one_run_the_last_line_counts(workspace: Workspace) -> None:
    land(workspace, "north", patient(gender="male"), patient(gender="female"))
    update_lake(workspace)
    assert genders(workspace) == ["female"]


def test_two_sites_may_use_the_same_id_for_two_patients(workspace: Workspace) -> None:
    land(workspace, "north", patient(gender="male"))
    land(workspace, "south", patient(gender="female"))
    update_lake(workspace)
    assert sorted(genders(workspace)) == ["female", "male"]


def test_no_id_name_or_identifier_enters_the_lake_or_the_quarantine(workspace: Workspace) -> None:
    secret = "zq7secret"
    land(
        workspace,
        "north",
        patient(
            secret,
            name=[{"family": secret}],
            identifier=[{"value": secret}],
            address=[{"city": secret}],
            text={"status": "generated", "div": f"<div>{secret}</div>"},
            meta=meta(source=f"urn:{secret}"),
        ),
        infusion(
            f"{secret}-1",
            subject={"reference": f"Patient/{secret}", "display": secret},
            note=[{"text": secret}],
            context={"reference": f"Encounter/{secret}"},
        ),
        infusion(f"{secret}-2", subject={"reference": f"Group/{secret}"}),
        infusion(f"{secret}-3", effectiveDateTime=secret),
        infusion(f"{secret}-4", status={"text": secret}),
        {
            "resourceType": "Observation",
            "id": f"{secret}-5",
            "subject": {"reference": f"https://h.example.org/Patient/{secret}"},
            "valueString": secret,
            "valueCodeableConcept": {"text": secret},
        },
    )
    update_lake(workspace)
    tables = [p for folder in (workspace.lake, workspace.quarantine) for p in folder.rglob("*.parquet")]
    assert len(tables) == 4
    for path in tables:
        with closing(duckdb.connect()) as db:
            rows = db.execute("select * from read_parquet(?)", [str(path)]).fetchall()
        assert rows
        assert secret not in repr(rows)
        assert secret.encode() not in path.read_bytes()
    assert lake(workspace, "select patient_id from lake.observation") == [
        (Pseudonymiser(workspace.pseudonym_key(), "north").of("Patient", secret),)
    ]


@pytest.mark.parametrize(
    ("line", "rule", "json_path"),
    [
        (b'{"resourceType":"Patient","id":"p1"', "not_json", "$"),
        (b"\xff\xfe", "not_json", "$"),
        (b'{"resourceType":"Patient","id":"p1","gender":"\xff"}', "not_json", "$"),
        (b'{"resourceType":"Patient","id":"p1","gender":{"x":1}}', "wrong_type", "$.gender"),
        (b'{"resourceType":"Patient","id":"p1","deceasedBoolean":"yes"}', "wrong_type", "$.deceasedBoolean"),
        (b'{"resourceType":"Patient","id":7}', "wrong_type", "$.id"),
        (b"[1]", "wrong_type", "$"),
        (b'{"resourceType":"Group","id":"p1"}', "resource_type", "$.resourceType"),
        (b'{"resourceType":"Patient"}', "id_shape", "$.id"),
        (b'{"resourceType":"Patient","id":"a/b"}', "id_shape", "$.id"),
        (b'{"resourceType":"Patient","id":"p1","birthDate":"1.5.1960"}', "date_shape", "$.birthDate"),
        (
            b'{"resourceType":"Patient","id":"p1","meta":{"tag":[{"code":"SUBSETTED"}]}}',
            "subsetted",
            "$.meta.tag",
        ),
        (
            b'{"resourceType":"Patient","id":"p1","meta":{"security":[{"code":"HTEST"}]}}',
            "test_data",
            "$.meta.security",
        ),
        (
            b'{"resourceType":"Patient","id":"p1","modifierExtension":[{"url":"u"}]}',
            "modifier_extension",
            "$.modifierExtension",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_quarantined_by_rule_and_path(
    workspace: Workspace, line: bytes, rule: str, json_path: str
) -> None:
    land_lines(workspace, "north", [("Patient", line)])
    assert counts(update_lake(workspace), "Patient") == [TypeCounts(landed=1, quarantined=1)]
    assert refused(workspace) == [(rule, json_path)]
    assert genders(workspace) == []


@pytest.mark.parametrize(
    ("fields", "rule", "json_path"),
    [
        ({"subject": None}, "subject_missing", "$.subject.reference"),
        ({"subject": {"display": "A Patient"}}, "subject_missing", "$.subject.reference"),
        ({"subject": {"reference": "Group/1"}}, "subject_not_patient", "$.subject.reference"),
        ({"subject": {"reference": "#p"}}, "subject_unresolvable", "$.subject.reference"),
        (
            {"effectivePeriod": {"end": "2020-02-30"}, "effectiveDateTime": None},
            "date_shape",
            "$.effectivePeriod.end",
        ),
        (
            {"medicationCodeableConcept": {"coding": [{"code": 1}]}},
            "wrong_type",
            "$.medicationCodeableConcept.coding[0].code",
        ),
    ],
)
def test_only_fields_that_the_mapping_relies_on_can_refuse_a_record(
    workspace: Workspace, fields: dict[str, Any], rule: str, json_path: str
) -> None:
    land(workspace, "north", infusion(**fields), infusion("i2", note="no list", performer=7, category=[[]]))
    assert counts(update_lake(workspace), "MedicationAdministration") == [
        TypeCounts(landed=2, stored=1, quarantined=1)
    ]
    assert refused(workspace) == [(rule, json_path)]


def test_lines_that_are_no_resource_are_counted_as_quarantined(workspace: Workspace) -> None:
    land_lines(workspace, "north", [("_unreadable", b"<html>"), ("_unreadable", b"{"), ("Patient", b"{}")])
    result = update_lake(workspace)
    assert counts(result, "_unreadable") == [TypeCounts(landed=2, quarantined=2)]
    assert len(refused(workspace)) == 3


def test_a_version_that_says_not_to_use_the_record_retires_those_before_it(workspace: Workspace) -> None:
    land(workspace, "north", patient(meta=meta("1", "2020-01-01T00:00:00Z")))
    land(
        workspace,
        "north",
        patient(meta=meta("2", "2020-01-02T00:00:00Z"), modifierExtension=[{"url": "http://example.org/x"}]),
    )
    update_lake(workspace)
    assert genders(workspace) == []
    land(workspace, "north", patient(gender="male", meta=meta("3", "2020-01-03T00:00:00Z")))
    update_lake(workspace)
    assert genders(workspace) == ["male"]


def test_a_later_version_that_is_only_malformed_leaves_the_one_before_in_use(workspace: Workspace) -> None:
    land(workspace, "north", patient(meta=meta("1", "2020-01-01T00:00:00Z")))
    land(workspace, "north", patient(meta=meta("2", "2020-01-02T00:00:00Z"), birthDate="unknown"))
    update_lake(workspace)
    assert genders(workspace) == ["female"]


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("day", ("1960-02-17", "day", "1960-02-17", "1960-02-17")),
        ("month", (None, "month", "1960-02-01", "1960-02-29")),
        ("year", (None, "year", "1960-01-01", "1960-12-31")),
    ],
)
def test_no_more_of_a_birth_date_enters_than_the_settings_allow(
    workspace: Workspace, granularity: str, expected: tuple[str | None, ...]
) -> None:
    coarse = with_settings(workspace, birth_date=granularity)
    land(coarse, "north", patient(birthDate="1960-02-17"))
    update_lake(coarse)
    columns = ", ".join(f"birth_{c}::varchar" for c in ("day", "precision", "first_day", "last_day"))
    assert lake(coarse, f"select {columns} from lake.patient") == [expected]


def test_instants_in_z_fall_on_days_of_the_sites_zone(workspace: Workspace) -> None:
    land(
        workspace,
        "north",
        infusion("i1", effectiveDateTime="2020-01-01T23:30:00Z"),
        infusion("i2", effectiveDateTime="2020-01-01T23:30:00-05:00"),
        time_zone="Europe/Berlin",
    )
    update_lake(workspace)
    query = "select start_day::varchar, start_precision from lake.medication_administration order by 1"
    assert lake(workspace, query) == [("2020-01-01", "instant"), ("2020-01-02", "instant")]


def test_a_medication_is_its_own_concept_a_contained_one_or_a_reference(workspace: Workspace) -> None:
    concept = {"coding": [{"system": "http://www.whocc.no/atc", "code": "L04AX04"}], "text": "lenalidomide"}
    without = {"medicationCodeableConcept": None}
    land(
        workspace,
        "north",
        infusion("own", medicationCodeableConcept=concept),
        infusion(
            "contained",
            **without,
            medicationReference={"reference": "#m"},
            contained=[{"resourceType": "Medication", "id": "m", "code": concept}],
        ),
        infusion("lost", **without, medicationReference={"reference": "#n"}),
        infusion("referred", **without, medicationReference={"reference": "Medication/m1"}),
        infusion("named", **without, medicationReference={"display": "lenalidomide for Jane Doe"}),
    )
    update_lake(workspace)
    key = Pseudonymiser(workspace.pseudonym_key(), "north")
    found = lake(
        workspace,
        "select resource_id, medication_source, medication_resource_id, len(codings), medication_text"
        " from lake.medication_administration",
    )
    assert {row[0]: row[1:] for row in found} == {
        key.of("MedicationAdministration", "own"): ("concept", None, 1, "lenalidomide"),
        key.of("MedicationAdministration", "contained"): ("contained", None, 1, "lenalidomide"),
        key.of("MedicationAdministration", "lost"): ("unresolvable", None, 0, None),
        key.of("MedicationAdministration", "referred"): ("reference", key.of("Medication", "m1"), 0, None),
        key.of("MedicationAdministration", "named"): ("unresolvable", None, 0, None),
    }


def test_fhir_resources_explains_and_keeps_or_in_strict_mode_refuses(workspace: Workspace) -> None:
    wrong = patient(birthDate="1960-02-17", telecom="a text where a list belongs")
    assert wrong["telecom"]
    strict = with_settings(workspace, validation="strict")
    land(strict, "north", wrong, patient("p2"))
    assert counts(update_lake(strict), "Patient") == [TypeCounts(landed=2, stored=1, quarantined=1)]
    assert refused(strict) == [("fhir_invalid", "$.telecom")]
    off = with_settings(workspace, validation="off")
    assert counts(update_lake(off), "Patient") == [TypeCounts(landed=2, stored=2)]
    assert lake(off, "select * from lake.quarantine") == []


def test_a_sample_is_looked_at_the_same_ones_each_time_and_only_flagged(workspace: Workspace) -> None:
    people = [patient(f"p{i}", telecom="a text where a list belongs") for i in range(800)]
    land(workspace, "north", *people)
    assert counts(update_lake(workspace), "Patient") == [TypeCounts(landed=800, stored=800)]
    query = "select resource_pseudonym, rule, json_path, action from lake.quarantine order by all"
    flagged = lake(workspace, query)
    assert 1 <= len(flagged) <= 50  # one in fifty, which ones depends on the key
    assert {row[1:] for row in flagged} == {("fhir_invalid", "$.telecom", "flag")}
    shutil.rmtree(workspace.lake)
    update_lake(workspace)
    assert lake(workspace, query) == flagged


def test_changed_settings_bring_a_site_in_anew(workspace: Workspace) -> None:
    land(workspace, "north", patient(birthDate="1960-02-17"))
    update_lake(workspace)
    coarse = with_settings(workspace, birth_date="year")
    assert len(update_lake(coarse).added) == 1
    assert lake(coarse, "select birth_precision from lake.patient") == [("year",)]


def test_changed_settings_without_the_landed_runs_are_refused(workspace: Workspace) -> None:
    gone = land(workspace, "north", patient(birthDate="1960-02-17"))
    land(workspace, "north", patient("p2"))
    update_lake(workspace)
    shutil.rmtree(gone.path)
    assert update_lake(workspace).added == ()
    with pytest.raises(LakeError, match="landed runs are gone"):
        update_lake(with_settings(workspace, birth_date="year"))
    assert len(genders(workspace)) == 2


def test_a_run_that_was_cut_off_is_brought_in_again_whole(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(workspace, "north", patient(), infusion())
    with monkeypatch.context() as crash:
        crash.setattr(write, "store_quarantine", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            update_lake(workspace)
    assert update_lake(workspace).runs != ()
    assert genders(workspace) == ["female"]
    assert not list(workspace.lake.glob(".*"))


def test_a_damaged_landed_file_stops_its_run_and_leaves_the_lake_as_it_was(workspace: Workspace) -> None:
    land(workspace, "north", patient())
    update_lake(workspace)
    damaged = land(workspace, "north", patient(gender="male"))
    path = damaged.path / "Patient.ndjson.zst"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LandingError):
        update_lake(workspace)
    assert genders(workspace) == ["female"]


def test_only_the_owner_can_look_into_the_lake(workspace: Workspace) -> None:
    land(workspace, "north", patient())
    update_lake(workspace)
    for folder in (workspace.lake, workspace.quarantine):
        assert folder.stat().st_mode & 0o077 == 0
        for path in folder.rglob("*.parquet"):
            assert path.stat().st_mode & 0o077 == 0
