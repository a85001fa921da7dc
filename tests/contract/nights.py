"""Nights at a sandbox hospital, and what the lake holds after them, compared with a fresh start."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from rwe.admission import admissions
from rwe.config import Site, Workspace, init_workspace
from rwe.lake.schema import LAKE_TABLES, table_name
from rwe.lake.write import update_lake
from rwe.resources import bundled
from rwe.sandbox.server import RunningHospital
from rwe.study import Study, load_study
from rwe.warehouse import lake_views

#: Columns that tell how a version came here, not what it says.
NOT_CONTENT = {"run", "line", "landed_at", "landed_day"}
Rows = dict[str, list[tuple[Any, ...]]]


def workspace_for(folder: Path, hospital: RunningHospital, **fields: Any) -> Workspace:
    """A workspace in `folder` with one site; workspaces of one parent folder share a key."""
    key = folder.parent / "shared.key"
    kept = key.read_bytes() if key.exists() else None
    key.unlink(missing_ok=True)
    workspace = init_workspace(folder, key)
    if kept:
        key.write_bytes(kept)
    return with_site(workspace, hospital, **fields)


def with_site(workspace: Workspace, hospital: RunningHospital, **fields: Any) -> Workspace:
    """The same workspace with other settings of the site."""
    settings = {
        "base_url": hospital.base_url,
        "time_zone": hospital.time_zone,
        "allow_plain_http": "loopback only",
        "page_size": 50,
        "max_retries": 3,
        "overlap_minutes": 0.1,
        **fields,
    }
    sites = {hospital.name: Site(**settings)}
    return Workspace(workspace.root, workspace.settings.model_copy(update={"sites": sites}))


def the_study(folder: Path) -> Study:
    shutil.copytree(bundled("studies"), folder, dirs_exist_ok=True)
    return load_study(folder / "lenalidomide_after_car_t.yaml")


def lake_rows(workspace: Workspace, patients: set[str] | None = None) -> Rows:
    """The latest versions in the lake by type; if told, only those of some patients (pseudonyms)."""
    update_lake(workspace)
    found: Rows = {}
    with closing(duckdb.connect()) as db:
        lake_views.create(db, workspace.lake, workspace.quarantine, admissions(workspace))
        for resource_type, columns in LAKE_TABLES.items():
            wanted = ", ".join(c for c in columns if c not in NOT_CONTENT)
            table = f"lake.{table_name(resource_type)}"
            owner = "resource_id" if resource_type == "Patient" else "patient_id"
            of_patients = patients is not None and owner in {"resource_id", *columns}
            if resource_type == "Medication":
                of_patients = False
            chosen = sorted(patients or ())
            where = f"where list_contains(?, {owner})" if of_patients else ""
            query = f"select {wanted} from {table} {where} order by resource_id"
            found[resource_type] = db.execute(query, [chosen] if of_patients else []).fetchall()
    return found


@dataclass(frozen=True)
class Departure:
    """How rows of one type depart from those expected: lost, kept though gone, in another version."""

    lost: int
    kept: int
    other: int


def departures(rows: Rows, expected: Rows) -> dict[str, Departure]:
    """By type, what `differences` counts, by kind; no ids. Empty where they are equal."""
    found = {}
    for resource_type in differences(rows, expected):
        left = {row[0]: repr(row) for row in rows[resource_type]}
        right = {row[0]: repr(row) for row in expected[resource_type]}
        both = left.keys() & right.keys()
        found[resource_type] = Departure(
            lost=len(right.keys() - both),
            kept=len(left.keys() - both),
            other=sum(left[i] != right[i] for i in both),
        )
    return found


def patients_of(rows: Rows) -> set[str]:
    return {row[0] for row in rows["Patient"]}


def differences(left: Rows, right: Rows) -> dict[str, tuple[int, int]]:
    """By type: rows only left, rows only right. Empty where they are equal. Medications may be more left."""
    found = {}
    for resource_type in left:
        a, b = set(map(repr, left[resource_type])), set(map(repr, right[resource_type]))
        only_left = 0 if resource_type == "Medication" else len(a - b)
        if only_left or b - a:
            found[resource_type] = (only_left, len(b - a))
    return found
