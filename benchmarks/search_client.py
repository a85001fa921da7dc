"""The search client against plain `requests`, FHIR-PYrate and fhirpy: ratios taken in one run.

Ours splits pages into resources, compresses, hashes and lands them as a run; plain `requests` reads the same
pages and throws them away; the peers read them into their objects. Each round takes all in turn; medians, by
the clock and by the processor's time of the reading process, which a busy machine disturbs less.

    .venv/bin/python benchmarks/search_client.py [--peers .venv-bench/bin/python] [--rounds 5]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from rwe.config import Site
from rwe.fhir.bundle import latest_update
from rwe.fhir.client import FhirClient
from rwe.fhir.search import Page, search
from rwe.landing import RunFacts, new_run

HERE = Path(__file__).parent


@contextmanager
def pages_server(*, pages: int, count: int, latency: float = 0.0) -> Iterator[str]:
    """A page server as a process of its own; yields its base URL."""
    command = [sys.executable, str(HERE / "pages_server.py"), "--pages", str(pages), "--count", str(count)]
    process = subprocess.Popen(
        [*command, "--latency", str(latency)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=10)


@dataclass(frozen=True)
class Reading:
    """Resources read, seconds taken, seconds of the processor."""

    resources: int
    seconds: float
    processor: float


class Watch:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._begun, self._worked = time.perf_counter(), time.process_time()

    def stop(self, resources: int) -> Reading:
        return Reading(resources, time.perf_counter() - self._begun, time.process_time() - self._worked)


def plain(base: str, pages: int, count: int) -> Reading:
    """Reads every page and throws it away."""
    session = requests.Session()
    watch = Watch()
    for page in range(pages):
        answer = session.get(f"{base}/Observation?_count={count}&page={page}", timeout=60)
        assert answer.content
    return watch.stop(pages * count)


def ours(base: str, count: int) -> Reading:
    """The whole of our way to disk."""
    site = Site(base_url=base, page_size=count, allow_plain_http="loopback only")
    with tempfile.TemporaryDirectory() as folder, FhirClient("bench", site) as client:
        watch = Watch()
        with new_run(Path(folder), "bench") as run:

            def land(page: Page) -> None:
                found = [f.resource for f in page.found]
                newest = latest_update(found)
                run.write_all("Observation", [r.raw for r in found], last_updated=newest)

            summary = search(client, "Observation", [], page_size=count, on_page=land)
            run.commit(RunFacts(route="search", time_zone="UTC"))
        return watch.stop(summary.resources)


def peer(python: Path, name: str, base: str, count: int) -> Reading:
    """A peer project in its own environment; the time of its imports is not counted."""
    command = [str(python), str(HERE / "peer_client.py"), name, base, str(count)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return Reading(int(answer[-3]), float(answer[-2]), float(answer[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="the Python of an environment with FHIR-PYrate and fhirpy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    readings: dict[str, list[Reading]] = {}
    with pages_server(pages=options.pages, count=options.count) as base:
        for _ in range(options.rounds):
            found = {
                "plain requests": plain(base, options.pages, options.count),
                "rwe": ours(base, options.count),
            }
            if options.peers:
                found |= {p: peer(options.peers, p, base, options.count) for p in ("fhir_pyrate", "fhirpy")}
            for name, reading in found.items():
                assert reading.resources == options.pages * options.count, name
                readings.setdefault(name, []).append(reading)
    print(f"{options.pages} pages of {options.count} Observations, {options.rounds} rounds, medians")
    print(f"{'':15} {'resources':>12}   rwe: times it by the clock, by the processor")
    for name, values in readings.items():
        rate = statistics.median(r.resources / r.seconds for r in values)
        pairs = list(zip(readings["rwe"], values, strict=True))
        clock = statistics.median(other.seconds / rwe.seconds for rwe, other in pairs)
        processor = statistics.median(other.processor / rwe.processor for rwe, other in pairs)
        print(f"{name:15} {rate:>10,.0f}/s   {clock:6.2f} {processor:6.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:,.0f} MB")


if __name__ == "__main__":
    main()
