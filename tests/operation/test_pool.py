"""A work pool that Prefect's worker made lets callers choose what runs; after `rwe deploy` it does not."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml
from prefect.workers.base import BaseJobConfiguration
from pydantic import ConfigDict

from rwe.config import init_workspace
from rwe.deploying.templates import chosen_by_caller, takes_undeclared
from tests.operation.running import Prefect, await_, running_prefect
from tests.support import ROOT

pytestmark = pytest.mark.timeout(300)
KINDS = ("process", "docker", "kubernetes")


def ours(kind: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(
        (ROOT / "deploy" / "pools" / f"{kind}.json").read_text(encoding="utf-8")
    )
    return read


def prefects_own(kind: str) -> dict[str, Any]:
    """The template that Prefect ships for a kind of pool."""
    path = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    kinds = {k: v for collection in json.loads(path.read_text()).values() for k, v in collection.items()}
    found: dict[str, Any] = kinds[kind]["default_base_job_configuration"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_prefects_templates_let_a_caller_choose_what_runs_and_ours_do_not(kind: str) -> None:
    assert {"command", "env"} & set(chosen_by_caller(prefects_own(kind)))
    assert chosen_by_caller(ours(kind)) == ()
    assert not takes_undeclared(ours(kind))


def prefects_configuration(template: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What Prefect's worker makes of a template and of the variables that came with a run."""

    class Anything(BaseJobConfiguration):
        model_config = ConfigDict(extra="allow")

    no_server: Any = object()  # it would be asked for blocks and variables; these templates name none
    made = asyncio.run(Anything.from_template_and_values(template, values, client=no_server))
    found: dict[str, Any] = made.model_dump()
    return found


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_no_variable_of_a_run_changes_the_image_or_what_is_mounted(kind: str) -> None:
    """Whatever the variable is called: those of our templates before, and those of Prefect's."""
    template = ours(kind)
    names = {*prefects_own(kind)["variables"]["properties"], *template["variables"]["properties"]}
    names |= {"workspace_claim", "keys_secret", "password_secret"}
    run = dict.fromkeys(names - {"env", "labels"}, "canary")
    found, meant = prefects_configuration(template, run), template["job_configuration"]
    assert found["name"] == "canary", "variables are filled in"
    if kind == "docker":
        fixed = ("image", "volumes", "container_create_kwargs")
        assert [found[k] for k in fixed] == [meant[k] for k in fixed]
        return
    pod, meant_pod = (job["job_manifest"]["spec"]["template"]["spec"] for job in (found, meant))
    assert pod["volumes"] == meant_pod["volumes"]
    for kind_of in ("containers", "initContainers"):
        for one, other in zip(pod[kind_of], meant_pod[kind_of], strict=True):
            assert (one["image"], one["volumeMounts"]) == (other["image"], other["volumeMounts"])


@pytest.mark.parametrize(
    ("job", "chosen"),
    [
        ({"command": "python -m prefect.engine", "env": {"HTTPS_PROXY": "http://proxy:3128"}}, ()),
        ({"command": "{{ any_name }}"}, ("command",)),
        ({"env": {"HTTPS_PROXY": "{{ proxy }}"}}, ("env",)),
        ({"spec": {"containers": [{"args": ["{{ a }}"]}, {"envFrom": "{{ b }}"}]}}, ("args", "envFrom")),
        ({"labels": "{{ labels }}", "name": "{{ command }}"}, ()),
        ({"job_manifest": "{{ job_manifest }}"}, ("job_manifest",)),
        ({"job_manifest": {"spec": {"template": {"spec": "{{ pod }}"}}}}, ("spec",)),
        ({"job_manifest": {"spec": {"containers": "{{ containers }}"}}}, ("containers",)),
        ({"job_manifest": {"spec": {"initContainers": [{"name": "a"}, "{{ b }}"]}}}, ("initContainers",)),
        ({"container_create_kwargs": "{{ container_create_kwargs }}"}, ("container_create_kwargs",)),
        ({"container_create_kwargs": {"entrypoint": ["{{ a }}"], "nano_cpus": "{{ b }}"}}, ("entrypoint",)),
        ({"container_create_kwargs": {"environment": {"PYTHONPATH": "{{ a }}"}}}, ("environment",)),
        ({"image": "{{ image }}", "volumes": ["{{ folder }}:/x"]}, ("image", "volumes")),
        ({"env": {"HTTPS_PROXY": "{{ prefect.variables.hospital_proxy }}"}}, ()),
        ({"env": {"HTTPS_PROXY": "{{ $HTTPS_PROXY }}", "CA": "{{ prefect.blocks.secret.ca }}"}}, ()),
        ({"env": {"HTTPS_PROXY": "http://{{ prefect.variables.host }}:{{ port }}"}}, ("env",)),
    ],
)
def test_what_a_caller_may_choose_is_read_from_the_configuration_not_from_names_of_variables(
    job: dict[str, Any], chosen: tuple[str, ...]
) -> None:
    assert chosen_by_caller({"job_configuration": job, "variables": {"properties": {}}}) == chosen


@pytest.mark.parametrize("template", [{}, {"job_configuration": {}, "variables": {"properties": {}}}])
def test_an_empty_template_is_open_for_a_worker_fills_it_with_prefects_own(template: dict[str, Any]) -> None:
    assert chosen_by_caller(template) == ("command", "env")


def test_a_fixed_environment_beside_a_variable_env_is_open() -> None:
    template = {"job_configuration": {"env": {"A": "1"}}, "variables": {"properties": {"env": {}}}}
    assert prefects_configuration(template, {"env": {"PYTHONPATH": "/x"}})["env"] == {
        "A": "1",
        "PYTHONPATH": "/x",
    }
    assert chosen_by_caller(template) == ("env",)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Prefect]:
    with running_prefect(tmp_path) as running:
        yield running


def deployed(server: Prefect, root: Path, *words: str) -> dict[str, Any]:
    """What `rwe deploy` says of the pool."""
    done = server.rwe("deploy", "--json", *words, workspace=root)
    assert done.returncode == 0, done.stderr
    (pool,) = [c for c in json.loads(done.stdout)["changes"] if c["kind"] == "work pool"]
    found: dict[str, Any] = pool
    return found


def template(server: Prefect) -> dict[str, Any]:
    found: dict[str, Any] = server.api("GET", "/work_pools/rwe")["base_job_template"]
    return found


def test_a_worker_that_starts_first_makes_a_pool_that_is_mended_and_adapted_ones_stay(
    server: Prefect, tmp_path: Path
) -> None:
    made = init_workspace(tmp_path / "ws", key_file=tmp_path / "ws.key")
    path = made.root / "rwe.yaml"
    content = yaml.safe_load(path.read_text())
    content["sites"] = {"north": {"base_url": "https://fhir.example.org/r4"}}
    path.write_text(yaml.safe_dump(content))
    worker = server.start_worker()
    await_(lambda: [p for p in server.api("POST", "/work_pools/filter") if p["name"] == "rwe"] or None)
    worker.stop()
    assert chosen_by_caller(template(server)) == ("command", "env"), "what the worker made"

    said = deployed(server, made.root, "--dry-run")
    assert said["action"] == "change"
    assert "whoever began a run chose command and env" in said["what"]
    assert chosen_by_caller(template(server)) == ("command", "env"), "a dry run changes nothing"
    assert deployed(server, made.root) == said
    assert template(server) == ours("process")

    adapted = ours("process")
    adapted["job_configuration"]["env"] = {"HTTPS_PROXY": "{{ prefect.variables.hospital_proxy }}"}
    adapted["variables"]["properties"]["prefect.variables.hospital_proxy"] = {"type": "string"}
    server.api("PATCH", "/work_pools/rwe", base_job_template=adapted)
    assert deployed(server, made.root)["action"] == "keep"
    assert template(server) == adapted

    open_to_more = copy.deepcopy(adapted)
    del open_to_more["variables"]["additionalProperties"]
    server.api("PATCH", "/work_pools/rwe", base_job_template=open_to_more)
    night = server.api("GET", "/deployments/name/nightly-extraction/north")["id"]
    more = {"job_variables": {"env": {"PYTHONPATH": "/x"}}, "state": {"type": "PENDING"}}
    server.api("POST", f"/deployments/{night}/create_flow_run", **more)  # what is to be closed
    assert "could add to the environment" in deployed(server, made.root)["what"]
    assert template(server) == adapted, "closed, and what was adapted stays"
    with pytest.raises(AssertionError, match="422"):
        server.api("POST", f"/deployments/{night}/create_flow_run", **more)

    server.api("PATCH", "/work_pools/rwe", base_job_template={})
    assert deployed(server, made.root)["action"] == "change"
    assert template(server) == ours("process")
