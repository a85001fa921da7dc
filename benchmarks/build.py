"""Lake → published database against NDJSON → lake, and whether ten builds of one content have one hash.

    PYTHONPATH=. .venv/bin/python benchmarks/build.py --patients 20000 --builds 10

Everything is made up. Times are of one run on one machine: only their ratio means anything.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rwe.config import Workspace, init_workspace
from rwe.lake.write import update_lake
from rwe.landing import RunFacts, new_run
from rwe.resources import bundled
from rwe.study import load_study
from rwe.warehouse.build import build

PER_PATIENT = 50
CODES = ("2532-0", "751-8", "777-3", "718-7", "89247-1")
LOINC, ATC = "http://loinc.org", "http://www.whocc.no/atc"


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def records(patients: int) -> Iterator[dict[str, Any]]:
    """Each patient, an infusion, a diagnosis and fifty laboratory values."""
    dice = random.Random(1)
    for i in range(patients):
        subject = {"subject": {"reference": f"Patient/p{i}"}}
        yield {"resourceType": "Patient", "id": f"p{i}", "birthDate": f"19{dice.randrange(30, 90)}-03-04",
               "gender": "male"}  # fmt: skip
        yield {"resourceType": "MedicationAdministration", "id": f"m{i}", "status": "completed", **subject,
               "medicationCodeableConcept": concept(ATC, "L01XL03"),
               "effectiveDateTime": f"2021-0{dice.randrange(1, 10)}-15"}  # fmt: skip
        yield {"resourceType": "Condition", "id": f"c{i}", **subject, "onsetDateTime": "2020-01-01",
               "code": concept("http://hl7.org/fhir/sid/icd-10-cm", "C83.30")}  # fmt: skip
        for k in range(PER_PATIENT):
            yield {"resourceType": "Observation", "id": f"o{i}-{k}", "status": "final", **subject,
                   "meta": {"versionId": "1", "lastUpdated": "2022-11-01T12:00:00Z"},
                   "code": concept(LOINC, dice.choice(CODES)),
                   "effectiveDateTime": f"2021-{dice.randrange(1, 13):02d}-15T08:00:00+01:00",
                   "valueQuantity": {"value": round(dice.uniform(1, 400), 1), "unit": "U/L",
                                     "system": "http://unitsofmeasure.org", "code": "U/L"}}  # fmt: skip


def land(workspace: Workspace, patients: int) -> None:
    with new_run(workspace.landing, "north") as run:
        for r in records(patients):
            run.write(r["resourceType"], msgspec.json.encode(r))
        run.commit(RunFacts(route="import", time_zone="Europe/Berlin"))


def seconds(work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--builds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = init_workspace(Path(folder) / "workspace", Path(folder) / "pseudonyms.key")
        land(workspace, chosen.patients)
        study = load_study(bundled("studies") / "lenalidomide_after_car_t.yaml")
        lake, _ = seconds(lambda: update_lake(workspace))
        builds = [seconds(lambda: build(workspace, [study])) for _ in range(chosen.builds)]
    hashes = {result.content_sha256 for _, result in builds}
    took = statistics.median(spent for spent, _ in builds)
    print(f"{chosen.patients * PER_PATIENT:,} Observations of {chosen.patients:,} patients")
    print(f"NDJSON to lake {lake:.1f} s; lake to published {took:.1f} s (median): {took / lake:.2f} times")
    print(f"content_sha256 of {chosen.builds} builds: {len(hashes)} (aim 1)")


if __name__ == "__main__":
    main()
