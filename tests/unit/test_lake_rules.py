"""What a workspace makes of the rules of the quarantine, what of a text enters, how long raw bytes stay."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
import pytest

from rwe.config import Workspace
from rwe.errors import ConfigError, LakeError
from rwe.lake.retention import expire_raw
from rwe.lake.rules import CHANGEABLE, RULES, actions
from rwe.lake.texts import PermittedTexts, TextValue, read_number
from rwe.lake.write import update_lake
from rwe.warehouse import lake_views
from tests.integration.landed import land, land_lines, new_workspace
from tests.support import ROOT


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = new_workspace(tmp_path)
    return Workspace(made.root, made.settings.model_copy(update={"validation": "off"}))


def with_settings(workspace: Workspace, **changes: Any) -> Workspace:
    return Workspace(workspace.root, workspace.settings.model_copy(update=changes))


def lake(workspace: Workspace, query: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect()) as db:
        lake_views.create(db, workspace.lake, workspace.quarantine)
        return db.execute(query).fetchall()


PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female"}


def test_a_resource_with_a_modifier_extension_is_kept_and_marked_if_the_workspace_says_so(
    workspace: Workspace,
) -> None:
    land(workspace, "north", PATIENT | {"modifierExtension": [{"url": "u"}]})
    update_lake(workspace)
    assert lake(workspace, "select * from lake.patient") == []
    kept = with_settings(workspace, rules={"modifier_extension": "flag"})
    assert len(update_lake(kept).added) == 1  # the rules changed: brought in anew
    assert lake(kept, "select gender, has_modifier_extension from lake.patient") == [("female", True)]
    assert lake(kept, "select action, rule, json_path from lake.quarantine") == [
        ("flag", "modifier_extension", "$.modifierExtension")
    ]


def test_a_date_that_is_none_is_left_out_if_the_workspace_says_so(workspace: Workspace) -> None:
    kept = with_settings(workspace, rules={"date_shape": "flag"})
    land(kept, "north", PATIENT | {"birthDate": "1.5.1960"})
    update_lake(kept)
    assert lake(kept, "select gender, birth_precision from lake.patient") == [("female", None)]
    assert lake(kept, "select action, rule from lake.quarantine") == [("flag", "date_shape")]


def test_an_unknown_code_keeps_a_resource_out_if_the_workspace_says_so(workspace: Workspace) -> None:
    strict = with_settings(workspace, rules={"unknown_code": "reject"})
    land(strict, "north", PATIENT | {"gender": "F"})
    update_lake(strict)
    assert lake(strict, "select * from lake.patient") == []
    assert lake(strict, "select action, rule from lake.quarantine") == [("reject", "unknown_code")]


@pytest.mark.parametrize("name", sorted(set(RULES) - set(CHANGEABLE)))
def test_a_rule_without_which_a_resource_cannot_be_used_is_fixed(name: str) -> None:
    assert actions({name: "reject"}).rejects(name)
    with pytest.raises(ConfigError, match="always reject"):
        actions({name: "flag"})


def test_a_rule_that_does_not_exist_is_named_with_those_that_do() -> None:
    wrong: dict[str, Literal["reject", "flag"]] = {"modifierextension": "flag"}
    with pytest.raises(ConfigError, match="modifier_extension") as caught:
        actions(wrong)
    assert "modifierextension" not in str(caught.value)


def test_every_rule_is_documented() -> None:
    text = (ROOT / "docs" / "quarantine.md").read_text(encoding="utf-8")
    for name, rule in RULES.items():
        assert f"| `{name}` |" in text
        assert rule.meaning in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<5 mg/dl", TextValue(5.0, "<", "mg/dl")),
        (" 7.25 ", TextValue(7.25)),
        ("≥ 3 10^9/L", TextValue(3.0, ">=", "10^9/L")),
        ("1,5", TextValue()),
        ("3 Jane", TextValue()),
        ("12345678901", TextValue()),
        ("5 mg Jane", TextValue()),
        ("Jane Doe", TextValue()),
        ("", TextValue()),
        ("5-7", TextValue()),
    ],
)
def test_of_a_text_enters_a_number_with_comparator_and_unit_or_nothing(
    text: str, expected: TextValue
) -> None:
    assert read_number(text) == expected


def test_a_text_on_the_sites_list_enters_as_the_list_spells_it(tmp_path: Path) -> None:
    listed = tmp_path / "texts.txt"
    listed.write_text("Positive\n\nnot detected\n", encoding="utf-8")
    texts = PermittedTexts.read(listed, "north")
    assert texts.value(" POSITIVE ") == TextValue(text="Positive")
    assert texts.value("not  detected").text == "not detected"
    assert texts.value("positive for Jane").is_left_out
    with pytest.raises(ConfigError, match="permitted_texts"):
        PermittedTexts.read(tmp_path / "none.txt", "north")


def test_raw_bytes_go_when_they_are_old_and_in_the_lake_and_what_is_in_stays(workspace: Workspace) -> None:
    run = land(workspace, "north", PATIENT)
    month = with_settings(workspace, retain_raw_days=30)
    [counts] = update_lake(month).runs
    assert (run.path / "Patient.ndjson.zst").exists()
    later = datetime.now(UTC) + timedelta(days=31)
    assert expire_raw(month, set(), now=later) == ()  # not in the lake: kept
    assert expire_raw(month, {("north", run.run)}, now=later) == (("north", run.run),)
    assert not (run.path / "Patient.ndjson.zst").exists()
    again = update_lake(month)
    assert (again.added, again.runs) == ((), (counts,))
    assert lake(month, "select gender from lake.patient") == [("female",)]
    with pytest.raises(LakeError, match="landed runs are gone"):
        update_lake(with_settings(month, birth_date="year"))


def test_raw_bytes_stay_without_a_limit_and_go_at_once_with_none(workspace: Workspace) -> None:
    run = land(workspace, "north", PATIENT)
    assert update_lake(workspace).expired == ()
    assert update_lake(with_settings(workspace, retain_raw_days=0)).expired == (("north", run.run),)


def test_a_resource_deleted_and_back_unchanged_is_stored_again(workspace: Workspace) -> None:
    """Without a date the server's deletion lies between two equal versions."""
    gone = {"resourceType": "Patient", "id": "p1", "deletedAt": None}
    land(workspace, "north", PATIENT)
    update_lake(workspace)
    deleted_at = datetime.now(UTC).isoformat()
    line = json.dumps(gone | {"deletedAt": deleted_at}).encode()
    land_lines(workspace, "north", [("_deleted", line)])
    update_lake(workspace)
    assert lake(workspace, "select * from lake.patient") == []
    land(workspace, "north", PATIENT)
    update_lake(workspace)
    assert lake(workspace, "select gender from lake.patient") == [("female",)]


def test_a_category_of_a_wrong_type_does_not_cost_the_observation(workspace: Workspace) -> None:
    subject = {"subject": {"reference": "Patient/p1"}}
    land(
        workspace,
        "north",
        {"resourceType": "Observation", "id": "o", **subject, "valueInteger": 3, "category": 7},
    )
    update_lake(workspace)
    assert lake(workspace, "select value_number, category_codings from lake.observation") == [(3.0, [])]
    assert lake(workspace, "select action, rule, json_path from lake.quarantine") == [
        ("flag", "unusable_element", "$.category")
    ]


def test_a_hundred_thousand_components_and_ten_megabytes_enter(workspace: Workspace) -> None:
    code = {"coding": [{"system": "urn:x", "code": "c"}]}
    components = [{"code": code, "valueInteger": i} for i in range(100_000)]
    subject = {"subject": {"reference": "Patient/p1"}}
    note = [{"text": "x" * 10_000_000}]
    land(
        workspace,
        "north",
        {"resourceType": "Observation", "id": "a", **subject, "component": components},
        {"resourceType": "Observation", "id": "b", **subject, "note": note, "valueInteger": 3},
    )
    update_lake(workspace)
    total = "list_sum([c.value_number for c in components])"
    query = f"select len(components), {total} from lake.observation order by 1"
    assert lake(workspace, query) == [(0, None), (100_000, 100_000 * 99_999 / 2)]
