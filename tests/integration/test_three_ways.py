"""Search, $export at three levels, and import of exported files: three ways in, one result."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from rwe.config import Site, Workspace, init_workspace
from rwe.export import ExportOutcome, export_site, finish_export
from rwe.extract import extract_site
from rwe.extraction_plan import WHOLE_TYPES, plan_extraction
from rwe.fhir import bulk
from rwe.fhir.client import FhirClient
from rwe.intake import import_folder
from rwe.landing import RunFacts, new_run
from rwe.sandbox.dialects import DialectName
from rwe.sandbox.options import COHORT_GROUP, Bulk
from rwe.sandbox.server import HospitalSpec, RunningHospital, running_hospitals
from rwe.study import Study, load_study
from rwe.warehouse.build import build
from tests.integration import conftest
from tests.support import ROOT

TYPES = ("Patient", *WHOLE_TYPES, "Observation", "Medication")
KEY = "5b" * 32
Rows = dict[str, list[tuple[Any, ...]]]

#: Of a wider way in, only the cohort's rows are compared. Day of landing aside.
_COHORT = "select patient_id from cohort.index_event"
_PARENTS = {
    "condition_code": "condition",
    "procedure_code": "procedure",
    "observation_code": "observation",
    "observation_value": "observation",
}


@pytest.fixture(scope="module", autouse=True)
def one_key() -> Iterator[None]:
    """All ways give a patient the same pseudonym."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RWE_PSEUDONYM_KEY", KEY)
        patch.setattr(bulk, "FIRST_POLL_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")


@pytest.fixture(scope="module", params=["a", "b", "c"])
def dialect(request: pytest.FixtureRequest) -> DialectName:
    return request.param


@pytest.fixture(scope="module")
def hospital(dialect: DialectName) -> Iterator[RunningHospital]:
    offer = Bulk(retry_after="absent", lines_per_file=300, files_per_page=4)
    with running_hospitals([HospitalSpec("north", dialect, patients=25, seed=11, bulk=offer)]) as [north]:
        yield north


def workspace_for(folder: Path, base_url: str, time_zone: str = "UTC", **fields: Any) -> Workspace:
    made = init_workspace(folder / "ws", folder / "key")
    settings = {
        "base_url": base_url,
        "time_zone": time_zone,
        "page_size": 50,
        "allow_plain_http": "loopback only",
        "min_export_interval_hours": 0,
        **fields,
    }
    sites = {"north": Site.model_validate(settings)}
    return Workspace(made.root, made.settings.model_copy(update={"sites": sites}))


def by_export(workspace: Workspace, study: Study, level: bulk.ExportLevel, **options: Any) -> ExportOutcome:
    site = workspace.site("north")
    with FhirClient("north", site) as client, new_run(workspace.landing, "north") as writer:
        outcome = export_site(
            workspace,
            "north",
            site,
            client,
            plan_extraction([study]),
            writer,
            types=TYPES,
            level=level,
            **options,
        )
        writer.commit(RunFacts(route="export", time_zone=site.time_zone))
    finish_export(workspace, "north")
    return outcome


def rows(workspace: Workspace, study: Study) -> Rows:
    """Every row of staging and cohort that belongs to a patient with an index event, sorted."""
    built = build(workspace, [study])
    found: Rows = {}
    with closing(duckdb.connect(str(built.path), read_only=True)) as db:
        columns: dict[tuple[str, str], list[str]] = {}
        listed = "select table_schema, table_name, column_name from information_schema.columns"
        for schema, table, column in db.execute(f"{listed} order by all").fetchall():
            if schema in ("staging", "cohort"):
                columns.setdefault((schema, table), []).append(column)
        for (schema, table), names in columns.items():
            kept = ", ".join(n for n in names if n != "landed_day")
            query = f"select {kept} from {schema}.{table}"
            if "patient_id" in names:
                query += f" where patient_id in ({_COHORT})"
            elif table in _PARENTS:
                parent = _PARENTS[table]
                ids = f"select {parent}_id from staging.{parent} where patient_id in ({_COHORT})"
                query += f" where {parent}_id in ({ids})"
            elif table in {"medication_code", "medication_text"}:
                ids = f"select event_id from staging.medication_event where patient_id in ({_COHORT})"
                query += f" where event_id in ({ids})"
            found[f"{schema}.{table}"] = db.execute(f"{query} order by all").fetchall()
    return found


def hand_over(base_url: str, folder: Path, filters: str) -> None:
    """What a hospital does by hand: export everything, and give the files away."""
    folder.mkdir()
    with requests.Session() as session:
        session.trust_env = False
        query = {"_type": ",".join(TYPES), "_typeFilter": filters}
        headers = {"Prefer": "respond-async"}
        started = session.get(f"{base_url}/$export", params=query, headers=headers, timeout=30)
        assert started.status_code == 202
        url: str | None = started.headers["Content-Location"]
        number = 0
        while url:
            answer = session.get(url, timeout=30)
            if answer.status_code == 202:
                time.sleep(0.05)
                continue
            manifest = answer.json()
            for file in manifest["output"]:
                number += 1
                name = f"{file['type']}.{number}.ndjson"
                (folder / name).write_bytes(session.get(file["url"], timeout=30).content)
            url = next((x["url"] for x in manifest.get("link", []) if x["relation"] == "next"), None)


def assert_same(found: Rows, expected: Rows) -> None:
    assert found.keys() == expected.keys()
    for table, wanted in expected.items():
        assert found[table] == wanted, f"{table} differs"


def test_three_ways_one_result(
    tmp_path: Path, dialect: DialectName, hospital: RunningHospital, study: Study
) -> None:
    def workspace(name: str, **fields: Any) -> Workspace:
        return workspace_for(tmp_path / name, hospital.base_url, hospital.time_zone, **fields)

    searched = workspace("search")
    extract_site(searched, "north", [study])
    expected = rows(searched, study)
    for table in ("staging.patient", "staging.observation", "staging.medication_code", "cohort.survival"):
        assert len(expected[table]) >= 20, table

    group = {"cohort": {"source": "group", "id": COHORT_GROUP}}
    ways: dict[str, Callable[[Workspace], object]] = {
        "group": lambda w: by_export(w, study, "group"),
        "patient": lambda w: by_export(w, study, "patient"),
        "system": lambda w: by_export(w, study, "system", use_type_filter=True),
    }
    # Each way from the first hospital; of the others, one.
    chosen = {"a": list(ways), "b": ["system"], "c": ["group"]}[dialect]
    for name in chosen:
        way = ways[name]
        exported = workspace(name, **(group if name == "group" else {}))
        way(exported)
        assert_same(rows(exported, study), expected)

    codes = ",".join(f"{system}|{code}" for system, code in plan_extraction([study]).observation_codes)
    hand_over(hospital.base_url, tmp_path / "files", f"Observation?code={codes}")
    imported = workspace("import")
    import_folder(imported, tmp_path / "files", "north")
    assert_same(rows(imported, study), expected)


@pytest.fixture(scope="module")
def locked_third_party(
    tmp_path_factory: pytest.TempPathFactory, third_party_records: list[dict[str, Any]]
) -> Iterator[tuple[str, Path]]:
    """sekmet-fhir with SMART Backend Services on, holding some of the patients: its address and our key."""
    folder = tmp_path_factory.mktemp("sekmet_smart")
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / "client.pem", folder / "client.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}/fhir"
    client = {"client_id": "rwe", "public_key_path": str(public), "scopes": "system/*.read"}
    settings = {
        "base_url": base_url,
        "host": "127.0.0.1",
        "port": port,
        "data_dir": str(folder / "data"),
        "own_private_key_path": str(folder / "own.pem"),
        "simulator": {"enabled": False, "delay_seconds": 0.1},
        "validation": {"inbound": "off"},
        "log_inbound": False,
        "server_auth": {
            "types": ["basic", "smart"],
            "users": {"loader": "loader"},
            "smart_clients": [client],
        },
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = [
        sys.executable,
        "-c",
        "from sekmet.cli import app; app()",
        "serve",
        "--config",
        "settings.yaml",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, **quiet) as process:  # type: ignore[call-overload]
        try:
            conftest.load_records(
                process, base_url, _some_patients(third_party_records), login=("loader", "loader")
            )
            yield base_url, private
        finally:
            process.terminate()


def _some_patients(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = {r["id"] for r in [r for r in records if r["resourceType"] == "Patient"][:25]}
    found = []
    for record in records:
        patient = record.get("subject", {}).get("reference", "").removeprefix("Patient/")
        if (record["id"] if record["resourceType"] == "Patient" else patient) in kept:
            found.append(record)
    return found


def test_a_third_partys_server_gives_the_same_by_search_and_export(
    tmp_path: Path, locked_third_party: tuple[str, Path]
) -> None:
    """sekmet-fhir, SMART on: no request without a token is answered."""
    base_url, key = locked_third_party
    assert requests.get(f"{base_url}/Patient", timeout=10).status_code == 401
    smart = {"auth": {"kind": "smart", "client_id": "rwe", "key_file": str(key)}}
    study = load_study(conftest.write_study(tmp_path / "studies"))
    searched = workspace_for(tmp_path / "search", base_url, **smart)
    extract_site(searched, "north", [study])
    expected = rows(searched, study)
    assert len(expected["cohort.index_event"]) > 3
    assert len(expected["staging.observation"]) > 3
    ways: list[tuple[bulk.ExportLevel, bool]] = [("patient", False), ("system", True)]
    for level, with_filter in ways:
        exported = workspace_for(tmp_path / level, base_url, **smart)
        outcome = by_export(exported, study, level, use_type_filter=with_filter)
        assert not outcome.errors
        assert_same(rows(exported, study), expected)
