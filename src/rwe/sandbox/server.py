"""Hospitals as processes of their own, on the loopback interface.

`running_hospitals` starts one process a hospital and stops them all again. By hand:

    python -m rwe.sandbox.server --name north --dialect a --patients 300 --seed 1
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, cast

import uvicorn

from rwe.errors import SiteError
from rwe.sandbox.dialects import DialectName
from rwe.sandbox.hospital import HospitalSpec, demo_specs, open_store
from rwe.sandbox.service import application
from rwe.sandbox.truth import Truth

__all__ = ["HospitalSpec", "RunningHospital", "demo_specs", "running_hospitals", "serve"]

HOST = "127.0.0.1"
START_SECONDS, STOP_SECONDS = 60.0, 5.0


@dataclass(frozen=True)
class RunningHospital:
    """A hospital that answers. `base_url` is its FHIR endpoint; its instants in Z belong to `time_zone`."""

    name: str
    base_url: str
    time_zone: str
    pid: int


@contextmanager
def running_hospitals(
    specs: Sequence[HospitalSpec], *, log_folder: Path | None = None
) -> Iterator[list[RunningHospital]]:
    """Start a process for each hospital, wait until all answer, and stop them on the way out.

    What the servers print goes to log_folder/NAME.log, else nowhere. They also stop by themselves when this
    process is gone. Raises SiteError if one does not come up within START_SECONDS.
    """
    with ExitStack() as stack:
        started = []
        for spec in specs:
            process, pipe = _start(spec, log_folder)
            stack.callback(os.close, pipe)
            stack.callback(_stop, process)
            started.append((spec, process, pipe))
        deadline = time.monotonic() + START_SECONDS
        yield [_await(spec, process, pipe, deadline) for spec, process, pipe in started]


def _start(spec: HospitalSpec, log_folder: Path | None) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process. It holds one end of two pipes: it says its port on one, and ends with the other."""
    read_end, write_end = os.pipe()
    command = [
        sys.executable,
        "-m",
        "rwe.sandbox.server",
        "--port-fd",
        str(write_end),
        "--until-stdin-closes",
    ]
    command += ["--name", spec.name, "--dialect", spec.dialect, "--patients", str(spec.patients)]
    command += ["--seed", str(spec.seed), "--truth", _truth_to_json(spec.truth)]
    try:
        with ExitStack() as stack:
            log: Any = subprocess.DEVNULL
            if log_folder is not None:
                log_folder.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context((log_folder / f"{spec.name}.log").open("ab"))
            process = subprocess.Popen(  # noqa: S603  (our own interpreter, no shell)
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the hospitals
            )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return process, read_end


def _await(
    spec: HospitalSpec, process: subprocess.Popen[bytes], pipe: int, deadline: float
) -> RunningHospital:
    """Wait for the port, then for the first answer."""
    if select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        text = os.read(pipe, 16).decode("ascii").strip()
        while text and process.poll() is None and time.monotonic() < deadline:
            if _answers(int(text)):
                base_url = f"http://{HOST}:{text}/fhir"
                return RunningHospital(spec.name, base_url, spec.manner.time_zone, process.pid)
            time.sleep(0.02)
    raise SiteError(
        "the synthetic hospital did not start", where=spec.name, advice="see its log, or try again"
    )


def _answers(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/fhir/metadata")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to this very process."""
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(
    spec: HospitalSpec,
    *,
    port: int = 0,
    base_url: str | None = None,
    port_fd: int | None = None,
    until_stdin_closes: bool = False,
) -> None:
    """Serve a hospital until told to stop. Port 0 takes a free one and writes it to `port_fd` or stdout.

    `base_url` is what links are made of, where a proxy stands before the server; else its own address.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    port = listener.getsockname()[1]
    base_url = base_url or f"http://{HOST}:{port}/fhir"
    gc.disable()  # a hundred thousand small objects that stay: looking for garbage doubles the time
    app = application(open_store(spec), spec.manner, base_url)
    gc.freeze()
    gc.enable()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    if until_stdin_closes:
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
    if port_fd is None:
        print(base_url, flush=True)
    else:
        os.write(port_fd, f"{port}\n".encode("ascii"))
        os.close(port_fd)
    server.run(sockets=[listener])


def _stop_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 4096):  # unbuffered: a buffered read would hold a lock while the interpreter ends
        pass
    server.should_exit = True


def _truth_to_json(truth: Truth) -> str:
    return json.dumps(asdict(truth), default=date.isoformat)


def _truth_from_json(text: str) -> Truth:
    given = json.loads(text)
    for name in ("first_index", "last_index", "end_of_records"):
        if name in given:
            given[name] = date.fromisoformat(given[name])
    return Truth(**given)


def main() -> None:
    """The command line of one hospital's process."""
    parser = argparse.ArgumentParser(description="Serve a synthetic hospital over FHIR R4.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--dialect", choices=["a", "b", "c"], required=True)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--truth", default="{}", help="parameters that differ from the defaults, as JSON")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--base-url", help="what links are made of, behind a proxy")
    parser.add_argument("--port-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    spec = HospitalSpec(
        options.name,
        cast(DialectName, options.dialect),
        options.patients,
        options.seed,
        _truth_from_json(options.truth),
    )
    serve(
        spec,
        port=options.port,
        base_url=options.base_url,
        port_fd=options.port_fd,
        until_stdin_closes=options.until_stdin_closes,
    )


if __name__ == "__main__":
    main()
