"""Hospitals as processes of their own, on the loopback interface.

`running_hospitals` starts one process a hospital and stops them all again. By hand:

    python -m rwe.sandbox.server --name north --dialect a --patients 300 --seed 1 --options '{"bulk": {}}'
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from rwe.errors import SiteError
from rwe.sandbox.application import application
from rwe.sandbox.control import Control
from rwe.sandbox.hospital import HospitalSpec, demo_specs

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
    control: Control


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
            secret = secrets.token_urlsafe(24)
            process, pipe = _start(spec, secret, log_folder)
            stack.callback(os.close, pipe)
            stack.callback(_stop, process)
            started.append((spec, process, pipe, secret))
        deadline = time.monotonic() + START_SECONDS
        yield [_await(spec, process, pipe, secret, deadline) for spec, process, pipe, secret in started]


@dataclass(frozen=True)
class _Start:
    """What a hospital's process is told. `secret` opens its control room."""

    spec: HospitalSpec
    secret: str


def _start(spec: HospitalSpec, secret: str, log_folder: Path | None) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process. It holds one end of two pipes: it says its port on one, and ends with the other."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "rwe.sandbox.server", "--port-fd", str(write_end), "--spec-on-stdin"]
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
    # Over stdin and not as an argument: it may hold credentials, and arguments can be read by anybody.
    # The pipe is left open: its end is the hospital's sign that this process is gone.
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # it died at once: _await says so
            process.stdin.write(msgspec.json.encode(_Start(spec, secret)) + b"\n")
            process.stdin.flush()
    return process, read_end


def _await(
    spec: HospitalSpec, process: subprocess.Popen[bytes], pipe: int, secret: str, deadline: float
) -> RunningHospital:
    """Wait for the port, then for the first answer."""
    if select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        text = os.read(pipe, 16).decode("ascii").strip()
        while text and process.poll() is None and time.monotonic() < deadline:
            if _answers(int(text)):
                base_url = f"http://{HOST}:{text}/fhir"
                control = Control(spec.name, HOST, int(text), secret)
                return RunningHospital(spec.name, base_url, spec.manner.time_zone, process.pid, control)
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
    secret: str = "",
) -> None:
    """Serve a hospital until told to stop. Port 0 takes a free one and writes it to `port_fd` or stdout.

    `base_url` is what links are made of, where a proxy stands before the server; else its own address.
    `secret` opens the control room; without one there is none.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    port = listener.getsockname()[1]
    base_url = base_url or f"http://{HOST}:{port}/fhir"
    gc.disable()  # a hundred thousand small objects that stay: looking for garbage doubles the time
    app = application(spec, base_url, secret=secret)
    gc.freeze()
    gc.enable()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,  # the hospital has a clock of its own
        timeout_graceful_shutdown=2,
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


def _told() -> _Start:
    """The line on stdin, read unbuffered: what follows it is only that stdin closes."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 65536)
        if not more:
            raise SystemExit("nothing was said on stdin")
        line += more
    return msgspec.json.decode(line, type=_Start)


def main() -> None:
    """The command line of one hospital's process."""
    parser = argparse.ArgumentParser(description="Serve a synthetic hospital over FHIR R4.")
    parser.add_argument("--name", default="hospital")
    parser.add_argument("--dialect", choices=["a", "b", "c"], default="a")
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--options", default="{}", help="further fields of HospitalSpec, as JSON: truth, bulk, access, …"
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--base-url", help="what links are made of, behind a proxy")
    parser.add_argument("--control-secret", default="", help="opens /_control; without one there is none")
    parser.add_argument("--port-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--spec-on-stdin", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.spec_on_stdin:
        told = _told()
        serve(told.spec, secret=told.secret, port_fd=options.port_fd, until_stdin_closes=True)
        return
    plain = {name: getattr(options, name) for name in ("name", "dialect", "patients", "seed")}
    spec = msgspec.convert(plain | json.loads(options.options), HospitalSpec)
    serve(spec, port=options.port, base_url=options.base_url, secret=options.control_secret)


if __name__ == "__main__":
    main()
