"""How much of a slow server's latency is hidden: a whole extraction by search, by 8 workers against one.

    .venv/bin/python benchmarks/latency.py [--latency 0.2] [--patients 160] [--observations 200]

The server waits so many seconds before each answer. The time is that of `extract_site`, from the
CapabilityStatement to the renamed run: what cannot be done side by side counts too (aim: 6).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from hospitals import SITE, hospital_server, study, workspace_at

from rwe.extract import extract_site


def seconds(base_url: str, workers: int, expected: int) -> tuple[float, int]:
    """Seconds that one extraction takes, and the requests it sends."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = workspace_at(Path(folder), base_url, max_concurrency=workers, route="search")
        begun = time.perf_counter()
        result = extract_site(workspace, SITE, [study()])
        taken = time.perf_counter() - begun
    if result.resources["Observation"] != expected:
        raise SystemExit("the extraction is not whole")
    return taken, result.requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--patients", type=int, default=160)
    parser.add_argument("--observations", type=int, default=200, help="of each patient")
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 1])
    options = parser.parse_args()
    with hospital_server(
        patients=options.patients, observations=options.observations, latency=options.latency
    ) as base_url:
        print(f"{options.patients} patients, {options.observations} Observations each, {options.latency} s")
        taken: list[float] = []
        for workers in options.workers:
            found, requests = seconds(base_url, workers, options.patients * options.observations)
            taken.append(found)
            print(f"max_concurrency {workers:2}  {found:6.1f} s  {requests} requests")
        print(f"ratio {taken[-1] / taken[0]:.2f}")


if __name__ == "__main__":
    main()
