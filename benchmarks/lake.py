"""NDJSON → lake against DuckDB's bare `read_ndjson` of the same columns to Parquet, and Spark's.

A million Observations are made once and landed (zstd). Ours verifies the file against its manifest, checks
every line, pseudonymises and writes the lake; bare DuckDB parses the same elements of the same file and
writes them; so does Spark, from the file uncompressed, so that it has less to do. Each round takes all in
turn, each in a process of its own; medians. Spark wants an environment of its own with pyspark.

    .venv/bin/python benchmarks/lake.py [--count 1000000] [--rounds 5] [--spark .venv-spark/bin/python]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import zstandard

from rwe.config import Workspace, init_workspace, open_workspace
from rwe.lake.parsed import FED_COLUMNS, parsed_columns
from rwe.lake.schema import LAKE_TABLES
from rwe.lake.write import update_lake
from rwe.landing import RunFacts, list_runs, new_run

_LOINC, _UCUM = "http://loinc.org", "http://unitsofmeasure.org"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_LABS = (
    ("2532-0", "Lactate dehydrogenase [Enzymatic activity/volume] in Serum or Plasma", "U/L"),
    ("1988-5", "C reactive protein [Mass/volume] in Serum or Plasma", "mg/L"),
    ("2276-4", "Ferritin [Mass/volume] in Serum or Plasma", "ng/mL"),
    ("751-8", "Neutrophils [#/volume] in Blood by Automated count", "10*3/uL"),
    ("777-3", "Platelets [#/volume] in Blood by Automated count", "10*3/uL"),
)
_MEMORY = "2GB"


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}


def _concept(code: str, display: str, system: str = _LOINC) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def observations(count: int) -> Iterator[dict[str, Any]]:
    """Observations of 20,000 patients: laboratory values, one in twelve a panel, one in twelve coded."""
    rng = random.Random(7)
    for number in range(count):
        patient = f"p-{number % 20_000:06d}"
        at = datetime(2018, 1, 1) + timedelta(minutes=rng.randrange(3 * 365 * 1440))
        made: dict[str, Any] = {
            "resourceType": "Observation",
            "id": f"{rng.getrandbits(80):020x}",
            "meta": {"versionId": "1", "lastUpdated": (at + timedelta(hours=9)).isoformat() + ".000Z"},
            "status": "final",
            "category": [_concept("laboratory", "Laboratory", _CATEGORY)],
            "subject": {"reference": f"Patient/{patient}"},
            "encounter": {"reference": f"Encounter/{patient}-{rng.randrange(8)}"},
            "effectiveDateTime": at.isoformat() + "+01:00",
            "issued": (at + timedelta(hours=3)).isoformat() + "+01:00",
        }
        yield made | _content(rng)


def _content(rng: random.Random) -> dict[str, Any]:
    kind = rng.random()
    if kind < 1 / 12:
        parts = (("8480-6", "Systolic blood pressure", 90), ("8462-4", "Diastolic blood pressure", 50))
        return {
            "code": _concept("85354-9", "Blood pressure panel"),
            "component": [
                {"code": _concept(c, d), "valueQuantity": _quantity(low + rng.randrange(60), "mm[Hg]")}
                for c, d, low in parts
            ],
        }
    if kind < 2 / 12:
        snomed = "http://snomed.info/sct"
        return {
            "code": _concept("97509-4", "Cancer disease status"),
            "valueCodeableConcept": _concept("268910001", "Patient's condition improved", snomed),
        }
    code, text, unit = rng.choice(_LABS)
    flag = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
    return {
        "code": _concept(code, text) | {"text": text.split(" [")[0]},
        "valueQuantity": _quantity(round(rng.lognormvariate(4, 1), 1), unit),
        "interpretation": [{"coding": [{"system": flag, "code": "N"}]}],
        "referenceRange": [{"low": _quantity(10.0, unit), "high": _quantity(200.0, unit)}],
    }


def make(folder: Path, count: int) -> Workspace:
    """A workspace with one landed run of so many Observations."""
    workspace = init_workspace(folder / "workspace", folder / "pseudonyms.key")
    with new_run(workspace.landing, "north") as run:
        for made in observations(count):
            run.write("Observation", msgspec.json.encode(made))
        run.commit(RunFacts(route="import", time_zone="Europe/Berlin"))
    return workspace


def _ours(folder: Path) -> None:
    workspace = open_workspace(folder / "workspace")
    settings = workspace.settings.model_copy(update={"memory_limit": _MEMORY})
    [added] = update_lake(Workspace(workspace.root, settings)).added
    counts = added.types["Observation"]
    assert counts.landed == counts.stored


def _parsed() -> dict[str, str]:
    """What the lake parses of an Observation, in FHIR's names and shapes."""
    read = {name: kind for name, kind in parsed_columns("Observation").items() if name not in FED_COLUMNS}
    quantity = read["valueQuantity"]
    limits = f"STRUCT(low {quantity}, high {quantity}, type {read['code']})[]"
    return read | {"referenceRange": limits}


def _bare(folder: Path) -> None:
    [run] = list_runs(folder / "workspace" / "landing")
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in _parsed().items())
    with duckdb.connect() as connection:
        connection.execute(f"set memory_limit = '{_MEMORY}'")
        connection.execute(
            f"copy (select * from read_ndjson('{run.file('Observation')}', columns = {{{columns}}}))"
            f" to '{folder / 'bare.parquet'}' (format parquet, compression zstd)"
        )


_SPARK = """
import os, sys, time
from pyspark.sql import SparkSession
source, target, schema = sys.argv[1:]
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config(
    "spark.driver.memory", "4g").getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
spark.range(10).count()  # its start does not count
begun = time.perf_counter()
spark.read.schema(schema).json(source).write.mode("overwrite").option("compression", "zstd").parquet(target)
print("seconds", time.perf_counter() - begun)
"""


def _spark_type(kind: str) -> str:
    """A type of DuckDB as Spark writes it."""
    if kind.endswith("[]"):
        return f"array<{_spark_type(kind[:-2])}>"
    if not kind.startswith("STRUCT("):
        return {"VARCHAR": "string"}.get(kind, kind.lower())
    fields, depth, start, inside = [], 0, 0, kind[7:-1]
    for place, character in enumerate(inside + ","):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            name, _, rest = inside[start:place].strip().partition(" ")
            fields.append(f"`{name.strip(chr(34))}`: {_spark_type(rest)}")
            start = place + 1
    return f"struct<{', '.join(fields)}>"


def spark(folder: Path, python: str) -> float:
    """Seconds that Spark takes for the same columns, from NDJSON that is not compressed."""
    source = folder / "Observation.ndjson"
    if not source.exists():
        [run] = list_runs(folder / "workspace" / "landing")
        landed = run.file("Observation")
        assert landed is not None
        with landed.open("rb") as f, source.open("wb") as out:
            zstandard.ZstdDecompressor().copy_stream(f, out)
    schema = ", ".join(f"`{name}` {_spark_type(kind)}" for name, kind in _parsed().items())
    command = [python, "-c", _SPARK, str(source), str(folder / "spark"), schema]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(next(line for line in said.splitlines() if line.startswith("seconds")).split()[1])


def measured(folder: Path, way: str) -> dict[str, float]:
    """Seconds, seconds of processors and MiB at most of one way in a process of its own."""
    shutil.rmtree(folder / "workspace" / "lake", ignore_errors=True)
    shutil.rmtree(folder / "workspace" / "quarantine", ignore_errors=True)
    command = [sys.executable, __file__, "--inside", way, "--folder", str(folder)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def inside(way: str, folder: Path) -> None:
    """Take one way and say what it took. Loading libraries does not count, as Spark's start does not."""
    importlib.import_module("pandas")  # which DuckDB loads for a parameter
    importlib.import_module("fhir.resources.R4B.observation")
    begun, before = time.perf_counter(), os.times()
    {"ours": _ours, "bare": _bare}[way](folder)
    seconds, after = time.perf_counter() - begun, os.times()
    busy = after.user + after.system - before.user - before.system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "busy": busy, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spark")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--inside", choices=["ours", "bare"])
    given = parser.parse_args()
    if given.inside:
        inside(given.inside, given.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, given.count)
        ours, bare, others = [], [], []
        for _ in range(given.rounds):
            bare.append(measured(folder, "bare"))
            ours.append(measured(folder, "ours"))
            others += [spark(folder, given.spark)] if given.spark else []
    for what in ("seconds", "busy"):
        ratio = statistics.median(o[what] / b[what] for o, b in zip(ours, bare, strict=True))
        middle = [statistics.median(one[what] for one in found) for found in (ours, bare)]
        print(f"{what}: ours {middle[0]:.1f}, bare {middle[1]:.1f}, ratio {ratio:.2f} (aim 2.5)")
    peaks = [max(one["peak"] for one in found) for found in (ours, bare)]
    print(f"peak memory: ours {peaks[0]:.0f} MiB, bare {peaks[1]:.0f} MiB, of a limit of {_MEMORY}")
    print(f"columns of the lake: {len(LAKE_TABLES['Observation'])}")
    if others:
        ratio = statistics.median(s / o["seconds"] for s, o in zip(others, ours, strict=True))
        print(f"Spark: {statistics.median(others):.1f} seconds, ours {ratio:.2f} times as fast (aim 2)")


if __name__ == "__main__":
    main()
