"""The search client against plain `requests`, FHIR-PYrate and fhirpy: ratios taken in one run.

Ours splits pages into resources, compresses, hashes and lands them as a run; plain `requests` reads the same
pages and throws them away; the peers read them into their objects. Each round takes all in turn; medians.

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
from pathlib import Path

import requests

from rwe.config import Site
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


def plain(base: str, pages: int, count: int) -> tuple[int, float]:
    """Reads every page and throws it away."""
    session = requests.Session()
    begun = time.perf_counter()
    for page in range(pages):
        answer = session.get(f"{base}/Observation?_count={count}&page={page}", timeout=60)
        assert answer.content
    return pages * count, time.perf_counter() - begun


def ours(base: str, count: int) -> tuple[int, float]:
    """The whole of our way to disk."""
    site = Site(base_url=base, page_size=count, allow_plain_http="loopback only")
    with tempfile.TemporaryDirectory() as folder, FhirClient("bench", site) as client:
        begun = time.perf_counter()
        with new_run(Path(folder), "bench") as run:

            def land(page: Page) -> None:
                for found in page.found:
                    run.write(found.resource.type, found.resource.raw)

            summary = search(client, "Observation", [], page_size=count, on_page=land)
            run.commit(RunFacts(route="search", time_zone="UTC"))
        return summary.resources, time.perf_counter() - begun


def peer(python: Path, name: str, base: str, count: int) -> tuple[int, float]:
    """A peer project in its own environment; the time of its imports is not counted."""
    command = [str(python), str(HERE / "peer_client.py"), name, base, str(count)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(answer[-2]), float(answer[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="the Python of an environment with FHIR-PYrate and fhirpy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with pages_server(pages=options.pages, count=options.count) as base:
        for _ in range(options.rounds):
            found = {
                "plain requests": plain(base, options.pages, options.count),
                "rwe": ours(base, options.count),
            }
            if options.peers:
                found |= {p: peer(options.peers, p, base, options.count) for p in ("fhir_pyrate", "fhirpy")}
            for name, (read, seconds) in found.items():
                assert read == options.pages * options.count, (name, read)
                rates.setdefault(name, []).append(read / seconds)
    print(f"{options.pages} pages of {options.count} Observations, {options.rounds} rounds, medians")
    for name, values in rates.items():
        ratios = [ours_rate / rate for ours_rate, rate in zip(rates["rwe"], values, strict=True)]
        print(
            f"{name:15} {statistics.median(values):>10,.0f}/s   rwe: {statistics.median(ratios):.2f} times it"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:,.0f} MB")


if __name__ == "__main__":
    main()
