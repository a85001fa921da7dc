"""How much slower an export's download is than a plain download of the same files, verification included.

    python benchmarks/export_download.py [--mib 256] [--files 4] [--rounds 9]

A server of its own process on loopback serves NDJSON of Observations. Plain: `requests`, stream to disk.
Ours: the export client from the manifest on: origin and token rules, stream to disk, counted and checked
against `count`, with a checksum for a later night. Both in the same run, taking turns at going first; printed
are the medians, and that of the rounds' ratios (aim: 1.5).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests

from rwe.config import Site
from rwe.fhir.bulk import download
from rwe.fhir.bulk_manifest import ExportFile
from rwe.fhir.client import FhirClient

_SERVER = """
import http.server, sys, os
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
os.chdir(sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def write_files(folder: Path, files: int, mib: int) -> list[int]:
    """Files of Observations, `mib` MiB together; returns the lines of each."""
    counts = []
    for number in range(files):
        lines, size = 0, 0
        with (folder / f"fhir{number}.ndjson").open("wb") as f:
            while size < (mib << 20) // files:
                block = b"".join(_observation(number, lines + i) for i in range(2_000))
                size += f.write(block)
                lines += 2_000
        counts.append(lines)
    return counts


def _observation(file: int, number: int) -> bytes:
    coding = [{"system": "http://loinc.org", "code": "2532-0", "display": "Lactate dehydrogenase"}]
    content = {
        "resourceType": "Observation",
        "id": f"obs-{file}-{number}",
        "meta": {"versionId": "1", "lastUpdated": "2026-03-01T02:03:04.567Z"},
        "status": "final",
        "code": {"coding": coding},
        "subject": {"reference": f"Patient/pat-{number % 5_000}"},
        "effectiveDateTime": "2026-02-28T08:00:00+01:00",
        "valueQuantity": {"value": 200 + number % 300, "unit": "U/L", "code": "U/L"},
    }
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def plain(base_url: str, files: int, target: Path) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for number in range(files):
            with session.get(f"{base_url}{number}.ndjson", stream=True, timeout=60) as answer:
                answer.raise_for_status()
                with (target / f"{number}").open("wb") as f:
                    for chunk in answer.iter_content(1 << 18):
                        f.write(chunk)


def ours(base_url: str, counts: list[int], target: Path) -> None:
    site = Site.model_validate({"base_url": base_url, "allow_plain_http": "loopback only"})
    with FhirClient("benchmark", site) as client:
        for number, count in enumerate(counts):
            url = f"{base_url}{number}.ndjson"
            file = ExportFile("output", "Observation", url, count, str(number))
            stored = download(client, file, target / f"{number}", requires_access_token=True)
            if stored.lines != count:
                raise SystemExit("the download is not whole")


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served, target = folder / "served", folder / "target"
        served.mkdir()
        target.mkdir()
        counts = write_files(served, options.files, options.mib)
        command = [sys.executable, "-c", _SERVER, str(served)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                port = server.stdout.readline().strip() if server.stdout else ""
                base_url = f"http://127.0.0.1:{port}/fhir"
                times: dict[str, list[float]] = {"plain": [], "ours": []}
                work = {
                    "plain": lambda: plain(base_url, options.files, target),
                    "ours": lambda: ours(base_url, counts, target),
                }
                for number in range(options.rounds):
                    for way in sorted(work, reverse=number % 2 == 0):
                        times[way].append(seconds(work[way]))
            finally:
                server.terminate()
        size = sum(p.stat().st_size for p in served.iterdir()) / (1 << 20)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        print(f"{name:6} {median:6.2f} s  {size / median:7.0f} MiB/s")
    ratios = [ours_time / plain_time for plain_time, ours_time in zip(*times.values(), strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio  {statistics.median(ratios):6.2f}  ({spread} in {options.rounds} rounds of {size:.0f} MiB)")


if __name__ == "__main__":
    main()
