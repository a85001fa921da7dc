"""A work pool that Prefect's worker made lets callers choose what runs; after `rwe deploy` it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml

from rwe.config import init_workspace
from rwe.deploying.templates import chosen_by_caller
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


@pytest.mark.parametrize(
    ("job", "chosen"),
    [
        ({"command": "python -m prefect.engine", "env": {"HTTPS_PROXY": "http://proxy:3128"}}, ()),
        ({"command": "{{ any_name }}"}, ("command",)),
        ({"env": {"HTTPS_PROXY": "{{ proxy }}"}}, ("env",)),
        ({"spec": {"containers": [{"args": ["{{ a }}"]}, {"envFrom": "{{ b }}"}]}}, ("args", "envFrom")),
        ({"labels": "{{ labels }}", "name": "{{ command }}"}, ()),
    ],
)
def test_what_a_caller_may_choose_is_read_from_the_configuration_not_from_names_of_variables(
    job: dict[str, Any], chosen: tuple[str, ...]
) -> None:
    assert chosen_by_caller({"job_configuration": job, "variables": {"properties": {}}}) == chosen


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
    adapted["job_configuration"]["env"] = {"HTTPS_PROXY": "http://proxy.example.org:3128"}
    server.api("PATCH", "/work_pools/rwe", base_job_template=adapted)
    assert deployed(server, made.root)["action"] == "keep"
    assert template(server) == adapted
