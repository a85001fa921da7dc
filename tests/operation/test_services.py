"""deploy/: what stands in the compose file and the units is valid, locked down, and starts as it stands.

Images cannot be had where tests run, so each service's own command line and environment is started without a
container. Only addresses, ports and folders are others.
"""

from __future__ import annotations

import configparser
import getpass
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from cryptography.fernet import Fernet

from rwe.blocklist import key_path
from rwe.config import Settings, Workspace, init_workspace
from rwe.identity import identity_file
from tests.operation.running import PASSWORD, Prefect, Service, await_, free_port, start
from tests.support import ROOT, missing

pytestmark = pytest.mark.timeout(600)
DEPLOY = ROOT / "deploy"
UNITS = ("rwe-server", "rwe-worker")
SECRET_URL = "https://hooks.example.org/canary-webhook-3f9a"
BIN = Path(sys.executable).parent


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return read


def unit(name: str) -> dict[str, list[str]]:
    """The lines of a unit by key; a key may stand several times."""
    lines: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / f"{name}.service").read_text(encoding="utf-8").splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            lines.setdefault(key, []).append(value)
    return lines


def test_nothing_listens_but_on_loopback_and_every_service_tells_its_health() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        if "profiles" not in service:
            assert service["healthcheck"]["test"][0] == "CMD"
        if name != "hapi":
            assert service["read_only"] is True
            assert "no-new-privileges:true" in service["security_opt"]
    assert "ports" not in services["postgres"]
    assert compose()["networks"]["inside"] == {"internal": True}
    assert services["hapi"]["profiles"] == ["try"], "only on demand"
    assert services["operator"]["profiles"] == ["by-hand"], "never up by itself"
    for name in ("server", "worker", "operator"):
        assert services[name]["user"] == "10001:10001"
        assert services[name]["cap_drop"] == ["ALL"]


def test_no_secret_stands_in_the_compose_file_and_only_worker_and_operator_have_the_keys() -> None:
    read = compose()
    for name, source in read["secrets"].items():
        assert set(source) == {"file"}, name
    for name, service in read["services"].items():
        for variable in service.get("environment", {}):
            assert not re.search(r"(PASSWORD|AUTH_STRING|KEY)$", variable), (name, variable)
        assert set(service.get("secrets", [])) <= read["secrets"].keys()
        mounts = [v for v in service.get("volumes", []) if "/etc/rwe" in v or "/srv/rwe" in v]
        assert bool(mounts) == (name in {"worker", "operator"}), name
    worker, server = read["services"]["worker"], read["services"]["server"]
    assert "${RWE_KEYS:-/etc/rwe}:/etc/rwe:ro" in worker["volumes"]
    assert "prefect_server_encryption_key" in server["secrets"]
    assert worker["secrets"] == ["prefect_api_auth_string"]


def can_write(service: dict[str, Any], path: str) -> bool:
    """Whether a folder of a service lies on a mount that is not read-only."""
    for mount in service["volumes"]:
        source, target, *mode = re.sub(r"\$\{[^}]*\}", "KEYS", mount).split(":")
        assert source
        if Path(path).is_relative_to(target):
            return mode != ["ro"]
    return service["read_only"] is False


def test_what_commands_by_hand_write_beside_the_key_can_be_written_there_and_not_by_nights() -> None:
    """The list of the erased, the identity, the pins lie beside the key that `rwe init` is told to make."""
    services, readme = compose()["services"], (DEPLOY / "README.md").read_text(encoding="utf-8")
    init = re.search(r"operator\s+(?:\\\s+)?rwe init (\S+) --key-file (\S+)", readme)
    assert init is not None
    root, key = init.groups()
    assert root == services["operator"]["environment"]["RWE_WORKSPACE"]
    settings = Settings(pseudonyms={"key_file": key})
    workspace = Workspace(Path(root), settings)
    for path in (key_path(workspace), identity_file(workspace), Path(key)):
        assert can_write(services["operator"], str(path.parent)), path
        assert not can_write(services["worker"], str(path.parent)), path
    for name in ("operator", "worker"):
        assert can_write(services[name], root), name


def test_the_pool_is_made_before_the_first_worker() -> None:
    """A worker that finds no pool makes one with Prefect's template (test_pool.py)."""
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    bare, contained = readme.split("## In containers")
    assert bare.index("rwe deploy --wait") < bare.index("enable --now rwe-worker")
    ups = [m.end() for m in re.finditer(r"up --detach", contained)]
    assert contained[ups[0] :].startswith(" server\n"), "the server alone"
    assert ups[0] < contained.index("rwe deploy --wait") < ups[1]


def test_on_the_bare_host_nothing_is_installed_that_an_old_pip_cannot_read() -> None:
    """Debian 12 has pip 23.0, which takes an extra in a hash-checked lock for unpinned: uv installs it."""
    lines = [
        line for line in (DEPLOY / "README.md").read_text().splitlines() if line.startswith("# /opt/rwe/")
    ]
    by_pip = [line for line in lines if line.startswith("# /opt/rwe/bin/pip ")]
    assert [line.split("--requirement ")[1] for line in by_pip] == ["requirements-uv.lock"]
    assert all("--require-hashes" in line for line in by_pip)
    by_uv = [line for line in lines if line.startswith("# /opt/rwe/bin/uv pip install")]
    assert any("--require-hashes" in line and line.endswith(" requirements.lock") for line in by_uv)
    pins = [line for line in (ROOT / "requirements-uv.lock").read_text().splitlines() if "==" in line]
    assert [pin.partition("==")[0] for pin in pins] == ["uv"], "without extras or dependencies"


def test_the_image_is_hash_checked_and_its_user_is_nobody() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert {s[0] for s in steps} <= {
        "ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    installs = [s[1] for s in steps if s[0] == "RUN" and "pip install" in s[1]]
    assert all("--require-hashes" in i or "--no-deps --no-build-isolation ." in i for i in installs)
    assert len(installs) == 2
    order = [s[0] for s in steps]
    assert order.index("USER") > max(i for i, s in enumerate(steps) if s[0] == "RUN")
    assert ["USER", "10001:10001"] in steps
    assert not any("secret" in s[1].lower() and s[0] == "ENV" for s in steps)
    for s in steps:
        if s[0] == "COPY" and "--from" not in s[1]:
            for source in [w for w in s[1].split()[:-1] if not w.startswith("--")]:
                assert (ROOT / source).exists(), source


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_units_and_finds_them_locked_down(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze")
    # Parsed for repeated sections, too, which systemd would merge in silence.
    configparser.ConfigParser(strict=False, interpolation=None).read(DEPLOY / "systemd" / f"{name}.service")
    path = tmp_path / f"{name}.service"
    text = (DEPLOY / "systemd" / f"{name}.service").read_text(encoding="utf-8")
    path.write_text(re.sub(r"/opt/rwe/bin/(prefect|rwe)", "/bin/true", text))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    said = [line for line in verified.stderr.splitlines() if name in line]
    assert said == []
    # 0 is locked, 10 is open; 3.0 lets in no capability, no write access to the system, no other namespace.
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-600:]


def test_the_two_units_cannot_see_each_others_secrets() -> None:
    server, worker = unit("rwe-server"), unit("rwe-worker")
    assert server["User"] != worker["User"]
    assert server["EnvironmentFile"] == ["/etc/rwe-server/server.env"]
    assert "-/etc/rwe" in server["InaccessiblePaths"][0].split()
    assert "-/etc/rwe-server" in worker["InaccessiblePaths"][0].split()
    for one in (server, worker):
        for line in one["Environment"]:
            assert not re.search(r"(PASSWORD|AUTH_STRING|KEY|TOKEN)=", line)


@dataclass(frozen=True)
class Places:
    """Where the services of one test stand: in the compose file they have hosts of their own."""

    folder: Path
    database_port: int
    api_port: int
    health_port: int

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def put(self, text: str) -> str:
        """The same words with this test's addresses, ports and folders."""
        places = {
            "0.0.0.0": "127.0.0.1",
            "http://server:4200": f"http://127.0.0.1:{self.api_port}",
            "http://127.0.0.1:4200": f"http://127.0.0.1:{self.api_port}",
            "4200": str(self.api_port),
            "http://127.0.0.1:8080": f"http://127.0.0.1:{self.health_port}",
            "8080": str(self.health_port),
            "5432": str(self.database_port),
            "/var/lib/rwe-server": str(self.folder / "state"),
            "/var/lib/rwe": str(self.folder / "state"),
            "/srv/rwe": str(self.folder),
            "/opt/rwe/bin": str(BIN),
            "--name worker": f"--name {socket.gethostname()}",
            "%H": socket.gethostname(),
        }
        if text == "postgres":  # the host of the database
            return "127.0.0.1"
        for there, here in places.items():
            text = text.replace(there, here)
        return text

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        plain = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8"}
        return plain | {name: self.put(value) for name, value in variables.items()}


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    """Not in pytest's folder: Postgres does not run as root, and its account cannot look in there."""
    with tempfile.TemporaryDirectory(prefix="rwe-services-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        made = Places(Path(name), free_port(), free_port(), free_port())
        made.secrets.mkdir(mode=0o700)
        for secret, text in {
            "prefect_server_database_password": "only-for-this-test",
            "prefect_server_api_auth_string": PASSWORD,
            "prefect_server_encryption_key": Fernet.generate_key().decode(),
        }.items():
            (made.secrets / secret).write_text(text + "\n")
        yield made


def postgres_programs() -> Path:
    """Where initdb and postgres lie: Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    missing("Postgres (Debian's package postgresql)")
    raise AssertionError


@pytest.fixture(scope="module")
def postgres(places: Places) -> Iterator[Service]:
    """The compose file's database: its command, its user, its way to log in."""
    programs, service = postgres_programs(), compose()["services"]["postgres"]
    told = service["environment"]
    account = {"user": "postgres", "group": "postgres"} if getpass.getuser() == "root" else {}
    data = places.folder / "data"
    data.mkdir(mode=0o700)
    password = places.folder / "password"
    password.write_text((places.secrets / "prefect_server_database_password").read_text())
    if account:
        shutil.chown(data, "postgres", "postgres")
        shutil.chown(password, "postgres", "postgres")
    password.chmod(0o600)
    subprocess.run(
        [programs / "initdb", "--pgdata", data, "--username", told["POSTGRES_USER"], "--pwfile", password,
         *shlex.split(told["POSTGRES_INITDB_ARGS"])],
        check=True, capture_output=True, cwd=places.folder, **account,
    )  # fmt: skip
    with (data / "postgresql.conf").open("a") as f:
        f.write("\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n")
    env = {"PATH": f"{programs}:/usr/bin:/bin", "PGDATA": str(data), "PGPORT": str(places.database_port)}
    with (places.folder / "postgres.log").open("wb") as log:
        process = subprocess.Popen(
            service["command"], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, cwd=places.folder, executable=str(programs / "postgres"), **account,
        )  # fmt: skip
    running = Service(process, places.folder / "postgres.log")
    try:
        health = [*service["healthcheck"]["test"][1:], "--host=127.0.0.1", f"--port={places.database_port}"]
        await_(
            lambda: subprocess.run(health, env=env, check=False, capture_output=True).returncode == 0,
            said="Postgres is healthy",
        )
        login = env | {"PGPASSWORD": "only-for-this-test"}
        create = ["createdb", "--host=127.0.0.1", f"--username={told['POSTGRES_USER']}", told["POSTGRES_DB"]]
        subprocess.run(create, env=login, check=True, capture_output=True)
        yield running
    finally:
        running.stop()


def sql(places: Places, query: str) -> str:
    """What a query of the server's database answers."""
    programs = postgres_programs()
    command = [
        str(programs / "psql"),
        "--host=127.0.0.1",
        "--username=prefect",
        "--no-psqlrc",
        "--tuples-only",
    ]
    env = {"PGPASSWORD": "only-for-this-test", "PGPORT": str(places.database_port), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, "--dbname=prefect", "--command", query],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@contextmanager
def in_container(places: Places, name: str) -> Iterator[Service]:
    """A service of the compose file: its entry point, command, environment, and the secrets it names."""
    service, read = compose()["services"][name], compose()["secrets"]
    folder = places.folder / f"run-secrets-{name}"
    folder.mkdir(mode=0o700)
    for secret in service["secrets"]:
        source = str(read[secret]["file"]).rpartition("/")[2]
        (folder / secret).write_text((places.secrets / source).read_text())
    env = places.environment(service["environment"]) | {"RWE_SECRETS_DIR": str(folder)}
    command = ["/bin/sh", str(DEPLOY / "with-secrets.sh"), *map(places.put, service["command"])]
    running = start(command, env, places.folder / f"{name}.log", cwd=places.folder)
    try:
        health = list(map(places.put, service["healthcheck"]["test"][1:]))

        def healthy() -> bool:
            assert running.process.poll() is None, running.log.read_text()[-2000:]
            return subprocess.run(health, env=env, check=False, capture_output=True).returncode == 0

        await_(healthy, seconds=150, said=f"{name} is healthy")
        yield running
    finally:
        running.stop()


@contextmanager
def as_unit(places: Places, name: str, secrets: dict[str, str]) -> Iterator[Service]:
    """A service of a unit: ExecStartPre, then ExecStart, in its environment and that of its file."""
    read = unit(name)
    env = places.environment(dict(line.split("=", 1) for line in read["Environment"]) | secrets)
    for before in read.get("ExecStartPre", []):
        done = subprocess.run(
            shlex.split(places.put(before.removeprefix("-"))), env=env, capture_output=True, text=True,
            check=False, timeout=150,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    (exec_start,) = read["ExecStart"]
    log = places.folder / f"unit-{name}.log"
    running = start(shlex.split(places.put(exec_start)), env, log, cwd=places.folder)
    try:
        yield running
    finally:
        running.stop()


def api(places: Places) -> Prefect:
    """How the test talks to the server."""
    return Prefect(places.folder, places.api_port, {}, server=None)  # type: ignore[arg-type]


def online(places: Places) -> list[str]:
    workers = api(places).api_list("POST", "/work_pools/rwe/workers/filter", {})
    return [w["name"] for w in workers if w["status"] == "ONLINE"]


def without_password(places: Places, path: str) -> int:
    with requests.Session() as session:
        session.trust_env = False
        url = f"http://127.0.0.1:{places.api_port}/api{path}"
        return session.post(url, json={"include_secrets": True}, timeout=20).status_code


def a_workspace(places: Places) -> Path:
    made = init_workspace(places.folder / "ws", key_file=places.folder / "ws.key")
    hook = places.folder / "hook"
    hook.touch(0o600)
    hook.write_text(SECRET_URL)
    path = made.root / "rwe.yaml"
    content = yaml.safe_load(path.read_text())
    content["sites"] = {"north": {"base_url": "https://fhir.example.org/r4"}}
    content["schedule"] = {"notify": {"webhook_file": str(hook)}}
    path.write_text(yaml.safe_dump(content))
    return made.root


def rwe_deploy(places: Places, root: Path) -> dict[str, Any]:
    told = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "PREFECT_API_AUTH_STRING": PASSWORD}
    env = places.environment(told) | {"PREFECT_HOME": str(places.folder / "client")}
    done = subprocess.run(
        [BIN / "rwe", "deploy", "-w", root, "--json"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_the_services_of_the_compose_file_start_on_postgres_and_those_of_the_units_go_on_there(
    places: Places, postgres: Service
) -> None:
    root = a_workspace(places)
    with in_container(places, "server"):
        for path in ("/block_documents/filter", "/deployments/filter", "/flow_runs/filter"):
            assert without_password(places, path) == 401
        assert {c["action"] for c in rwe_deploy(places, root)["changes"]} == {"create"}
        assert "deployment" in sql(places, "select table_name from information_schema.tables")
        blocks = sql(places, "select data from block_document")
        assert len(blocks) > 20
        assert "canary" not in blocks, "the address is sealed with the server's key"
        with in_container(places, "worker"):
            assert await_(lambda: online(places) or None, said="the worker is online") == [
                socket.gethostname()
            ]

    # The same host without containers: the same database, the same password, the same key.
    keys = {p.name: p.read_text().strip() for p in places.secrets.iterdir()}
    url = f"postgresql+asyncpg://prefect:only-for-this-test@127.0.0.1:{places.database_port}/prefect"
    server_env = {
        "PREFECT_SERVER_API_AUTH_STRING": keys["prefect_server_api_auth_string"],
        "PREFECT_SERVER_ENCRYPTION_KEY": keys["prefect_server_encryption_key"],
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
    }
    with ExitStack() as stack:
        server = stack.enter_context(as_unit(places, "rwe-server", server_env))
        worker = stack.enter_context(as_unit(places, "rwe-worker", {"PREFECT_API_AUTH_STRING": PASSWORD}))
        assert {c["action"] for c in rwe_deploy(places, root)["changes"]} == {"keep"}
        assert await_(
            lambda: "started" in worker.log.read_text() or None, seconds=90, said="the unit's worker starts"
        )
        assert without_password(places, "/deployments/filter") == 401
        assert (server.process.poll(), worker.process.poll()) == (None, None)
