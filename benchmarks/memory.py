"""The memory of a whole extraction, as the site grows: peaks of fresh processes, by search and by $export.

    .venv/bin/python benchmarks/memory.py [--patients 500] [--observations 50] [--factors 1 4 16]

The server is a process of its own and makes each resource when it is asked for. Printed is the peak resident
memory of the process that ran `extract_site` (aim: under 300 MB, and flat). `--nights 2` runs a second,
full extraction on top, in a process of its own too: it knows what landed before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hospitals import SITE, hospital_server, study, workspace_again, workspace_at

from rwe.extract import extract_site

_TYPES_BESIDE = 6  # Patient, Procedure, two Encounters, two Conditions


def extract_once(folder: Path, base_url: str, route: str) -> None:
    """The measured process: one extraction; prints resources, seconds and peak megabytes."""
    is_first = not (folder / "workspace").exists()
    workspace = (workspace_at if is_first else workspace_again)(folder, base_url, route=route)
    begun = time.perf_counter()
    result = extract_site(workspace, SITE, [study()], full=not is_first)
    taken = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(sum(result.resources.values()), f"{taken:.1f}", f"{peak:.0f}")


def measured(folder: Path, base_url: str, route: str) -> tuple[int, float, int]:
    command = [sys.executable, __file__, "--one", str(folder), base_url, route]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return int(answer[0]), float(answer[1]), int(answer[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--observations", type=int, default=50, help="of each patient")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 4, 16], help="more Observations each")
    parser.add_argument("--routes", nargs="+", default=["search", "export"])
    parser.add_argument("--nights", type=int, default=1)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        extract_once(Path(options.one[0]), options.one[1], options.one[2])
        return
    print("route   night  resources  seconds  peak MB")
    for route in options.routes:
        for factor in options.factors:
            size = {"patients": options.patients, "observations": options.observations * factor}
            with hospital_server(**size) as base_url, tempfile.TemporaryDirectory() as folder:
                for night in range(1, options.nights + 1):
                    found, seconds, peak = measured(Path(folder), base_url, route)
                    assert found == options.patients * (size["observations"] + _TYPES_BESIDE), found
                    print(f"{route:7} {night:5} {found:10,} {seconds:8.1f} {peak:8}", flush=True)


if __name__ == "__main__":
    main()
