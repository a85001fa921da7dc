"""Who may enter: the same rule where patients are asked for and where the database is built."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rwe.admission import admissions, opted_out, permitted
from rwe.config import Site, Workspace
from rwe.errors import ConfigError
from rwe.lake.write import update_lake
from rwe.warehouse import lake_views
from tests.integration.landed import land, new_workspace

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TODAY = NOW.date()


def consent(patient: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    kind, start, end = fields.pop("kind", "permit"), fields.pop("start", None), fields.pop("end", None)
    period = {k: v for k, v in (("start", start), ("end", end)) if v}
    return {
        "resourceType": "Consent",
        "id": f"{patient}-{number}",
        "status": "active",
        "patient": {"reference": f"Patient/{patient}"},
        "scope": {"coding": [{"code": fields.pop("scope", "research")}]},
        "dateTime": fields.pop("given", "2026-01-01"),
        "provision": {"type": kind, **({"period": period} if period else {})},
        **fields,
    }


CASES: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "permits": ([consent("p")], True),
    "none at all": ([], False),
    "is modified in a way not understood": (
        [consent("p", modifierExtension=[{"url": "http://example.org/not", "valueBoolean": True}])],
        False,
    ),
    "follows rules of its own": ([consent("p", implicitRules="http://example.org/rules")], False),
    "is test data": ([consent("p", meta={"security": [{"code": "HTEST"}]})], False),
    "denies": ([consent("p", kind="deny")], False),
    "withdrawn": ([consent("p", status="inactive")], False),
    "a draft": ([consent("p", status="draft")], False),
    "expired": ([consent("p", end="2026-05-31")], False),
    "expires today": ([consent("p", end="2026-06-01")], True),
    "expires this year": ([consent("p", end="2026")], True),
    "begins tomorrow": ([consent("p", start="2026-06-02")], False),
    "to treatment": ([consent("p", scope="treatment")], False),
    "denied after it was permitted": (
        [consent("p"), consent("p", 2, kind="deny", given="2026-02-01")],
        False,
    ),
    "permitted after it was denied": ([consent("p", kind="deny"), consent("p", 2, given="2026-02-01")], True),
    "denied and permitted on one day": ([consent("p", kind="deny"), consent("p", 2)], False),
    "denied later, but that is over": (
        [consent("p"), consent("p", 2, kind="deny", given="2026-02-01", end="2026-03-01")],
        True,
    ),
    "without a type of provision": ([consent("p", provision={})], False),
}


def with_site(workspace: Workspace, **fields: Any) -> Workspace:
    sites = {"north": Site(**fields)}
    return Workspace(workspace.root, workspace.settings.model_copy(update={"sites": sites}))


def lake(workspace: Workspace, query: str) -> list[tuple[Any, ...]]:
    update_lake(workspace)
    with closing(duckdb.connect()) as db:
        lake_views.create(db, workspace.lake, workspace.quarantine, admissions(workspace, NOW))
        return db.execute(query).fetchall()


@pytest.mark.parametrize("name", CASES)
def test_asking_and_building_decide_alike_on_a_patient_with_a_consent_that(tmp_path: Path, name: str) -> None:
    consents, may_enter = CASES[name]
    site = Site(consent="required")
    assert ("p" in permitted((json.dumps(c).encode() for c in consents), site, TODAY)) is may_enter
    workspace = with_site(new_workspace(tmp_path), consent="required")
    land(workspace, "north", {"resourceType": "Patient", "id": "p"}, *consents)
    assert len(lake(workspace, "select * from lake.patient")) == may_enter


def test_a_withdrawal_removes_what_landed_before_and_is_counted(tmp_path: Path) -> None:
    workspace = with_site(new_workspace(tmp_path), consent="required")
    procedure = {"resourceType": "Procedure", "id": "x", "subject": {"reference": "Patient/p"}}
    land(workspace, "north", {"resourceType": "Patient", "id": "p"}, procedure, consent("p"))
    assert len(lake(workspace, "select * from lake.procedure")) == 1
    land(workspace, "north", consent("p", status="inactive"))
    assert lake(workspace, "select * from lake.procedure") == []
    assert lake(workspace, "select reason from lake.not_admitted") == [("no_consent",)]
    counted = "select alive, in_lake from lake.version where resource_type = 'Procedure'"
    assert lake(workspace, counted) == [(1, 0)]


def test_a_patient_who_opted_out_is_in_no_table(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("# told us by letter\nPatient/p\n\n")
    workspace = with_site(new_workspace(tmp_path), opt_out_file=tmp_path / "out.txt")
    people = [{"resourceType": "Patient", "id": i} for i in ("p", "q")]
    land(workspace, "north", *people)
    assert len(lake(workspace, "select * from lake.patient")) == 1
    assert lake(workspace, "select reason from lake.not_admitted") == [("opt_out",)]


def test_without_its_opt_out_file_nothing_goes_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="opt-out file cannot be read"):
        opted_out("north", Site(opt_out_file=tmp_path / "gone.txt"))
    (tmp_path / "out.txt").write_text("p1\nJohn Doe\n")
    with pytest.raises(ConfigError, match="line 2 holds no Patient id") as caught:
        opted_out("north", Site(opt_out_file=tmp_path / "out.txt"))
    assert "John" not in str(caught.value)


def test_labelled_resources_stay_out_and_a_changed_policy_lets_them_in(tmp_path: Path) -> None:
    labelled = {
        "resourceType": "Condition",
        "id": "c",
        "subject": {"reference": "Patient/p"},
        "meta": {"security": [{"code": "R"}]},
    }
    plain = new_workspace(tmp_path)
    land(plain, "north", {"resourceType": "Patient", "id": "p"}, labelled)
    assert lake(plain, "select * from lake.condition") == []
    assert lake(plain, "select rule from lake.quarantine") == [("security_label",)]
    open_minded = with_site(plain, security_labels={"exclude": []})
    assert len(lake(open_minded, "select * from lake.condition")) == 1
