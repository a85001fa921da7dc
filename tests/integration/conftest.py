"""A third party's FHIR server (sekmet-fhir) holding a third party's patients (clinosim): none of our code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from rwe.codes import LOINC, RXNORM

Json = dict[str, Any]

#: What clinosim gives in hospital to most: saline begins the follow-up, atorvastatin is the exposure.
SALINE, ATORVASTATIN, CREATININE = (RXNORM, "313002"), (RXNORM, "83367"), (LOINC, "2160-0")
TYPES = ("Patient", "Encounter", "Condition", "Procedure", "MedicationAdministration", "MedicationRequest")
MOST_OBSERVATIONS = 800

STUDY = """\
name: atorvastatin_after_saline
version: 1.0.0
title: Atorvastatin after a first saline infusion
question: A drug that the simulator gives, so that a third party's server can be read to the end.
index_event: {codelist: saline, sources: [MedicationAdministration]}
exposure: {codelist: atorvastatin, tiers: [administration]}
strategies:
  treated: {name: atorvastatin, label: Atorvastatin, grace_days: 30, unless_progressed: false}
  control: {name: no_atorvastatin, label: No atorvastatin}
covariates:
  - {name: age, kind: age_at_index}
  - name: creatinine
    kind: observation
    label: Creatinine
    codelist: creatinine
    window: {from_day: -365, to_day: 0}
landmarks: [2]
analyses:
  - {analysis: naive_logrank, role: contrast}
  - {analysis: mantel_byar}
"""


@dataclass(frozen=True)
class ThirdPartySite:
    """The running server, a study for it, and the resources as they were loaded (without server's meta)."""

    base_url: str
    study_path: Path
    loaded: list[Json]


@pytest.fixture(scope="session")
def third_party_records(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """Some 40 patients of two years, under 5,000 resources (sekmet-fhir's comfort). Takes 15 s, once."""
    folder = tmp_path_factory.mktemp("clinosim")
    command = [sys.executable, "-c", "from clinosim.simulator.cli import main; main()", "simulate"]
    options = ["--country", "US", "--population", "60", "--seed", "42", "--format", "fhir-r4"]
    period = ["--start", "2024-07-01", "--end", "2026-06-30", "--output", str(folder)]
    subprocess.run([*command, *options, *period], check=True, capture_output=True, timeout=180)
    records = [r for t in TYPES for r in _read(folder, t)]
    observations = sorted(_read(folder, "Observation"), key=lambda r: not _has(r, CREATININE))
    return records + observations[:MOST_OBSERVATIONS]


def _read(folder: Path, resource_type: str) -> list[Json]:
    text = (folder / "fhir_r4" / f"{resource_type}.ndjson").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _has(resource: Json, code: tuple[str, str]) -> bool:
    concept = resource.get("code") or resource.get("medicationCodeableConcept") or {}
    return any((c.get("system"), c.get("code")) == code for c in concept.get("coding", []))


@pytest.fixture(scope="session")
def third_party_site(
    tmp_path_factory: pytest.TempPathFactory, third_party_records: list[Json]
) -> Iterator[ThirdPartySite]:
    """sekmet-fhir as a process of its own on loopback, with SQLite in a folder of its own."""
    folder = tmp_path_factory.mktemp("sekmet")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}/fhir"
    settings = {
        "base_url": base_url,
        "host": "127.0.0.1",
        "port": port,
        "data_dir": str(folder / "data"),
        "own_private_key_path": str(folder / "key.pem"),
        "simulator": {"enabled": False},  # else it writes results of its own into the record
        "validation": {"inbound": "off"},
        "log_inbound": False,
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-c", "from sekmet.cli import app; app()", "serve"]
    with subprocess.Popen(
        [*command, "--config", str(folder / "settings.yaml")],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            load_records(process, base_url, third_party_records)
            yield ThirdPartySite(base_url, write_study(folder / "studies"), third_party_records)
        finally:
            process.terminate()


def load_records(
    process: subprocess.Popen[bytes],
    base_url: str,
    records: list[Json],
    login: tuple[str, str] | None = None,
) -> None:
    """Wait until the server answers, then hand it the records in batches."""
    with requests.Session() as session:
        session.trust_env, session.auth = False, login
        deadline = time.monotonic() + 60
        while True:
            try:
                session.get(f"{base_url}/metadata", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("sekmet-fhir did not start")
                time.sleep(0.1)
        for start in range(0, len(records), 200):
            entries = [
                {"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}}
                for r in records[start : start + 200]
            ]
            batch = {"resourceType": "Bundle", "type": "batch", "entry": entries}
            answer = session.post(base_url, json=batch, timeout=60).json()
            assert {e["response"]["status"][:3] for e in answer["entry"]} == {"201"}


def write_study(folder: Path) -> Path:
    (folder / "codelists").mkdir(parents=True)
    lists = {"saline": SALINE, "atorvastatin": ATORVASTATIN, "creatinine": CREATININE}
    for name, (system, code) in lists.items():
        text = f"system,code,display,source,valid_from,valid_to\n{system},{code},{name},clinosim,,\n"
        (folder / "codelists" / f"{name}.csv").write_text(text)
    path = folder / "atorvastatin_after_saline.yaml"
    path.write_text(STUDY)
    return path
