"""What `rwe deploy` would set up: one night and one reconcile a site, by its clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rwe.config import Workspace, init_workspace, open_workspace
from rwe.deploying.plan import CronPlan, plan_for
from rwe.errors import ConfigError
from tests.support import ROOT


def workspace_with(folder: Path, sites: dict[str, Any], schedule: dict[str, Any]) -> Workspace:
    made = init_workspace(folder / "ws", key_file=folder / "key")
    path = made.root / "rwe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"sites": sites, "schedule": schedule}))
    return open_workspace(made.root)


URL = {"base_url": "https://fhir.example.org/r4"}


def test_each_site_has_its_night_by_its_own_clock(tmp_path: Path) -> None:
    sites = {
        "berlin": URL | {"time_zone": "Europe/Berlin"},
        "chicago": URL | {"time_zone": "America/Chicago", "schedule": {"nightly": "30 2 * * *"}},
        "leiden": {},  # hands files over
    }
    schedule = {
        "nightly": "0 1 * * *",
        "reconcile": None,
        "refresh": "0 9 * * *",
        "time_zone": "Europe/Berlin",
    }
    plan = plan_for(workspace_with(tmp_path, sites, schedule))
    found = {d.full_name: d for d in plan.deployments}
    assert {n: d.schedule for n, d in found.items()} == {
        "nightly-extraction/berlin": CronPlan("0 1 * * *", "Europe/Berlin", "nightly"),
        "nightly-extraction/chicago": CronPlan("30 2 * * *", "America/Chicago", "nightly"),
        "evidence-refresh/all-studies": CronPlan("0 9 * * *", "Europe/Berlin", "refresh"),
        "reconcile/berlin": None,
        "reconcile/chicago": None,
        "backfill/by-hand": None,
    }
    night = found["nightly-extraction/berlin"]
    assert night.parameters == {"workspace": str(tmp_path / "ws"), "sites": ["berlin"]}
    assert (night.concurrency, night.collision) == (1, "CANCEL_NEW")
    assert found["evidence-refresh/all-studies"].parameters["wait_for_sites"] is True
    assert plan.limits == {"rwe-build": 1, "rwe-site-berlin": 1, "rwe-site-chicago": 1}


def test_a_workspace_without_a_server_has_nothing_to_schedule(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no site has a base_url"):
        plan_for(workspace_with(tmp_path, {"leiden": {}}, {}))


def test_sites_that_prefect_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sites Nord_1 and nord-1 are the same name to Prefect"):
        plan_for(workspace_with(tmp_path, {"Nord_1": URL, "nord-1": URL}, {}))


def test_without_a_server_the_command_says_what_to_set(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, {"berlin": URL}, {})
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-c", "from rwe.cli import main; main()", "deploy", "-w", str(workspace.root)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "no Prefect server is named; set PREFECT_API_URL" in " ".join(done.stderr.split())
    nobody = subprocess.run(
        command, env=env | {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert nobody.returncode == 1
    assert "Prefect's server does not answer" in " ".join(nobody.stderr.split())
    assert "Traceback" not in nobody.stderr


def test_the_file_is_what_prefects_own_command_reads() -> None:
    """`prefect deploy --all` refuses unknown fields of a deployment only when it runs; so read its model."""
    from prefect.cli.deploy._models import PrefectYamlModel

    read = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text(encoding="utf-8"))
    model = PrefectYamlModel.model_validate(read)
    assert [d.name for d in model.deployments] == ["all-sites", "all-studies", "all-sites-weekly", "by-hand"]
    for one in read["deployments"]:
        file, _, flow = one["entrypoint"].partition(":")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {flow}(" in text, one["name"]


def template_of(kind: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "deploy" / "pools" / f"{kind}.json").read_text())
    return read


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_the_pool_templates_fill_in(kind: str) -> None:
    """As a worker does it: each placeholder has a variable, and the defaults make a job configuration."""
    from prefect.utilities.templating import apply_values, find_placeholders

    template = template_of(kind)
    variables = template["variables"]["properties"]
    used = {p.name for p in find_placeholders(template["job_configuration"])}
    assert used == set(variables), "no variable is unknown, none is idle"
    assert not {"command", "env"} & used, "a deployment does not choose what a worker's host runs"
    assert all(v.get("description") for v in variables.values())
    defaults = {n: v["default"] for n, v in variables.items() if "default" in v}
    filled = apply_values(template["job_configuration"], defaults | {"name": "run"})
    if kind == "docker":
        safe = filled["container_create_kwargs"]
        assert (safe["cap_drop"], safe["read_only"], filled["privileged"]) == (["ALL"], True, False)
        assert "/etc/rwe:/etc/rwe:ro" in filled["volumes"]
        assert any(v.endswith(":/run/secrets:ro") for v in filled["volumes"])
    if kind == "kubernetes":
        pod = filled["job_manifest"]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["containers"], *pod["initContainers"]):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounted = {m["name"] for m in container["volumeMounts"]}
            assert mounted <= {v["name"] for v in pod["volumes"]}
        (run,) = pod["containers"]
        assert "/run/secrets" in {m["mountPath"] for m in run["volumeMounts"]}
        assert "env" not in run, "what a Job's manifest holds, whoever reads Jobs can see"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_password_of_the_api_is_no_part_of_what_a_worker_hands_to_a_run(kind: str) -> None:
    """A worker copies its own settings into each job. The image reads the password from a file instead."""
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
    from prefect.workers.base import BaseJobConfiguration

    told = {
        PREFECT_API_AUTH_STRING: "operator:canary-7d1",
        PREFECT_API_URL: "https://prefect.example.org/api",
    }
    with temporary_settings(told):
        plain = BaseJobConfiguration()
        plain.prepare_for_flow_run(FlowRun(flow_id=UUID(int=1)))
        assert "canary-7d1" in json.dumps(plain.env), "what it does by itself"
        job = BaseJobConfiguration(env=template_of(kind)["job_configuration"]["env"])
        job.prepare_for_flow_run(FlowRun(flow_id=UUID(int=1)))
    assert "canary-7d1" not in json.dumps(job.env)
    assert job.env["PREFECT_API_URL"] == "https://prefect.example.org/api"
    assert job.command, "the worker knows it without a variable"


def test_the_secrets_become_the_environment_and_nothing_else(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "with-secrets.sh"
    (tmp_path / "prefect_server_api_auth_string").write_text("operator:p$(id)`id` 'x'\n")
    (tmp_path / "prefect-server-encryption-key").write_text("a=b\n")
    env = {"RWE_SECRETS_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    printed = subprocess.run(
        ["/bin/sh", str(script), sys.executable, "-c", code],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(printed.stdout)
    assert told["PREFECT_SERVER_API_AUTH_STRING"] == "operator:p$(id)`id` 'x'"
    assert told["PREFECT_SERVER_ENCRYPTION_KEY"] == "a=b"
    (tmp_path / "no name").write_text("x")
    refused = subprocess.run(["/bin/sh", str(script), "true"], env=env, capture_output=True, check=False)
    assert refused.returncode == 2
