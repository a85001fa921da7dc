"""A Prefect server and workers as processes of their own, on loopback, in a folder of the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests

T = TypeVar("T")
PASSWORD = "operator:only-for-this-test"
START_SECONDS = 240.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def await_(what: Callable[[], T | None], *, seconds: float = 60.0, said: str = "") -> T:
    """The first answer of `what` that is neither None nor False. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {said or what.__name__}"
        time.sleep(0.3)


def environment(folder: Path, port: int, **more: str) -> dict[str, str]:
    """The environment of server, worker and client: nothing of the machine's own Prefect."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RWE_"))}
    return clean | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
        "PREFECT_API_AUTH_STRING": PASSWORD,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_CLI_COLORS": "false",
        "NO_COLOR": "1",
        **more,
    }


@dataclass
class Service:
    """A process in a group of its own, and the file it writes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill_group(self) -> None:
        """What a lost machine does: the process and all that it started are gone at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill_group()


def start(command: list[str], env: Mapping[str, str], log: Path, cwd: Path | None = None) -> Service:
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=dict(env), stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
    return Service(process, log)


@dataclass
class Prefect:
    """A running server, and how to talk to it without Prefect's own client."""

    folder: Path
    port: int
    env: dict[str, str] = field(repr=False)
    server: Service = field(repr=False)
    workers: list[Service] = field(default_factory=list, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def api(self, method: str, path: str, **body: Any) -> Any:
        """The JSON answer of the server."""
        return self.api_list(method, path, body or None)

    def api_list(self, method: str, path: str, body: Any) -> Any:
        """The same with any body."""
        user, _, password = PASSWORD.partition(":")
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(20):
                answer = session.request(
                    method, f"{self.url}{path}", json=body, auth=(user, password), timeout=90
                )
                if answer.status_code != 503:  # SQLite is busy: clients ask again
                    break
                time.sleep(0.5)
        assert answer.ok, (path, answer.status_code, answer.text[:500])
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", f"/deployments/name/{name}")
        return found

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Begin a run of a deployment now."""
        i = self.deployment(deployment)["id"]
        made: dict[str, Any] = self.api("POST", f"/deployments/{i}/create_flow_run", parameters=parameters)
        return made

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """All runs of a deployment, in the order in which they were due."""
        i = self.deployment(deployment)["id"]
        found: list[dict[str, Any]] = self.api(
            "POST", "/flow_runs/filter", deployments={"id": {"any_": [i]}}, sort="EXPECTED_START_TIME_ASC"
        )
        return found

    def state(self, run: Mapping[str, Any]) -> str:
        return str(self.api("GET", f"/flow_runs/{run['id']}")["state"]["name"])

    def ended(self, run: Mapping[str, Any], seconds: float = 90.0) -> str:
        """The name of the state a run ends in."""
        ends = {"Completed", "Failed", "Crashed", "Cancelled", "TimedOut"}
        return await_(
            lambda: s if (s := self.state(run)) in ends else None, seconds=seconds, said=f"{run['name']} ends"
        )

    def rwe(self, *words: str, workspace: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`rwe …`, told of this server."""
        at = ["-w", str(workspace)] if workspace else []
        return subprocess.run(
            [sys.executable, "-c", "from rwe.cli import main; main()", *words, *at],
            env=self.env, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def start_worker(self, pool: str = "rwe", **more: str) -> Service:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
        command += ["--install-policy", "never", "--name", socket.gethostname()]
        worker = start(command, self.env | more, self.folder / "worker.log")
        self.workers.append(worker)
        return worker

    def restart_server(self) -> None:
        """Start a server on the same port and database; the one before is gone."""
        self.server = start_server(self.folder, self.port, self.env)


def start_server(folder: Path, port: int, env: Mapping[str, str]) -> Service:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = start([*command, "--no-ui"], env, folder / "server.log")
    try:
        await_healthy(server, port)
    except BaseException:
        server.stop()
        raise
    return server


def await_healthy(server: Service, port: int) -> None:
    with requests.Session() as session:
        session.trust_env = False

        def healthy() -> bool:
            assert server.process.poll() is None, server.log.read_text()[-3000:]
            try:
                return session.get(f"http://127.0.0.1:{port}/api/health", timeout=5).status_code == 200
            except requests.RequestException:
                return False

        await_(healthy, seconds=START_SECONDS, said="Prefect's server is healthy")


@contextmanager
def running_prefect(folder: Path, **more: str) -> Iterator[Prefect]:
    """A server of the test's own with SQLite; workers that the test starts are stopped with it."""
    port = free_port()
    env = environment(folder, port, **more)
    with ExitStack() as stack:
        prefect = Prefect(folder, port, env, start_server(folder, port, env))
        stack.callback(lambda: prefect.server.stop())  # noqa: PLW0108 - the one it then has
        stack.callback(lambda: [w.stop() for w in prefect.workers])
        yield prefect
