"""One worker host drives many sandbox sites: time, memory and requests of its nights.

    .venv/bin/python benchmarks/fifty_sites.py [--sites 50] [--patients 20] [--at-once 8] [--latency 0.05]

The hospitals serve on loopback, ten in each of a few processes, and wait so long before each answer. A night
is a process a site, as a Prefect process pool runs them, so many at once. Printed for the first night and for
one after a day of changes: seconds by the clock and of the processor, resources, requests (of all, and the
most of one), the peak resident memory of one process, and the sum of the largest that may run at once. Then a
first night of a tenth of the sites, side by side and one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from hospitals import study

from rwe.config import Site, Workspace, init_workspace, open_workspace
from rwe.extract import extract_site
from rwe.landing import list_runs
from rwe.sandbox.application import application
from rwe.sandbox.control import Control
from rwe.sandbox.dialects import DialectName
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Quirks

_A_PROCESS = 10
_SECRET = "loopback"
_KINDS: tuple[DialectName, ...] = ("a", "b", "c")


@dataclass(frozen=True)
class SiteNight:
    """One site's night: what landed, requests sent, seconds within the process, its peak megabytes."""

    resources: int
    requests: int
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Night:
    """A night of several sites: seconds by the clock, and of the processor, with Python's start each time."""

    sites: list[SiteNight]
    seconds: float
    cpu: float


def serve(first: int, sites: int, patients: int, latency: float) -> None:
    """A process that serves several hospitals; prints their ports, ends when its standard input does."""

    async def until_told() -> None:
        servers = []
        for number in range(first, first + sites):
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            quirks = Quirks(latency_seconds=latency)
            spec = HospitalSpec(f"s{number}", _KINDS[number % 3], patients, seed=number, quirks=quirks)
            app = application(spec, f"http://127.0.0.1:{port}/fhir", secret=_SECRET)
            config = uvicorn.Config(app, log_level="warning", access_log=False)
            servers.append((uvicorn.Server(config), listener, port))
        print(json.dumps([port for _, _, port in servers]), flush=True)
        serving = [asyncio.create_task(s.serve(sockets=[listener])) for s, listener, _ in servers]
        await asyncio.to_thread(sys.stdin.read)
        for server, _, _ in servers:
            server.should_exit = True
        await asyncio.gather(*serving)

    asyncio.run(until_told())


@contextmanager
def running(sites: int, patients: int, latency: float) -> Iterator[dict[str, int]]:
    """The hospitals' ports by name."""
    with ExitStack() as stack:
        servers = []
        for first in range(0, sites, _A_PROCESS):
            few = min(_A_PROCESS, sites - first)
            command = [sys.executable, __file__, "--serve", str(first), str(few)]
            command += ["--patients", str(patients), "--latency", str(latency)]
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(server)
            assert server.stdin is not None
            stack.callback(server.stdin.close)
            servers.append((first, server))
        ports = {}
        for first, server in servers:
            assert server.stdout is not None
            found = json.loads(server.stdout.readline())
            ports |= {f"s{first + k}": port for k, port in enumerate(found)}
        yield ports


def with_sites(workspace: Workspace, ports: dict[str, int]) -> Workspace:
    sites = {
        name: Site.model_validate(
            {"base_url": f"http://127.0.0.1:{port}/fhir", "allow_plain_http": "loopback only"}
        )
        for name, port in ports.items()
    }
    return Workspace(workspace.root, workspace.settings.model_copy(update={"sites": sites}))


def extract_one(root: Path, name: str, port: int) -> None:
    """The process of one site's night; prints its SiteNight."""
    workspace = with_sites(open_workspace(root), {name: port})
    result = extract_site(workspace, name, [study()])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([sum(result.resources.values()), result.requests, result.seconds, peak]))


def night(root: Path, ports: dict[str, int], at_once: int) -> Night:
    """A night of these sites, a process each, so many at once."""

    def one(name: str) -> SiteNight:
        command = [sys.executable, __file__, "--one", str(root), name, str(ports[name])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return SiteNight(*json.loads(done.stdout))

    begun, before = time.perf_counter(), _children_cpu()
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(one, ports))
    return Night(found, time.perf_counter() - begun, _children_cpu() - before)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tell(what: str, found: Night, at_once: int) -> None:
    peaks = sorted((s.peak_mb for s in found.sites), reverse=True)
    requests: Sequence[int] = [s.requests for s in found.sites]
    print(
        f"{what:28} {len(found.sites):5} {found.seconds:8.1f} {found.cpu:8.1f}"
        f" {sum(s.resources for s in found.sites):10,} {sum(requests):9,} {max(requests):9}"
        f" {peaks[0]:8.0f} {sum(peaks[:at_once]):9.0f}",
        flush=True,
    )


def measure(options: argparse.Namespace, folder: Path) -> None:
    """All nights, told as they end."""
    load = os.getloadavg()[0]
    with running(options.sites, options.patients, options.latency) as ports:
        print(f"load {load:.1f} before; {options.at_once} processes at once")
        print(
            f"{'night':28} {'sites':>5} {'seconds':>8} {'cpu s':>8} {'resources':>10} {'requests':>9}"
            f" {'most':>9} {'peak MB':>8} {'together':>9}"
        )
        root = init_workspace(folder / "many", folder / "many.key").root
        first = night(root, ports, options.at_once)
        tell("the first", first, options.at_once)
        for name, port in ports.items():
            control = Control(name, "127.0.0.1", port, _SECRET)
            control.mutate(1)
            control.advance()
        second = night(root, ports, options.at_once)
        tell("the next, after a day", second, options.at_once)
        landed = {run.site for run in list_runs(root / "landing")}
        assert landed == ports.keys(), "a site is missing"
        some = dict(list(ports.items())[: max(3, options.sites // 10)])
        beside = init_workspace(folder / "beside", folder / "beside.key").root
        side_by_side = night(beside, some, options.at_once)
        tell("first, some, side by side", side_by_side, options.at_once)
        after = init_workspace(folder / "after", folder / "after.key").root
        one_by_one = night(after, some, 1)
        tell("first, some, one by one", one_by_one, 1)
        print(f"one by one takes {one_by_one.seconds / side_by_side.seconds:.1f} times as long")
        print(f"the next night sends {_share(second, first):.2f} times the requests of the first")


def _share(left: Night, right: Night) -> float:
    return sum(s.requests for s in left.sites) / sum(s.requests for s in right.sites)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--patients", type=int, default=20, help="eligible ones, of each site")
    parser.add_argument("--at-once", type=int, default=8, help="sites at once")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--serve", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve, options.patients, options.latency)
    elif options.one:
        extract_one(Path(options.one[0]), options.one[1], int(options.one[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, Path(folder))


if __name__ == "__main__":
    main()
