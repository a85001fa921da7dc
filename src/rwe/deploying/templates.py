"""What a work pool's template lets a caller choose.

A job of a worker runs what its template's `job_configuration` says; where that holds a placeholder, as in
`"command": "{{ command }}"`, whoever begins a run fills it in. Placeholders of Prefect's variables and blocks
and of the worker's environment, as `{{ prefect.variables.proxy }}` and `{{ $PROXY }}`, are not the caller's.
Prefect's own templates have a placeholder for the command and one for the environment; `prefect worker start`
makes a missing pool with them, and uses them where a pool's template is empty. Source: "Work pools: base job
template" of Prefect's documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefect.utilities.templating import PlaceholderType, find_placeholders

#: Where a job's configuration, or a container in a Kubernetes manifest, says what runs, with what variables
#: and folders.
_OF_WHAT_RUNS = frozenset(
    {"command", "args", "entrypoint", "env", "envFrom", "environment", "image", "mounts", "volumes"}
    | {"volumeMounts"}
)
#: What such keys stand in: open where a placeholder stands for all of it, or for one of a list.
_ABOVE = frozenset(
    {"job_configuration", "container_create_kwargs", "job_manifest", "spec", "template", "containers"}
    | {"initContainers", "ephemeralContainers"}
)


def chosen_by_caller(template: Mapping[str, object]) -> tuple[str, ...]:
    """What of command, arguments, environment, image and folders the one who begins a run may choose: the
    keys of the configuration, sorted.

    What is fixed, without a placeholder of the caller's, is none of it. In an empty template, which a worker
    fills with Prefect's own, command and env are chosen.
    """
    job = template.get("job_configuration")
    if not job:
        return ("command", "env")
    found = set(_open("job_configuration", job))
    if isinstance(job, Mapping) and isinstance(job.get("env"), Mapping) and "env" in _declared(template):
        found.add("env")  # Prefect adds what the caller gives to what is fixed
    return tuple(sorted(found))


def takes_undeclared(template: Mapping[str, object]) -> bool:
    """Whether a caller can add to a fixed environment: Prefect does so with a variable `env` of a run, also
    where the template declares none, unless its schema refuses what is not declared."""
    job, variables = template.get("job_configuration"), template.get("variables")
    is_fixed = isinstance(job, Mapping) and isinstance(job.get("env"), Mapping)
    return is_fixed and not (
        isinstance(variables, Mapping) and variables.get("additionalProperties") is False
    )


def without_undeclared(template: Mapping[str, Any]) -> dict[str, Any]:
    """The template, and a schema of its variables that refuses what it does not declare."""
    return {**template, "variables": {**template["variables"], "additionalProperties": False}}


def _open(key: str, part: object) -> Iterator[str]:
    if key in _OF_WHAT_RUNS:
        if _is_open(part):
            yield key
    elif isinstance(part, Mapping):
        for name, value in part.items():
            yield from _open(name, value)
    elif isinstance(part, list):
        for value in part:
            yield from _open(key, value)
    elif key in _ABOVE and _is_open(part):
        yield key


def _is_open(part: Any) -> bool:
    return any(p.type is PlaceholderType.STANDARD for p in find_placeholders(part))


def _declared(template: Mapping[str, object]) -> Mapping[str, object]:
    variables = template.get("variables")
    properties = variables.get("properties") if isinstance(variables, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}
